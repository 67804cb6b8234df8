"""Configurations that Keras 3 wrote into .h5 files, brought into the form of its .keras files.

One idea: in an .h5 an object is stored by its class alone, so Keras looks for `x / 127.5` (the
operation TrueDivide) among its layers, and takes `x + y` for the layer Add. A .keras file names the
module of each object too; here it is added, for operations that are in a table alone.

Reference: keras/src/legacy/saving/serialization.py and keras/src/saving/serialization_lib.py of
Keras 3.15.
"""

import typing

from tf_finetune.trust import keras_classes, keras_operations

Json = dict[str, typing.Any]

_MODELS = {"Functional": "keras.src.models.functional", "Sequential": "keras"}
_LAYERS = keras_classes.LAYERS.union(keras_classes.EXCLUDED_LAYERS)
# Layers of which Keras exports the class under another name than Python's.
_EXPORTED = {"GroupedQueryAttention": "GroupQueryAttention"}
_OPERATIONS = "keras.src.ops"
# Operations that Keras does not also offer in the package itself.
_IMAGE_TEXT = """
AffineTransform CropImages ElasticTransform ExtractPatches GaussianBlur HSVToRGB MapCoordinates
PadImages PerspectiveTransform RGBToGrayscale RGBToHSV Resize SSIM ScaleAndTranslate SobelEdges
"""
_INNER_MODULES = {
    "Rearrange": f"{_OPERATIONS}.einops",
    **dict.fromkeys(_IMAGE_TEXT.split(), f"{_OPERATIONS}.image"),
}


def has_operations(config: typing.Any) -> bool:
    """Whether a model calls operations of keras.ops between its layers.

    Args:
      config: as an .h5 of Keras 3 has it.

    Returns:
      True if any is stored without its module, in nested models too.
    """
    if isinstance(config, list):
        return any(has_operations(element) for element in config)
    if not isinstance(config, dict):
        return False
    return _is_operation(config) or any(has_operations(value) for value in config.values())


def add_modules(config: typing.Any) -> typing.Any:
    """Names the module of every layer, model and operation.

    Args:
      config: as an .h5 of Keras 3 has it.

    Returns:
      A copy in the form of .keras files.
    """
    if isinstance(config, list):
        return [add_modules(element) for element in config]
    if not isinstance(config, dict):
        return config
    new = {key: add_modules(value) for key, value in config.items()}
    name = config.get("class_name")
    if not isinstance(name, str) or not isinstance(config.get("config"), dict):
        return new
    if "module" in config or name.startswith("__"):
        return new
    module: str | None
    name = new["class_name"] = _EXPORTED.get(name, name)
    if _is_operation(config):
        module = _INNER_MODULES.get(name, _OPERATIONS)
    else:
        module = _MODELS.get(name, "keras.layers" if name in _LAYERS else None)
    return {**new, "module": module, "registered_name": name if module is None else None}


def _is_operation(stored: Json) -> bool:
    # Layers of the same name (Add, Softmax) tell whether they are trainable.
    config = stored.get("config")
    return (
        "module" not in stored
        and "inbound_nodes" in stored
        and stored.get("class_name") in keras_operations.OPERATIONS
        and isinstance(config, dict)
        and "trainable" not in config
    )
