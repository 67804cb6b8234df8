"""Batches of texts of like length, so that little of a batch is padding.

One idea: of a random order of examples, each window of fifty batches is sorted by length, cut into
batches, and the batches are put back into random order. What an epoch holds and how large its
batches are stays as it was; a text's companions are drawn anew in each epoch.

Reference: Khomenko et al. 2016, "Accelerating recurrent neural network training using sequence
bucketing and multi-GPU data parallelization", https://arxiv.org/abs/1708.05604.
"""

import numpy as np
import tensorflow as tf

from tf_finetune.data import text_store


def group_positions(
    positions: tf.data.Dataset, lengths: np.ndarray, *, batch_size: int
) -> tf.data.Dataset:
    """Rearranges an order of examples so that each full batch has examples of like length.

    Args:
      positions: dataset of int64 scalars in random order, which decides the order of the batches
        too; the same order gives the same batches.
      lengths: int [n], the length of the example at each position.
      batch_size: examples of a batch, at least 1.

    Returns:
      The same positions. The last, smaller batch of a window is the examples that came last, of
      whatever length: sorted, it would always have the longest.
    """
    measured = tf.constant(lengths, tf.int32)

    def rearrange(window: tf.Tensor) -> tf.Tensor:
        num_batches = tf.size(window) // batch_size
        num_sorted = num_batches * batch_size
        full, rest = window[:num_sorted], window[num_sorted:]
        full = tf.gather(full, tf.argsort(tf.gather(measured, full), stable=True))
        batches = tf.reshape(full, [num_batches, batch_size])
        # The ranks of positions in random order are a random order of as many batches.
        ranks = tf.argsort(window[:num_batches], stable=True)
        return tf.concat([tf.reshape(tf.gather(batches, ranks), [-1]), rest], axis=0)

    return positions.batch(text_store.WINDOW_BATCHES * batch_size).map(rearrange).unbatch()
