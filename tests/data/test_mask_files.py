import io
import re
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from tf_finetune.data import mask_files


def encode(array, *, mode=None, **options):
    image = PIL.Image.fromarray(array)
    if mode == "P":
        image.putpalette([number * 5 % 256 for number in range(768)])
    elif mode:
        image = image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, options.pop("form", "PNG"), **options)
    return stream.getvalue()


@pytest.fixture
def numbers():
    return np.random.default_rng(0).integers(0, 256, (7, 11)).astype(np.uint8)


def test_grey_and_palette_give_what_is_stored(numbers):
    assert np.array_equal(mask_files.decode_mask(encode(numbers)), numbers)
    assert np.array_equal(mask_files.decode_mask(encode(numbers, mode="P")), numbers)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_palette_of_fewer_bits(numbers, bits):
    small = numbers % 2**bits
    contents = encode(small, mode="P", bits=bits)
    assert contents[24] == bits
    assert np.array_equal(mask_files.decode_mask(contents), small)


def test_grey_of_fewer_bits_is_not_stretched(numbers):
    small = numbers % 4
    contents = bytearray(encode(small, mode="P", bits=2))
    contents[25] = 0
    contents[29:33] = struct.pack(">I", zlib.crc32(contents[12:29]))
    assert np.array_equal(mask_files.decode_mask(bytes(contents)), small)


def test_black_and_white_are_0_and_1(numbers):
    contents = encode(np.where(numbers > 99, 255, 0).astype(np.uint8), mode="1")
    assert np.array_equal(mask_files.decode_mask(contents), numbers > 99)


def test_a_transparent_palette_changes_nothing(numbers):
    contents = encode(numbers, mode="P", transparency=bytes(256))
    assert np.array_equal(mask_files.decode_mask(contents), numbers)


def test_what_is_written_is_read(numbers):
    contents = mask_files.encode_mask(numbers)
    assert np.array_equal(mask_files.decode_mask(contents), numbers)
    assert PIL.Image.open(io.BytesIO(contents)).mode == "L"


EXPECTED = "Expected a palette or grey PNG of class numbers from 0"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda n: encode(n, form="JPEG"), f"is a JPEG. {EXPECTED}"),
        (lambda n: b"hello", f"is no image. {EXPECTED}"),
        (lambda n: encode(n)[:20], "is cut off"),
        (lambda n: encode(n, mode="RGB"), f"holds colours (RGB). {EXPECTED}"),
        (lambda n: encode(n, mode="LA"), f"holds colours (grey with alpha). {EXPECTED}"),
        (lambda n: encode(n, mode="RGBA"), f"holds colours (RGB with alpha). {EXPECTED}"),
        (
            lambda n: encode(n.astype(np.uint16)),
            "has 16 bits in a pixel. Expected 8 or fewer: a palette or grey PNG of class numbers "
            "from 0",
        ),
        (
            lambda n: encode(n, mode="P")[:-40],
            "is no image that can be decoded: its data is damaged or of an unsupported kind",
        ),
    ],
)
def test_what_is_no_mask(numbers, make, message):
    with pytest.raises(mask_files.BadMaskError, match=f"^{re.escape(message)}$"):
        mask_files.decode_mask(make(numbers))
