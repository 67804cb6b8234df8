"""Mixup and CutMix: training images blended in pairs, and the labels of both of each pair.

One idea: every image is its own by a share and its partner's by the rest, and within a box it is
its partner's alone. Mixup draws the share and leaves the box empty; CutMix draws the box at a share
of 1. What is left of the image is what its own labels count; the partner's count the rest.

The partner is the next image of the batch: the order of an epoch is random already. What is drawn
is a function of the seed, the epoch and the keys in the batch.

References:
  Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", https://arxiv.org/abs/1710.09412
  Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
  Features", https://arxiv.org/abs/1905.04899
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_finetune import option_values

# Views are drawn from the same seeds: without it a batch of one image would draw the same numbers.
_SALT = 0x6D69787570


class MixedLabels(NamedTuple):
    """Labels of a batch of mixed images.

    Attributes:
      own: {HEAD: [batch, ...]}, of the images that the batch holds anyway.
      partner: {HEAD: [batch, ...]}, of the images that were mixed into them.
      share: float32 [batch], 0 to 1: what the own labels count; the partner's count the rest.
    """

    own: dict[str, tf.Tensor]
    partner: dict[str, tf.Tensor]
    share: tf.Tensor


# (images, positions of the examples, epoch) to (mixed images, shares).
Mixer = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def make_mixer(steps: tuple[option_values.AugmentStep, ...], seeds: np.ndarray) -> Mixer | None:
    """A graph function that mixes the images of a batch.

    Args:
      steps: of `AugmentSpec.steps`; those that mix nothing are left aside. With both mixup and
        cutmix each image draws one of them.
      seeds: int64 [n], of `augmentation.make_seeds`.

    Returns:
      Function of (images, float32 [batch, height, width, channels]; positions, int64 [batch], 0
      to n - 1; epoch, int64 scalar) to (images of the same kind, float32 [batch] of what each
      kept). None if no step mixes.
    """
    mixing = [step for step in steps if step.name in option_values.MIXING_STEPS]
    alphas = {step.name: float(step.values[0]) for step in mixing}
    if not alphas:
        return None
    table = tf.constant(seeds, tf.int64)

    def mix(
        images: tf.Tensor, positions: tf.Tensor, epoch: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        # The sum is that of whole numbers, whose order does not matter.
        seed = tf.stack([tf.reduce_sum(tf.gather(table, positions)) + _SALT, epoch])
        height, width, channels = images.shape[1:]
        share, rows, columns = draw_shares(
            alphas, seed, count=tf.size(positions), height=height, width=width
        )
        # A row with all its channels as one axis: TensorFlow 2.21 spreads a number over many
        # neighbours much faster than over three.
        own = tf.reshape(images, [-1, height, width * channels])
        mixed, partners = own, choose_partners(own)
        if "mixup" in alphas:
            part = share[:, tf.newaxis, tf.newaxis]
            mixed = own * part + partners * (1.0 - part)
        if "cutmix" in alphas:
            columns_of_values = tf.repeat(columns, channels, axis=1)
            is_inside = rows[:, :, tf.newaxis] & columns_of_values[:, tf.newaxis, :]
            mixed = tf.where(is_inside, partners, mixed)
        area = _count(rows) * _count(columns) / (height * width)
        return tf.reshape(mixed, tf.shape(images)), share * (1.0 - area)

    return mix


def choose_partners(values: tf.Tensor) -> tf.Tensor:
    """What is mixed into each example of a batch.

    Args:
      values: [batch, ...], images or labels.

    Returns:
      The same values, each in the place of the one before it.
    """
    return tf.roll(values, -1, axis=0)


def draw_shares(
    alphas: dict[str, float], seed: tf.Tensor, *, count: tf.Tensor, height: int, width: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """How much of each image is its own, and where it is not at all.

    Args:
      alphas: {"mixup" or "cutmix" or both: both parameters of the Beta distribution of what an
        image keeps}.
      seed: int64 [2].
      count: int32 scalar, images.
      height: of an image, pixels.
      width: of an image, pixels.

    Returns:
      (float32 [count], 0 to 1, the image's share outside of its box; bool [count, height], the
      rows of the box; bool [count, width], its columns). A box that lies partly outside of the
      image is cut off, so that the image keeps more than was drawn.
    """
    box_seed, kept_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    drawn = tf.random.stateless_uniform([3, count], box_seed)
    kept = {name: _draw_beta(alpha, kept_seed, count=count) for name, alpha in alphas.items()}
    everything = tf.ones([count])
    is_cut = drawn[2] < 0.5 if len(kept) == 2 else tf.fill([count], "cutmix" in kept)
    share = tf.where(is_cut, 1.0, kept.get("mixup", everything))
    # An image that is not cut has a box without sides.
    side = tf.sqrt(1.0 - tf.where(is_cut, kept.get("cutmix", everything), 1.0))
    rows = _find_inside(drawn[0], side, size=height)
    return share, rows, _find_inside(drawn[1], side, size=width)


def _draw_beta(alpha: float, seed: tf.Tensor, *, count: tf.Tensor) -> tf.Tensor:
    """float32 [count] of Beta(alpha, alpha)."""
    # As float32 both of a pair may be 0.
    pairs = tf.random.stateless_gamma([2, count], seed, alpha=alpha, dtype=tf.float64)
    return tf.cast(tf.math.divide_no_nan(pairs[0], pairs[0] + pairs[1]), tf.float32)


def _find_inside(centre: tf.Tensor, part: tf.Tensor, *, size: int) -> tf.Tensor:
    """bool [count, size]: the rows, or columns, of a box."""
    middle, half = centre * size, part * size / 2
    first, last = (tf.round(edge)[:, tf.newaxis] for edge in (middle - half, middle + half))
    places = tf.range(size, dtype=tf.float32)
    return (places >= first) & (places < last)


def _count(flags: tf.Tensor) -> tf.Tensor:
    """float32 [count]: how many of each row are set."""
    return tf.reduce_sum(tf.cast(flags, tf.float32), axis=1)
