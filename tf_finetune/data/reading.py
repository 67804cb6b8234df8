"""Reads every image once before training: finds the bad ones, and keeps pixels that fit.

One idea: what a run will trip over in hour three is named in minute one. Files are first looked
at without a decoder (kind of file, first bytes), then decoded in parallel by the same graph that
training uses; whether pixels stay in memory is decided by their exact size.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from tf_finetune import findings, progress
from tf_finetune.data import (
    emptied_splits,
    examples,
    image_formats,
    image_heads,
    image_sizes,
    image_stores,
    loaders,
    loading,
    mask_reading,
    memory,
    mixed_spec,
    parallelism,
    preprocessing,
    white_point,
)

# Decoding this many takes seconds to a minute; more, and only first bytes are checked where the
# pixels are not kept anyway.
MAX_CHECKED_IMAGES = 20_000
# More examples must not mean more memory: beyond this, images are decoded in every epoch.
_MAX_CACHE_BYTES = 256 * 2**20
# Pixels that are decoded at a time: 3 to 8 bytes each, and as much again to turn an image.
_MAX_PIXELS_IN_FLIGHT = 100_000_000
_PREFETCHED_IMAGES = 16
# Images that go from TensorFlow to Python together.
_CHUNK_IMAGES = 256
_CHUNK_BYTES = 8 * 2**20
_SKIP_FLAG = "--on_bad_example=skip"


def read_images(
    splits: loading.Splits,
    pre: preprocessing.InputSpec,
    *,
    on_bad_example: str,
    memory_bytes: int | None = None,
    max_image_pixels: int | None = image_sizes.MAX_PIXELS,
) -> tuple[loading.Splits, preprocessing.InputSpec, tuple[findings.Problem, ...]]:
    """Checks every image and mask, settles `pixel_max`, and keeps decoded pixels if they fit.

    Texts and columns were checked when they were listed: nothing is done to them.

    Where pixels do not fit and there are more than 20,000 images, only kinds and first bytes of
    files are checked unless bad ones are to be skipped; see `naming_bad_images` for the others.

    Args:
      splits: the examples.
      pre: what the model takes; its `pixel_max` None is measured where there are 16-bit images.
      on_bad_example: "error" or "skip".
      memory_bytes: the most that pixels may take; default: 256 MiB or a quarter of the available
        memory, whichever is less.
      max_image_pixels: an image whose header promises more is bad, and no decoder sees it; None:
        any number.

    Returns:
      (splits, preprocessing, warnings): the splits without skipped examples; their `images` are
      DecodedImages where they fit; `pixel_max` as measured.

    Raises:
      findings.RefusedError: images cannot be read or decoded and are not to be skipped (all are
        named, of records the first five of each file), or skipping them leaves a split or a class
        of the training split empty; see also `mask_reading.read_masks`.
    """
    if isinstance(pre, mixed_spec.MixedSpec):
        splits, main, problems = read_images(
            splits,
            pre.main,
            on_bad_example=on_bad_example,
            memory_bytes=memory_bytes,
            max_image_pixels=max_image_pixels,
        )
        return splits, mixed_spec.replace_main(pre, main), problems
    if not isinstance(pre, preprocessing.PreprocessingSpec):
        return splits, pre, ()
    splits, mask_problems = mask_reading.read_masks(
        splits, pre, on_bad_example=on_bad_example, max_pixels=max_image_pixels
    )
    parts = splits.parts
    groups = image_heads.group_by_store(parts)
    heads = image_heads.check_heads(groups, max_pixels=max_image_pixels)
    if pre.pixel_max is None:
        white = _settle_pixel_max(groups, heads, num_train=len(splits.train))
        pre = dataclasses.replace(pre, pixel_max=white)
    num_rows = sum(map(len, parts))
    pixels = _make_cache(num_rows, pre, memory_bytes=memory_bytes)
    if pixels is not None or num_rows <= MAX_CHECKED_IMAGES or on_bad_example == "skip":
        heads.bad |= _decode(groups, pre, heads=heads, pixels=pixels)
    if heads.bad and on_bad_example != "skip":
        errors = image_heads.describe_errors(parts, heads)
        raise findings.RefusedError(*examples.cut_problems(errors))
    out = heads.rule_out()
    kept = _keep(parts, bad=out, pixels=pixels)
    emptied_splits.check(
        splits, kept, fault="can be decoded", bad=f"Bad images are {_list_names(parts, out)}."
    )
    train, validation, test = kept
    splits = dataclasses.replace(splits, train=train, validation=validation, test=test)
    return splits, pre, (*mask_problems, *_warn_skipped(parts, heads))


def find_bad_images(
    parts: tuple[loading.Split, ...], pre: preprocessing.InputSpec
) -> tuple[findings.Problem, ...]:
    """Decodes everything and keeps nothing but the complaints.

    Args:
      parts: splits, decoded ones cost nothing.
      pre: what the model takes.

    Returns:
      A problem for each image that cannot be read or decoded, in the splits' order (a warning
      where it is left aside in training too); none of texts.
    """
    pre = mixed_spec.find_main(pre)
    if not isinstance(pre, preprocessing.PreprocessingSpec):
        return ()
    groups = image_heads.group_by_store(parts)
    heads = image_heads.check_heads(groups, max_pixels=None)
    heads.bad |= _decode(groups, pre, heads=heads, pixels=None)
    return image_heads.describe(parts, heads)


@contextlib.contextmanager
def naming_bad_images(*parts: loading.Split, pre: preprocessing.InputSpec) -> Iterator[None]:
    """Turns a decoder's error in the block into one that names the files.

    TensorFlow's own text says in which graph node decoding failed but not of which file. Nothing
    is looked up unless the block fails.

    Args:
      *parts: the splits that the block iterates over.
      pre: what the model takes.

    Yields:
      Nothing.

    Raises:
      findings.RefusedError: TensorFlow raised in the block, and these images are bad.
    """
    try:
        yield
    except tf.errors.OpError as error:
        problems = find_bad_images(parts, pre)
        if not problems:
            raise
        raise findings.RefusedError(*examples.cut_problems(list(problems))) from error


def _settle_pixel_max(
    groups: list[image_heads.Group], heads: image_heads.Heads, *, num_train: int
) -> float | None:
    """The white point of the training images; None without 16-bit images."""
    values = []
    wide, bad = np.array(heads.wide, np.int64), list(heads.rule_out())
    for group in groups:
        in_train = (group.rows < num_train) & ~np.isin(group.rows, bad)
        if isinstance(group.images, image_stores.StreamImages) and in_train.any():
            values.append(white_point.measure_stream(group.images, group.indices[in_train]))
        if isinstance(group.images, image_stores.EncodedImages):
            chosen = group.indices[in_train & np.isin(group.rows, wide)]
            if len(chosen):
                values.append(white_point.measure_files(group.images, chosen))
    measured = [value for value in values if value is not None]
    if measured:
        return max(measured)
    # Only other splits have 16 bits: nothing to measure on, so white is what the format says.
    return white_point.MAX_VALUE if len(wide) else None


def _decode(
    groups: list[image_heads.Group],
    pre: preprocessing.PreprocessingSpec,
    *,
    heads: image_heads.Heads,
    pixels: np.ndarray | None,
) -> dict[int, str]:
    """Decodes what is not known as bad, into `pixels` if given; {bad row: reason}."""
    known = list(heads.rule_out())
    parallel = _count_parallel(heads.max_pixels)
    groups = [group for group in groups if _needs_decoding(group, keep=pixels is not None)]
    failed: dict[int, str] = {}
    total = sum(len(group.rows) for group in groups)
    done = 0
    with progress.ProgressBar("Reading images", total) as bar:
        for group in groups:
            good = ~np.isin(group.rows, known)
            rows, indices = group.rows[good], group.indices[good]
            done += len(group.rows) - len(rows)
            if isinstance(group.images, image_stores.StreamImages):
                # A stream gives its elements in its own order.
                in_order = np.argsort(indices, kind="stable")
                rows, indices = rows[in_order], indices[in_order]
            make = _make_pixels if pixels is not None else _make_maxima
            read = make(group.images, indices, pre, parallel=parallel)
            size = _plan_chunk(group.images, pixels)
            images = _read_each(read, len(rows), size=size)
            for row, index, image in zip(rows, indices, images, strict=True):
                if isinstance(image, tf.errors.OpError):
                    failed[int(row)] = _describe_failure(group.images, index, image)
                elif image is None:
                    failed[int(row)] = "is missing: the data set ended before it"
                elif pixels is not None:
                    pixels[row] = image
                done += 1
                bar.update(done)
    return failed


def _plan_chunk(images: image_stores.ImageStore, pixels: np.ndarray | None) -> int:
    """How many images are handed over together."""
    if isinstance(images, image_stores.StreamImages):
        return 1  # where one fails, nobody can begin again behind it
    num_bytes = 1 if pixels is None else pixels[:1].nbytes
    return min(max(_CHUNK_BYTES // max(num_bytes, 1), 1), _CHUNK_IMAGES)


def _read_each(
    read: Callable[[int, int], tf.data.Dataset], count: int, *, size: int
) -> Iterator[np.ndarray | tf.errors.OpError | None]:
    """What is read of each of `count` images: its pixels, an error, or None where there is none.

    Handed over one by one, small images take four times as long: threads wait for each other.
    """
    start = 0
    while start < count and size > 1:
        try:
            for values in parallelism.untuned(
                read(start, count).batch(size).prefetch(1)
            ).as_numpy_iterator():
                yield from values
                start += len(values)
        except tf.errors.OpError:
            # Which of them it was is told by reading these again, each by itself.
            stop = min(start + size, count)
            yield from _read_singly(read(start, stop), stop - start)
            start = stop
    if size == 1:
        yield from _read_singly(read(0, count), count)


def _read_singly(
    dataset: tf.data.Dataset, count: int
) -> Iterator[np.ndarray | tf.errors.OpError | None]:
    iterator = parallelism.untuned(dataset.prefetch(_PREFETCHED_IMAGES)).as_numpy_iterator()
    for _ in range(count):
        try:
            yield next(iterator, None)
        except tf.errors.OpError as error:
            yield error


def _needs_decoding(group: image_heads.Group, *, keep: bool) -> bool:
    if isinstance(group.images, image_stores.EncodedImages | image_stores.StreamImages):
        return True
    return keep


def _count_parallel(max_pixels: int) -> int:
    """How many images are decoded at a time, so that large ones do not fill the memory."""
    most = _MAX_PIXELS_IN_FLIGHT // max(max_pixels, 1)
    return min(max(most, 1), parallelism.count_cores())


def _make_pixels(
    images: image_stores.ImageStore,
    indices: np.ndarray,
    pre: preprocessing.PreprocessingSpec,
    *,
    parallel: int,
) -> Callable[[int, int], tf.data.Dataset]:
    """(start, stop) -> decoded images indices[start:stop], in order; errors come in their place.

    Of a stream it is all of them, whatever is asked.
    """
    if isinstance(images, image_stores.StreamImages):
        elements = loaders.select_elements(images, indices).map(
            lambda element, position: _round(loaders.load_element(element, pre), pre),
            num_parallel_calls=parallel,
        )
        return lambda start, stop: elements
    load = loaders.make_loader(images, indices, pre)
    return lambda start, stop: tf.data.Dataset.range(start, stop).map(
        lambda position: _round(load(position), pre), num_parallel_calls=parallel
    )


def _make_maxima(
    images: image_stores.ImageStore,
    indices: np.ndarray,
    pre: preprocessing.PreprocessingSpec,
    *,
    parallel: int,
) -> Callable[[int, int], tf.data.Dataset]:
    """As `_make_pixels`, but a number of each image: what fails is all that is asked."""
    if not isinstance(images, image_stores.EncodedImages):
        return _make_pixels(images, indices, pre, parallel=parallel)
    read = loaders.make_reader(images, indices)
    return lambda start, stop: tf.data.Dataset.range(start, stop).map(
        lambda position: preprocessing.find_maximum(read(position)), num_parallel_calls=parallel
    )


def _round(image: tf.Tensor, pre: preprocessing.PreprocessingSpec) -> tf.Tensor:
    return tf.cast(image, tf.uint8) if pre.pixel_max is None else image


def _describe_failure(images: image_stores.ImageStore, index: int, error: tf.errors.OpError) -> str:
    """Why an image failed; TensorFlow's text names graph nodes and no file."""
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return "is too large to be decoded in the memory there is"
    if isinstance(images, image_stores.EncodedImages):
        return image_heads.describe_failure(images, index)
    if isinstance(error, tf.errors.InvalidArgumentError):
        return image_formats.BAD_DATA
    return f"cannot be read: {findings.one_line(error.message.splitlines()[0])}"


def _make_cache(
    num_images: int, pre: preprocessing.PreprocessingSpec, *, memory_bytes: int | None
) -> np.ndarray | None:
    """Room for the pixels of all images, or None where they do not fit."""
    if memory_bytes is None:
        memory_bytes = min(_MAX_CACHE_BYTES, memory.find_available_bytes() // 4)
    shape = (num_images, pre.height, pre.width, pre.channels)
    dtype = np.uint8 if pre.pixel_max is None else np.float32
    num_bytes = np.prod(shape, dtype=np.int64) * np.dtype(dtype).itemsize
    return loaders.make_aligned(shape, dtype) if num_bytes <= memory_bytes else None


def _keep(
    parts: tuple[loading.Split, ...], *, bad: dict[int, str], pixels: np.ndarray | None
) -> list[loading.Split]:
    """The splits without bad rows, on decoded pixels if there are any."""
    decoded = None if pixels is None else image_stores.DecodedImages(pixels)
    kept = []
    start = 0
    for part in parts:
        rows = np.arange(start, start + len(part))
        start += len(part)
        good = ~np.isin(rows, list(bad))
        if decoded is not None:
            part = dataclasses.replace(part, inputs=decoded, indices=rows)
        kept.append(part.take(good))
    return kept


def _list_names(parts: tuple[loading.Split, ...], bad: dict[int, str]) -> str:
    return findings.list_first([image_heads.find_name(parts, row)[1] for row in sorted(bad)])


def _warn_skipped(
    parts: tuple[loading.Split, ...], heads: image_heads.Heads
) -> tuple[findings.Problem, ...]:
    total = sum(map(len, parts))
    problems = image_heads.describe_stubs(parts, heads)
    if heads.bad:
        message = (
            f"{len(heads.bad)} of {total} images are left out because they cannot be read or "
            f"decoded: {_list_names(parts, heads.bad)}."
        )
        problems.append(findings.Problem(message, severity=findings.WARNING, flag=_SKIP_FLAG))
    return tuple(problems)
