"""Batches of features, gathered from memory or read from the disk."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_finetune.data import feature_inputs, loaders


def make_batches(
    store: feature_inputs.Features, indices: np.ndarray, *, positions: tf.data.Dataset
) -> tf.data.Dataset:
    """Dataset of (features of a batch, positions of a batch).

    Args:
      store: the features.
      indices: int64 [n], the split's places in the store.
      positions: Dataset of int64 [b], 0 to n - 1.

    Returns:
      Dataset of ({name: [b, ...]}, int64 [b]); floats as float32.
    """
    places = tf.constant(indices, tf.int64)
    gather = _make_gather(store) if store.arrays is not None else _make_reader(store)

    def load(batch: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        values = gather(tf.gather(places, batch))
        return {
            name: tf.cast(value, tf.float32) if value.dtype.is_floating else value
            for name, value in zip(store.names, values, strict=True)
        }, batch

    return positions.map(load, num_parallel_calls=tf.data.AUTOTUNE)


def _make_gather(store: feature_inputs.Features) -> Callable[[tf.Tensor], list[tf.Tensor]]:
    tensors = [_as_tensor((store.arrays or {})[name]) for name in store.names]
    dtypes = [tf.as_dtype(dtype) for dtype in store.dtypes]

    def gather(rows: tf.Tensor) -> list[tf.Tensor]:
        found = [tf.gather(tensor, rows) for tensor in tensors]
        return [
            value if value.dtype == dtype else tf.bitcast(value, dtype)
            for value, dtype in zip(found, dtypes, strict=True)
        ]

    return gather


def _as_tensor(array: np.ndarray) -> tf.Tensor:
    # What NumPy does not know by itself is lent as the integers it is made of.
    bits = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
    return loaders.as_tensor(bits)


def _make_reader(store: feature_inputs.Features) -> Callable[[tf.Tensor], list[tf.Tensor]]:
    read = store.read
    if read is None:
        raise ValueError("Features are in memory, or can be read. Received neither.")
    dtypes = [tf.as_dtype(dtype) for dtype in store.dtypes]

    def call(rows: tf.Tensor) -> list[tf.Tensor]:
        values = tf.numpy_function(read, [rows], dtypes, stateful=False)
        return [
            tf.ensure_shape(value, (None, *shape))
            for value, shape in zip(values, store.shapes, strict=True)
        ]

    return call
