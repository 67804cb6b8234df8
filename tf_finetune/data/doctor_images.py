"""Reads and decodes every image once, and keeps of each what the checks compare.

One idea: a file is read once, by a thread that takes its digest, its end and its pixels from the
same bytes. What stays of an image is a hundred bytes, so a million of them fit.
"""

import dataclasses
import hashlib
import io
import os
import sys
from collections.abc import Iterator
from concurrent import futures

import numpy as np

from tf_finetune import distribution, findings, progress
from tf_finetune.data import (
    examples,
    image_ends,
    image_formats,
    image_heads,
    image_sizes,
    image_stores,
    input_stores,
    loading,
)

# Images per task of a thread, and pixels that are decoded at a time, some 4 bytes each.
_TASK_IMAGES = 32
_MAX_PIXELS_IN_FLIGHT = 100_000_000
_DIGEST_BYTES = 16
_MODES = {1: "gray", 2: "gray with alpha", 3: "RGB", 4: "RGB with alpha"}


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What is known of one image.

    Attributes:
      content: digest of its bytes.
      pixels: digest of its decoded pixels; b"" where it was not decoded.
      form: "JPEG", "PNG" ..., "" of an image that is no file.
      ending: of the file's name, in lower case, with its dot; "" where there is none.
      width: upright, pixels.
      height: upright, pixels.
      channels: 1 to 4, as decoded.
      bits: of a value, 8 or 16.
      frames: of an animation, else 1.
      is_constant: whether all pixels are equal.
      is_clear: whether every pixel is fully transparent.
      cut: why it is not whole, though it can be decoded, or "".
    """

    content: bytes
    pixels: bytes
    form: str
    ending: str
    width: int
    height: int
    channels: int
    bits: int
    frames: int
    is_constant: bool
    is_clear: bool
    cut: str = ""

    @property
    def mode(self) -> str:
        """For example "RGB" or "gray, 16 bits"."""
        return _MODES[self.channels] + (", 16 bits" if self.bits == 16 else "")


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """What reading everything gave; rows count through all sources, see `doctor_rows.Rows`.

    Attributes:
      looks: {row: what is known of a good image}.
      bad: {row: why it cannot be used}; a reason follows the image's name.
      splits: the sources as splits, to name their images.
      heads: what the first bytes told.
    """

    looks: dict[int, Look]
    bad: dict[int, str]
    splits: tuple[loading.Split, ...]
    heads: image_heads.Heads


def read_images(parts: dict[str, examples.Examples], *, max_pixels: int) -> Reading:
    """Reads every image of every source.

    Args:
      parts: of `loading.load_parts`; sources of other inputs are passed over.
      max_pixels: an image whose header promises more is bad, and no decoder sees it.

    Returns:
      What was found; nothing is raised for a bad image.
    """
    splits = tuple(
        loading.Split(flag, part.keys, part.inputs, np.arange(len(part)), {})
        for flag, part in parts.items()
        if input_stores.find_kind(part.inputs) == input_stores.IMAGE
    )
    groups = image_heads.group_by_store(splits)
    heads = image_heads.check_heads(groups, max_pixels=max_pixels, stream=sys.stderr)
    reading = Reading({}, heads.bad, splits, heads)
    out = heads.rule_out()
    total = sum(len(group.rows) for group in groups) - len(out)
    if not total:
        return reading
    # Here, because everything before needs no TensorFlow.
    distribution.import_quietly()
    done = 0
    with progress.ProgressBar("Reading images", total, stream=sys.stderr) as bar:
        for group in groups:
            good = ~np.isin(group.rows, list(out))
            for row, found in _look_at(group, good, max_pixels=heads.max_pixels):
                if isinstance(found, Look):
                    reading.looks[row] = found
                else:
                    heads.bad[row] = found
                done += 1
                bar.update(done)
    return reading


def _look_at(
    group: image_heads.Group, good: np.ndarray, *, max_pixels: int
) -> Iterator[tuple[int, Look | str]]:
    """(row, what was found or why the image is bad) of each image that is to be decoded."""
    rows, indices = group.rows[good].tolist(), group.indices[good].tolist()
    images = group.images
    if isinstance(images, image_stores.StreamImages):
        yield from _read_stream(images, dict(zip(indices, rows, strict=True)))
    elif isinstance(images, image_stores.EncodedImages):
        store = images
        starts = range(0, len(rows), _TASK_IMAGES)

        def read(start: int) -> list[tuple[int, Look | str]]:
            chosen = slice(start, start + _TASK_IMAGES)
            pairs = zip(rows[chosen], indices[chosen], strict=True)
            return [(row, _read_file(store, index)) for row, index in pairs]

        workers = min(os.cpu_count() or 1, _MAX_PIXELS_IN_FLIGHT // max(max_pixels, 1))
        with futures.ThreadPoolExecutor(max(workers, 1)) as pool:
            for found in pool.map(read, starts):
                yield from found
    else:
        for row, index in zip(rows, indices, strict=True):
            yield row, _make_look(images.pixels[index].tobytes(), images.pixels[index])


def _read_file(images: image_stores.EncodedImages, index: int) -> Look | str:
    try:
        with image_heads.read_image(images, index) as file:
            content = file.read()
    except OSError as error:
        return image_formats.describe_os_error(error)
    ending = ""
    if isinstance(images, image_stores.PathImages):
        ending = os.path.splitext(os.fsdecode(images.paths[index]))[1].lower()
    return _decode(content, ending)


def _read_stream(
    images: image_stores.StreamImages, rows: dict[int, int]
) -> Iterator[tuple[int, Look | str]]:
    import tensorflow as tf

    iterator = images.make_dataset().as_numpy_iterator()
    for index in range(len(images)):
        reason = "is missing: the data set ended before it"
        try:
            element = next(iterator, None)
        except tf.errors.OpError as error:
            element, reason = None, f"cannot be read: {findings.one_line(error.message)}"
        if index not in rows:
            continue
        if element is None:
            yield rows[index], reason
        elif isinstance(element, bytes):
            yield rows[index], _decode(element, "")
        else:
            yield rows[index], _make_look(element.tobytes(), element)


def _decode(content: bytes, ending: str) -> Look | str:
    import tensorflow as tf

    from tf_finetune.data import decoding

    head = content[: image_formats.HEAD_BYTES]
    form = image_formats.find_format(head) or ""
    cut = image_ends.find_cut(content, form)
    decode = decoding.decode_8_bits
    if image_formats.has_16_bits(head):
        decode = decoding.decode_16_bits
    try:
        pixels = decode(tf.constant(content)).numpy()
    except tf.errors.ResourceExhaustedError:
        return "is too large to be decoded in the memory there is"
    except tf.errors.OpError:
        return cut or image_formats.describe_bad_image(head)
    size = image_sizes.read_size(io.BytesIO(content), form)
    frames = 1 if size is None else size.frames
    return _make_look(content, pixels, form=form, ending=ending, frames=frames, cut=cut)


def _make_look(
    content: bytes,
    pixels: np.ndarray,
    *,
    form: str = "",
    ending: str = "",
    frames: int = 1,
    cut: str = "",
) -> Look:
    height, width, channels = pixels.shape
    alpha = pixels[..., -1] if channels in (2, 4) else None
    shown = pixels
    if alpha is not None and alpha.size and alpha.min() == np.iinfo(alpha.dtype).max:
        shown = pixels[..., :-1]  # opaque: the same picture as one without alpha
    return Look(
        content=_digest(content),
        pixels=_digest(repr((shown.shape, shown.dtype.str)).encode(), shown.tobytes()),
        form=form,
        ending=ending,
        width=width,
        height=height,
        channels=channels,
        bits=16 if pixels.dtype == np.uint16 else 8,
        frames=frames,
        is_constant=pixels.size > 0 and not np.any(pixels != pixels[:1, :1]),
        is_clear=alpha is not None and not alpha.any(),
        cut=cut,
    )


def _digest(*contents: bytes) -> bytes:
    made = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for content in contents:
        made.update(content)
    return made.digest()
