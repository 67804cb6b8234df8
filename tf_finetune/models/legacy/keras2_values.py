"""The values inside stored configurations: what JSON made of NumPy, tuples and data types.

Also the shapes that Keras 3 gives to objects and tensors in a configuration.
"""

import typing

Json = dict[str, typing.Any]


class UntranslatableError(ValueError):
    """A layer says what Keras 3 cannot express; the text continues "layer 'x' ..."."""


def builtin(module: str, class_name: str, config: Json) -> Json:
    """An object of Keras in a Keras 3 configuration.

    Args:
      module: for example "keras.layers".
      class_name: for example "Dense".
      config: its arguments.

    Returns:
      The object.
    """
    return {
        "module": module,
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }


def own(module: str, class_name: str, config: Json) -> Json:
    """An object of this package in a Keras 3 configuration.

    Args:
      module: for example "private_layers", of tf_finetune.models.
      class_name: registered under the package name tf_finetune.
      config: its arguments.

    Returns:
      The object.
    """
    return {
        "module": f"tf_finetune.models.{module}",
        "class_name": class_name,
        "config": config,
        "registered_name": f"tf_finetune>{class_name}",
    }


def own_function(name: str) -> Json:
    """A function of this package in a Keras 3 configuration, for example as an activation.

    Args:
      name: registered under the package name tf_finetune.

    Returns:
      The object.
    """
    return {
        "module": "builtins",
        "class_name": "function",
        "config": f"tf_finetune>{name}",
        "registered_name": "function",
    }


def tensor(layer: str, call: int, output: int) -> Json:
    """A tensor in a Keras 3 configuration.

    Args:
      layer: name of the layer that made it.
      call: which call of that layer, from 0.
      output: which of its outputs, from 0.

    Returns:
      The object; Keras looks at its history alone.
    """
    history = [layer, call, output]
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": [], "dtype": "float32", "keras_history": history},
    }


def is_tensor(value: typing.Any) -> bool:
    """Whether a value was made by `tensor`.

    Args:
      value: part of a call's arguments.

    Returns:
      True for a tensor.
    """
    return isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"


def decode(value: typing.Any) -> typing.Any:
    """Unwraps what the writers of JSON made of tuples, shapes, NumPy and tensors.

    Args:
      value: any part of a stored configuration.

    Returns:
      Plain JSON; other objects ({"class_name", "config"}) and slices stay.
    """
    if isinstance(value, list):
        return [decode(element) for element in value]
    if not isinstance(value, dict):
        return value
    name = value.get("class_name")
    if name in ("__tuple__", "TensorShape", "ListWrapper", "_ListWrapper", "_TupleWrapper"):
        inner = value.get("items", value.get("config", value.get("value")))
        return decode(inner)
    if name in ("__numpy__", "__ndarray__", "__tensor__", "ndarray"):
        inner = value.get("config", value.get("value"))
        return decode(inner["value"] if isinstance(inner, dict) else inner)
    if set(value) == {"type", "value"} and value["type"] in ("ndarray", "numpy.ndarray", "float"):
        return decode(value["value"])
    return {key: decode(element) for key, element in value.items()}


def dtype_name(value: typing.Any) -> str | None:
    """The name of a stored data type or policy.

    Args:
      value: a name, a {"class_name": "Policy"} of any version, or None.

    Returns:
      For example "float32" or "mixed_float16"; None where the file leaves it open.
    """
    if isinstance(value, dict):
        config = value.get("config")
        value = config.get("name") if isinstance(config, dict) else config
    if not isinstance(value, str) or value in ("infer", "infer_float32", "_infer"):
        return None
    value = value.removeprefix("<dtype: '").removesuffix("'>")
    return value.removesuffix("_ref")
