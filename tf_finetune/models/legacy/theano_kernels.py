"""Convolution kernels that were trained under Theano, turned for TensorFlow.

One idea: Theano convolves, TensorFlow correlates: the same kernel, rotated by 180 degrees in space.
Keras 2 stored the backend; Keras 1 did not, but TensorFlow ends the name of every array with ":0"
and Theano does not.

Depthwise kernels are left alone: Keras's own code rotated them on the way into Theano.

Reference: Chollet et al., 2017, Keras 2.2.4, keras/engine/saving.py (_need_convert_kernel),
keras/utils/conv_utils.py (convert_kernel) and keras/backend/theano_backend.py
(_preprocess_conv2d_depthwise_kernel), https://github.com/keras-team/keras/tree/2.2.4.
"""

import typing
from collections.abc import Sequence

import numpy as np

from tf_finetune.models.legacy import keras1_config
from tf_finetune.models.stored import stored_weights

Json = dict[str, typing.Any]

# Class in Keras 2 -> its arrays that are convolution kernels.
_KERNELS = {
    "Conv1D": ("kernel",),
    "Conv2D": ("kernel",),
    "Conv3D": ("kernel",),
    "Convolution1D": ("kernel",),
    "Convolution2D": ("kernel",),
    "Convolution3D": ("kernel",),
    "Conv2DTranspose": ("kernel",),
    "Conv3DTranspose": ("kernel",),
    "ConvLSTM2D": ("kernel", "recurrent_kernel"),
}
_KNOWN = ("kernel", "recurrent_kernel", "bias")
_SIZES = (
    *("strides", "kernel_size", "subsample", "subsample_length", "filter_length"),
    *("nb_row", "nb_col", "kernel_dim1", "kernel_dim2", "kernel_dim3"),
)
_POSITIONS = {"kernel": 0, "recurrent_kernel": 1}


def find_theano(
    layers: Sequence[stored_weights.StoredLayer], config: Json, *, version: str, backend: str
) -> tuple[bool, str]:
    """Decides whether Theano wrote a file's kernels.

    Args:
      layers: as read from the file.
      config: the stored configuration.
      version: of Keras, for example "1.2.2".
      backend: "tensorflow", "theano", "cntk", or "" where the file does not say.

    Returns:
      (True where its kernels must be rotated, a line for the user that says why, "" where the
      question does not arise: no convolutions, or a backend other than Theano is stored).
    """
    if not _has_convolution(config):
        return False, ""
    if backend:
        rotate = backend == "theano"
        return rotate, _rotated("the file says so", config) if rotate else ""
    paths = [path for layer in layers for path, _ in layer.weights]
    if any(path.endswith(":0") for path in paths):
        return False, ""
    if paths and not all(path.startswith("param_") for path in paths):
        return True, _rotated("its arrays are named without ':0'", config)
    if version.startswith("1") and keras1_config.find_dim_ordering(config) == "th":
        return True, _rotated("only dim_ordering='th' hints at its backend", config)
    return False, (
        "The file does not say whether Theano wrote it: its convolution kernels are taken as "
        "TensorFlow's."
    )


def rotate_kernels(
    layers: Sequence[stored_weights.StoredLayer], config: Json
) -> list[stored_weights.StoredLayer]:
    """Rotates the convolution kernels of a file written under Theano.

    Args:
      layers: arrays with the names and layout of Keras 2, see `keras1_weights.convert_weights`.
      config: the configuration in the form of Keras 2.

    Returns:
      The layers; the kernels of convolutions are reversed in their spatial axes, also those of
      layers that are wrapped or in nested models.
    """
    kinds: dict[str, str] = {}
    _find_kinds(config, kinds)
    return [_rotate_layer(layer, kinds) for layer in layers]


def _rotate_layer(
    layer: stored_weights.StoredLayer, kinds: dict[str, str]
) -> stored_weights.StoredLayer:
    weights = []
    for index, (path, array) in enumerate(layer.weights):
        *scopes, parameter = path.removesuffix(":0").split("/")
        # The innermost layer that the path names; "conv2d_1_1" is Theano's second "conv2d_1".
        owner = next((name for name in reversed(scopes) if name in kinds), layer.name)
        kernels = _KERNELS.get(kinds.get(owner, ""), ())
        plain = owner == layer.name and len(layer.weights) <= 3
        named = parameter in kernels
        placed = plain and index in [_POSITIONS[name] for name in kernels]
        if (named or (parameter not in _KNOWN and placed)) and array.ndim >= 3:
            array = np.flip(array, axis=tuple(range(array.ndim - 2)))
        weights.append((path, array))
    return stored_weights.StoredLayer(layer.name, tuple(weights))


def _find_kinds(value: typing.Any, kinds: dict[str, str]) -> None:
    # Layer name -> its class; of a wrapper, the wrapped layer's.
    if isinstance(value, list):
        for element in value:
            _find_kinds(element, kinds)
    if not isinstance(value, dict):
        return
    config = value.get("config")
    if isinstance(value.get("class_name"), str) and isinstance(config, dict):
        name, inner = config.get("name") or value.get("name"), config.get("layer")
        class_name = value["class_name"]
        if isinstance(inner, dict):
            class_name = str(inner.get("class_name"))
        if isinstance(name, str) and (class_name in _KERNELS or name not in kinds):
            kinds[name] = class_name
    for element in value.values():
        _find_kinds(element, kinds)


def _has_convolution(value: typing.Any) -> bool:
    if isinstance(value, list):
        return any(_has_convolution(element) for element in value)
    if not isinstance(value, dict):
        return False
    class_name = value.get("class_name")
    if isinstance(class_name, str) and ("Conv" in class_name or "Deconv" in class_name):
        return True
    return any(_has_convolution(element) for element in value.values())


def _rotated(why: str, config: Json) -> str:
    text = (
        "Convolution kernels were rotated by 180 degrees: the model was trained under Theano "
        f"({why})."
    )
    if _pads_otherwise(config):
        text += (
            " Theano padded 'same' otherwise than TensorFlow where strides or kernels are even: "
            "outputs differ a little from those under Theano, as in Keras 2."
        )
    return text


def _pads_otherwise(value: typing.Any) -> bool:
    if isinstance(value, list):
        return any(_pads_otherwise(element) for element in value)
    if not isinstance(value, dict):
        return False
    if "same" in (value.get("padding"), value.get("border_mode")):
        sizes = [value.get(name) for name in _SIZES]
        flat = [size for part in sizes for size in (part if isinstance(part, list) else [part])]
        if any(isinstance(size, int) and size % 2 == 0 for size in flat):
            return True
    return any(_pads_otherwise(element) for element in value.values())
