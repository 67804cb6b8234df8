"""CRC-32C of many records at once, with NumPy.

One idea: the checksum without its two complements is linear, so records are cut into lanes of one
length that are computed side by side, and a lane's state is carried over the next by a table of
what that many zero bytes do. Zeros in front of a record change nothing, which makes every record a
whole number of lanes.

Reference: RFC 3720, appendix B.4 (CRC32C); tensorflow/core/lib/hash/crc32c.h (the mask).
"""

import functools

import numpy as np

from tf_finetune.trust import crc32c

_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8
_ONES = 0xFFFFFFFF
_LANE_BYTES = 256
_COMPLEMENT_BYTES = 4


def masked_checksums(records: list[memoryview]) -> list[int]:
    """The masked CRC-32C of each record. 100 MB/s and more.

    Args:
      records: any number; together they are copied once.

    Returns:
      32 bits each, as TensorFlow stores them.
    """
    counts = [-(-len(record) // _LANE_BYTES) for record in records]
    lanes = np.zeros((sum(counts), _LANE_BYTES), np.uint8)
    flat, end = lanes.reshape(-1), 0
    for record, count in zip(records, counts, strict=True):
        end += count * _LANE_BYTES
        if len(record) >= _COMPLEMENT_BYTES:
            start = end - len(record)
            flat[start:end] = np.frombuffer(record, np.uint8)
            # The same as starting with all bits set.
            flat[start : start + _COMPLEMENT_BYTES] ^= 0xFF
    states = _run_lanes(lanes).tolist()
    results, first = [], 0
    for record, count in zip(records, counts, strict=True):
        if len(record) < _COMPLEMENT_BYTES:
            results.append(crc32c.masked(record))
        else:
            results.append(_mask(_join(states[first : first + count])))
        first += count
    return results


def _mask(state: int) -> int:
    crc = state ^ _ONES
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & _ONES


def _run_lanes(lanes: np.ndarray) -> np.ndarray:
    """uint32 [n]: the state behind each lane, from 0."""
    table, columns = _byte_table(), np.ascontiguousarray(lanes.T)
    states = np.zeros(len(lanes), np.uint32)
    for column in columns:
        states = (states >> np.uint32(8)) ^ table[(states ^ column) & np.uint32(0xFF)]
    return states


def _join(states: list[int]) -> int:
    """Carries each state over the lane that follows it."""
    first, second, third, fourth = _zeros_tables()
    total = 0
    for state in states:
        total = (
            first[total & 0xFF]
            ^ second[total >> 8 & 0xFF]
            ^ third[total >> 16 & 0xFF]
            ^ fourth[total >> 24]
            ^ state
        )
    return total


@functools.cache
def _byte_table() -> np.ndarray:
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = (values >> np.uint32(1)) ^ (values & np.uint32(1)) * np.uint32(_POLYNOMIAL)
    return values


@functools.cache
def _zeros_tables() -> tuple[list[int], ...]:
    """What _LANE_BYTES zero bytes make of a state, for each value of its four bytes."""
    table = _byte_table()
    tables = []
    for shift in (0, 8, 16, 24):
        states = np.arange(256, dtype=np.uint32) << np.uint32(shift)
        for _ in range(_LANE_BYTES):
            states = (states >> np.uint32(8)) ^ table[states & np.uint32(0xFF)]
        tables.append(states.tolist())
    return tuple(tables)
