"""How many tokens each text has, counted once by the model's own tokenizer.

One idea: a batch of texts is as wide as its longest, and everything behind the tokenizer costs by
that width, so whoever makes batches wants to know the lengths. Letters only estimate them: on film
reviews batches sorted by letters are a quarter padding, by tokens a fortieth.
"""

import dataclasses
import typing

import keras
import numpy as np
import tensorflow as tf

from tf_finetune import progress
from tf_finetune.data import loading, text_store
from tf_finetune.text import first_pieces

_CHUNK = 1024


def count_splits(splits: loading.Splits, model: keras.Model) -> loading.Splits:
    """Counts the tokens of a data set, for a model in whose batches they matter.

    Args:
      splits: the data.
      model: a backbone, or a model with heads.

    Returns:
      The splits with `lengths` in their store of texts; as they were where the examples are no
      texts, or the model has no tokenizer whose output is as wide as the longest text.
    """
    tokenizer = _find_tokenizer(model)
    if tokenizer is None:
        return splits
    counted: dict[int, text_store.Texts] = {}
    changed = []
    for split in splits.parts:
        store = split.inputs
        if isinstance(store, text_store.Texts):
            if id(store) not in counted:
                counted[id(store)] = _count_store(store, tokenizer)
            split = dataclasses.replace(split, inputs=counted[id(store)])
        changed.append(split)
    train, validation, test = changed
    return dataclasses.replace(splits, train=train, validation=validation, test=test)


def sort_split(split: loading.Split, model: keras.Model) -> loading.Split:
    """A split in the order in which a model has little padding to compute.

    Args:
      split: the examples.
      model: a backbone, or a model with heads; asked only where nobody has counted yet.

    Returns:
      The same examples, those with the longest texts first; in their own order where that saves
      nothing.
    """
    store = split.inputs
    if not isinstance(store, text_store.Texts):
        return split
    if store.lengths is None:
        tokenizer = _find_tokenizer(model)
        if tokenizer is None:
            return split
        own = text_store.Texts(store.texts[split.indices], store.column)
        own = _count_store(own, tokenizer)
        split = dataclasses.replace(split, inputs=own, indices=np.arange(len(split)))
        store = own
    if store.lengths is None:
        return split
    rows = text_store.sort_by_length(store.lengths[split.indices])
    return split.take(rows)


def _count_store(
    store: text_store.Texts, tokenizer: typing.Callable[[tf.Tensor], tf.Tensor]
) -> text_store.Texts:
    counts = []
    with progress.ProgressBar("Counting tokens", len(store)) as bar:
        for start in range(0, len(store), _CHUNK):
            texts = list(store.texts[start : start + _CHUNK])
            counts.append(tokenizer(tf.constant(texts, tf.string)).numpy())
            bar.update(start + len(texts))
    lengths = np.concatenate(counts) if counts else np.zeros(0, np.int32)
    return dataclasses.replace(store, lengths=lengths)


def _find_tokenizer(model: keras.Model) -> typing.Callable[[tf.Tensor], tf.Tensor] | None:
    """string [n] -> int32 [n], the tokens of each text."""
    for layer in model.layers:
        if isinstance(layer, keras.Model) and (found := _find_tokenizer(layer)):
            return found
    for layer in model.layers:
        for node in layer._inbound_nodes:
            if _makes_free_lengths(node):
                text = _find_source(node.outputs[0])
                if text is not None:
                    return _make_counter(keras.Model(text, node.outputs[0]), layer)
    return None


def _find_source(tensor: keras.KerasTensor) -> keras.KerasTensor | None:
    """The input that a tensor is made of; None where it is made of several."""
    while True:
        layer, node_index, _ = tensor._keras_history
        node = layer._inbound_nodes[node_index]
        if node.is_input:
            return tensor
        if len(node.input_tensors) != 1:
            return None
        (tensor,) = node.input_tensors


def _makes_free_lengths(node: typing.Any) -> bool:
    before, after = node.input_tensors, node.outputs
    return (
        len(before) == len(after) == 1
        and before[0].dtype == "string"
        and "int" in after[0].dtype
        and tuple(after[0].shape) == (None, None)
        # Its texts are single words.
        and not isinstance(before[0]._keras_history.operation, first_pieces.SplitAtSpace)
        # Counts or marks per word of the vocabulary are as wide as that, not as the text.
        and getattr(node.operation, "output_mode", "int") == "int"
    )


def _make_counter(
    tokenizer: keras.Model, layer: keras.layers.Layer
) -> typing.Callable[[tf.Tensor], tf.Tensor]:
    padding_id = getattr(layer, "padding_id", 0)
    shape = (-1, *tokenizer.inputs[0].shape[1:])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def count(texts: tf.Tensor) -> tf.Tensor:
        tokens = tokenizer(tf.reshape(texts, shape), training=False)
        return tf.math.count_nonzero(tf.not_equal(tokens, padding_id), axis=1, dtype=tf.int32)

    return count
