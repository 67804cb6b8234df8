import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tests.data import image_bytes
from tf_finetune.data import bitmaps

PALETTE = image_bytes.encode(PIL.Image.fromarray(image_bytes.gradient()).quantize(16), "BMP")


def test_4_bit_and_top_down_bitmaps():
    # Pillow writes neither: 4 bits per pixel, 3 x 2 pixels, rows padded to 4 bytes.
    palette = bytes([0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0])
    for height, rows in (
        (2, [b"\x01\x20\0\0", b"\x21\x00\0\0"]),
        (-2, [b"\x21\x00\0\0", b"\x01\x20\0\0"]),
    ):
        header = (
            b"BM"
            + (54 + 12 + 8).to_bytes(4, "little")
            + bytes(4)
            + (66).to_bytes(4, "little")
            + (40).to_bytes(4, "little")
            + (3).to_bytes(4, "little")
            + height.to_bytes(4, "little", signed=True)
            + b"\1\0\4\0"
            + bytes(16)
            + (3).to_bytes(4, "little")
            + bytes(4)
        )
        contents = header + palette + b"".join(rows)
        image = bitmaps.decode_bitmap(tf.constant(contents)).numpy()
        red, green, blue = [255, 0, 0], [0, 255, 0], [0, 0, 255]
        assert image.tolist() == [[blue, green, red], [red, green, blue]]
        np.testing.assert_array_equal(
            image, np.array(PIL.Image.open(io.BytesIO(contents)).convert("RGB"))
        )


def test_alpha_of_a_bitmap_with_an_alpha_mask():
    masks = b"".join(mask.to_bytes(4, "little") for mask in (0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    header = (
        b"BM"
        + bytes(8)
        + (122).to_bytes(4, "little")
        + (108).to_bytes(4, "little")
        + (2).to_bytes(4, "little")
        + (1).to_bytes(4, "little")
        + b"\1\0\x20\0"
        + (3).to_bytes(4, "little")
        + bytes(20)
        + masks
        + bytes(52)
    )
    contents = header + bytes([10, 20, 30, 255, 10, 20, 30, 0])
    image = bitmaps.decode_bitmap(tf.constant(contents)).numpy()
    assert image.tolist() == [[[30, 20, 10, 255], [30, 20, 10, 0]]]


@pytest.mark.parametrize(
    "contents",
    [
        b"BM",
        PALETTE[:300],
        PALETTE[:30] + b"\1" + PALETTE[31:],
        PALETTE[:14] + b"\x0c" + PALETTE[15:],
        # A width of 2**31 and a height of 0x80000000.
        PALETTE[:18] + b"\0\0\0\x80" + PALETTE[22:],
        PALETTE[:22] + b"\0\0\0\x80" + PALETTE[26:],
        # 7 and 0 bits per pixel.
        PALETTE[:28] + b"\7" + PALETTE[29:],
        PALETTE[:28] + b"\0" + PALETTE[29:],
        # A palette shorter than the indices need.
        PALETTE[:46] + b"\2" + PALETTE[47:],
    ],
)
def test_a_damaged_or_compressed_bitmap_is_refused(contents):
    with pytest.raises(tf.errors.InvalidArgumentError):
        bitmaps.decode_bitmap(tf.constant(contents))


def test_unusual_colour_masks_are_refused():
    header = bytearray(image_bytes.encode(image_bytes.gradient(), "BMP"))
    header[30] = 3
    with pytest.raises(tf.errors.InvalidArgumentError):
        bitmaps.decode_bitmap(tf.constant(bytes(header)))
