"""Keys of the rows of a table: a hash of what a row says, so that its place in the file is nothing.

One idea: a key is known without the other rows, but where several say the same; those are counted
in an order that follows from their other cells.
"""

import hashlib
import zlib

import numpy as np

from tf_finetune.data import columns, json_rows

_DIGITS = np.frombuffer(b"0123456789abcdefghijklmnopqrstuv", np.uint8)
_KEY_DIGITS = 12  # 60 of 64 bits: with "-1" behind them they fit NumPy's short strings, 15 bytes
_CHUNK_ROWS = 4096


def hash_features(numbers: np.ndarray, strings: list[list[str]]) -> np.ndarray:
    """A hash of the features of each row.

    Args:
      numbers: float64 [n, columns].
      strings: the string cells of each row.

    Returns:
      uint64 [n], equal for equal values: 1 and 1.0 are the same.
    """
    # -0.0 is 0.0.
    contents = (numbers + 0.0).astype("<f8")
    digests = bytearray()
    for row, values in zip(contents, strings, strict=True):
        digest = hashlib.blake2b(row.data, digest_size=8)
        for value in values:
            encoded = value.encode(errors="surrogatepass")
            digest.update(b"%d:" % len(encoded) + encoded)
        digests += digest.digest()
    return np.frombuffer(bytes(digests), ">u8").astype(np.uint64)


def sum_cells(others: list[list[json_rows.Cell]], num_rows: int) -> np.ndarray:
    """A checksum of the other cells of each row: it orders rows with the same features.

    Args:
      others: the cells of each column.
      num_rows: cells in each.

    Returns:
      uint32 [num_rows].
    """
    if not others:
        return np.zeros(num_rows, np.uint32)
    sums = (zlib.crc32(repr(cells).encode()) for cells in zip(*others, strict=True))
    return np.fromiter(sums, np.uint32, num_rows)


def make_keys(
    digests: np.ndarray, sums: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Keys of rows, in 16 bytes each.

    Args:
      digests: uint64 [n] of `hash_features`.
      sums: uint32 [n] of `sum_cells`.

    Returns:
      (int64 [n], the rows in the order of their keys; StringDType [n], the keys in that order;
      `Examples.repeats` of them, None where no row has the features of another).
    """
    hashes = digests >> np.uint64(4)
    order = np.lexsort((sums, hashes))
    hashes = hashes[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = hashes[1:] != hashes[:-1]
    keys = np.empty(len(order), columns.STRINGS)
    shifts = np.arange(5 * (_KEY_DIGITS - 1), -1, -5, dtype=np.uint64)
    for start in range(0, len(order), _CHUNK_ROWS):
        part = hashes[start : start + _CHUNK_ROWS]
        digits = _DIGITS[((part[:, None] >> shifts) & np.uint64(31)).astype(np.intp)]
        names = np.concatenate([digits, np.full((len(part), 2), np.frombuffer(b"-1", np.uint8))], 1)
        texts = np.ascontiguousarray(names).view(f"S{_KEY_DIGITS + 2}").ravel()
        keys[start : start + _CHUNK_ROWS] = texts.astype(f"U{_KEY_DIGITS + 2}")
    if is_first.all():
        return order, keys, None
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
    for row in np.flatnonzero(~is_first).tolist():
        keys[row] = f"{keys[row][:_KEY_DIGITS]}-{row - first[row] + 1}"
    # Ten and more of the same: as text, 10 comes before 2.
    by_key = np.argsort(keys, kind="stable")
    order, keys, first = order[by_key], keys[by_key], first[by_key]
    _, starts = np.unique(first, return_index=True)
    repeats = np.repeat(starts, np.diff(np.append(starts, len(order))))
    return order, keys, repeats.astype(np.int64)
