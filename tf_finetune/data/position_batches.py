"""Labels of positions for a batch: loaded like the inputs, and moved like them by a view.

One idea: the places of a batch's examples are known, so its masks follow from them, whichever way
the images came: from memory, from files, in the order of any epoch. A view of a mask is drawn from
the same numbers as that of its image.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_finetune.data import (
    augmentation,
    loaders,
    loading,
    mask_files,
    mask_geometry,
    mask_reading,
    position_labels,
    preprocessing,
)

# (places of the batch's examples in the split, epoch) to {HEAD: labels}.
MakeTargets = Callable[..., dict[str, tf.Tensor]]


def number_epochs(batches: tf.data.Dataset, seeds: tf.data.Dataset | None) -> tf.data.Dataset:
    """Adds the number of the epoch to each batch.

    Args:
      batches: dataset of (inputs, places).
      seeds: dataset of the one int64 [2] (seed, epoch); None: the epoch is 0.

    Returns:
      Dataset of (inputs, places, int64 scalar).
    """
    if seeds is None:
        seeds = tf.data.Dataset.from_tensors(tf.zeros([2], tf.int64))
    numbered = tf.data.Dataset.zip(batches, augmentation.repeat_epoch(seeds))
    return numbered.map(lambda batch, epoch: (*batch, epoch))


def make_targets(
    split: loading.Split,
    pre: preprocessing.InputSpec,
    *,
    views: augmentation.Steps | None,
    seed: int | None,
) -> MakeTargets:
    """A graph function that gives the labels of positions of a batch.

    Args:
      split: the examples, as `reading.read_images` returns them.
      pre: what the model takes.
      views: how images vary; None: not.
      seed: of the run; None without views.

    Returns:
      Function of (int64 [b], places in the split; int64 scalar, the epoch) to {HEAD: int32
      [b, height, width], of tags [b, most words], -1 without a class}; of a split without such
      labels it gives {}.
    """
    stores = split.positions
    tags = {
        name: _make_gatherer(store)
        for name, store in stores.items()
        if isinstance(store, position_labels.TagLabels)
    }
    loads = {
        name: _make_loader(store, pre)
        for name, store in stores.items()
        if isinstance(store, position_labels.MaskLabels)
        and isinstance(pre, preprocessing.PreprocessingSpec)
    }
    places = {name: tf.constant(split.labels[name], tf.int32) for name in stores}
    view = None
    if views is not None and seed is not None:
        view = augmentation.make_mask_viewer(views, augmentation.make_seeds(split.keys, seed=seed))

    def make(positions: tf.Tensor, epoch: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        targets = {
            name: gather(tf.gather(places[name], positions)) for name, gather in tags.items()
        }
        for name, load in loads.items():
            masks = load(tf.gather(places[name], positions))
            if view is not None:
                masks = _view(masks, positions, epoch, view)
            none = tf.constant(position_labels.IGNORED)
            targets[name] = tf.where(masks == mask_files.IGNORED, none, tf.cast(masks, tf.int32))
        return targets

    return make


def _make_gatherer(store: position_labels.TagLabels) -> Callable[[tf.Tensor], tf.Tensor]:
    """Function of int32 [b], places in the store or -1, to int32 [b, most words]."""
    # The row behind the last is that of -1.
    lengths = np.append(store.lengths, 0)
    tags = tf.RaggedTensor.from_row_lengths(store.tags, lengths, validate=False)

    def gather(places: tf.Tensor) -> tf.Tensor:
        rows = tf.where(places < 0, len(store), places)
        return tf.gather(tags, rows).to_tensor(position_labels.IGNORED)

    return gather


def _view(
    masks: tf.Tensor, positions: tf.Tensor, epoch: tf.Tensor, view: augmentation.Viewer
) -> tf.Tensor:
    return tf.map_fn(
        lambda pair: view(pair[0], pair[1], epoch),
        (masks, positions),
        fn_output_signature=tf.TensorSpec(masks.shape[1:], tf.uint8),
    )


def _make_loader(
    store: position_labels.MaskLabels, pre: preprocessing.PreprocessingSpec
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Function of int32 [b], places in the store or -1, to uint8 [b, height, width]."""
    if store.pixels is not None:
        pixels = loaders.as_tensor(store.pixels)

        def gather(places: tf.Tensor) -> tf.Tensor:
            found = tf.gather(pixels, tf.maximum(places, 0))
            is_there = (places >= 0)[:, tf.newaxis, tf.newaxis]
            return tf.where(is_there, found, tf.constant(mask_files.IGNORED, tf.uint8))

        return gather

    def read(places: np.ndarray) -> np.ndarray:
        masks = np.full((len(places), pre.height, pre.width), mask_files.IGNORED, np.uint8)
        for row, place in enumerate(places):
            if place >= 0:
                # Its size was checked when all were read.
                mask = mask_reading.read_mask(store.paths[place], max_pixels=None)
                masks[row] = mask_geometry.fit_mask(mask, pre)
        return masks

    def load(places: tf.Tensor) -> tf.Tensor:
        masks = tf.numpy_function(read, [places], tf.uint8)
        return tf.ensure_shape(masks, (None, pre.height, pre.width))

    return load
