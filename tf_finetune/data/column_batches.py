"""Batches of the rows of a table, each read when it is needed."""

import numpy as np
import tensorflow as tf

from tf_finetune.data import columns


def make_batches(
    store: columns.Columns,
    spec: columns.ColumnsSpec,
    indices: np.ndarray,
    *,
    positions: tf.data.Dataset,
) -> tf.data.Dataset:
    """Reads rows.

    Args:
      store: the table.
      spec: the inputs of the model.
      indices: int64 [n], the place in the store of each example of a split.
      positions: dataset of int64 [batch], 0 to n - 1.

    Returns:
      Dataset of ({input: [batch, *shape] of its dtype}, positions of the batch).
    """
    types = [tf.as_dtype(part.dtype) for part in spec.inputs]

    def read(batch: np.ndarray) -> list[np.ndarray]:
        return list(store.read(indices[batch], spec).values())

    def load(batch: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        values = tf.numpy_function(read, [batch], types)
        inputs = {
            part.name: tf.ensure_shape(value, (None, *part.shape))
            for part, value in zip(spec.inputs, values, strict=True)
        }
        return inputs, batch

    return positions.map(load, num_parallel_calls=tf.data.AUTOTUNE)
