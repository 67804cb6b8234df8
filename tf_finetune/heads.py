"""Dense heads on a backbone: from features to one vector of logits per task.

Heads emit logits, in float32 whatever the backbone computes in; the loss takes them as they are and
softmax or sigmoid is applied where probabilities are wanted. Scaling from 0..255 to the backbone's
own pixel range is made of layers here, so the saved model takes pixels as they come. Texts go to
the backbone as they are: its graph makes tokens of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tf_finetune import head_kinds, specs
from tf_finetune.data import column_encoding, image_stores, mixed_spec, text_store
from tf_finetune.models import backbone as results
from tf_finetune.models import column_layers, loading, pixel_range

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
      MixedSpec both; and the outputs {HEAD: float32 [batch, units] logits}.

    Raises:
      ValueError: the pixel range is not settled, or the features are no vector after pooling.
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
    features = _pool(backbone.model(taken), backbone.pooling)
    if encoding is not None:
        beside = _encode_columns(inputs, encoding)
        together = keras.layers.Concatenate(name="features_and_columns", dtype="float32")
        features = together([features, *beside])
    outputs = {
        head.name: _attach_head(features, head, info, bias=(biases or {}).get(head.name))
        for head, info in zip(heads, infos, strict=True)
    }
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
