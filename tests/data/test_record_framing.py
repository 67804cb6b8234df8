import os
import struct

import pytest
import tensorflow as tf

from tests.data import record_files
from tf_finetune import regular_files
from tf_finetune.data import record_framing
from tf_finetune.trust import crc32c


def read(path, content):
    path.write_bytes(content)
    return list(record_framing.read_records(os.fsencode(path)))


def test_what_tensorflow_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr(record_framing, "_BATCH_BYTES", 100)
    contents = [b"", b"a", b"x" * 99, b"y" * 3000, b"z"]
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
        for content in contents:
            writer.write(content)
    whole = (tmp_path / "a").read_bytes()
    assert whole == b"".join(map(record_files.frame, contents))
    records = read(tmp_path / "a", whole)
    assert [bytes(record.data) for record in records] == contents
    assert [record.number for record in records] == [1, 2, 3, 4, 5]
    assert [whole[r.start : r.start + len(r.data)] for r in records] == contents
    assert {record.fault for record in records} == {""}
    assert read(tmp_path / "a", b"") == []


def test_every_truncation(tmp_path):
    whole = record_files.frame(b"first") + record_files.frame(b"second")
    first = len(record_files.frame(b"first"))
    for length in range(1, len(whole)):
        records = read(tmp_path / "a", whole[:length])
        if length == first:
            assert [record.fault for record in records] == [""]
            continue
        assert records[-1].fault.startswith("is truncated: ")
        assert len(records) == 1 + (length > first)


def test_every_flipped_byte(tmp_path):
    whole = record_files.frame(b"first") + record_files.frame(b"second")
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 0x55
        assert any(record.fault for record in read(tmp_path / "a", bytes(content))), place


def test_a_bad_checksum_of_data_spoils_one_record(tmp_path):
    whole = bytearray(b"".join(record_files.frame(b"abc") for _ in range(3)))
    whole[len(whole) // 3 + 12] ^= 1
    assert [record.fault for record in read(tmp_path / "a", bytes(whole))] == [
        "",
        "is damaged: the checksum of its data is wrong",
        "",
    ]


@pytest.mark.parametrize("length", [2**40, 2**63, 2**64 - 1, 3])
def test_lengths_that_lie(tmp_path, length):
    field = struct.pack("<Q", length)
    content = field + struct.pack("<I", crc32c.masked(field)) + b"xx"
    (record,) = read(tmp_path / "a", content)
    assert record.fault == f"is truncated: its length is {length:,} bytes, and the file has 2"


def test_a_record_that_would_fill_the_memory(tmp_path):
    length = 2**40
    field = struct.pack("<Q", length)
    (tmp_path / "a").write_bytes(field + struct.pack("<I", crc32c.masked(field)))
    os.truncate(tmp_path / "a", 2**41)
    (record,) = record_framing.read_records(os.fsencode(tmp_path / "a"))
    assert record.fault == ("is too large: 1,099,511,627,776 bytes. At most 268,435,456 are read")


def test_what_is_no_record_file(tmp_path):
    (record,) = read(tmp_path / "a", b"this is a text, and not a short one")
    assert record.fault == (
        "has a wrong checksum of its length: the file is damaged, or is no TFRecord file"
    )
    (record,) = read(tmp_path / "a", b"\x1f\x8b\x08\0" + bytes(40))
    assert record.fault == ("cannot be read: the file is compressed. Unpack it with gunzip first")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(regular_files.NotRegularError):
        list(record_framing.read_records(os.fsencode(tmp_path / "fifo")))
