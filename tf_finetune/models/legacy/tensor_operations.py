"""A TensorFlow function as a layer, for functional models of Keras 2 that called functions on
tensors.

One idea: its configuration is a function's name, from the table of `keras2_operations`, and its
arguments as JSON with places for tensors. So it is saved, loaded and exported like any layer, and
no code comes from a file.
"""

import functools
import typing

import keras
import tensorflow as tf

from tf_finetune.models.legacy import keras2_operations

_PLACE = keras2_operations.FIRST_TENSOR
_DTYPE_ARGUMENTS = ("dtype", "out_type", "output_type")


@keras.saving.register_keras_serializable(package="tf_finetune")
def hard_sigmoid(x: typing.Any) -> typing.Any:
    """The hard sigmoid of Keras 1 and 2; that of Keras 3 is relu6(x + 3) / 6.

    Args:
      x: tensor of floating point.

    Returns:
      clip(0.2 x + 0.5, 0, 1).

    Reference: tf_keras 2.21, src/backend.py (`hard_sigmoid`).
    """
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


@keras.saving.register_keras_serializable(package="tf_finetune")
class TensorOperation(keras.layers.Layer):
    """Calls a TensorFlow function.

    Attributes:
      function: its name, for example "math.reduce_mean".
      arguments: {"args": [...], "kwargs": {...}} where {"tensor": 0} stands for the first input.

    Example:
      TensorOperation("math.reduce_mean", {"args": [{"tensor": 0}], "kwargs": {"axis": [1, 2]}})(x)
    """

    def __init__(self, function: str, arguments: dict[str, typing.Any], **options: typing.Any):
        super().__init__(**options)
        self.function = function
        self.arguments = arguments
        self._function = _find_function(function)
        self.supports_masking = False
        self.built = True

    def call(self, inputs: typing.Any) -> typing.Any:
        """The value of the function.

        Args:
          inputs: a tensor, or a list of tensors.

        Returns:
          What the function returns: a tensor, or a list of tensors.
        """
        tensors = inputs if isinstance(inputs, list | tuple) else [inputs]
        args = _fill(self.arguments["args"], tensors)
        kwargs = _fill(self.arguments["kwargs"], tensors)
        for key in _DTYPE_ARGUMENTS:
            if isinstance(kwargs.get(key), str):
                kwargs[key] = tf.as_dtype(kwargs[key])
        result = self._function(*args, **kwargs)
        return list(result) if isinstance(result, tuple) else result

    def get_config(self) -> dict[str, typing.Any]:
        """The configuration.

        Returns:
          JSON.
        """
        own = {"function": self.function, "arguments": self.arguments}
        return {**super().get_config(), **own}


def _find_function(name: str) -> typing.Callable[..., typing.Any]:
    if name in _OWN:
        return _OWN[name]
    if name not in keras2_operations.FUNCTIONS:
        raise ValueError(f"Unknown function '{name}'.")
    return functools.reduce(getattr, name.split("."), tf)


def _fill(value: typing.Any, tensors: typing.Sequence[typing.Any]) -> typing.Any:
    if isinstance(value, list | tuple):
        return [_fill(element, tensors) for element in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {_PLACE}:
        return tensors[value[_PLACE]]
    if set(value) == {"start", "stop", "step"}:
        return slice(*(_fill(value[key], tensors) for key in ("start", "stop", "step")))
    if value.get("class_name") == "__ellipsis__":
        return Ellipsis
    return {key: _fill(element, tensors) for key, element in value.items()}


def _get_item(x: typing.Any, slice_spec: typing.Any) -> typing.Any:
    # A list of slices is a tuple that JSON turned into a list; TensorFlow takes no list here.
    return x[tuple(slice_spec) if isinstance(slice_spec, list) else slice_spec]


def _upsample(x: typing.Any, factors: typing.Sequence[int], method: str) -> typing.Any:
    sides = zip(x.shape[1:3], tf.unstack(tf.shape(x)[1:3]), factors, strict=True)
    size = [(dynamic if side is None else side) * factor for side, dynamic, factor in sides]
    return tf.image.resize(x, size, method=method)


_OWN: dict[str, typing.Callable[..., typing.Any]] = {
    "__operators__.getitem": _get_item,
    "__operators__.add": lambda x, y: x + y,
    "image.upsample": _upsample,
}
