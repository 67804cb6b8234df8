"""Images looked at without a decoder: is it a file, an image, and of what size.

One idea: what a decoder must not see, or cannot use, is told by the file system and by the first
bytes. No TensorFlow.
"""

import contextlib
import dataclasses
import errno
import io
import os
from concurrent import futures
from typing import BinaryIO, TextIO

import numpy as np

from tf_finetune import findings, progress, regular_files
from tf_finetune.data import (
    columns,
    feature_inputs,
    image_formats,
    image_sizes,
    image_stores,
    loading,
    text_store,
)

_SKIP_FLAG = "--on_bad_example=skip"
_PIXELS_FLAG = "--max_image_pixels"
_HEADS_PER_TASK = 512
MIN_SHOWN = 20_000


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Examples of one store. Rows count through all splits."""

    images: image_stores.ImageStore
    rows: np.ndarray
    indices: np.ndarray


@dataclasses.dataclass(eq=False)
class Heads:
    """What the first bytes tell.

    Attributes:
      bad: {row: why it cannot be read}; a reason follows the image's name.
      stubs: {row: why it is left aside}: files with nothing in them that could be decoded.
      too_large: rows of `bad` that may be good images.
      wide: rows of 16-bit images, sorted.
      max_pixels: of the largest image that is left.
    """

    bad: dict[int, str] = dataclasses.field(default_factory=dict)
    stubs: dict[int, str] = dataclasses.field(default_factory=dict)
    too_large: set[int] = dataclasses.field(default_factory=set)
    wide: list[int] = dataclasses.field(default_factory=list)
    max_pixels: int = 0

    def rule_out(self) -> dict[int, str]:
        """Rows that no decoder is to see, with the reason."""
        return self.bad | self.stubs


def group_by_store(parts: tuple[loading.Split, ...]) -> list[Group]:
    """Puts examples of the same store together, so that it is read once.

    Args:
      parts: splits of images.

    Returns:
      A group for each store.

    Raises:
      ValueError: a split holds texts.
    """
    stores: dict[int, image_stores.ImageStore] = {}
    rows: dict[int, list[np.ndarray]] = {}
    indices: dict[int, list[np.ndarray]] = {}
    start = 0
    for part in parts:
        if isinstance(part.inputs, columns.Columns):
            raise ValueError("Columns are not decoded: give a ColumnsSpec.")
        if isinstance(part.inputs, text_store.Texts):
            raise ValueError("Texts are not decoded: give a TextSpec, not a PreprocessingSpec.")
        if isinstance(part.inputs, feature_inputs.Features):
            raise ValueError("Features are made of images that were decoded already.")
        stores[id(part.inputs)] = part.inputs
        rows.setdefault(id(part.inputs), []).append(np.arange(start, start + len(part)))
        indices.setdefault(id(part.inputs), []).append(part.indices)
        start += len(part)
    return [
        Group(images, np.concatenate(rows[name]), np.concatenate(indices[name]))
        for name, images in stores.items()
    ]


def check_heads(
    groups: list[Group], *, max_pixels: int | None, stream: TextIO | None = None
) -> Heads:
    """Looks at the first bytes of every encoded image.

    Args:
      groups: of `group_by_store`; arrays have no first bytes.
      max_pixels: the most that an image may have, all frames together; None: any number.
      stream: takes the progress bar; default: standard output.

    Returns:
      What was found.
    """
    heads = Heads()
    for group in groups:
        if isinstance(group.images, image_stores.EncodedImages):
            _check_group(heads, group, group.images, max_pixels=max_pixels, stream=stream)
        if isinstance(group.images, image_stores.StreamImages) and max_pixels is not None:
            _check_stream(heads, group, group.images, max_pixels)
    heads.wide.sort()
    return heads


def read_image(images: image_stores.EncodedImages, index: int) -> io.BufferedReader | io.BytesIO:
    """Opens one encoded image.

    Args:
      images: the store.
      index: place in it.

    Returns:
      Its bytes, as a file that can seek.

    Raises:
      OSError: its file cannot be opened, or is no regular file.
    """
    if isinstance(images, image_stores.PathImages):
        return regular_files.open_regular(images.paths[index])
    return io.BytesIO(read_slice(images, index))


def read_slice(images: image_stores.SliceImages, index: int) -> bytes:
    """Reads one encoded image out of a larger file, and nothing else of it.

    Args:
      images: the store.
      index: place in it.

    Returns:
      Its bytes.

    Raises:
      OSError: its file cannot be read, is no regular file, or has changed its length since it was
        listed.
    """
    offset, size = int(images.offsets[index]), int(images.sizes[index])
    with regular_files.open_regular(images.paths[images.files[index]]) as file:
        content = os.pread(file.fileno(), size, offset)
        length = os.fstat(file.fileno()).st_size
    if length != offset + size + int(images.footers[index]) or len(content) != size:
        raise OSError(errno.EIO, "its file has changed since it was listed")
    return content


def describe(parts: tuple[loading.Split, ...], heads: Heads) -> tuple[findings.Problem, ...]:
    """Everything that was found, in the order of the rows.

    Args:
      parts: the splits.
      heads: what was found in them.

    Returns:
      An error for each bad image, a warning for each that is left aside.
    """
    found = {row: _describe_bad(parts, heads, row) for row in heads.bad}
    found |= {row: _describe_stub(parts, heads, row) for row in heads.stubs}
    return tuple(found[row] for row in sorted(found))


def describe_errors(parts: tuple[loading.Split, ...], heads: Heads) -> list[findings.Problem]:
    """An error for each bad image.

    Args:
      parts: the splits.
      heads: what was found in them.

    Returns:
      The problems, in the order of the rows.
    """
    return [_describe_bad(parts, heads, row) for row in sorted(heads.bad)]


def describe_stubs(parts: tuple[loading.Split, ...], heads: Heads) -> list[findings.Problem]:
    """A warning for each image that is left aside.

    Args:
      parts: the splits.
      heads: what was found in them.

    Returns:
      The problems, in the order of the rows.
    """
    return [_describe_stub(parts, heads, row) for row in sorted(heads.stubs)]


def find_name(parts: tuple[loading.Split, ...], row: int) -> tuple[str, str, int | None]:
    """The name of an image.

    Args:
      parts: the splits.
      row: counts through all of them.

    Returns:
      (path or "", what a message calls it, printable; its record in the file from 1, or None).
    """
    for part in parts:
        if row < len(part):
            break
        row -= len(part)
    images, index = part.inputs, part.indices[row]
    if isinstance(images, image_stores.PathImages):
        path = os.fsdecode(images.paths[index])
        return path, findings.one_line(path), None
    if isinstance(images, image_stores.SliceImages):
        path, number = os.fsdecode(images.paths[images.files[index]]), int(images.numbers[index])
        return path, f"{findings.one_line(path)}, record {number}", number
    return "", f"Example {findings.one_line(part.keys[row])}", None


def _describe_bad(parts: tuple[loading.Split, ...], heads: Heads, row: int) -> findings.Problem:
    path, name, line = find_name(parts, row)
    advice = f"Expected {image_formats.EXPECTED}; {_SKIP_FLAG} leaves it out."
    if row in heads.too_large:
        advice = f"Give a larger {_PIXELS_FLAG} if it is real; {_SKIP_FLAG} leaves it out."
    message = f"{name} {heads.bad[row]}. {advice}"
    return findings.Problem(message, path=path, line=line, flag=_SKIP_FLAG)


def _describe_stub(parts: tuple[loading.Split, ...], heads: Heads, row: int) -> findings.Problem:
    path, name, line = find_name(parts, row)
    message = f"{name} {heads.stubs[row]}. Left aside."
    return findings.Problem(message, severity=findings.WARNING, path=path, line=line)


def describe_failure(images: image_stores.EncodedImages, index: int) -> str:
    """Why a decoder refused an image, told by its first bytes.

    Args:
      images: the store.
      index: place in it.

    Returns:
      A reason that follows the image's name.
    """
    try:
        with read_image(images, index) as file:
            return image_formats.describe_bad_image(file.read(image_formats.HEAD_BYTES))
    except OSError as error:
        return image_formats.describe_os_error(error)


def _check_group(
    heads: Heads,
    group: Group,
    images: image_stores.EncodedImages,
    *,
    max_pixels: int | None,
    stream: TextIO | None,
) -> None:
    def check(first: int) -> Heads:
        return _check_some(group, images, first, max_pixels=max_pixels)

    tasks = range(0, len(group.rows), _HEADS_PER_TASK)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(futures.ThreadPoolExecutor())
        bar = None
        if len(group.rows) > MIN_SHOWN:
            bar = stack.enter_context(
                progress.ProgressBar("Checking files", len(group.rows), stream=stream)
            )
        for first, found in zip(tasks, pool.map(check, tasks), strict=True):
            heads.bad |= found.bad
            heads.stubs |= found.stubs
            heads.too_large |= found.too_large
            heads.wide += found.wide
            heads.max_pixels = max(heads.max_pixels, found.max_pixels)
            if bar:
                bar.update(min(first + _HEADS_PER_TASK, len(group.rows)))


def _check_stream(
    heads: Heads, group: Group, images: image_stores.StreamImages, max_pixels: int
) -> None:
    rows = dict(zip(group.indices.tolist(), group.rows.tolist(), strict=True))
    found = Heads()
    for index, element in enumerate(images.make_dataset().as_numpy_iterator()):
        if not isinstance(element, bytes):
            return  # pixels that nobody has to decode
        if index in rows:
            _check_image(found, rows[index], io.BytesIO(element), max_pixels)
    # Whether it is an image is for the decoder to say: it reads a stream's elements in their order.
    heads.bad |= {row: found.bad[row] for row in found.too_large}
    heads.too_large |= found.too_large
    heads.max_pixels = max(heads.max_pixels, found.max_pixels)


def _check_some(
    group: Group, images: image_stores.EncodedImages, first: int, *, max_pixels: int | None
) -> Heads:
    found = Heads()
    rows = group.rows[first : first + _HEADS_PER_TASK].tolist()
    indices = group.indices[first : first + _HEADS_PER_TASK]
    for row, index in zip(rows, indices, strict=True):
        try:
            with read_image(images, index) as file:
                _check_image(found, row, file, max_pixels)
        except OSError as error:
            found.bad[row] = image_formats.describe_os_error(error)
    return found


def _check_image(found: Heads, row: int, file: BinaryIO, max_pixels: int | None) -> None:
    head = file.read(image_formats.HEAD_BYTES)
    kind = image_formats.find_format(head)
    if kind is None:
        found.bad[row] = image_formats.describe_bad_image(head)
        return
    file.seek(0)
    size = image_sizes.read_size(file, kind)
    if size is None:
        found.stubs[row] = f"holds no {kind} image, or one of an unsupported kind"
    elif max_pixels is not None and size.pixels > max_pixels:
        found.bad[row] = f"is too large: {size}, more than --max_image_pixels={max_pixels}"
        found.too_large.add(row)
    else:
        found.max_pixels = max(found.max_pixels, size.pixels)
        if image_formats.has_16_bits(head):
            found.wide.append(row)
