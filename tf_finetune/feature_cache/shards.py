"""Features on the disk, in files that are written once and then only read or removed.

One idea: a shard is whole or it is not there. It is written under a temporary name, flushed and
renamed, and holds the digests of its examples and a checksum of each array, so the folder itself is
the index: what is in it when a run starts is what need not be computed, whoever computed it and
however that run ended. Two runs at once write shards of different names.

A file: MAGIC, the length of the header (uint64, little-endian), the header (JSON), the digests, the
arrays one after another, each row as long as every other.
"""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import re
import secrets
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import ml_dtypes
import numpy as np

from tf_finetune import disk_room, regular_files
from tf_finetune.feature_cache import keys

_MAGIC = b"tfftfeat"
_NAME = re.compile(r"[0-9a-f]{16}\.shard")
_TEMPORARY = re.compile(r"[0-9a-f]{16}\.tmp")
_MAX_HEADER_BYTES = 2**20
_CHECK_BYTES = 2**22


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a row of features is.

    Attributes:
      shapes: {name: shape of one example}.
      dtypes: {name: "float32", "bfloat16" or another type of NumPy}.
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]

    @property
    def row_bytes(self) -> int:
        """Size of an example's features in bytes."""
        return sum(
            math.prod(shape) * dtype_of(self.dtypes[name]).itemsize
            for name, shape in self.shapes.items()
        )

    def unpack(self, content: bytes, *, count: int, offset: int = 0) -> dict[str, np.ndarray]:
        """Arrays of bytes in which one stands after another.

        Args:
          content: at least `offset + count * row_bytes` bytes.
          count: of examples.
          offset: where the first array begins, bytes.

        Returns:
          {name: [count, ...]}, read-only.
        """
        arrays = {}
        for name, shape in self.shapes.items():
            dtype, size = dtype_of(self.dtypes[name]), count * math.prod(shape)
            arrays[name] = np.frombuffer(content, dtype, size, offset).reshape(count, *shape)
            offset += size * dtype.itemsize
        return arrays


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of features that was found to be whole.

    Attributes:
      path: of the file.
      digests: uint8 [n, 16] of its examples.
      offsets: {name: where its rows begin, bytes}.
    """

    path: str
    digests: np.ndarray
    offsets: dict[str, int]


def dtype_of(name: str) -> np.dtype:
    """A dtype by its name.

    Args:
      name: "bfloat16" or a name of NumPy.

    Returns:
      The dtype.
    """
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def write_shard(
    folder: str, digests: np.ndarray, arrays: Mapping[str, np.ndarray], layout: Layout
) -> Shard:
    """Writes a shard, whole or not at all.

    Args:
      folder: of the space.
      digests: uint8 [n, 16].
      arrays: {name: [n, ...]} of the layout's shapes and dtypes.
      layout: of the space.

    Returns:
      The shard.

    Raises:
      OSError: it cannot be written, for example because the disk is full
        (`disk_room.FullDiskError`); nothing is left.
    """
    data = {
        name: np.ascontiguousarray(arrays[name], dtype_of(layout.dtypes[name]))
        for name in layout.shapes
    }
    header = json.dumps(
        {
            "count": len(digests),
            "digests": zlib.crc32(digests.tobytes()),
            "arrays": {name: zlib.crc32(_bytes(array)) for name, array in data.items()},
        }
    ).encode()
    name = secrets.token_hex(8)
    temporary = os.path.join(folder, f"{name}.tmp")
    try:
        with disk_room.naming(folder), open(temporary, "xb") as file:
            # Held until the file is whole: whoever can take it has found what a dead run left.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(_MAGIC + struct.pack("<Q", len(header)) + header)
            file.write(digests.tobytes())
            for array in data.values():
                file.write(_bytes(array))
            file.flush()
            os.fsync(file.fileno())
            path = os.path.join(folder, f"{name}.shard")
            os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
    return Shard(path, digests, _offsets(len(header), len(digests), layout))


def find_shards(folder: str, layout: Layout) -> tuple[list[Shard], list[str]]:
    """Reads which examples a folder has features of.

    Args:
      folder: of the space; files that a dead run left unfinished in it are removed.
      layout: of the space.

    Returns:
      (the whole shards, names of the damaged ones, which were removed).
    """
    shards, damaged = [], []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if _TEMPORARY.fullmatch(name):
            _remove_unfinished(path)
        elif _NAME.fullmatch(name):
            try:
                shard = _read_shard(path, layout)
            except FileNotFoundError:  # another run has noticed the damage first
                continue
            except OSError:  # the disk cannot read it
                shard = None
            if shard is None:
                damaged.append(name)
                with contextlib.suppress(OSError):
                    os.remove(path)
            else:
                shards.append(shard)
    return shards, damaged


def _remove_unfinished(path: str) -> None:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.remove(path)


def _read_shard(path: str, layout: Layout) -> Shard | None:
    """The shard, or None where anything in it is not as it was written."""
    with regular_files.open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(len(_MAGIC) + 8)
        if len(start) < len(_MAGIC) + 8 or not start.startswith(_MAGIC):
            return None
        (length,) = struct.unpack("<Q", start[len(_MAGIC) :])
        if length > _MAX_HEADER_BYTES:
            return None
        try:
            header = json.loads(file.read(length))
            count, wanted = int(header["count"]), dict(header["arrays"])
            digest_sum = header["digests"]
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None
        offsets = _offsets(length, count, layout)
        whole = len(start) + length + count * (keys.DIGEST_BYTES + layout.row_bytes)
        if count < 0 or size != whole or wanted.keys() != layout.shapes.keys():
            return None
        content = file.read(count * keys.DIGEST_BYTES)
        if zlib.crc32(content) != digest_sum:
            return None
        for name in layout.shapes:
            row = math.prod(layout.shapes[name]) * dtype_of(layout.dtypes[name]).itemsize
            if _checksum(file, count * row) != wanted[name]:
                return None
    digests = np.frombuffer(content, np.uint8).reshape(count, keys.DIGEST_BYTES)
    return Shard(path, digests, offsets)


def _checksum(file: BinaryIO, num_bytes: int) -> int:
    value = 0
    for size in _pieces(num_bytes):
        value = zlib.crc32(file.read(size), value)
    return value


def _pieces(num_bytes: int) -> Iterator[int]:
    while num_bytes > 0:
        yield min(num_bytes, _CHECK_BYTES)
        num_bytes -= _CHECK_BYTES


def _offsets(header_bytes: int, count: int, layout: Layout) -> dict[str, int]:
    start = len(_MAGIC) + 8 + header_bytes + count * keys.DIGEST_BYTES
    offsets = {}
    for name, shape in layout.shapes.items():
        offsets[name] = start
        start += count * math.prod(shape) * dtype_of(layout.dtypes[name]).itemsize
    return offsets


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
