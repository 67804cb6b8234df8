"""`tf.image.resize(antialias=True)`, faster.

One idea: TensorFlow 2.21 shrinks the rows of an image with one long multiplication per row, and
its columns with a short one of 1 to 4 channels per pixel. A column that has become a row is as
fast as one. The sums are the same, in the same order, so the bits are too.
"""

import tensorflow as tf


def resize(image: tf.Tensor, height: tf.Tensor | int, width: tf.Tensor | int) -> tf.Tensor:
    """Bilinear, averaging over all that a pixel of the result covers.

    Args:
      image: uint8 or float32 [rows, columns, channels].
      height: of the result, int32 scalar, pixels.
      width: of the result, int32 scalar, pixels.

    Returns:
      float32 [height, width, channels], bit for bit that of `tf.image.resize` with "bilinear" and
      antialias=True.
    """
    turned = tf.transpose(_resize_rows(image, height), (1, 0, 2))
    return tf.transpose(_resize_rows(turned, width), (1, 0, 2))


def _resize_rows(image: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
    rows, columns, channels = tf.unstack(tf.shape(image))
    scale = tf.cast(count, tf.float32) / tf.cast(rows, tf.float32)
    # One column with all values of a row as its channels.
    resized = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(image, [1, rows, 1, columns * channels]),
        size=tf.stack([count, 1]),
        scale=tf.stack([scale, 1.0]),
        translation=tf.zeros([2]),
        kernel_type="triangle",
        antialias=True,
    )
    return tf.reshape(resized, [count, columns, channels])
