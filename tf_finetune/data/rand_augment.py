"""RandAugment: some of eleven changes of an image, drawn evenly, all at one strength.

One idea: two numbers stand for a whole search over policies. The changes are those of Keras's
RandAugment layer, their strongest values those of the paper (its table in appendix A.2 of
AutoAugment), a level of 0 changes nothing and 1 is the strongest.

References:
  Cubuk et al. 2019, "RandAugment", https://arxiv.org/abs/1909.13719
  Cubuk et al. 2018, "AutoAugment", https://arxiv.org/abs/1805.09501
"""

from collections.abc import Callable

import tensorflow as tf

from tf_finetune.data import view_colors, view_geometry

_WHITE = 255.0
_MAX_DEGREES = 30.0
_MAX_SHEAR = 0.3
_MAX_SHIFT = 0.45
_MAX_ENHANCEMENT = 0.9
_MAX_LOST_BITS = 4.0
_NUM_BINS = 256
_DRAWS_PER_STEP = 3


def apply(image: tf.Tensor, draws: list[tf.Tensor], *, num_steps: int, level: float) -> tf.Tensor:
    """Changes an image a few times.

    Args:
      image: float32 [height, width, 1 or 3], values 0 to 255.
      draws: float32 scalars from 0 to 1, three for each step.
      num_steps: how many changes, one after another; the same may come twice.
      level: strength, 0 to 1.

    Returns:
      An image of the same shape and range.
    """
    for step in range(num_steps):
        kind, sign, axis = draws[step * _DRAWS_PER_STEP : (step + 1) * _DRAWS_PER_STEP]
        index = tf.cast(kind * len(_CHANGES), tf.int32)
        signed = tf.where(sign < 0.5, -level, level)
        branches = [
            lambda change=change, image=image, signed=signed, axis=axis: change(
                image, signed, axis < 0.5
            )
            for change in _CHANGES
        ]
        # A draw just below 1 may be rounded up.
        image = tf.switch_case(tf.minimum(index, len(_CHANGES) - 1), branches)
        image = tf.clip_by_value(image, 0.0, _WHITE)
    return image


def _shear(image: tf.Tensor, level: tf.Tensor, is_across: tf.Tensor) -> tf.Tensor:
    slant = level * _MAX_SHEAR
    across, along = tf.where(is_across, slant, 0.0), tf.where(is_across, 0.0, slant)
    return view_geometry.resample(image, view_geometry.shear(across, along))


def _translate(image: tf.Tensor, level: tf.Tensor, is_across: tf.Tensor) -> tf.Tensor:
    right = tf.where(is_across, level * _MAX_SHIFT * image.shape[1], 0.0)
    down = tf.where(is_across, 0.0, level * _MAX_SHIFT * image.shape[0])
    return view_geometry.resample(image, view_geometry.translation(right, down))


def _rotate(image: tf.Tensor, level: tf.Tensor, is_across: tf.Tensor) -> tf.Tensor:
    return view_geometry.resample(image, view_geometry.rotation(level * _MAX_DEGREES))


def _blend(image: tf.Tensor, other: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Towards another image (level below 0) or away from it."""
    return image + (image - other) * (level * _MAX_ENHANCEMENT)


def _brighten(image: tf.Tensor, level: tf.Tensor, is_across: tf.Tensor) -> tf.Tensor:
    return _blend(image, tf.zeros_like(image), level)


def _saturate(image: tf.Tensor, level: tf.Tensor, is_across: tf.Tensor) -> tf.Tensor:
    if image.shape[-1] == 1:
        return image
    matrix = view_colors.saturation(1 + level * _MAX_ENHANCEMENT)
    return view_colors.apply_matrix(image, matrix, tf.zeros([3]))


def _contrast(image: tf.Tensor, level: tf.Tensor, is_across: tf.Tensor) -> tf.Tensor:
    return _blend(image, tf.reduce_mean(image, axis=(0, 1), keepdims=True), level)


def _sharpen(image: tf.Tensor, level: tf.Tensor, is_across: tf.Tensor) -> tf.Tensor:
    # Pillow's SMOOTH: the pixel itself weighs 5 of 13. Edges by their own pixels.
    padded = tf.pad(image, [[1, 1], [1, 1], [0, 0]], mode="SYMMETRIC")
    height, width = image.shape[0], image.shape[1]
    around = [
        padded[row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
    ]
    return _blend(image, (tf.add_n(around) + 4 * image) / 13, level)


def _posterize(image: tf.Tensor, level: tf.Tensor, is_across: tf.Tensor) -> tf.Tensor:
    step = tf.pow(2.0, tf.round(tf.abs(level) * _MAX_LOST_BITS))
    return tf.floor(image / step) * step


def _solarize(image: tf.Tensor, level: tf.Tensor, is_across: tf.Tensor) -> tf.Tensor:
    return tf.where(image > _WHITE * (1 - tf.abs(level)), _WHITE - image, image)


def _stretch(image: tf.Tensor, level: tf.Tensor, is_across: tf.Tensor) -> tf.Tensor:
    """Darkest to black and brightest to white, each channel by itself; has no strength."""
    low = tf.reduce_min(image, axis=(0, 1), keepdims=True)
    high = tf.reduce_max(image, axis=(0, 1), keepdims=True)
    return tf.where(high > low, tf.math.divide_no_nan(image - low, high - low) * _WHITE, image)


def _equalize(image: tf.Tensor, level: tf.Tensor, is_across: tf.Tensor) -> tf.Tensor:
    """All values equally frequent, each channel by itself; has no strength."""
    channels = []
    for channel in tf.unstack(image, axis=-1):
        bins = tf.cast(tf.round(channel), tf.int32)
        counts = tf.math.bincount(
            tf.reshape(bins, [-1]), minlength=_NUM_BINS, maxlength=_NUM_BINS, dtype=tf.float32
        )
        below = tf.cumsum(counts, exclusive=True)
        # The darkest value becomes black, the brightest white.
        total = tf.reduce_max(tf.where(counts > 0, below, 0.0))
        table = tf.math.divide_no_nan(below, total) * _WHITE
        channels.append(tf.where(total > 0, tf.gather(table, bins), channel))
    return tf.stack(channels, axis=-1)


_CHANGES: tuple[Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor], ...] = (
    _shear,
    _translate,
    _rotate,
    _brighten,
    _saturate,
    _contrast,
    _sharpen,
    _posterize,
    _solarize,
    _stretch,
    _equalize,
)
