"""Which pixel values a stored model was trained on, without building it.

One idea: the layers before the first weights map a pixel alone, so a rule per class tells what
black and white become there. What has no rule is said to be unknown, never guessed.
"""

import dataclasses
import typing
from collections.abc import Callable, Sequence

import numpy as np

from tf_finetune.models import pixel_rules
from tf_finetune.models.stored import stored_graph, weight_sizes

# Of an image of one colour they keep the pixel in the middle, in inference.
_KEEP = (
    *("InputLayer", "ZeroPadding2D", "Cropping2D", "Resizing", "CenterCrop", "Identity"),
    *("Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout"),
    *("MaxPooling2D", "AveragePooling2D", "UpSampling2D", "ActivityRegularization"),
)
_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda values: values,
    "relu": lambda values: np.maximum(values, 0),
    "relu6": lambda values: np.clip(values, 0, 6),
    "sigmoid": lambda values: 1 / (1 + np.exp(-values)),
    "tanh": np.tanh,
}
_NUMBERS = {
    "Add": lambda first, second: first + second,
    "Subtract": lambda first, second: first - second,
    "Multiply": lambda first, second: first * second,
    "Divide": lambda first, second: first / second,
    "TrueDivide": lambda first, second: first / second,
}
_AXES = (3, -1)


class UnknownScalingError(LookupError):
    """Only running the model tells what a layer makes of pixels; the text names the layer."""


@dataclasses.dataclass(frozen=True)
class StoredModelPart:
    """What is kept of a stored model.

    Attributes:
      pixels: its input.
      calls: in the order of the graph.
      weights: the open file of its weights.
    """

    pixels: stored_graph.Tensor
    calls: Sequence[stored_graph.Call]
    weights: weight_sizes.WeightFile


def find_pixel_range(
    part: StoredModelPart, *, requested: str = "auto", dropped: Sequence[str] = ()
) -> pixel_rules.PixelRange | None:
    """Settles the range from what is stored, as `pixel_range.find_pixel_range` from a model.

    Args:
      part: what is kept of the model.
      requested: value of --pixel_range.
      dropped: names of layers that were cut off.

    Returns:
      The range; None where only a sample of the data can tell.

    Raises:
      findings.RefusedError: `requested` is of three channels and the model has one.
      UnknownScalingError: a layer before the first weights has no rule.
    """
    return pixel_rules.decide(
        pixel_rules.Evidence(
            channels=typing.cast(int, part.pixels.shape[-1]),
            application=None,
            names=frozenset(
                [call.layer.name for call in part.calls if not call.layer.is_operation]
            ).union(dropped),
            find_inside=lambda: _find_inside(part),
            has_statistics=lambda: _has_statistics(part),
        ),
        requested=requested,
    )


def _find_inside(part: StoredModelPart) -> pixel_rules.PixelRange | None:
    calls = [
        pixel_rules.Call(
            name=call.layer.name,
            class_name=call.layer.class_name,
            inputs=call.inputs,
            outputs=call.outputs,
            has_weights=bool(part.weights.weights_of(call.layer)),
        )
        for call in part.calls
    ]
    passed = pixel_rules.before_first_weights(part.pixels, calls)
    if passed is None:
        return None
    tensor = typing.cast(stored_graph.Tensor, passed.tensor)
    if tensor.known_shape is not None and len(tensor.known_shape) != 4:
        return None
    channels = typing.cast(int, part.pixels.shape[-1])
    values = np.repeat([[0.0], [255.0]], channels, axis=1)
    for call in _path_to(tensor):
        values = _apply(call, values, part.weights)
    return pixel_rules.judge_scaling(values[0], values[1], passed.names)


def _path_to(tensor: stored_graph.Tensor) -> list[stored_graph.Call]:
    path = []
    while tensor.call.inputs:
        path.append(tensor.call)
        (tensor,) = tensor.call.inputs
    return path[::-1]


def _apply(
    call: stored_graph.Call, values: np.ndarray, weights: weight_sizes.WeightFile
) -> np.ndarray:
    layer, name = call.layer, call.layer.class_name
    try:
        if layer.is_operation:
            return _operate(call, values)
        if name in _KEEP or name.startswith("Random"):
            return values
        if name == "Rescaling":
            scale, offset = layer.config["scale"], layer.config.get("offset", 0.0)
            return values * _numbers(scale) + _numbers(offset)
        if name == "Normalization":
            return _normalize(layer, values, weights)
        if name == "Dense" and layer.name == pixel_rules.LAYER_NAME:
            kernel, *bias = [weights.read(weight) for weight in weights.weights_of(layer)]
            return values @ kernel.astype(np.float64) + sum(bias)
        if name == "Activation":
            return _ACTIVATIONS[activation_of(layer.config)](values)
        if name in ("Reshape", "Permute") and call.inputs[0].shape == call.outputs[0].shape:
            return values
    except (IndexError, KeyError, TypeError, ValueError, stored_graph.UnknownShapeError) as error:
        raise UnknownScalingError(layer.name) from error
    raise UnknownScalingError(layer.name)


def activation_of(config: dict[str, typing.Any]) -> str:
    """The name of a layer's activation.

    Args:
      config: its arguments as stored.

    Returns:
      For example "softmax"; "linear" where there is none.
    """
    value = config.get("activation")
    if isinstance(value, dict):
        inner = value.get("config")
        value = inner if isinstance(inner, str) else value.get("class_name")
    return str(value) if value else "linear"


def _normalize(
    layer: stored_graph.Layer, values: np.ndarray, weights: weight_sizes.WeightFile
) -> np.ndarray:
    mean, variance = layer.config.get("mean"), layer.config.get("variance")
    if mean is None:
        mean, variance = [weights.read(weight) for weight in weights.weights_of(layer)[:2]]
    deviation = np.maximum(np.sqrt(_numbers(variance)), 1e-7)
    mean = _numbers(mean)
    if layer.config.get("invert"):
        return values * deviation + mean
    return (values - mean) / deviation


def _operate(call: stored_graph.Call, values: np.ndarray) -> np.ndarray:
    first, second = [*call.args, *call.kwargs.values()]
    operands = [
        values if isinstance(operand, stored_graph.Tensor) else _numbers(operand)
        for operand in (first, second)
    ]
    return _NUMBERS[call.layer.class_name](*operands)


def _numbers(value: typing.Any) -> np.ndarray:
    """A number, or one per channel, of whatever rank it was stored in."""
    if isinstance(value, dict):
        value = value["config"]["value"]
    return np.asarray(value, np.float64).reshape(-1)


def _has_statistics(part: StoredModelPart) -> bool:
    for call in part.calls:
        layer = call.layer
        if layer.class_name != "BatchNormalization" or layer.is_operation:
            continue
        shape = call.inputs[0].known_shape
        arrays = part.weights.weights_of(layer)
        axis = layer.config.get("axis", -1)
        axis = axis[0] if isinstance(axis, list) else axis
        if shape is None or len(shape) != 4 or axis not in _AXES or len(arrays) < 2:
            continue
        # gamma and beta first, where it has them.
        mean, variance = [part.weights.read(array) for array in arrays[-2:]]
        if pixel_rules.is_trained(mean, variance):
            return True
    return False
