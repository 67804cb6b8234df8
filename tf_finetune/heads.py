"""Dense heads on a backbone: from features to one vector of logits per task, or one per position.

Heads emit logits, in float32 whatever the backbone computes in; the loss takes them as they are and
softmax or sigmoid is applied where probabilities are wanted. Scaling from 0..255 to the backbone's
own pixel range is made of layers here, so the saved model takes pixels as they come. Texts go to
the backbone as they are: its graph makes tokens of them.

A segmentation head takes the feature map before it is pooled. Its Dense layers see each position by
itself, and the logits, not the classes, are enlarged to the size of the image: bilinear, so that
borders may run between the positions of the map.

Reference: Long, Shelhamer and Darrell 2015, "Fully Convolutional Networks for Semantic
Segmentation", sections 3.3 and 4.1, https://arxiv.org/abs/1411.4038
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tf_finetune import head_kinds, specs
from tf_finetune.data import column_encoding, image_stores, mixed_spec, text_store
from tf_finetune.models import backbone as results
from tf_finetune.models import column_layers, loading, pixel_range
from tf_finetune.models.encoders import token_features
from tf_finetune.text import first_pieces, wordpiece

INPUT = image_stores.INPUT
TEXT_INPUT = text_store.INPUT


def attach_heads(
    backbone: loading.Backbone,
    *,
    heads: Sequence[specs.HeadSpec],
    infos: Sequence[head_kinds.HeadInfo],
    image_shape: tuple[int, int, int] | None = None,
    biases: Mapping[str, np.ndarray] | None = None,
    mixed: mixed_spec.MixedSpec | None = None,
    encoding: column_encoding.Encoding | None = None,
) -> keras.Model:
    """A model from pixels, texts or columns to the logits of every head.

    The backbone's layers are shared with the new model, not copied.

    Args:
      backbone: the cut pretrained model; of images with its pixel range settled.
      heads: one spec per head.
      infos: the same heads with their classes, in the same order.
      image_shape: (height, width, channels) in pixels; default: the backbone's. Unused for texts.
      biases: {HEAD: float32 [units]} at which the last layer of a head starts, see
        `objectives.find_start_biases`; default, and for heads that are not in it: 0.
      mixed: what stands beside the images or texts; None: nothing.
      encoding: of the training rows, for a backbone with one input: the columns of `mixed` go to
        the heads, behind the pooled features.

    Returns:
      A model with the input {"image": float32 [batch, height, width, channels], values 0 to 255}
      or {"text": string [batch]}, or of columns the backbone's own inputs by name, or of a
      MixedSpec both; and the outputs {HEAD: float32 [batch, units] logits}, of segmentation
      [batch, height, width, units], of words [batch, most words, units].

    Raises:
      ValueError: the pixel range is not settled, or the features are no vector after pooling, or
        no map where a head is about pixels, or of no tokens where one is about words.
    """
    if mixed is not None:
        inputs, taken = _start_mixed(backbone, mixed, image_shape)
    elif backbone.input_kind == results.COLUMNS:
        inputs, taken = _start_with_columns(backbone)
    else:
        first, taken = (
            _start_with_text(backbone)
            if backbone.input_kind == results.TEXT
            else _start_with_pixels(backbone, image_shape)
        )
        inputs = {first.name: first}
    kinds = [head_kinds.HEAD_KINDS[info.kind].positions for info in infos]
    if "words" in kinds:
        words = _pick_words(backbone, inputs[TEXT_INPUT], taken)
    else:
        features = backbone.model(taken)
    # Pooled once, and not where every head is about positions.
    vector = None if all(kinds) else _pool(features, backbone.pooling)
    if encoding is not None and vector is not None:
        beside = _encode_columns(inputs, encoding)
        together = keras.layers.Concatenate(name="features_and_columns", dtype="float32")
        vector = together([vector, *beside])
    outputs = {}
    for head, info, kind in zip(heads, infos, kinds, strict=True):
        if kind == "words":
            outputs[head.name] = _attach_head(words, head, info, bias=None)
        elif kind == "pixels":
            size = inputs[INPUT].shape[1:3]
            outputs[head.name] = _attach_pixels(features, head, info, size=size)
        else:
            bias = (biases or {}).get(head.name)
            outputs[head.name] = _attach_head(vector, head, info, bias=bias)
    return keras.Model(inputs, outputs, name="finetuned")


def _encode_columns(
    inputs: Mapping[str, keras.KerasTensor], encoding: column_encoding.Encoding
) -> list[keras.KerasTensor]:
    """Columns as features of about the size one, by layers without weights that train."""
    features = []
    if mixed_spec.NUMBERS in inputs:
        scale = keras.layers.Normalization(
            mean=list(encoding.means),
            variance=list(encoding.variances),
            name="columns_scaled",
            dtype="float32",
        )
        features.append(scale(inputs[mixed_spec.NUMBERS]))
    if mixed_spec.CATEGORIES in inputs:
        mark = column_layers.OneHotColumns(
            encoding.categories, name="columns_marked", dtype="float32"
        )
        features.append(mark(inputs[mixed_spec.CATEGORIES]))
    return features


def _start_with_columns(
    backbone: loading.Backbone,
) -> tuple[dict[str, keras.KerasTensor], list[keras.KerasTensor]]:
    """(the new model's inputs, what the backbone is called on)."""
    inputs = {
        name: keras.Input(shape, name=name, dtype=dtype) for name, shape, dtype in backbone.inputs
    }
    taken = list(inputs.values())
    return inputs, taken if len(taken) > 1 else taken[0]


def _start_mixed(
    backbone: loading.Backbone,
    mixed: mixed_spec.MixedSpec,
    image_shape: tuple[int, int, int] | None,
) -> tuple[dict[str, keras.KerasTensor], Any]:
    """(the new model's inputs, what the backbone is called on)."""
    inputs = {
        part.name: keras.Input(part.shape, name=part.name, dtype=part.dtype)
        for part in mixed.columns.inputs
    }
    # The backbone's input that no columns feed takes the image or the text.
    (place,) = [place for place, (name, _, _) in enumerate(backbone.inputs) if name not in inputs]
    if isinstance(mixed.main, text_store.TextSpec):
        main, taken = _start_with_text(backbone, place)
    else:
        main, taken = _start_with_pixels(backbone, image_shape)
    parts = [inputs.get(name, taken) for name, _, _ in backbone.inputs]
    return {main.name: main, **inputs}, parts if len(parts) > 1 else taken


def _start_with_text(
    backbone: loading.Backbone, place: int = 0
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """(the new model's input, what the backbone is called on)."""
    text = keras.Input((), name=TEXT_INPUT, dtype="string")
    if len(backbone.model.inputs[place].shape) == 1:
        return text, text
    return text, keras.layers.Reshape((1,), name="one_text_each", dtype="string")(text)


def _start_with_pixels(
    backbone: loading.Backbone, image_shape: tuple[int, int, int] | None
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    if backbone.pixel_range is None:
        raise ValueError(
            "The pixel range of this backbone depends on data. Call pixel_range.settle first."
        )
    shape = tuple(image_shape or backbone.input_shape)
    image = keras.Input(shape, name=INPUT, dtype="float32")
    scaled = image
    for layer in pixel_range.scaling_layers(backbone.pixel_range.name, shape[-1] or 3):
        scaled = layer(scaled)
    return image, scaled


def _pool(features: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    rank = len(features.shape)
    if pooling == "flatten":
        return keras.layers.Flatten(name="pooling", dtype="float32")(features)
    if pooling in ("avg", "max") and 3 <= rank <= 5:
        kind = {"avg": "GlobalAveragePooling", "max": "GlobalMaxPooling"}[pooling]
        layer = getattr(keras.layers, f"{kind}{rank - 2}D")
        return layer(name="pooling", dtype="float32")(features)
    if rank != 2:
        raise ValueError(
            f"--pooling={pooling} leaves features of shape {features.shape}, and a head takes "
            "[batch, features]. Choose --pooling=avg, max or flatten."
        )
    return features


def _pick_words(
    backbone: loading.Backbone, text: keras.KerasTensor, taken: keras.KerasTensor
) -> keras.KerasTensor:
    """float32 [batch, most words, width]: the features of the first piece of each word."""
    found = token_features.find(backbone.model)
    if isinstance(found, str):
        raise ValueError(f"A head is about words, and the model {found}.")
    hidden = found.model(taken)
    config = {**found.tokenizer.get_config(), "fixed_length": False, "name": "word_tokenizer"}
    word_ids = wordpiece.WordPieceTokenizer.from_config(config)(
        first_pieces.SplitAtSpace(name="words")(text)
    )
    picked = first_pieces.FirstPieces(found.tokenizer.padding_id, name="first_pieces")
    return picked(text, word_ids, hidden)


def _attach_pixels(
    features: keras.KerasTensor,
    head: specs.HeadSpec,
    info: head_kinds.HeadInfo,
    *,
    size: tuple[int, int],
) -> keras.KerasTensor:
    """float32 [batch, *size, classes]."""
    if len(features.shape) != 4:
        raise ValueError(
            f"Head '{head.name}' is about pixels, and the features have the shape "
            f"{features.shape}. Expected a map, [batch, height, width, channels]."
        )
    logits = _attach_head(features, head, info, bias=None)
    return keras.layers.Resizing(
        *size, interpolation="bilinear", name=f"{head.name}_resize", dtype="float32"
    )(logits)


def _attach_head(
    features: keras.KerasTensor,
    head: specs.HeadSpec,
    info: head_kinds.HeadInfo,
    *,
    bias: np.ndarray | None,
) -> keras.KerasTensor:
    x = features
    if head.dropout:
        x = keras.layers.Dropout(head.dropout, name=f"{head.name}_dropout", dtype="float32")(x)
    for number, units in enumerate(head.hidden_units, start=1):
        x = keras.layers.Dense(
            units, activation="relu", name=f"{head.name}_dense_{number}", dtype="float32"
        )(x)
    units = head_kinds.num_logits(info.kind, len(info.classes))
    last = keras.layers.Dense(units, name=f"{head.name}_logits", dtype="float32")
    logits = last(x)
    if bias is not None:
        last.bias.assign(bias)
    if head_kinds.HEAD_KINDS[info.kind].has_classes:
        return logits
    # The Dense layer works in deviations from the mean, whatever the unit of the labels is.
    return keras.layers.Rescaling(
        info.deviation, offset=info.mean, name=f"{head.name}_scale", dtype="float32"
    )(logits)
