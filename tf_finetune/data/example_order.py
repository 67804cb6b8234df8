"""The order of the examples of an epoch, and how often each came in it before.

One idea: an order is a pure function of (seed, epoch). What is drawn evenly comes more than once,
and how often is drawn along with it: a view of the second time is another than that of the first.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_finetune.data import resampling

_INT64_RANGE = 2**63


def make_seeds(shuffle_seed: int | None, epoch: tf.Variable | None) -> tf.data.Dataset | None:
    """What the order of an iterator is drawn from.

    Args:
      shuffle_seed: any whole number; None: the order is that of the split.
      epoch: int64 scalar, not negative; read once by each iterator. None: 0.

    Returns:
      Dataset of the one int64 [2] (seed, epoch); None without a seed.
    """
    if shuffle_seed is None:
        return None
    seed = shuffle_seed % _INT64_RANGE

    def read(unused: tf.Tensor) -> tf.Tensor:
        value = 0 if epoch is None else epoch.read_value()
        return tf.stack([tf.constant(seed, tf.int64), tf.cast(value, tf.int64)])

    return tf.data.Dataset.range(1).map(read)


def make_positions(
    num_examples: int, seeds: tf.data.Dataset | None, strata: np.ndarray | None
) -> tf.data.Dataset:
    """The examples of an epoch.

    Args:
      num_examples: how many there are.
      seeds: of `make_seeds`; None: they come in their own order.
      strata: int64 [num_examples], what is drawn evenly, see `resampling`; None: each example
        comes once.

    Returns:
      Dataset of num_examples int64 scalars, 0 to num_examples - 1.

    Raises:
      ValueError: strata without seeds.
    """
    if strata is not None:
        return _draw_epoch(strata, seeds, then=lambda rows: rows, num_columns=()).unbatch()
    if seeds is None:
        return tf.data.Dataset.range(num_examples)

    def shuffle(seed: tf.Tensor) -> tf.Tensor:
        # 8 bytes per example while the epoch lasts. index_shuffle would need none, but is far from
        # uniform on small sets (50 examples, TensorFlow 2.21: chi-square 7.8 per degree of
        # freedom, here 1.0).
        numbers = tf.range(num_examples, dtype=tf.int64)
        return tf.random.experimental.stateless_shuffle(numbers, seed=seed)

    return seeds.map(shuffle).unbatch()


def make_turns(
    num_examples: int, seeds: tf.data.Dataset | None, strata: np.ndarray | None
) -> tf.data.Dataset:
    """The examples of an epoch, and how often each came in it before.

    Args:
      num_examples: see `make_positions`.
      seeds: see `make_positions`.
      strata: see `make_positions`.

    Returns:
      Dataset of (position, as `make_positions` gives it; int64 scalar, 0 where an example comes
      for the first time).

    Raises:
      ValueError: strata without seeds.
    """
    if strata is None:
        never = tf.data.Dataset.from_tensors(tf.constant(0, tf.int64)).repeat()
        return tf.data.Dataset.zip(make_positions(num_examples, seeds, None), never)

    def count(rows: np.ndarray) -> np.ndarray:
        return np.stack([rows, resampling.count_repeats(rows)], axis=1)

    turns = _draw_epoch(strata, seeds, then=count, num_columns=(2,))
    return turns.map(lambda drawn: (drawn[:, 0], drawn[:, 1])).unbatch()


def _draw_epoch(
    strata: np.ndarray,
    seeds: tf.data.Dataset | None,
    *,
    then: Callable[[np.ndarray], np.ndarray],
    num_columns: tuple[int, ...],
) -> tf.data.Dataset:
    """Dataset of one element: what `then` makes of the rows of an epoch, [n, *num_columns]."""
    if seeds is None:
        raise ValueError("Strata need a shuffle_seed: only training is resampled.")

    def draw(seed: np.ndarray) -> np.ndarray:
        return then(resampling.draw_epoch(strata, seed=int(seed[0]), epoch=int(seed[1])))

    def draw_rows(seed: tf.Tensor) -> tf.Tensor:
        rows = tf.numpy_function(draw, [seed], tf.int64, stateful=False)
        return tf.ensure_shape(rows, [len(strata), *num_columns])

    return seeds.map(draw_rows)
