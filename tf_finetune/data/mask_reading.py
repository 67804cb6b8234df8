"""Reads every mask once before training: finds the bad ones, counts classes, keeps what fits.

One idea: a class number out of range is NaN on one device and a crash in hour three on another, so
every pixel is looked at in minute one. The counts that fall off weigh classes and the loss.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import BinaryIO, TextIO

import numpy as np
import tensorflow as tf

from tf_finetune import findings, head_kinds, progress, regular_files
from tf_finetune.data import (
    emptied_splits,
    exif,
    image_formats,
    image_heads,
    image_sizes,
    image_stores,
    label_encoding,
    loaders,
    loading,
    mask_files,
    mask_geometry,
    memory,
    position_labels,
    preprocessing,
)

_MAX_CACHE_BYTES = 128 * 2**20
_SKIP_FLAG = "--on_bad_example=skip"
# EXIF orientations from here on swap width and height.
_FIRST_TURNED = 5


@dataclasses.dataclass(frozen=True, eq=False)
class _Look:
    """A mask: why it cannot be used, or its counts and what the model sees of it."""

    reason: str = ""
    counts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    pixels: np.ndarray | None = None


def read_masks(
    splits: loading.Splits,
    pre: preprocessing.PreprocessingSpec,
    *,
    on_bad_example: str,
    max_pixels: int | None,
) -> tuple[loading.Splits, tuple[findings.Problem, ...]]:
    """Checks and counts the masks of all heads.

    Args:
      splits: the examples, their images not decoded yet.
      pre: what the model takes.
      on_bad_example: "error" or "skip".
      max_pixels: a mask whose header promises more is bad, and no decoder sees it; None: any
        number.

    Returns:
      (splits whose masks are counted, without skipped examples; warnings).

    Raises:
      findings.RefusedError: masks cannot be read, have another size than their image or class
        numbers out of range, and are not to be skipped, or skipping them leaves a split, a class of
        the training split or a head there without any example; or training has fewer than two
        classes.
    """
    parts = splits.parts
    if not any(part.positions for part in parts):
        return splits, ()
    keep = _fits_memory(parts, pre)
    read, problems, num_bad = [], [], 0
    for part in parts:
        part, found, bad = _read_split(part, pre, max_pixels=max_pixels, keep=keep)
        problems += found
        num_bad += len(bad)
        good = ~np.isin(np.arange(len(part)), list(bad))
        read.append(part.take(np.flatnonzero(good)))
    if problems and on_bad_example != "skip":
        raise findings.RefusedError(*_cut(problems))
    shown = findings.list_first([findings.one_line(found.path) for found in problems])
    bad_masks = f"Bad masks are {shown}."
    emptied_splits.check(splits, read, fault="has a mask that can be used", bad=bad_masks)
    before = splits
    splits = dataclasses.replace(splits, train=read[0], validation=read[1], test=read[2])
    warnings = _check_classes(splits, before)
    if problems:
        message = f"{num_bad} examples are left out because their masks cannot be used: {shown}."
        problem = findings.Problem(message, severity=findings.WARNING, flag=_SKIP_FLAG)
        warnings.append(problem)
    return splits, tuple(warnings)


def find_bad_masks(
    splits: loading.Splits, *, max_pixels: int | None, stream: TextIO | None = None
) -> tuple[list[findings.Problem], dict[str, np.ndarray]]:
    """Reads everything and keeps nothing but complaints and counts.

    Args:
      splits: the examples, their images not decoded.
      max_pixels: see `read_masks`.
      stream: takes the progress bar; default: standard output.

    Returns:
      (an error for each mask that cannot be used, {HEAD: int64 [classes], pixels as stored}).
    """
    read = [
        _read_split(part, None, max_pixels=max_pixels, keep=False, stream=stream)
        for part in splits.parts
    ]
    problems = [problem for _, found, _ in read for problem in found]
    return problems, position_labels.count_all([part for part, _, _ in read])


def find_upright_size(file: BinaryIO) -> tuple[int, int] | None:
    """The size of an image as `preprocessing.decode_image` turns it.

    Args:
      file: the encoded image, open at its first byte; it must be able to seek.

    Returns:
      (height, width) in pixels; None where the header does not tell.
    """
    kind = image_formats.find_format(file.read(image_formats.HEAD_BYTES))
    file.seek(0)
    size = image_sizes.read_size(file, kind) if kind else None
    if size is None:
        return None
    file.seek(0)
    if kind == "JPEG":
        head = tf.constant(exif.read_head(file))
        if int(_read_orientation(head)) >= _FIRST_TURNED:
            return size.width, size.height
    return size.height, size.width


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def _read_orientation(contents: tf.Tensor) -> tf.Tensor:
    return exif.read_orientation(contents)


def _fits_memory(parts: tuple[loading.Split, ...], pre: preprocessing.PreprocessingSpec) -> bool:
    num_masks = sum(len(store) for part in parts for store in part.positions.values())
    most = min(_MAX_CACHE_BYTES, memory.find_available_bytes() // 8)
    return num_masks * pre.height * pre.width <= most


def _read_split(
    part: loading.Split,
    pre: preprocessing.PreprocessingSpec | None,
    *,
    max_pixels: int | None,
    keep: bool,
    stream: TextIO | None = None,
) -> tuple[loading.Split, list[findings.Problem], set[int]]:
    """(the split with counted masks, an error for each bad one, rows of those)."""
    problems: list[findings.Problem] = []
    bad: set[int] = set()
    stores = dict(part.positions)
    for name, store in part.positions.items():
        if not isinstance(store, position_labels.MaskLabels):
            continue
        places = part.labels[name]
        rows = np.flatnonzero(places >= 0)
        counts = np.zeros((len(store), store.num_classes), np.int64)
        pixels = None
        if keep and pre is not None:
            pixels = loaders.make_aligned((len(store), pre.height, pre.width), np.uint8)
            pixels.fill(mask_files.IGNORED)
        look = functools.partial(_look, store=store, pre=pre, max_pixels=max_pixels, keep=keep)
        paths = store.paths[places]
        looks = _look_at_all(part, paths, rows=rows, look=look, stream=stream)
        for row, found in zip(rows, looks, strict=True):
            if found.reason:
                bad.add(int(row))
                problems.append(_describe(os.fsdecode(paths[row]), found.reason))
                continue
            counts[places[row]] = found.counts
            if pixels is not None:
                pixels[places[row]] = found.pixels
        stores[name] = dataclasses.replace(store, counts=counts, pixels=pixels)
    return dataclasses.replace(part, positions=stores), problems, bad


def _look_at_all(
    part: loading.Split,
    paths: np.ndarray,
    *,
    rows: np.ndarray,
    look: Callable[[bytes, "_Image"], _Look],
    stream: TextIO | None,
) -> Iterator[_Look]:
    def look_at(row: int) -> _Look:
        try:
            return look(paths[row], _Image(part, row))
        except mask_files.BadMaskError as error:
            return _Look(str(error))

    with (
        futures.ThreadPoolExecutor() as pool,
        progress.ProgressBar("Reading masks", len(rows), stream=stream) as bar,
    ):
        for number, found in enumerate(pool.map(look_at, rows.tolist()), start=1):
            yield found
            bar.update(number)


@dataclasses.dataclass(frozen=True, eq=False)
class _Image:
    """The image that a mask belongs to."""

    part: loading.Split
    row: int

    def find_size(self) -> tuple[int, int] | None:
        """(height, width), or None where nobody knows or the image itself is bad."""
        images = self.part.inputs
        if not isinstance(images, image_stores.EncodedImages):
            return None
        try:
            with image_heads.read_image(images, self.part.indices[self.row]) as file:
                return find_upright_size(file)
        except OSError:
            return None  # The reading of images names it.


def _look(
    path: bytes,
    image: _Image,
    *,
    store: position_labels.MaskLabels,
    pre: preprocessing.PreprocessingSpec | None,
    max_pixels: int | None,
    keep: bool,
) -> _Look:
    mask = read_mask(path, max_pixels=max_pixels)
    size = image.find_size()
    if size is not None and size != mask.shape:
        raise mask_files.BadMaskError(
            f"has another size than its image: expected {size[1]} x {size[0]} pixels, as the image "
            f"stands upright. Received {mask.shape[1]} x {mask.shape[0]}"
        )
    _check_numbers(mask, store.num_classes)
    if pre is not None:
        mask = mask_geometry.fit_mask(mask, pre)
    counts = np.bincount(mask.ravel(), minlength=256)[: store.num_classes]
    return _Look("", counts, mask if keep else None)


def read_mask(path: bytes, *, max_pixels: int | None) -> np.ndarray:
    """Reads a mask.

    Args:
      path: its file.
      max_pixels: see `read_masks`.

    Returns:
      uint8 [height, width], class numbers as stored.

    Raises:
      mask_files.BadMaskError: the file cannot be read or is no mask; the text follows its name.
    """
    try:
        with regular_files.open_regular(path) as file:
            kind = image_formats.find_format(file.read(image_formats.HEAD_BYTES))
            file.seek(0)
            size = image_sizes.read_size(file, kind) if kind else None
            if size is not None and max_pixels is not None and size.pixels > max_pixels:
                reason = f"is too large: {size}, more than --max_image_pixels={max_pixels}"
                raise mask_files.BadMaskError(reason)
            file.seek(0)
            contents = file.read()
    except OSError as error:
        raise mask_files.BadMaskError(image_formats.describe_os_error(error)) from error
    return mask_files.decode_mask(contents)


def _check_numbers(mask: np.ndarray, num_classes: int) -> None:
    wrong = (mask >= num_classes) & (mask != mask_files.IGNORED)
    if not wrong.any():
        return
    row, column = np.unravel_index(int(wrong.argmax()), mask.shape)
    others = len(np.unique(mask[wrong])) - 1
    more = f" and {others} other numbers out of range" if others else ""
    raise mask_files.BadMaskError(
        f"has the class number {mask[row, column]} in row {row}, column {column}{more}. Expected 0 "
        f"to {num_classes - 1}, or {mask_files.IGNORED} where there is no class"
    )


def _describe(path: str, reason: str) -> findings.Problem:
    message = f"{findings.one_line(path)} {reason}. {_SKIP_FLAG} leaves the example out."
    return findings.Problem(message, path=path, flag=_SKIP_FLAG)


def _cut(problems: list[findings.Problem]) -> list[findings.Problem]:
    if len(problems) <= findings.MAX_LISTED:
        return problems
    more = f"and {len(problems) - findings.MAX_LISTED} more masks. --mode=validate lists all."
    return [*problems[: findings.MAX_LISTED], findings.Problem(more, flag=_SKIP_FLAG)]


def _check_classes(splits: loading.Splits, before: loading.Splits) -> list[findings.Problem]:
    """Warnings of classes that training does not see; raises where there is nothing to learn."""
    if splits.train.name != "train":  # Examples that a finished run is measured on.
        return []
    problems = position_labels.find_absent_classes(splits.train, splits.heads)
    # Beside another head, skipping can take all masks and leave examples.
    for part, former in zip(splits.parts, before.parts, strict=True):
        for head in splits.heads:
            if head_kinds.find_labelled(former.labels[head.name]).any():
                problems += label_encoding.find_unlabelled_split(head, part.labels, split=part.name)
    errors = [problem for problem in problems if problem.severity == findings.ERROR]
    if errors:
        raise findings.RefusedError(*errors)
    return problems
