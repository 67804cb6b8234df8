"""Reads .safetensors with NumPy alone, bfloat16 included.

Reference: the safetensors format, https://huggingface.co/docs/safetensors/index#format: eight bytes
with the length of the header (little-endian), the header in JSON, then the values.
"""

import dataclasses
import json
import math
import os
import typing

import numpy as np

from tf_finetune import findings
from tf_finetune.models.stored import stored_config

_MAX_HEADER_BYTES = 100_000_000
# Stored type -> how its bytes are read. bfloat16 is the upper half of a float32.
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in its file.

    Attributes:
      dtype: as stored, for example "BF16".
      shape: sides.
      start: first byte, from the start of the file.
      num_bytes: length.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int


def read_header(path: str) -> dict[str, StoredTensor]:
    """What a file holds; the values are not read.

    Args:
      path: a .safetensors file.

    Returns:
      {name: tensor} in the file's order.

    Raises:
      findings.RefusedError: the file cannot be read, is no safetensors file, is truncated, or its
        header contradicts itself.
    """
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            start = file.read(8)
            if start == b"version ":
                raise stored_config.refused(
                    path, "is a Git LFS pointer, not the model itself: run 'git lfs pull'."
                )
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise _damaged(path, "its header is longer than the file")
            text = file.read(length)
    except OSError as error:
        raise stored_config.refused(path, f"cannot be read: {error.strerror}.") from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a table of tensors")
    return {
        name: _read_entry(path, name, entry, first=8 + length, size=size)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def read_tensor(path: str, tensor: StoredTensor) -> np.ndarray:
    """Reads one tensor.

    Args:
      path: the file.
      tensor: a value of its `read_header`, of a floating-point type.

    Returns:
      float32, of the stored shape.

    Raises:
      findings.RefusedError: the tensor is not of a floating-point type, or the file cannot be read.
    """
    if tensor.dtype not in ("F64", "F32", "F16", "BF16"):
        raise stored_config.refused(
            path,
            f"a weight is stored as {findings.one_line(tensor.dtype)}. Expected F32, F16 or BF16: "
            "save the model again without quantization.",
        )
    try:
        with open(path, "rb") as file:
            file.seek(tensor.start)
            data = file.read(tensor.num_bytes)
    except OSError as error:
        raise stored_config.refused(path, f"cannot be read: {error.strerror}.") from error
    if len(data) != tensor.num_bytes:
        raise _damaged(path, "its values end early")
    values = np.frombuffer(data, _DTYPES[tensor.dtype]).reshape(tensor.shape)
    if tensor.dtype == "BF16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32)


def _read_entry(path: str, name: str, entry: typing.Any, *, first: int, size: int) -> StoredTensor:
    shown = findings.one_line(name)
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"its header does not describe '{shown}'") from error
    numbers = [*shape, start, end] if isinstance(shape, list) else [None]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise _damaged(path, f"its header does not describe '{shown}'")
    if not start <= end <= size - first:
        raise _damaged(path, f"'{shown}' ends behind the end of the file")
    # A type that is not known here is refused when it is read.
    width = np.dtype(_DTYPES[dtype]).itemsize if dtype in _DTYPES else None
    if width is not None and end - start != math.prod(shape) * width:
        raise _damaged(path, f"'{shown}' has another length than its shape {tuple(shape)}")
    return StoredTensor(str(dtype), tuple(shape), first + start, end - start)


def _damaged(path: str, reason: str) -> findings.RefusedError:
    return stored_config.refused(
        path, f"is no whole .safetensors file: {reason}. Copy or download it again."
    )
