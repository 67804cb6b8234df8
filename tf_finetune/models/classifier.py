"""Where a model's old classifier begins.

One idea: walk back from the output over what follows a classifier (its activation, Dropout,
Reshape), and look at the layer found there. A Dense layer, or the 1x1 convolution with which
MobileNet ends, is a classifier if its values are scores or probabilities, and no classifier if
they are features (a relu).

No Keras here: the walk sees one `Step` at a time, made from the graph of a real model or from
that of a stored configuration.
"""

import dataclasses
import math
import typing

_CLASS_ACTIVATIONS = ("softmax", "sigmoid", "log_softmax", "hard_sigmoid", "log_sigmoid")
_SCORE_ACTIVATIONS = (*_CLASS_ACTIVATIONS, "linear")
_DROPOUTS = ("Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout")
_RESHAPES = ("Flatten", "Reshape")
_POOLINGS = {"GlobalAveragePooling2D": "avg", "GlobalMaxPooling2D": "max"}


class Tensor(typing.Protocol):
    """What flows between layers, of a model or of a stored graph."""

    @property
    def shape(self) -> tuple[int | None, ...]:
        """With None for the batch and for free sizes."""
        ...


AnyTensor = typing.TypeVar("AnyTensor", bound=Tensor)


@dataclasses.dataclass(frozen=True)
class Step(typing.Generic[AnyTensor]):
    """A layer of one input, seen from its output.

    Attributes:
      name: of the layer.
      class_name: for example "Conv2D".
      before: what the layer was given.
      activation: name of its activation, "linear" where it has none.
      units: number of outputs of a Dense layer or of filters of a convolution.
      kernel_size: of a convolution.
      channels_last: False for a layer with data_format="channels_first".
    """

    name: str
    class_name: str
    before: AnyTensor
    activation: str = "linear"
    units: int | None = None
    kernel_size: tuple[int, ...] | None = None
    channels_last: bool = True


StepBack = typing.Callable[[AnyTensor], Step[AnyTensor] | None]


@dataclasses.dataclass(frozen=True)
class Classifier(typing.Generic[AnyTensor]):
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
    features: AnyTensor


def find_classifier(
    output: AnyTensor, step_back: StepBack[AnyTensor]
) -> Classifier[AnyTensor] | None:
    """Finds the classifier that a model ends with.

    Args:
      output: the model's output.
      step_back: gives the layer that made a tensor; None for an input, and for a layer of several
        inputs.

    Returns:
      The classifier, or None where the model ends with features: a feature map, or a layer that
      is no Dense or convolution of scores.
    """
    if len(output.shape) != 2:
        return None
    tensor, pooled, scored = output, False, False
    while (step := step_back(tensor)) is not None:
        name = step.class_name
        if name == "Dense" or name == "Conv2D":
            return _judge(step, pooled=pooled, scored=scored)
        if name == "Softmax" or (name == "Activation" and step.activation in _SCORE_ACTIVATIONS):
            scored = True
        elif name in _RESHAPES or name in _POOLINGS:
            pooled = True
        elif name not in _DROPOUTS and not (name == "BatchNormalization" and scored):
            return None
        tensor = step.before
    return None


def strip_tail(
    features: AnyTensor, step_back: StepBack[AnyTensor], *, keep_pooling: bool = False
) -> tuple[AnyTensor, str | None]:
    """Walks back over the Dropout and the pooling that features end with.

    The new heads bring their own of both.

    Args:
      features: [batch, h, w, c] or [batch, c].
      step_back: as for `find_classifier`.
      keep_pooling: stop at the pooling layer.

    Returns:
      What went into them, and how they pooled: "avg", "max", "flatten", or None.
    """
    pooling = None
    while (step := step_back(features)) is not None:
        name, before = step.class_name, step.before
        if name in _DROPOUTS or (name in _RESHAPES and before.shape == features.shape):
            features = before
        elif keep_pooling or pooling is not None:
            break
        elif name in _POOLINGS and step.channels_last:
            pooling, features = _POOLINGS[name], before
        elif name in _RESHAPES and _flattens(features, before):
            # Flattening a 1x1 map pools nothing: what made the map may.
            pooling = None if tuple(before.shape[1:3]) == (1, 1) else "flatten"
            features = before
        else:
            break
    return features, pooling


def _judge(step: Step[AnyTensor], *, pooled: bool, scored: bool) -> Classifier[AnyTensor] | None:
    found = Classifier(step.name, step.class_name, step.units or 0, step.before)
    scores = step.activation in _SCORE_ACTIVATIONS
    if step.class_name == "Dense":
        return found if scores else None
    # A last convolution may as well make features: it needs an explicit activation of scores, or
    # to stand on a 1x1 map, where it is a Dense layer by another name.
    dense = step.kernel_size == (1, 1) and tuple(step.before.shape[1:3]) == (1, 1)
    if pooled and scores and (scored or dense or step.activation in _CLASS_ACTIVATIONS):
        return found
    return None


def _flattens(features: Tensor, before: Tensor) -> bool:
    if len(features.shape) != 2 or len(before.shape) != 4:
        return False
    sides = [side for side in before.shape[1:] if side is not None]
    return len(sides) == 3 and features.shape[1] == math.prod(sides)
