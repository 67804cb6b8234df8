"""Batches of features, gathered from memory or read from the disk."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_finetune.data import augmentation, feature_inputs, loaders, parallelism


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
    places, gather = tf.constant(indices, tf.int64), _make_loader(store)

    def load(batch: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        return gather(tf.gather(places, batch)), batch

    return positions.map(load, num_parallel_calls=parallelism.count_batches())


def make_view_batches(
    store: feature_inputs.Features,
    indices: np.ndarray,
    seeds: tf.data.Dataset | None,
    *,
    turns: tf.data.Dataset,
) -> tf.data.Dataset:
    """As `make_batches`, of the views that examples have in an epoch.

    Args:
      store: the features, of views.
      indices: int64 [n], the split's places in the store.
      seeds: of `example_order.make_seeds`.
      turns: Dataset of (int64 [b], 0 to n - 1; int64 [b], how often each came before).

    Returns:
      Dataset of ({name: [b, ...]}, int64 [b], int64 [b]); what is in `turns` comes behind.

    Raises:
      ValueError: no seeds: views belong to epochs; features without views.
    """
    number = store.num_views
    if seeds is None or number is None:
        raise ValueError("Features of views are for training: they need a shuffle_seed.")
    places, gather = tf.constant(indices, tf.int64), _make_loader(store)

    def load(
        turn: tuple[tf.Tensor, tf.Tensor], epoch: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        batch, repeats = turn
        views = augmentation.number_view(epoch, repeats, num_views=number)
        return gather(tf.gather(places, batch) * number + views), batch, repeats

    numbered = tf.data.Dataset.zip(turns, augmentation.repeat_epoch(seeds))
    return numbered.map(load, num_parallel_calls=parallelism.count_batches())


def check_views(store: feature_inputs.Features, *, has_views: bool, num_views: int | None) -> None:
    """Refuses other views than those that the features were made of.

    Args:
      store: the features.
      has_views: whether views are asked for.
      num_views: how many of each example; None: a new one in each epoch.

    Raises:
      ValueError: they differ.
    """
    if store.num_views is None and has_views:
        raise ValueError("Features have no views: they were made of images as they are.")
    if store.num_views is not None and (not has_views or store.num_views != num_views):
        received = f"num_views={num_views}" if has_views else "no views"
        raise ValueError(
            f"Features were made of {store.num_views} views of each image. Expected views with "
            f"num_views={store.num_views}. Received {received}."
        )


def _make_loader(store: feature_inputs.Features) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    gather = _make_gather(store) if store.arrays is not None else _make_reader(store)

    def load(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            name: tf.cast(value, tf.float32) if value.dtype.is_floating else value
            for name, value in zip(store.names, gather(rows), strict=True)
        }

    return load


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
