"""Batches of the rows of a table, each read when it is needed."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_finetune.data import columns, parallelism


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
    read = make_reader(store, spec, indices)
    return positions.map(
        lambda batch: (read(batch), batch), num_parallel_calls=parallelism.count_batches()
    )


def make_reader(
    store: columns.Columns, spec: columns.ColumnsSpec, indices: np.ndarray
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """A graph function that reads rows.

    Args:
      store: the table.
      spec: the inputs of the model.
      indices: int64 [n], the place in the store of each example of a split.

    Returns:
      Function of positions (int64 [batch], 0 to n - 1) to {input: [batch, *shape] of its dtype}.
    """
    types = [tf.as_dtype(part.dtype) for part in spec.inputs]

    def read(batch: np.ndarray) -> list[np.ndarray]:
        return list(store.read(indices[batch], spec).values())

    def load(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.numpy_function(read, [batch], types)
        return {
            part.name: tf.ensure_shape(value, (None, *part.shape))
            for part, value in zip(spec.inputs, values, strict=True)
        }

    return load
