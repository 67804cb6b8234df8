"""The variables of a SavedModel: the index is a sorted table, the data are bytes in a row.

One idea: the index says where each tensor lies, so whether the data are whole and hold numbers is
known without TensorFlow.

Reference: tensorflow/core/util/tensor_bundle/tensor_bundle.h;
tensorflow/core/lib/io/table_format.txt (LevelDB's table format); tensor_bundle.proto, types.proto.
"""

import dataclasses
import math
import os
import struct
import typing
from collections.abc import Iterator

import numpy as np

from tf_finetune import findings
from tf_finetune.trust import crc32c, protobuf, refusals, snappy, weight_values

INDEX = "variables.index"
_FOOTER_BYTES, _MAGIC = 48, 0xDB4775248B80FB57
_TRAILER_BYTES = 5
_SNAPPY = 1
_MAX_INDEX_BYTES = 64 * 2**20
_MAX_SHARDS = 10_000
_MAX_BLOCK_CHECKED = 8 * 2**20
_BFLOAT16 = 14
# Number in types.proto -> how its values are read; other types have no values that are not finite.
_FLOATS = {1: "<f4", 2: "<f8", 8: "<c8", 18: "<c16", 19: "<f2", _BFLOAT16: "<u2"}
_SIZES = {
    1: 4,
    2: 8,
    3: 4,
    4: 1,
    5: 2,
    6: 1,
    8: 8,
    9: 8,
    10: 1,
    14: 2,
    17: 2,
    18: 16,
    19: 2,
    22: 4,
    23: 8,
}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
      name: its key.
      dtype: number in types.proto.
      shape: its sides.
      shard: number of its data file.
      start: first byte there.
      num_bytes: length.
      sliced: its values are stored under other keys.
    """

    name: str
    dtype: int
    shape: tuple[int, ...]
    shard: int
    start: int
    num_bytes: int
    sliced: bool = False


def examine(folder: str) -> Iterator[findings.Finding]:
    """Examines the variables of a SavedModel.

    Args:
      folder: its folder "variables", without links.

    Yields:
      Findings.

    Raises:
      refusals.BrokenFileError: the index cannot be read.
    """
    path = os.path.join(folder, INDEX)
    if not os.path.exists(path):
        if any(name.startswith("variables.") for name in os.listdir(folder)):
            yield refusals.broken(INDEX, f"variables/{INDEX} is missing.")
        return
    if os.path.getsize(path) > _MAX_INDEX_BYTES:
        yield refusals.outside(INDEX, f"variables/{INDEX} is larger than any model needs.")
        return
    with open(path, "rb") as file:
        shards, tensors = read_index(file.read())
    yield from _check_names(folder, shards)
    for shard in range(shards):
        yield from _examine_shard(folder, shard, shards, tensors)


def read_index(data: bytes) -> tuple[int, list[StoredTensor]]:
    """Reads variables.index.

    Args:
      data: all of it.

    Returns:
      How many data files there are, and the tensors.

    Raises:
      refusals.BrokenFileError: it is damaged.
    """
    if len(data) < _FOOTER_BYTES or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise _damaged("it does not end as an index")
    view = memoryview(data)
    footer = view[-_FOOTER_BYTES:-8]
    position = 0
    handles = []
    for _ in range(4):
        number, position = protobuf.read_varint(footer, position, what=INDEX)
        handles.append(number)
    shards, tensors = 0, []
    for _, handle in _read_block(view, handles[2], handles[3]):
        start, position = protobuf.read_varint(handle, 0, what=INDEX)
        size, _ = protobuf.read_varint(handle, position, what=INDEX)
        for key, value in _read_block(view, start, size):
            if key == b"":
                shards = protobuf.number(value, 1, what=INDEX)
            else:
                tensors.append(_read_entry(key, value))
    if not 0 < shards <= _MAX_SHARDS:
        raise _damaged("it names no data file")
    return shards, tensors


def _read_block(view: memoryview, start: int, size: int) -> Iterator[tuple[bytes, memoryview]]:
    end = start + size
    if size < 4 or end + _TRAILER_BYTES > len(view):
        raise _damaged("a block lies outside of it")
    compression, stored = struct.unpack("<BI", view[end : end + _TRAILER_BYTES])
    if size <= _MAX_BLOCK_CHECKED and crc32c.masked(view[start : end + 1]) != stored:
        raise _damaged("the checksum of a block is wrong")
    if compression not in (0, _SNAPPY):
        raise _damaged("a block is compressed in an unknown way")
    if compression == _SNAPPY:
        view = memoryview(snappy.decompress(view[start:end], what=INDEX, limit=_MAX_INDEX_BYTES))
        start, end = 0, len(view)
    if end - start < 4:
        raise _damaged("a block is too short")
    (restarts,) = struct.unpack("<I", view[end - 4 : end])
    limit = end - 4 - 4 * restarts
    position, key = start, b""
    while position < limit:
        shared, position = protobuf.read_varint(view, position, what=INDEX)
        own, position = protobuf.read_varint(view, position, what=INDEX)
        length, position = protobuf.read_varint(view, position, what=INDEX)
        if shared > len(key) or position + own + length > limit:
            raise _damaged("an entry lies outside of its block")
        key = key[:shared] + bytes(view[position : position + own])
        position += own
        yield key, view[position : position + length]
        position += length
    if position != limit:
        raise _damaged("a block does not end where it says")


def _read_entry(key: bytes, value: memoryview) -> StoredTensor:
    numbers = dict.fromkeys((1, 3, 4, 5), 0)
    shape: tuple[int, ...] = ()
    sliced = False
    for field, _, item in protobuf.read_fields(value, what=INDEX):
        if field in numbers and isinstance(item, int):
            numbers[field] = protobuf.signed(item)
        elif field == 2 and not isinstance(item, int):
            shape = read_shape(item)
        elif field == 7:
            sliced = True
    name = key.decode("utf-8", "backslashreplace")
    return StoredTensor(name, numbers[1], shape, numbers[3], numbers[4], numbers[5], sliced)


def read_shape(data: memoryview, *, what: str = INDEX) -> tuple[int, ...]:
    """Reads a TensorShapeProto.

    Args:
      data: its bytes.
      what: what holds it, for the error's text.

    Returns:
      Its sides, -1 where one is unknown.

    Raises:
      refusals.BrokenFileError: the bytes are no message.
    """
    return tuple(
        protobuf.signed(protobuf.number(dim, 1, what=what))
        for dim in protobuf.messages(data, 2, what=what)
    )


def shard_name(shard: int, shards: int) -> str:
    """The name of a data file.

    Args:
      shard: number, from 0.
      shards: how many there are.

    Returns:
      For example "variables.data-00000-of-00001".
    """
    return f"variables.data-{shard:05d}-of-{shards:05d}"


def _check_names(folder: str, shards: int) -> Iterator[findings.Finding]:
    expected = {INDEX, *(shard_name(shard, shards) for shard in range(shards))}
    present = set(os.listdir(folder))
    for name in sorted(expected - present)[:5]:
        yield refusals.broken(name, f"variables/{name} is missing.")


def _examine_shard(
    folder: str, shard: int, shards: int, tensors: list[StoredTensor]
) -> Iterator[findings.Finding]:
    name = shard_name(shard, shards)
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        return
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        for tensor in tensors:
            if tensor.shard != shard or tensor.sliced:
                continue
            finding = _check_place(tensor, size, name) or _check_values(tensor, file)
            if finding is not None:
                yield finding
    for tensor in tensors:
        if not 0 <= tensor.shard < shards and shard == 0:
            yield refusals.broken(tensor.name, f"{_shown(tensor)} lies in no data file.")


def _check_place(tensor: StoredTensor, size: int, name: str) -> findings.Finding | None:
    if tensor.start < 0 or tensor.num_bytes < 0 or tensor.start + tensor.num_bytes > size:
        message = (
            f"variables/{name} has {size:,} bytes and {_shown(tensor)} ends at "
            f"{tensor.start + tensor.num_bytes:,}: the file is truncated."
        )
        return refusals.broken(tensor.name, message)
    element = _SIZES.get(tensor.dtype)
    if any(side < 0 for side in tensor.shape):
        return refusals.broken(tensor.name, f"{_shown(tensor)} has a negative side.")
    if element is not None and math.prod(tensor.shape) * element != tensor.num_bytes:
        message = (
            f"{_shown(tensor)} declares {math.prod(tensor.shape) * element:,} bytes and stores "
            f"{tensor.num_bytes:,}."
        )
        return refusals.broken(tensor.name, message)
    return None


def _check_values(tensor: StoredTensor, file: typing.BinaryIO) -> findings.Finding | None:
    code = _FLOATS.get(tensor.dtype)
    if code is None:
        return None
    bfloat16 = tensor.dtype == _BFLOAT16
    check = weight_values.all_finite_bfloat16 if bfloat16 else weight_values.all_finite
    pieces = weight_values.read_pieces(file, tensor.start, tensor.num_bytes, np.dtype(code))
    if all(check(piece) for piece in pieces):
        return None
    return refusals.broken(
        tensor.name,
        f"{_shown(tensor)} holds NaN or infinite values, so every prediction would be NaN.",
        advice="Use a checkpoint from before the training diverged.",
    )


def _shown(tensor: StoredTensor) -> str:
    return (
        f"variable '{findings.one_line(tensor.name.removesuffix('/.ATTRIBUTES/VARIABLE_VALUE'))}'"
    )


def _damaged(reason: str) -> refusals.BrokenFileError:
    return refusals.BrokenFileError(
        refusals.broken(INDEX, f"variables/{INDEX} is damaged: {reason}.")
    )
