"""BMP files: what `tf.io` reads wrongly or not at all.

TensorFlow 2.21 takes the palette indices of an 8-bit BMP for grey values, refuses 1 and 4 bits,
and hands out the unused fourth byte of a pixel as its alpha. Here indexed files are unpacked by
graph operations and the rest goes to `tf.io` with the channels that the header promises.

Reference: Microsoft, Windows GDI, Bitmap Storage.
https://learn.microsoft.com/en-us/windows/win32/gdi/bitmap-storage
"""

import tensorflow as tf

_PLAIN = 0
_BIT_FIELDS = 3
_INFO_HEADER_BYTES = 40
_BIT_DEPTHS = [1, 4, 8, 24, 32]
# BITMAPV3INFOHEADER is the first with an alpha mask.
_ALPHA_HEADER_BYTES = 56
_HEADER_BYTES = 70
# Blue, green, red as bytes of a little-endian pixel; other orders are rare and not read.
_RED_GREEN_BLUE_MASKS = [0x00FF0000, 0x0000FF00, 0x000000FF]


def decode_bitmap(contents: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP of 1, 4, 8, 24 or 32 bits per pixel.

    Args:
      contents: string scalar that begins with "BM".

    Returns:
      uint8 [height, width, 1, 3 or 4].

    Raises:
      tf.errors.InvalidArgumentError: the file is damaged, compressed, or of another bit depth.
    """
    data = tf.io.decode_raw(contents, tf.uint8)
    header = tf.cast(tf.pad(data[:_HEADER_BYTES], [[0, _HEADER_BYTES]]), tf.int64)
    header_bytes, compression = _number(header, 14), _number(header, 30)
    bits = _number(header, 28, size=2)
    is_indexed = bits <= 8
    masks = tf.stack([_number(header, 54), _number(header, 58), _number(header, 62)])
    is_usual = (compression == _BIT_FIELDS) & tf.reduce_all(masks == _RED_GREEN_BLUE_MASKS)
    is_readable = (compression == _PLAIN) | (is_usual & ~is_indexed)
    has_alpha = is_usual & (header_bytes >= _ALPHA_HEADER_BYTES) & (_number(header, 66) != 0)
    is_readable &= (header_bytes >= _INFO_HEADER_BYTES) & tf.reduce_any(bits == _BIT_DEPTHS)
    message = "Invalid BMP: compressed, or with a header or bits per pixel of another kind"
    check = tf.Assert(is_readable, [message])
    with tf.control_dependencies([check] if check is not None else []):
        kind = tf.where(is_indexed, 0, tf.where(has_alpha, 2, 1))

    def decode_direct(channels: int) -> tf.Tensor:
        return tf.io.decode_image(contents, channels=channels, expand_animations=False)

    return tf.switch_case(
        kind,
        [lambda: _unpack(data, header), lambda: decode_direct(3), lambda: decode_direct(4)],
    )


def _number(header: tf.Tensor, offset: int, *, size: int = 4) -> tf.Tensor:
    """Little-endian unsigned number at a byte offset."""
    weights = tf.constant([256**power for power in range(size)], tf.int64)
    return tf.reduce_sum(header[offset : offset + size] * weights)


def _unpack(data: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    """Pixels of a file with a palette; a size that the file does not hold fails in a reshape."""
    width, height = _number(header, 18), _number(header, 22)
    # A height with the sign bit set counts rows from the top.
    is_top_down = height >= 2**31
    height = tf.where(is_top_down, 2**32 - height, height)
    bits = _number(header, 28, size=2)
    stride = (width * bits + 31) // 32 * 4
    first = _number(header, 10)
    rows = tf.reshape(data[first : first + stride * height], (height, stride))
    per_byte = 8 // tf.maximum(bits, 1)
    # The leftmost pixel is in the highest bits.
    shifts = tf.cast(8 - bits * tf.range(1, per_byte + 1), tf.uint8)
    mask = tf.cast(tf.bitwise.left_shift(tf.constant(1, tf.int64), bits) - 1, tf.uint8)
    unpacked = tf.bitwise.right_shift(rows[..., tf.newaxis], shifts) & mask
    indices = tf.reshape(unpacked, (height, stride * per_byte))[:, :width]
    indices = tf.cond(is_top_down, lambda: indices, lambda: tf.reverse(indices, [0]))
    start = 14 + _number(header, 14)
    used = _number(header, 46)
    num_colors = tf.where(used == 0, tf.bitwise.left_shift(tf.constant(1, tf.int64), bits), used)
    palette = tf.reshape(data[start : start + 4 * tf.minimum(num_colors, 256)], (-1, 4))
    colours = tf.gather(palette, [2, 1, 0], axis=1)  # stored blue, green, red
    return tf.gather(colours, tf.cast(indices, tf.int32))
