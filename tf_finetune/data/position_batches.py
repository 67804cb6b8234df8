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
    text_store,
)
from tf_finetune.text import spaces

# See `make_targets`.
MakeTargets = Callable[..., dict[str, tf.Tensor]]


def number_epochs(batches: tf.data.Dataset, seeds: tf.data.Dataset) -> tf.data.Dataset:
    """Adds the number of the epoch to each batch.

    Args:
      batches: dataset of tuples.
      seeds: dataset of the one int64 [2] (seed, epoch).

    Returns:
      Dataset of the same tuples, the epoch (int64 scalar) behind.
    """
    numbered = tf.data.Dataset.zip(batches, augmentation.repeat_epoch(seeds))
    return numbered.map(lambda batch, epoch: (*batch, epoch))


def make_targets(
    split: loading.Split,
    pre: preprocessing.InputSpec,
    *,
    view: augmentation.Viewer | None,
) -> MakeTargets:
    """A graph function that gives the labels of positions of a batch.

    Args:
      split: the examples, as `reading.read_images` returns them.
      pre: what the model takes.
      view: of `augmentation.make_mask_viewer`; None: images are given as they are.

    Returns:
      Function of (int64 [b], places in the split; with a view also how often each example came in
      this epoch before, int64 [b], and the epoch, int64 scalar) to {HEAD: int32 [b, height, width],
      of tags [b, words of the longest text of the batch], -1 without a class}.

    Raises:
      ValueError: the split has tags and no texts.
    """
    stores = split.positions
    tags = {
        name: _make_gatherer(store)
        for name, store in stores.items()
        if isinstance(store, position_labels.TagLabels)
    }
    count_words = _make_word_counter(split) if tags else None
    loads = {
        name: _make_loader(store, pre)
        for name, store in stores.items()
        if isinstance(store, position_labels.MaskLabels)
        and isinstance(pre, preprocessing.PreprocessingSpec)
    }
    places = {name: tf.constant(split.labels[name], tf.int32) for name in stores}

    def make(positions: tf.Tensor, *turn: tf.Tensor) -> dict[str, tf.Tensor]:
        targets = {}
        for name, gather in tags.items():
            found = gather(tf.gather(places[name], positions))
            targets[name] = _widen(found, count_words(positions)) if count_words else found
        for name, load in loads.items():
            masks = load(tf.gather(places[name], positions))
            if view is not None:
                masks = _view(masks, positions, *turn, view=view)
            none = tf.constant(position_labels.IGNORED)
            targets[name] = tf.where(masks == mask_files.IGNORED, none, tf.cast(masks, tf.int32))
        return targets

    return make


def _make_gatherer(store: position_labels.TagLabels) -> Callable[[tf.Tensor], tf.Tensor]:
    """Function of int32 [b], places in the store or -1, to int32 [b, most tags]."""
    # The row behind the last is that of -1.
    lengths = np.append(store.lengths, 0)
    tags = tf.RaggedTensor.from_row_lengths(store.tags, lengths, validate=False)

    def gather(places: tf.Tensor) -> tf.Tensor:
        rows = tf.where(places < 0, len(store), places)
        return tf.gather(tags, rows).to_tensor(position_labels.IGNORED)

    return gather


def _make_word_counter(split: loading.Split) -> Callable[[tf.Tensor], tf.Tensor]:
    """Function of int64 [b], places in the split, to int32: words of the longest text."""
    if not isinstance(split.inputs, text_store.Texts):
        raise ValueError("Tags are of the words of texts. Received a split without texts.")
    counts = np.full(len(split), -1, np.int32)
    for name, store in split.positions.items():
        if isinstance(store, position_labels.TagLabels):
            tagged = np.flatnonzero(split.labels[name] >= 0)
            counts[tagged] = store.lengths[split.labels[name][tagged]]
    # A text without tags may be the longest, and the model tags its words too.
    untagged, texts = np.flatnonzero(counts < 0), split.texts
    counts[untagged] = [len(spaces.split_words(texts[row])) for row in untagged]
    return lambda positions: tf.reduce_max(tf.gather(counts, positions))


def _widen(tags: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """int32 [b, width], -1 behind the tags."""
    padding = [[0, 0], [0, width - tf.shape(tags)[1]]]
    return tf.pad(tags, padding, constant_values=position_labels.IGNORED)


def _view(
    masks: tf.Tensor,
    positions: tf.Tensor,
    repeats: tf.Tensor,
    epoch: tf.Tensor,
    *,
    view: augmentation.Viewer,
) -> tf.Tensor:
    return tf.map_fn(
        lambda own: view(own[0], own[1], epoch, own[2]),
        (masks, positions, repeats),
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
