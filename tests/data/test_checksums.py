import numpy as np

from tf_finetune.data import checksums
from tf_finetune.trust import crc32c


def test_many_at_once_are_as_one_by_one():
    rng = np.random.default_rng(0)
    lengths = [0, 1, 3, 4, 5, 8, 255, 256, 257, 511, 512, 513, 5000, *rng.integers(0, 2000, 20)]
    records = [rng.bytes(length) for length in lengths]
    found = checksums.masked_checksums([memoryview(record) for record in records])
    assert found == [crc32c.masked(record) for record in records]


def test_the_standard_value():
    # RFC 3720, appendix B.4: the checksum of 32 zero bytes is 0x8a9136aa.
    crc = 0x8A9136AA
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert checksums.masked_checksums([memoryview(bytes(32))]) == [masked]
    assert checksums.masked_checksums([]) == []
