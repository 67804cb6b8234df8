"""Mask images: PNG files whose pixels are class numbers.

One idea: a class number is what is stored, not a colour that is shown. A palette PNG holds numbers
of colours, which TensorFlow 2.21 would replace by the colours; with its header rewritten to grey
the same decoder gives the numbers.

Reference: W3C, Portable Network Graphics (PNG) Specification, third edition, 2025, sections 5 and
11. https://www.w3.org/TR/png-3/
"""

import struct
import zlib

import numpy as np
import tensorflow as tf

from tf_finetune.data import image_formats, position_labels

IGNORED = position_labels.IGNORED_PIXEL
# The other numbers of a byte.
MAX_CLASSES = 255
EXPECTED = "a palette or grey PNG of class numbers from 0"

_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER_END = 33
_DEPTH_OFFSET, _COLOR_OFFSET = 24, 25
_GREY, _PALETTE = 0, 3
_COLORS = {2: "RGB", 4: "grey with alpha", 6: "RGB with alpha"}
# What decides on the pixels; the palette and its like are left out.
_KEPT = (b"IDAT", b"IEND")


class BadMaskError(ValueError):
    """A file is no mask; its text follows the file's name."""


def decode_mask(contents: bytes) -> np.ndarray:
    """Decodes a mask.

    Args:
      contents: the bytes of the file; the number of its pixels must have been checked.

    Returns:
      uint8 [height, width], as stored.

    Raises:
      BadMaskError: it is no PNG, has colours or more than 8 bits, or is damaged.
    """
    if not contents.startswith(_PNG):
        kind = image_formats.find_format(contents[: image_formats.HEAD_BYTES])
        raise BadMaskError(f"is {f'a {kind}' if kind else 'no image'}. Expected {EXPECTED}")
    if len(contents) < _HEADER_END:
        raise BadMaskError("is cut off")
    depth, color = contents[_DEPTH_OFFSET], contents[_COLOR_OFFSET]
    if color in _COLORS:
        raise BadMaskError(f"holds colours ({_COLORS[color]}). Expected {EXPECTED}")
    if depth > 8:
        raise BadMaskError(f"has {depth} bits in a pixel. Expected 8 or fewer: {EXPECTED}")
    if color == _PALETTE:
        contents = _make_grey(contents)
    try:
        pixels = tf.io.decode_png(contents, channels=1).numpy()[..., 0]
    except tf.errors.OpError as error:
        raise BadMaskError(image_formats.BAD_DATA) from error
    # Grey of fewer bits is stretched to 0 to 255.
    return pixels // (255 // (2**depth - 1)) if depth in (1, 2, 4) else pixels


def encode_mask(mask: np.ndarray) -> bytes:
    """A mask as a file that `decode_mask` reads.

    Args:
      mask: uint8 [height, width].

    Returns:
      A grey PNG.
    """
    return tf.io.encode_png(mask[..., np.newaxis]).numpy()


def _make_grey(contents: bytes) -> bytes:
    header = bytearray(contents[12 : _HEADER_END - 4])
    header[_COLOR_OFFSET - 12] = _GREY
    parts = [contents[:12], bytes(header), struct.pack(">I", zlib.crc32(header))]
    place = _HEADER_END
    while place + 8 <= len(contents):
        (size,) = struct.unpack(">I", contents[place : place + 4])
        following = place + 12 + size
        if contents[place + 4 : place + 8] in _KEPT:
            parts.append(contents[place:following])
        place = following
    return b"".join(parts)
