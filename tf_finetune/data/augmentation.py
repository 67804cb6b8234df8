"""Random views of training images, each a pure function of (seed, epoch, example key).

One idea: what moves pixels is one matrix and what changes colours is another, so that any number
of steps resamples an image once and blurs it no more than one. Names, ranges and fill rules are
those of Keras's preprocessing layers (edges are reflected, factors are drawn evenly around "no
change"); the layers themselves take no seed per example, and a view must not depend on the batch
that its image is in or on what was drawn before.

The order is always the same: position and shape, RandAugment, colours, erased parts. The order of
--augment has no meaning. An example that --resample gives several times in an epoch has another
view each time.

References:
  Keras, "Image augmentation layers", https://keras.io/api/layers/preprocessing_layers/
  Szegedy et al. 2015, "Going Deeper with Convolutions", section 6 (crops by area and aspect),
  https://arxiv.org/abs/1409.4842
  DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout",
  https://arxiv.org/abs/1708.04552
  Zhong et al. 2017, "Random Erasing Data Augmentation", https://arxiv.org/abs/1708.04896
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Collection

import numpy as np
import tensorflow as tf

from tf_finetune import option_values
from tf_finetune.data import rand_augment, view_colors, view_geometry

# Numbers that each step draws. The places are fixed, so that naming one more step leaves what the
# others draw as it was.
_DRAWS = {
    "flip": 2,
    "crop": 4,
    "rotate": 1,
    "translate": 2,
    "zoom": 1,
    "brightness": 1,
    "contrast": 1,
    "saturation": 1,
    "hue": 1,
    "cutout": 2,
    "erase": 4,
    "randaugment": 15,
}
_NUM_DRAWS = sum(_DRAWS.values())
_PLACES = {
    name: (sum(list(_DRAWS.values())[:number]), count)
    for number, (name, count) in enumerate(_DRAWS.items())
}
_ERASE_ASPECT = 3.0
# Steps a seed around all of int64 (2**64 divided by the golden ratio, odd), so that the seeds of
# one example's repeated views are far apart.
_REPEAT_STRIDE = 0x9E3779B97F4A7C15 - 2**64
# Steps that move a mask as they move its image, or leave it as it is.
_MASKED = (
    *view_geometry.STEPS,
    *view_colors.STEPS,
    *("color", "cutout", "erase"),
)


# See `make_viewer`.
Viewer = Callable[..., tf.Tensor]


Steps = tuple[option_values.AugmentStep, ...]


@dataclasses.dataclass(frozen=True)
class KeptViews:
    """Views that are few enough to be kept.

    Attributes:
      steps: of `AugmentSpec.steps`, none of MIXING_STEPS.
      seed: of the run.
      number: how many an example has.
    """

    steps: Steps
    seed: int
    number: int


def make_seeds(keys: np.ndarray, *, seed: int) -> np.ndarray:
    """A number for each example that its views are drawn from.

    Args:
      keys: object [n] of str, the examples' keys.
      seed: of the run.

    Returns:
      int64 [n].
    """
    start = hashlib.blake2b(f"views {seed} ".encode(), digest_size=8)
    numbers = np.empty(len(keys), np.int64)
    for place, key in enumerate(keys):
        digest = start.copy()
        digest.update(key.encode("utf-8", "surrogateescape"))
        numbers[place] = int.from_bytes(digest.digest(), "little", signed=True)
    return numbers


def number_view(epoch: tf.Tensor, repeat: tf.Tensor | int, *, num_views: int) -> tf.Tensor:
    """Which of its views an example has, where the epochs take turns with a few.

    Args:
      epoch: int64.
      repeat: int64, how often the example came in this epoch before.
      num_views: how many there are; number v is what epoch v has where there is one in each epoch.

    Returns:
      int64, 0 to num_views - 1.
    """
    return (epoch + repeat) % num_views


def make_viewer(
    steps: Steps, seeds: np.ndarray | tf.Tensor, *, num_views: int | None = None
) -> Viewer | None:
    """A graph function that gives the view of one image in one epoch.

    Args:
      steps: of `AugmentSpec.steps`; those of MIXING_STEPS are left aside.
      seeds: int64 [n], of `make_seeds`.
      num_views: see `number_view`; None: each epoch has its own.

    Returns:
      Function of (image, float32 [height, width, 1 or 3], values 0 to 255, with a static shape;
      position, int64 scalar, 0 to n - 1; epoch, int64 scalar; how often the example came in this
      epoch before, int64 scalar, or nothing: never) to an image of the same kind. None without a
      step.
    """
    mixing = option_values.MIXING_STEPS
    values = {step.name: step.values for step in steps if step.name not in mixing}
    if not values:
        return None
    drawing = [*values, *(view_colors.STEPS if "color" in values else ())]
    table = tf.convert_to_tensor(seeds, tf.int64)

    # Not inlined into the graph that loads the image, which may change last bits: under TensorFlow
    # 2.21 three steps of RandAugment gave others for a stream of pixels than for files.
    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def view(
        image: tf.Tensor, position: tf.Tensor, epoch: tf.Tensor, repeat: tf.Tensor | int = 0
    ) -> tf.Tensor:
        draws = _draw_turn(table[position], epoch, repeat, drawing, num_views=num_views)
        shape = image.shape
        image = view_geometry.move(image, values, draws)
        if "randaugment" in values:
            number, magnitude = (float(value) for value in values["randaugment"])
            image = rand_augment.apply(
                image, draws["randaugment"], num_steps=int(number), level=magnitude / 10
            )
        image = view_colors.change(image, values, draws)
        for name in ("cutout", "erase"):
            if name in values:
                image = _erase(image, name, values[name], draws[name])
        return tf.ensure_shape(image, shape)

    return view


def _draw_turn(
    seed: tf.Tensor,
    epoch: tf.Tensor,
    repeat: tf.Tensor | int,
    names: Collection[str],
    *,
    num_views: int | None,
) -> view_geometry.Draws:
    """Of the view of an example that came `repeat` times in this epoch before."""
    if num_views is None:
        return _draw(seed + repeat * _REPEAT_STRIDE, epoch, names)
    return _draw(seed, number_view(epoch, repeat, num_views=num_views), names)


def _draw(seed: tf.Tensor, epoch: tf.Tensor, names: Collection[str]) -> view_geometry.Draws:
    """{step: the numbers of its view}, float32 scalars from 0 to 1."""
    drawn = tf.random.stateless_uniform([_NUM_DRAWS], tf.stack([seed, epoch]))
    return {
        name: [drawn[place] for place in range(first, first + count)]
        for name, (first, count) in _PLACES.items()
        if name in names
    }


def make_mask_viewer(steps: Steps, seeds: np.ndarray, *, num_views: int | None = None) -> Viewer:
    """A graph function that moves the mask of an image as `make_viewer` moves the image.

    Colours and erased parts change no label.

    Args:
      steps: of `AugmentSpec.steps`; none that `find_unmasked` names.
      seeds: int64 [n], of `make_seeds`.
      num_views: as for `make_viewer`.

    Returns:
      Function of (mask, uint8 [height, width], with a static shape; position; epoch; how often the
      example came before, see `make_viewer`) to a mask of the same kind, by nearest neighbours.
    """
    values = {step.name: step.values for step in steps}
    table = tf.constant(seeds, tf.int64)

    @tf.function(autograph=False)
    def view(
        mask: tf.Tensor, position: tf.Tensor, epoch: tf.Tensor, repeat: tf.Tensor | int = 0
    ) -> tf.Tensor:
        draws = _draw_turn(table[position], epoch, repeat, list(values), num_views=num_views)
        moved = view_geometry.move(mask[..., tf.newaxis], values, draws, method="nearest")
        return tf.ensure_shape(moved[..., 0], mask.shape)

    return view


def find_unmasked(steps: Steps) -> tuple[str, ...]:
    """Steps that move pixels in a way that no mask follows.

    Args:
      steps: of `AugmentSpec.steps`.

    Returns:
      Their names.
    """
    return tuple(step.name for step in steps if step.name not in _MASKED)


def repeat_epoch(seeds: tf.data.Dataset) -> tf.data.Dataset:
    """The number of the epoch, for each element of another data set.

    Args:
      seeds: dataset of the one int64 [2] (seed, epoch).

    Returns:
      Dataset of int64 scalars without end; the epoch is read once.
    """
    return seeds.flat_map(lambda seed: tf.data.Dataset.from_tensors(seed[1]).repeat())


def _erase(
    image: tf.Tensor,
    name: str,
    values: tuple[float | str, ...],
    draws: list[tf.Tensor],
) -> tf.Tensor:
    """Fills a rectangle with the image's mean, which tells a model least."""
    height, width, channels = image.shape
    if name == "cutout":
        # The centre lies anywhere, so a part of the square may lie outside.
        part = float(values[0])
        sides = [part * height, part * width]
        top, left = draws[0] * height - sides[0] / 2, draws[1] * width - sides[1] / 2
    else:
        low, high = (float(value) for value in values)
        area = (low + (high - low) * draws[0]) * height * width
        aspect = tf.exp((2 * draws[1] - 1) * math.log(_ERASE_ASPECT))
        sides = [tf.minimum(tf.sqrt(area * aspect), float(height))]
        sides.append(tf.minimum(area / sides[0], float(width)))
        top, left = draws[2] * (height - sides[0]), draws[3] * (width - sides[1])
    rows = tf.range(height, dtype=tf.float32) + 0.5
    columns = tf.range(width, dtype=tf.float32) + 0.5
    is_row = (rows >= top) & (rows < top + sides[0])
    is_column = (columns >= left) & (columns < left + sides[1])
    # A row with all its channels as one axis, on which TensorFlow 2.21 is quicker.
    is_erased = is_row[:, tf.newaxis] & tf.repeat(is_column, channels)
    mean = tf.tile(tf.reduce_mean(image, axis=(0, 1)), [width])
    erased = tf.where(is_erased, mean, tf.reshape(image, (height, width * channels)))
    return tf.reshape(erased, (height, width, channels))
