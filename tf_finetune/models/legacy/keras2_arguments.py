"""The values of a Keras 2 layer's arguments: activations, initializers, regularizers, constraints.

One idea: the argument's name tells what kind of object its value is.

Reference: https://github.com/keras-team/tf-keras, src/activations.py, src/initializers,
src/regularizers.py and src/constraints.py.
"""

import typing
from collections.abc import Callable

from tf_finetune.models.legacy import keras2_values as values

Json = dict[str, typing.Any]
InnerLayer = Callable[[Json], Json]

_INITIALIZER_ARGUMENTS = {
    "Zeros": (),
    "Ones": (),
    "Constant": ("value",),
    "RandomNormal": ("mean", "stddev", "seed"),
    "RandomUniform": ("minval", "maxval", "seed"),
    "TruncatedNormal": ("mean", "stddev", "seed"),
    "VarianceScaling": ("scale", "mode", "distribution", "seed"),
    "Orthogonal": ("gain", "seed"),
    "Identity": ("gain",),
    "GlorotNormal": ("seed",),
    "GlorotUniform": ("seed",),
    "HeNormal": ("seed",),
    "HeUniform": ("seed",),
    "LecunNormal": ("seed",),
    "LecunUniform": ("seed",),
}
_INITIALIZERS = {
    "zero": "Zeros",
    "one": "Ones",
    "uniform": "RandomUniform",
    "normal": "RandomNormal",
    "randomnormal": "RandomNormal",
    "randomuniform": "RandomUniform",
    **{name.lower(): name for name in _INITIALIZER_ARGUMENTS},
}
_ACTIVATIONS = {
    "swish": "silu",
    "hard_swish": "hard_silu",
    "Addons>mish": "mish",
    "exp": "exponential",
    "log_softmax_v2": "log_softmax",
    "softmax_v2": "softmax",
}
# TensorFlow's functions as activations: their names in Python -> functions of `keras2_operations`.
_TENSORFLOW_TEXT = """
abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc expm1 floor log log1p negative
reciprocal round rsqrt sign sin sinh sqrt square tan
"""
_TENSORFLOW_ACTIVATIONS = {
    "crelu_v2": "nn.crelu",
    "identity": "identity",
    **{name: f"math.{name}" for name in _TENSORFLOW_TEXT.split()},
}
_KERAS3_ACTIVATIONS = frozenset(
    [
        "celu",
        "elu",
        "exponential",
        "gelu",
        "glu",
        "hard_shrink",
        "hard_silu",
        "hard_tanh",
        "leaky_relu",
        "linear",
        "log_sigmoid",
        "log_softmax",
        "mish",
        "relu",
        "relu6",
        "selu",
        "sigmoid",
        "silu",
        "soft_shrink",
        "softmax",
        "softplus",
        "softsign",
        "squareplus",
        "tanh",
        "tanh_shrink",
        "threshold",
    ]
)
# Same name, another function: Keras 3's is relu6(x + 3) / 6.
_KERAS2_ACTIVATIONS = {"hard_sigmoid": "hard_sigmoid"}
_REGULARIZERS = {
    "l1": "L1",
    "l2": "L2",
    "l1l2": "L1L2",
    "orthogonalregularizer": "OrthogonalRegularizer",
}
_CONSTRAINTS = {
    "maxnorm": "MaxNorm",
    "nonneg": "NonNeg",
    "unitnorm": "UnitNorm",
    "minmaxnorm": "MinMaxNorm",
}


def translate_value(key: str, value: typing.Any, *, inner_layer: InnerLayer) -> typing.Any:
    """Translates the value of one argument.

    Args:
      key: the argument.
      value: as stored.
      inner_layer: translates a layer among the values.

    Returns:
      The value in a Keras 3 configuration.

    Raises:
      values.UntranslatableError: an activation has weights of its own.
    """
    if key in ("layer", "backward_layer", "cell") and isinstance(value, dict):
        return inner_layer(value)
    if key == "cells" and isinstance(value, list):
        return [inner_layer(cell) for cell in value]
    value = values.decode(value)
    if key.endswith("activation"):
        return _activation(value, inner_layer)
    if key.endswith("initializer"):
        return _initializer(value)
    if key.endswith("regularizer"):
        return _known_object(value, "keras.regularizers", _REGULARIZERS)
    if key.endswith("constraint"):
        return _known_object(value, "keras.constraints", _CONSTRAINTS)
    return value


def _activation(value: typing.Any, inner_layer: InnerLayer) -> typing.Any:
    if isinstance(value, dict):
        if isinstance(value.get("config"), dict):
            if value["class_name"] == "PReLU":
                # Keras 3 builds no layer inside an activation before it is called.
                raise values.UntranslatableError(
                    "has PReLU, which has weights, as its activation. Expected PReLU as a layer of "
                    "its own: build the model so and save it again."
                )
            return inner_layer(value)
        inner = value.get("config")
        if not isinstance(inner, str):
            registered = value.get("registered_name") or value["class_name"]
            return {**value, "module": None, "registered_name": registered}
        value = inner
    if value is None:
        return None
    name = _ACTIVATIONS.get(value, value)
    if name in _KERAS2_ACTIVATIONS:
        return values.own_function(_KERAS2_ACTIVATIONS[name])
    if name in _KERAS3_ACTIVATIONS:
        return name
    if name in _TENSORFLOW_ACTIVATIONS:
        config = {
            "name": name,
            "function": _TENSORFLOW_ACTIVATIONS[name],
            "arguments": {"args": [{"tensor": 0}], "kwargs": {}},
        }
        return values.own("tensor_operations", "TensorOperation", config)
    return {
        "module": "builtins",
        "class_name": "function",
        "config": name,
        "registered_name": "function",
    }


def _initializer(value: typing.Any) -> typing.Any:
    # Every weight is read from the file, so an initializer that Keras 3 lacks changes nothing.
    if value is None:
        return None
    name = value if isinstance(value, str) else str(value.get("class_name", ""))
    config = {} if isinstance(value, str) else value.get("config")
    plain = _INITIALIZERS.get(name.rpartition(">")[2].replace("_", "").lower(), "Zeros")
    allowed = _INITIALIZER_ARGUMENTS[plain]
    kept = {key: config[key] for key in allowed if isinstance(config, dict) and key in config}
    if kept.get("distribution") == "normal":
        kept["distribution"] = "truncated_normal"
    if plain == "Constant" and not isinstance(kept.get("value"), int | float):
        plain, kept = "Zeros", {}
    return values.builtin("keras.initializers", plain, kept)


def _known_object(value: typing.Any, module: str, known: dict[str, str]) -> typing.Any:
    if value is None:
        return None
    name = value if isinstance(value, str) else str(value.get("class_name"))
    config = {} if isinstance(value, str) else dict(value.get("config") or {})
    plain = known.get(name.rpartition(">")[2].replace("_", "").lower())
    if plain is None:
        return {
            "module": None,
            "class_name": name.rpartition(">")[2],
            "config": config,
            "registered_name": name,
        }
    if "m" in config:
        config["max_value"] = config.pop("m")
    return values.builtin(module, plain, config)
