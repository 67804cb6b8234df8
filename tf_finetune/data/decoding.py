"""Encoded images to pixels, by graph operations that a server without Python can run.

One idea: the first bytes of a file choose the decoder, its name does not. `tf.io.decode_image`
alone would be wrong in several ways, each met here: it decodes JPEG by the less exact of two
transforms and ignores EXIF, it cuts 16-bit PNG to 8 bits and shows the colour that a PNG names
as transparent, takes BMP palette indices for grey values, and TensorFlow 2.21 writes past its
buffer for an animated WebP without alpha.

Reference: W3C, Portable Network Graphics (PNG) Specification, third edition, 2025, sections 5 and
11. https://www.w3.org/TR/png-3/
"""

import tensorflow as tf

from tf_finetune.data import bitmaps, exif

_HEAD_BYTES = 32
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_BMP = b"BM"
_PNG_DEPTH_OFFSET = 24
_PNG_COLOR_OFFSET = 25
_PNG_FIRST_CHUNK = 33
# Grey and RGB may name one value as transparent; the other colour types carry alpha openly.
_PNG_COLOR_KEY_TYPES = (0, 2)
# tRNS stands before the pixels, behind a few chunks such as gAMA, pHYs and texts.
_MAX_PNG_CHUNKS = 64
_WEBP_FLAGS_OFFSET = 20
_WEBP_ANIMATION_FLAG = 0x02
_WEBP_ALPHA_FLAG = 0x10
# Place and length of what begins each part of a JPEG as libjpeg writes it: JFIF of 16 bytes, two
# tables of 67 bytes, then the frame in colour. No EXIF can stand before the frame.
_PLAIN_JPEG_PARTS = ((0, 6), (20, 4), (89, 4), (158, 2))
PLAIN_JPEG_BYTES = 160
_JFIF, _TABLE = b"\xff\xd8\xff\xe0\x00\x10", b"\xff\xdb\x00\x43"
_PLAIN_JPEGS = [(_JFIF, _TABLE, _TABLE, frame) for frame in (b"\xff\xc0", b"\xff\xc2")]


def has_16_bits(contents: tf.Tensor) -> tf.Tensor:
    """Tells 16-bit PNG, the one format here with more than 8 bits per value.

    Args:
      contents: string scalar, a file.

    Returns:
      bool scalar.
    """
    head = _read_head(contents)
    return _begins(head, _PNG) & (head[_PNG_DEPTH_OFFSET] == 16)


def begins_plain_jpeg(head: bytes) -> bool:
    """As `is_plain_jpeg`, without a graph.

    Args:
      head: the first PLAIN_JPEG_BYTES of a file.

    Returns:
      Whether it is such a JPEG.
    """
    parts = tuple(head[place : place + size] for place, size in _PLAIN_JPEG_PARTS)
    return parts in _PLAIN_JPEGS


def is_plain_jpeg(contents: tf.Tensor) -> tf.Tensor:
    """Tells a JPEG of the parts that libjpeg writes, in which nobody has to look for EXIF.

    Args:
      contents: string scalar, a file.

    Returns:
      bool scalar; False for other kinds of JPEG too.
    """
    head = tf.strings.substr(contents, 0, PLAIN_JPEG_BYTES)
    head = tf.strings.join([head, tf.constant(b"\0" * PLAIN_JPEG_BYTES)])
    places, sizes = zip(*_PLAIN_JPEG_PARTS, strict=True)
    parts = tf.strings.substr(tf.fill([len(places)], head), places, sizes)
    return tf.reduce_any(tf.reduce_all(parts == tf.constant(_PLAIN_JPEGS), axis=1))


def decode_plain_jpeg(contents: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG as it is stored.

    Args:
      contents: string scalar, a JPEG file.

    Returns:
      uint8 [height, width, 1 or 3]; CMYK becomes RGB.

    Raises:
      tf.errors.InvalidArgumentError: the file is damaged.
    """
    # The accurate transform gives libjpeg's (and Pillow's) pixels bit for bit; the default is up
    # to 3 of 255 away.
    return tf.io.decode_jpeg(contents, dct_method="INTEGER_ACCURATE")


# Functions of their own, so that a process builds these graphs once and not for each image size.
@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def decode_8_bits(contents: tf.Tensor) -> tf.Tensor:
    """Decodes the first frame of a JPEG, PNG, BMP, GIF or WebP; a JPEG upright.

    Args:
      contents: string scalar, a file.

    Returns:
      uint8 [height, width, 1 to 4]; 2 and 4 channels end with alpha; CMYK becomes RGB.

    Raises:
      tf.errors.InvalidArgumentError: the file is empty, damaged or of another format.
    """
    head = _read_head(contents)
    kind = tf.reduce_sum(
        [
            tf.cast(_begins(head, _JPEG), tf.int32),
            tf.cast(_begins(head, _BMP), tf.int32) * 2,
            tf.cast(_is_animated_webp(head), tf.int32) * 3,
            tf.cast(_begins(head, _PNG), tf.int32) * 4,
        ]
    )
    return tf.switch_case(
        kind,
        [
            lambda: tf.io.decode_image(contents, expand_animations=False),
            lambda: _decode_jpeg(contents),
            lambda: bitmaps.decode_bitmap(contents),
            lambda: _decode_animated_webp(contents, head),
            lambda: _decode_png(contents, tf.uint8),
        ],
    )


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def decode_16_bits(contents: tf.Tensor) -> tf.Tensor:
    """Decodes a 16-bit PNG.

    Args:
      contents: string scalar for which `has_16_bits`.

    Returns:
      uint16 [height, width, 1 to 4]; 2 and 4 channels end with alpha.

    Raises:
      tf.errors.InvalidArgumentError: the file is damaged.
    """
    return _decode_png(contents, tf.uint16)


def _read_head(contents: tf.Tensor) -> tf.Tensor:
    """int32 [32], the first bytes; zeros behind the end of a shorter file."""
    padding = tf.constant(b"\0" * _HEAD_BYTES)
    head = tf.strings.join([tf.strings.substr(contents, 0, _HEAD_BYTES), padding])
    data = tf.io.decode_raw(tf.strings.substr(head, 0, _HEAD_BYTES), tf.uint8)
    return tf.ensure_shape(tf.cast(data, tf.int32), [_HEAD_BYTES])


def _begins(head: tf.Tensor, magic: bytes, *, offset: int = 0) -> tf.Tensor:
    return tf.reduce_all(head[offset : offset + len(magic)] == list(magic))


def _is_animated_webp(head: tf.Tensor) -> tf.Tensor:
    is_extended = _begins(head, b"RIFF") & _begins(head, b"WEBPVP8X", offset=8)
    return is_extended & (head[_WEBP_FLAGS_OFFSET] & _WEBP_ANIMATION_FLAG != 0)


def _decode_png(contents: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    head = _read_head(contents)
    may_have_key = tf.reduce_any(head[_PNG_COLOR_OFFSET] == _PNG_COLOR_KEY_TYPES)
    has_key = tf.cond(may_have_key, lambda: _find_trns(contents), lambda: False)
    # TensorFlow turns a transparent colour into alpha only where four channels are asked for.
    return tf.cond(
        has_key,
        lambda: tf.io.decode_png(contents, channels=4, dtype=dtype),
        lambda: tf.io.decode_png(contents, dtype=dtype),
    )


def _find_trns(contents: tf.Tensor) -> tf.Tensor:
    """bool scalar: whether a tRNS chunk stands before the pixels."""
    size = tf.strings.length(contents)
    weights = tf.constant([256**3, 256**2, 256, 1], tf.int64)

    def is_open(position: tf.Tensor, name: tf.Tensor) -> tf.Tensor:
        return (position + 8 <= size) & (name != b"tRNS") & (name != b"IDAT")

    def step(position: tf.Tensor, name: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        length = tf.io.decode_raw(tf.strings.substr(contents, position, 4), tf.uint8)
        num_bytes = tf.reduce_sum(tf.cast(length, tf.int64) * weights)
        # Length, name and checksum are 4 bytes each. A length past the end closes the loop.
        following = tf.cast(position, tf.int64) + 12 + num_bytes
        following = tf.cast(tf.minimum(following, tf.cast(size, tf.int64)), tf.int32)
        return following, tf.strings.substr(contents, position + 4, 4)

    _, name = tf.while_loop(
        is_open,
        step,
        (tf.constant(_PNG_FIRST_CHUNK), tf.constant(b"")),
        maximum_iterations=_MAX_PNG_CHUNKS,
    )
    return name == b"tRNS"


def _decode_jpeg(contents: tf.Tensor) -> tf.Tensor:
    return exif.apply_orientation(decode_plain_jpeg(contents), exif.read_orientation(contents))


def _decode_animated_webp(contents: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    # libwebp composes animations as RGBA whatever the file says; TensorFlow 2.21 makes room for
    # what the file says. With the alpha flag set both are RGBA.
    alpha = tf.constant([bytes([flags | _WEBP_ALPHA_FLAG]) for flags in range(256)])
    before = tf.strings.substr(contents, 0, _WEBP_FLAGS_OFFSET)
    behind = tf.strings.substr(contents, _WEBP_FLAGS_OFFSET + 1, -1)
    contents = tf.strings.join([before, alpha[head[_WEBP_FLAGS_OFFSET]], behind])
    return tf.io.decode_image(contents, channels=4, expand_animations=False)
