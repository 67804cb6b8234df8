"""Brightness, contrast, saturation and hue of an image as one linear map of its colours.

One idea: each of the four is a 3 x 3 matrix and an offset, so their product is applied once and
values are cut to 0..255 once.

References:
  ITU-R BT.601-7, 2011, section 2.5.1 (luma). https://www.itu.int/rec/R-REC-BT.601
  Haeberli 1993, "Matrix Operations for Image Processing" (saturation and hue as matrices),
  http://www.graficaobscura.com/matrix/index.html
"""

import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

_WHITE = 255.0
STEPS = ("brightness", "contrast", "saturation", "hue")
# Hues are told apart at a smaller part of their range than the other three; Chen et al. 2020,
# "SimCLR", appendix A, https://arxiv.org/abs/2002.05709
_HUE_PART_OF_STRENGTH = 0.25
_LUMA = np.array([0.299, 0.587, 0.114])
# RGB to luma and the two colour differences of NTSC, between which hue is an angle.
_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def change(
    image: tf.Tensor,
    values: Mapping[str, tuple[float | str, ...]],
    draws: Mapping[str, list[tf.Tensor]],
) -> tf.Tensor:
    """Applies the steps that change colours.

    Args:
      image: float32 [height, width, 1 or 3], values 0 to 255.
      values: {step: its numbers}; other steps are left aside. "color" stands for all four, at
        a quarter of its strength for the hue; a step that is named itself has its own.
      draws: {step: float32 scalars from 0 to 1}.

    Returns:
      An image of the same shape and range.
    """
    strengths = {}
    if "color" in values:
        strength = float(values["color"][0])
        strengths = dict.fromkeys(STEPS, strength)
        strengths["hue"] = strength * _HUE_PART_OF_STRENGTH
    strengths |= {name: float(values[name][0]) for name in STEPS if name in values}
    if image.shape[-1] == 1:
        strengths = {name: strengths[name] for name in STEPS[:2] if name in strengths}
    if not strengths:
        return image
    mean = tf.reduce_mean(image, axis=(0, 1))
    matrix, offset = tf.eye(image.shape[-1]), tf.zeros_like(mean)
    for name, strength in strengths.items():
        drawn = (2 * draws[name][0] - 1) * strength
        if name == "brightness":
            offset += drawn * _WHITE
        elif name == "contrast":
            middle = tf.linalg.matvec(matrix, mean) + offset
            matrix, offset = (1 + drawn) * matrix, (1 + drawn) * offset - drawn * middle
        else:
            turn = saturation(1 + drawn) if name == "saturation" else hue(drawn)
            matrix, offset = turn @ matrix, tf.linalg.matvec(turn, offset)
    return apply_matrix(image, matrix, offset)


def apply_matrix(image: tf.Tensor, matrix: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Maps the colour of each pixel.

    Args:
      image: float32 [height, width, c], values 0 to 255, static shape.
      matrix: float32 [c, c].
      offset: float32 [c].

    Returns:
      float32 [height, width, c], cut to 0 to 255.
    """
    height, width, channels = image.shape
    pixels = tf.matmul(tf.reshape(image, (-1, channels)), matrix, transpose_b=True)
    # A row at a time: TensorFlow 2.21 takes five times as long to add three numbers to each pixel.
    rows = tf.reshape(pixels, (height, width * channels)) + tf.tile(offset, [width])
    return tf.reshape(tf.clip_by_value(rows, 0.0, _WHITE), (height, width, channels))


def saturation(factor: tf.Tensor) -> tf.Tensor:
    """Between grey (0), as it is (1) and more colourful.

    Args:
      factor: float32 scalar, at least 0.

    Returns:
      float32 [3, 3].
    """
    grey = tf.constant(np.tile(_LUMA, (3, 1)), tf.float32)
    return factor * tf.eye(3) + (1 - factor) * grey


def hue(turn: tf.Tensor) -> tf.Tensor:
    """Colours moved around the circle of hues at the same luma.

    Args:
      turn: float32 scalar, part of the circle.

    Returns:
      float32 [3, 3].
    """
    sine, cosine = tf.sin(turn * (2 * math.pi)), tf.cos(turn * (2 * math.pi))
    rotation = tf.stack([1.0, 0.0, 0.0, 0.0, cosine, -sine, 0.0, sine, cosine])
    inverse = tf.constant(np.linalg.inv(_YIQ), tf.float32)
    return inverse @ tf.reshape(rotation, (3, 3)) @ tf.constant(_YIQ, tf.float32)
