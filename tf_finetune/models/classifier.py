"""Where a model's old classifier begins.

One idea: walk back from the output over what follows a classifier (its activation, Dropout,
Reshape), and look at the layer found there. A Dense layer, or the 1x1 convolution with which
MobileNet ends, is a classifier if its values are scores or probabilities, and no classifier if
they are features (a relu).
"""

import dataclasses
import math
import typing

import keras

_CLASS_ACTIVATIONS = ("softmax", "sigmoid", "log_softmax", "hard_sigmoid", "log_sigmoid")
_SCORE_ACTIVATIONS = (*_CLASS_ACTIVATIONS, "linear")
_DROPOUTS = ("Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout")
_RESHAPES = ("Flatten", "Reshape")
_POOLINGS = {"GlobalAveragePooling2D": "avg", "GlobalMaxPooling2D": "max"}


@dataclasses.dataclass(frozen=True)
class Classifier:
    """An old classifier.

    Attributes:
      layer: name of its layer with the weights.
      class_name: "Dense" or "Conv2D".
      units: number of its outputs.
      features: what it was given.
    """

    layer: str
    class_name: str
    units: int
    features: keras.KerasTensor


def find_classifier(output: keras.KerasTensor) -> Classifier | None:
    """Finds the classifier that a model ends with.

    Args:
      output: the model's output.

    Returns:
      The classifier, or None where the model ends with features: a feature map, or a layer that
      is no Dense or convolution of scores.
    """
    if len(output.shape) != 2:
        return None
    tensor, pooled, scored = output, False, False
    while (step := _step_back(tensor)) is not None:
        layer, before = step
        name = type(layer).__name__
        if name == "Dense" or name == "Conv2D":
            return _judge(layer, before, pooled=pooled, scored=scored)
        if name == "Softmax" or (name == "Activation" and _activation(layer) in _SCORE_ACTIVATIONS):
            scored = True
        elif name in _RESHAPES or name in _POOLINGS:
            pooled = True
        elif name not in _DROPOUTS and not (name == "BatchNormalization" and scored):
            return None
        tensor = before
    return None


def strip_tail(
    features: keras.KerasTensor, *, keep_pooling: bool = False
) -> tuple[keras.KerasTensor, str | None]:
    """Walks back over the Dropout and the pooling that features end with.

    The new heads bring their own of both.

    Args:
      features: [batch, h, w, c] or [batch, c].
      keep_pooling: stop at the pooling layer.

    Returns:
      What went into them, and how they pooled: "avg", "max", "flatten", or None.
    """
    pooling = None
    while (step := _step_back(features)) is not None:
        layer, before = step
        name = type(layer).__name__
        if name in _DROPOUTS or (name in _RESHAPES and before.shape == features.shape):
            features = before
        elif keep_pooling or pooling is not None:
            break
        elif name in _POOLINGS and layer.data_format == "channels_last":
            pooling, features = _POOLINGS[name], before
        elif name in _RESHAPES and _flattens(features, before):
            # Flattening a 1x1 map pools nothing: what made the map may.
            pooling = None if tuple(before.shape[1:3]) == (1, 1) else "flatten"
            features = before
        else:
            break
    return features, pooling


def _step_back(tensor: keras.KerasTensor) -> tuple[typing.Any, keras.KerasTensor] | None:
    layer, node_index, _ = tensor._keras_history
    node = layer._inbound_nodes[node_index]
    if node.is_input or len(node.input_tensors) != 1 or not isinstance(layer, keras.layers.Layer):
        return None
    return layer, node.input_tensors[0]


def _judge(
    layer: typing.Any, before: keras.KerasTensor, *, pooled: bool, scored: bool
) -> Classifier | None:
    activation = _activation(layer)
    scores = activation in _SCORE_ACTIVATIONS
    if type(layer).__name__ == "Dense":
        return Classifier(layer.name, "Dense", layer.units, before) if scores else None
    # A last convolution may as well make features: it needs an explicit activation of scores, or
    # to stand on a 1x1 map, where it is a Dense layer by another name.
    dense = layer.kernel_size == (1, 1) and tuple(before.shape[1:3]) == (1, 1)
    if pooled and scores and (scored or dense or activation in _CLASS_ACTIVATIONS):
        return Classifier(layer.name, "Conv2D", layer.filters, before)
    return None


def _activation(layer: typing.Any) -> str:
    function = layer.activation
    return "linear" if function is None else getattr(function, "__name__", type(function).__name__)


def _flattens(features: keras.KerasTensor, before: keras.KerasTensor) -> bool:
    sides = before.shape[1:]
    if len(features.shape) != 2 or len(before.shape) != 4 or None in sides:
        return False
    return features.shape[1] == math.prod(sides)
