"""The checksum of TensorFlow's files.

Reference: RFC 3720, appendix B.4 (CRC32C); tensorflow/core/lib/hash/crc32c.h (the mask).
"""

_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8


def _make_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _make_table()


def masked(data: bytes | memoryview) -> int:
    """The masked CRC32C of some bytes. Slow: 10 MB/s.

    Args:
      data: at most some megabytes.

    Returns:
      32 bits, as TensorFlow stores them.
    """
    crc = 0xFFFFFFFF
    table = _TABLE
    for byte in bytes(data):
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF
