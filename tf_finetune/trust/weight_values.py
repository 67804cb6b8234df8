"""Whether stored weights are numbers: NaN and infinity make every prediction useless, silently.

One idea: values are read in pieces that fit a processor's cache, into the same memory again and
again: asking the system for fresh memory takes longer than reading.
"""

import typing
from collections.abc import Iterator

import numpy as np

PIECE_BYTES = 2**20
_BFLOAT16_EXPONENT = 0x7F80


def all_finite(values: np.ndarray) -> bool:
    """Whether no value is NaN or infinite.

    Args:
      values: of any type; what has no such values is finite.

    Returns:
      True if all are finite.
    """
    if values.dtype.kind not in "fc":
        return True
    return bool(np.isfinite(values).all())


def all_finite_bfloat16(values: np.ndarray) -> bool:
    """The same for bfloat16, which NumPy does not have.

    Args:
      values: uint16, the bits.

    Returns:
      True if all are finite.
    """
    return not bool(((values & _BFLOAT16_EXPONENT) == _BFLOAT16_EXPONENT).any())


def read_pieces(
    file: typing.BinaryIO, start: int, num_bytes: int, dtype: np.dtype
) -> Iterator[np.ndarray]:
    """Reads values that lie in a row in a file.

    Args:
      file: open for reading.
      start: first byte.
      num_bytes: length, a multiple of the type's size.
      dtype: of the values.

    Yields:
      Pieces of at most `PIECE_BYTES`, each good until the next is asked for.

    Raises:
      EOFError: the file ends earlier.
    """
    file.seek(start)
    view = memoryview(bytearray(min(PIECE_BYTES, num_bytes)))
    while num_bytes:
        size = file.readinto(view[: min(len(view), num_bytes)])  # type: ignore[attr-defined]
        if not size or size % dtype.itemsize:
            raise EOFError("its values end too early")
        num_bytes -= size
        yield np.frombuffer(view[:size], dtype)
