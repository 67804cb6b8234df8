"""TFRecord files as records, checked in Python before anything else reads them.

One idea: a length is believed only where its checksum is right, the file is long enough and the
record fits in memory; TensorFlow's own reader asks for the memory first. The places of records are
handed on, so that nothing has to read the framing again.

Reference: TensorFlow, tensorflow/core/lib/io/record_writer.h: a length of 8 bytes, its masked
CRC-32C, the data, their masked CRC-32C, all little-endian.
"""

import dataclasses
import os
import struct
from collections.abc import Iterator

from tf_finetune import regular_files
from tf_finetune.data import checksums
from tf_finetune.trust import crc32c

MAX_RECORD_BYTES = 256 * 2**20
_HEADER_BYTES = 12
_LENGTH_BYTES = 8
_CHECKSUM_BYTES = 4
_BATCH_BYTES = 16 * 2**20
_GZIP, _ZLIB = b"\x1f\x8b", b"\x78"


@dataclasses.dataclass(frozen=True)
class Record:
    """One record of a file.

    Attributes:
      number: 1 for the first.
      start: place of its data in the file, bytes.
      data: its bytes.
      fault: what is wrong, continuing "record 3 ...", or "". No record follows one whose `data`
        are empty and whose `fault` is not.
    """

    number: int
    start: int
    data: memoryview
    fault: str = ""


def read_records(path: bytes) -> Iterator[Record]:
    """Reads a file from its beginning to its end or to its first broken length.

    Args:
      path: a TFRecord file, not compressed.

    Yields:
      Each record; `fault` is set where its checksum is wrong or the file cannot be read further.

    Raises:
      OSError: the file cannot be opened, or is no regular file.
    """
    with regular_files.open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        batch: list[tuple[Record, int]] = []
        held = position = number = 0
        while position < size:
            number += 1
            header = file.read(_HEADER_BYTES)
            length, fault = _read_length(header, left=size - position - _HEADER_BYTES, first=number)
            if fault:
                yield from _check(batch)
                yield Record(number, position, memoryview(b""), fault)
                return
            content = memoryview(file.read(length + _CHECKSUM_BYTES))
            start = position + _HEADER_BYTES
            record = Record(number, start, content[:length])
            batch.append((record, int.from_bytes(content[length:], "little")))
            held += length
            position = start + length + _CHECKSUM_BYTES
            if held >= _BATCH_BYTES:
                yield from _check(batch)
                batch, held = [], 0
        yield from _check(batch)


def _read_length(header: bytes, *, left: int, first: int) -> tuple[int, str]:
    """(length of the data, what is wrong or "")."""
    if first == 1 and header.startswith(_GZIP):
        return 0, "cannot be read: the file is compressed. Unpack it with gunzip first"
    if len(header) < _HEADER_BYTES:
        return 0, "is truncated: the file ends within its length"
    length, checksum = struct.unpack("<QI", header)
    if crc32c.masked(header[:_LENGTH_BYTES]) != checksum:
        what = "the file is damaged, or is no TFRecord file"
        if first == 1 and header.startswith(_ZLIB):
            what += " (or a compressed one)"
        return 0, f"has a wrong checksum of its length: {what}"
    if length + _CHECKSUM_BYTES > left:
        return 0, f"is truncated: its length is {length:,} bytes, and the file has {max(left, 0):,}"
    if length > MAX_RECORD_BYTES:
        return 0, f"is too large: {length:,} bytes. At most {MAX_RECORD_BYTES:,} are read"
    return length, ""


def _check(batch: list[tuple[Record, int]]) -> Iterator[Record]:
    found = checksums.masked_checksums([record.data for record, _ in batch])
    for (record, expected), checksum in zip(batch, found, strict=True):
        if checksum == expected:
            yield record
        else:
            yield dataclasses.replace(record, fault="is damaged: the checksum of its data is wrong")
