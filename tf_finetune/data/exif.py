"""The EXIF orientation of a JPEG, read and applied by graph operations.

Cameras store the sensor's rows as they come and say in EXIF how to turn them; `tf.io` ignores
that. Training and the exported graph must turn a photograph alike, so this is TensorFlow code
that a server without Python can run. Damaged EXIF is never an error: the image stays as stored.

References:
  ISO/IEC 10918-1, 1994, annex B: markers and segments of a JPEG stream.
  https://www.w3.org/Graphics/JPEG/itu-t81.pdf
  CIPA DC-008-2023, Exif 3.0, sections 4.5.4 and 4.6.5.1 (Orientation, tag 274).
  https://www.cipa.jp/std/documents/download_e.html?DC-008-Translation-2023-E
"""

from typing import BinaryIO

import tensorflow as tf

_START_OF_SCAN = 0xDA
_APP1 = 0xE1
_FILL = 0xFF
_ORIENTATION_TAG = 0x0112
_SHORT = 3
_IDENTIFIER = b"Exif\0\0"
# Marker (2 bytes), length (2), identifier (6).
_SEGMENT_HEADER = 10
# EXIF comes first or after a few APPn segments. The limit keeps a file of a million fill bytes
# from holding a server.
_MAX_SEGMENTS = 64
# Slices of this many bytes never leave the padded data.
_PADDING = 16


def read_orientation(contents: tf.Tensor) -> tf.Tensor:
    """Finds how a JPEG is to be turned.

    Args:
      contents: string scalar, a JPEG file.

    Returns:
      int32 scalar, 1 to 8; 1 (as stored) without EXIF or where it is malformed.
    """
    data = tf.io.decode_raw(contents, tf.uint8)
    data = tf.pad(data, [[0, _PADDING]])
    exif, end = _find_exif(data)
    return tf.cond(exif > 0, lambda: _read_tag(data, exif, end), lambda: tf.constant(1))


def read_head(file: BinaryIO) -> bytes:
    """The part of a JPEG that tells how it is to be turned.

    Args:
      file: a JPEG, open at its first byte; it must be able to seek.

    Returns:
      Its first bytes: of them `read_orientation` says what it says of the whole file.
    """
    end = 2
    for _ in range(_MAX_SEGMENTS):
        file.seek(end)
        start = file.read(4)
        if len(start) < 4 or start[0] != _FILL or _is_last(start[1]):
            break
        end += 1 if start[1] == _FILL else 2 + int.from_bytes(start[2:], "big")
    file.seek(0)
    # What stands at the end says that it is one.
    return file.read(end + _SEGMENT_HEADER)


def _is_last(marker: int) -> bool:
    """Start of frame or of a scan: no metadata behind it."""
    is_frame = (marker & 0xF0 == 0xC0) and (marker & 0x03 != 0 or marker == 0xC0)
    return is_frame or marker == _START_OF_SCAN


def apply_orientation(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns and mirrors an image as its orientation says.

    Args:
      image: any dtype [height, width, channels].
      orientation: int32 scalar, 1 to 8.

    Returns:
      The image upright; height and width are swapped for 5 to 8.
    """

    def turn() -> tf.Tensor:
        turned = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
        flip_rows = tf.reduce_any(orientation == [3, 4, 7, 8])
        flip_columns = tf.reduce_any(orientation == [2, 3, 6, 7])
        return tf.reverse(turned, tf.boolean_mask([0, 1], tf.stack([flip_rows, flip_columns])))

    return tf.cond(orientation > 1, turn, lambda: image)


def _find_exif(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """First byte of the TIFF structure inside APP1, and the end of its segment; (0, 0) if none."""
    size = tf.size(data) - _PADDING

    def is_open(position: tf.Tensor, exif: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        marker = tf.cast(data[position + 1], tf.int32)
        # Start of frame (0xC0 to 0xCF without DHT, JPG and DAC): no metadata behind it.
        is_frame = (marker & 0xF0 == 0xC0) & (marker & 0x03 != 0) | (marker == 0xC0)
        is_last = is_frame | (marker == _START_OF_SCAN) | (data[position] != _FILL)
        return (exif == 0) & (position < size) & ~is_last

    def step(position: tf.Tensor, exif: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, ...]:
        header = tf.cast(data[position : position + _SEGMENT_HEADER], tf.int32)
        following = position + 2 + header[2] * 256 + header[3]
        is_exif = (header[1] == _APP1) & tf.reduce_all(header[4:] == list(_IDENTIFIER))
        exif = tf.where(is_exif, position + _SEGMENT_HEADER, 0)
        # Any number of 0xFF may stand before a marker.
        following = tf.where(header[1] == _FILL, position + 1, following)
        return tf.minimum(following, size), exif, tf.minimum(following, size)

    start = tf.constant(2)
    zero = tf.constant(0)
    _, exif, end = tf.while_loop(
        is_open, step, (tf.minimum(start, size), zero, zero), maximum_iterations=_MAX_SEGMENTS
    )
    return exif, end


def _read_tag(data: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """Value of the orientation entry of image file directory 0; 1 if there is none."""
    tiff = tf.cast(data[start : tf.maximum(start, end)], tf.int64)
    tiff = tf.pad(tiff, [[0, _PADDING]])
    size = tf.size(tiff, tf.int64) - _PADDING
    little = (tiff[0] == ord("I")) & (tiff[1] == ord("I"))
    big = (tiff[0] == ord("M")) & (tiff[1] == ord("M"))

    def number(digits: tf.Tensor, *, size: int) -> tf.Tensor:
        weights = tf.constant([256**power for power in range(size)], tf.int64)
        weights = tf.where(little, weights, tf.reverse(weights, [0]))
        return tf.reduce_sum(digits * weights, axis=-1)

    directory = tf.minimum(number(tiff[4:8], size=4), size)
    num_entries = number(tiff[directory : directory + 2], size=2)
    first = directory + 2
    num_entries = tf.clip_by_value(num_entries, 0, tf.maximum(size - first, 0) // 12)
    entries = tf.reshape(tiff[first : first + 12 * num_entries], (-1, 12))
    is_tag = number(entries[:, :2], size=2) == _ORIENTATION_TAG
    is_short = number(entries[:, 2:4], size=2) == _SHORT
    values = number(entries[:, 8:10], size=2)
    value = tf.reduce_max(tf.where(is_tag & is_short, values, 0), axis=0)
    # Without entries the maximum is the smallest int64, which is not valid either.
    is_valid = (little | big) & (number(tiff[2:4], size=2) == 42) & (value >= 1) & (value <= 8)
    return tf.where(is_valid, tf.cast(tf.clip_by_value(value, 1, 8), tf.int32), 1)
