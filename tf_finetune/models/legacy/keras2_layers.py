"""The arguments of one Keras 2 layer become those of Keras 3.

One idea: most arguments kept name and meaning, so a layer keeps what it stores except what the
tables name: removed arguments (dropped where they cannot change a prediction, refused where they
do), renamed ones, and classes whose work another class does now.

Reference: `get_config` of every layer of keras 2.0.0 to 2.15 and tf_keras 2.21;
https://github.com/keras-team/keras/tree/2.0.0, https://github.com/keras-team/tf-keras.
"""

import typing
from collections.abc import Callable

from tf_finetune import findings
from tf_finetune.models.legacy import keras2_arguments as arguments
from tf_finetune.models.legacy import keras2_values as values

Json = dict[str, typing.Any]
InnerLayer = Callable[[Json], Json]

_LAYERS = "keras.layers"

# Class of any version -> class of Keras 3; suffixes V1 and V2 and module paths are cut before.
_CLASSES = {
    "CuDNNLSTM": "LSTM",
    "CuDNNGRU": "GRU",
    "UnifiedLSTM": "LSTM",
    "UnifiedGRU": "GRU",
    "SyncBatchNormalization": "BatchNormalization",
    "RandomCrop": "Resizing",
    "NormalizationLayer": "Normalization",
    "AtrousConvolution2D": "Conv2D",
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "Deconvolution2D": "Conv2DTranspose",
    "Convolution2DTranspose": "Conv2DTranspose",
    "Convolution3DTranspose": "Conv3DTranspose",
    "SeparableConvolution1D": "SeparableConv1D",
    "SeparableConvolution2D": "SeparableConv2D",
    "MaxPool1D": "MaxPooling1D",
    "MaxPool2D": "MaxPooling2D",
    "MaxPool3D": "MaxPooling3D",
    "AvgPool1D": "AveragePooling1D",
    "AvgPool2D": "AveragePooling2D",
    "AvgPool3D": "AveragePooling3D",
    # Of old copies of keras-applications, registered by hand when the model was loaded.
    "FixedDropout": "Dropout",
    "Addons>GroupNormalization": "GroupNormalization",
}
# Layers of ours, for classes that Keras 3 lacks: class -> (module, class).
_OWN = {
    "LayerScale": ("private_layers", "LayerScale"),
    "StochasticDepth": ("private_layers", "StochasticDepth"),
    "CustomScaleLayer": ("private_layers", "ScaledAdd"),
    "ThresholdedReLU": ("private_layers", "ThresholdedReLU"),
    "LocallyConnected1D": ("locally_connected", "LocallyConnected1D"),
    "LocallyConnected2D": ("locally_connected", "LocallyConnected2D"),
}
_LEGACY_LAYERS = "keras._legacy.layers"
_LEGACY = ("RandomHeight", "RandomWidth")

# Arguments that Keras 3 lacks and no prediction depends on.
_DROPPED = frozenset(
    {
        "adjustment",
        "batch_input_shape",
        "conv_op",
        "dynamic",
        "force_generator",
        "fused",
        "has_input_vocabulary",
        "implementation",
        "input_dtype",
        "input_length",
        "input_shape",
        "input_spec",
        "key_shape",
        "num_constants",
        "query_shape",
        "rng_type",
        "softmax_robust_masking",
        "time_major",
        "value_shape",
        "virtual_batch_size",
        "vocabulary_size",
    }
)
_KERNEL = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
_DROPPED_BY_CLASS: dict[str, tuple[str, ...]] = {
    "Conv1DTranspose": ("groups",),
    "Conv2DTranspose": ("groups",),
    "Conv3DTranspose": ("groups",),
    "DepthwiseConv1D": ("groups", "filters", *_KERNEL),
    "DepthwiseConv2D": ("groups", "filters", *_KERNEL),
    "SeparableConv1D": ("groups", *_KERNEL),
    "SeparableConv2D": ("groups", *_KERNEL),
    "SpatialDropout1D": ("noise_shape", "trainable"),
    "SpatialDropout2D": ("noise_shape", "trainable"),
    "SpatialDropout3D": ("noise_shape", "trainable"),
    "Discretization": ("trainable",),
    "Attention": ("causal",),
    "AdditiveAttention": ("causal",),
    "Embedding": ("sparse",),
    "GRU": ("return_runtime",),
    "LSTM": ("return_runtime",),
}
# Values that would change what the layer does: (argument, classes or None for all, values that
# do not).
_REFUSED: tuple[tuple[str, tuple[str, ...] | None, tuple[typing.Any, ...]], ...] = (
    ("implementation", ("LocallyConnected1D", "LocallyConnected2D"), (None, 1)),
    ("groups", ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), (None, 1)),
)
# Arguments whose None means the default of Keras 3.
_NONE_MEANS_DEFAULT = frozenset({"activity_regularizer", "data_format", "noise_shape", "dtype"})
_RENAMED = {"LeakyReLU": {"alpha": "negative_slope"}}

_LOOKUPS = ("StringLookup", "IntegerLookup", "TextVectorization")
# Classes that the translation of Keras 1 made.
_OURS = "tf_finetune>"
_PREFIXES = ("Custom>", "Keras>", "efficientnet>", "keras_applications>")

# Every layer of Keras 3.15 that Keras 2 has too, by the same name.
_KERAS3_TEXT = """
Activation ActivityRegularization Add AdditiveAttention AlphaDropout Attention Average
AveragePooling1D AveragePooling2D AveragePooling3D BatchNormalization Bidirectional
CategoryEncoding CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D
Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D Cropping2D Cropping3D Dense
DepthwiseConv1D DepthwiseConv2D Discretization Dot Dropout ELU EinsumDense Embedding Flatten GRU
GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
GroupNormalization HashedCrossing Hashing Identity InputLayer IntegerLookup LSTM LSTMCell Lambda
LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D Maximum Minimum
MultiHeadAttention Multiply Normalization PReLU Permute RNN RandomBrightness RandomContrast
RandomFlip RandomRotation RandomTranslation RandomZoom ReLU RepeatVector Rescaling Reshape
Resizing SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax SpatialDropout1D
SpatialDropout2D SpatialDropout3D SpectralNormalization StackedRNNCells StringLookup Subtract
TextVectorization TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D
ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""
_KERAS3 = frozenset(_KERAS3_TEXT.split())


def plain_class(class_name: str) -> str | None:
    """The class that a stored class name means, whatever version and module wrote it.

    Args:
      class_name: for example "BatchNormalizationV1" or "Custom>FixedDropout".

    Returns:
      A class of Keras 3 or a key of the tables of ours; None for a custom class.
    """
    name = class_name
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    for candidate in (name, name.removesuffix("V1"), name.removesuffix("V2")):
        found = _CLASSES.get(candidate, candidate)
        if found in _KERAS3 or found in _OWN or found in _LEGACY:
            return found
    return None


def translate_layer(stored: Json, *, name: str, version: str, inner_layer: InnerLayer) -> Json:
    """Translates a layer that is no model.

    Args:
      stored: {"class_name", "config"}.
      name: of the layer in the new configuration.
      version: the Keras version that wrote it.
      inner_layer: translates a layer inside a wrapper, or a cell.

    Returns:
      An object of a Keras 3 configuration.

    Raises:
      values.UntranslatableError: an argument says what Keras 3 cannot express.
    """
    if stored["class_name"] == "Lambda":
        return values.builtin(_LAYERS, "Lambda", _lambda_config(stored["config"], name))
    if _is_time_major(stored):
        inner = translate_layer(
            _batch_major(stored), name=name, version=version, inner_layer=inner_layer
        )
        return values.own("private_layers", "TimeMajor", {"name": name, "layer": inner})
    class_name = plain_class(stored["class_name"])
    if stored["class_name"].startswith(_OURS):
        class_name = stored["class_name"].removeprefix(_OURS)
    if class_name is None:
        return _custom_layer(stored, name)
    config = stored["config"]
    for argument, classes, harmless in _REFUSED:
        if (classes is None or class_name in classes) and config.get(argument) not in harmless:
            raise values.UntranslatableError(
                f"has {argument}={findings.one_line(str(config[argument]))}, which Keras 3 does "
                f"not have. Expected {argument}={harmless[-1]}."
            )
    dropped = _DROPPED | set(_DROPPED_BY_CLASS.get(class_name, ()))
    renamed = _RENAMED.get(class_name, {})
    new = {
        renamed.get(key, key): arguments.translate_value(key, value, inner_layer=inner_layer)
        for key, value in config.items()
        if key not in dropped and not (value is None and key in _NONE_MEANS_DEFAULT)
    }
    new["name"] = name
    _translate_dtype(class_name, new)
    if class_name == "Bidirectional":
        _split_directions(new)
    if class_name in _RULES:
        _RULES[class_name](new, config, stored["class_name"], version)
    if class_name in _OWN:
        return values.own(*_OWN[class_name], new)
    if class_name in _REPLACED:
        replaced = _REPLACED[class_name](new)
        if replaced is not None:
            return replaced
    if stored["class_name"].startswith(_OURS):
        return values.own("keras1_layers", class_name, new)
    return values.builtin(_LEGACY_LAYERS if class_name in _LEGACY else _LAYERS, class_name, new)


def _custom_layer(stored: Json, name: str) -> Json:
    registered = stored.get("registered_name") or stored["class_name"]
    config = stored.get("config")
    config = {**config, "name": name} if isinstance(config, dict) else {"name": name}
    for key in ("batch_input_shape", "batch_shape"):
        config.pop(key, None)
    if "dtype" in config:
        config["dtype"] = values.dtype_name(config["dtype"])
    return {
        "module": None,
        "class_name": stored["class_name"].rpartition(">")[2],
        "config": config,
        "registered_name": registered,
    }


def _translate_dtype(class_name: str, config: Json) -> None:
    dtype = values.dtype_name(config.pop("dtype", None))
    if dtype is None:
        return
    # Keras 2 stored the data type of the layer's input there when it was the first of a model.
    if class_name == "InputLayer" or "float" in dtype:
        config["dtype"] = dtype


def _lambda_config(config: Json, name: str) -> Json:
    new = {"name": name, "function": _lambda_function(config.get("function"))}
    for key in ("output_shape", "arguments", "trainable"):
        if config.get(key) is not None:
            new[key] = values.decode(config[key])
    if config.get("output_shape_type") not in (None, "raw"):
        new["output_shape"] = _lambda_function(config["output_shape"])
    return new


def _lambda_function(function: typing.Any) -> typing.Any:
    if isinstance(function, list):
        code, defaults, closure = [*function, None, None][:3]
        config = {"code": code, "defaults": values.decode(defaults), "closure": closure}
        return {"class_name": "__lambda__", "config": config}
    if isinstance(function, str):
        return {
            "module": "builtins",
            "class_name": "function",
            "config": function,
            "registered_name": "function",
        }
    return function


def _input_rule(new: Json, stored: Json, class_name: str, version: str) -> None:
    shape = stored.get("batch_input_shape", stored.get("batch_shape"))
    new["batch_shape"] = values.decode(shape)
    for flag in ("sparse", "ragged", "optional"):
        if not new.get(flag):
            new.pop(flag, None)
    new.pop("input_tensor", None)
    new.pop("trainable", None)


def _recurrent_rule(new: Json, stored: Json, class_name: str, version: str) -> None:
    if class_name.startswith("CuDNN"):
        new["activation"] = "tanh"
        new["recurrent_activation"] = "sigmoid"
    elif "recurrent_activation" not in new and _is_before_2_3(version):
        new["recurrent_activation"] = values.own_function("hard_sigmoid")


def _gru_rule(new: Json, stored: Json, class_name: str, version: str) -> None:
    _recurrent_rule(new, stored, class_name, version)
    new["reset_after"] = class_name.startswith("CuDNN") or bool(stored.get("reset_after"))


def _split_directions(config: Json) -> None:
    # Keras 2 made the second direction the opposite of the first, whichever that was; Keras 3 needs
    # to be told where the first runs backwards.
    inner = config["layer"]["config"]
    if config.get("backward_layer") is None and inner.get("go_backwards"):
        opposite = {**inner, "go_backwards": False, "name": f"backward_{inner['name']}"}
        config["backward_layer"] = {**config["layer"], "config": opposite}


def _conv_lstm_rule(new: Json, stored: Json, class_name: str, version: str) -> None:
    new.setdefault("recurrent_activation", values.own_function("hard_sigmoid"))


def _batch_normalization_rule(new: Json, stored: Json, class_name: str, version: str) -> None:
    axis = new.get("axis")
    if isinstance(axis, list):
        if len(axis) != 1:
            raise values.UntranslatableError(
                f"normalizes over the axes {axis}, which BatchNormalization of Keras 3 does not "
                "have. Expected one axis."
            )
        new["axis"] = axis[0]
    if class_name == "SyncBatchNormalization":
        new["synchronized"] = True
    for key in ("renorm", "renorm_clipping", "renorm_momentum"):
        if not stored.get("renorm"):
            new.pop(key, None)


def _lookup_rule(new: Json, stored: Json, class_name: str, version: str) -> None:
    vocabulary = stored.get("vocabulary")
    if vocabulary is None or isinstance(vocabulary, str):
        raise values.UntranslatableError(
            "has a vocabulary that the file does not hold. Expected the words in its "
            "configuration: make the layer with vocabulary=[...], or export the model as a "
            "SavedModel."
        )
    new.pop("dtype", None)


def _discretization_rule(new: Json, stored: Json, class_name: str, version: str) -> None:
    if stored.get("bin_boundaries") is None:
        raise values.UntranslatableError(
            "learned its bins from data, and Keras 2 stored a summary of that data in their place. "
            "Make the layer with bin_boundaries=[...], or export the model as a SavedModel."
        )


def _resizing_rule(new: Json, stored: Json, class_name: str, version: str) -> None:
    if class_name.endswith("RandomCrop"):
        # What Keras 2 does outside training, where Keras 3's RandomCrop changes nothing.
        new.pop("seed", None)
        new["crop_to_aspect_ratio"] = True


def _stochastic_depth_rule(new: Json, stored: Json, class_name: str, version: str) -> None:
    if "survival_probability" in new:
        raise values.UntranslatableError(
            "is StochasticDepth of TensorFlow Addons, which has no counterpart here."
        )


def _is_time_major(stored: Json) -> bool:
    config = stored["config"]
    inner = config.get("layer") if stored["class_name"] == "Bidirectional" else stored
    return isinstance(inner, dict) and bool((inner.get("config") or {}).get("time_major"))


def _batch_major(stored: Json) -> Json:
    config = {**stored["config"], "time_major": False}
    for key in ("layer", "backward_layer"):
        if isinstance(config.get(key), dict):
            config[key] = _batch_major(config[key])
    return {**stored, "config": config}


def _causal_separable(new: Json) -> Json | None:
    if new.get("padding") != "causal":
        return None
    return values.own("private_layers", "CausalSeparableConv1D", {**new, "padding": "valid"})


def _filtered_images(new: Json) -> Json | None:
    # Filters of tf.image.resize that Keras 3 does not offer.
    if new.get("interpolation") not in ("gaussian", "mitchellcubic"):
        return None
    changed = next((key for key in _OF_RESIZING if new.get(key)), None)
    if new.get("data_format") == "channels_first" or changed is not None:
        what = "channels_first" if changed is None else changed
        raise values.UntranslatableError(
            f"has interpolation={new['interpolation']} with {what}, which Keras 3 does not have. "
            "Expected interpolation=bicubic."
        )
    keywords: Json = {"method": new["interpolation"]}
    if "size" in new:
        size = new["size"]
        keywords["factors"] = [size, size] if isinstance(size, int) else list(size)
    else:
        keywords["size"] = [new["height"], new["width"]]
    config: Json = {key: new[key] for key in ("name", "trainable", "dtype") if key in new}
    config["function"] = "image.upsample" if "size" in new else "image.resize"
    config["arguments"] = {"args": [{"tensor": 0}], "kwargs": keywords}
    return values.own("tensor_operations", "TensorOperation", config)


def _is_before_2_3(version: str) -> bool:
    if version.endswith("-tf"):
        return False
    parts = version.split(".")
    return parts[0] == "1" or (parts[0] == "2" and len(parts) > 1 and parts[1] in ("0", "1", "2"))


# Classes of which some arguments need another layer.
_REPLACED: dict[str, Callable[[Json], Json | None]] = {
    "SeparableConv1D": _causal_separable,
    "Resizing": _filtered_images,
    "UpSampling2D": _filtered_images,
}
_OF_RESIZING = ("crop_to_aspect_ratio", "pad_to_aspect_ratio")
_Rule = Callable[[Json, Json, str, str], None]
_RULES: dict[str, _Rule] = {
    "InputLayer": _input_rule,
    "LSTM": _recurrent_rule,
    "LSTMCell": _recurrent_rule,
    "GRU": _gru_rule,
    "GRUCell": _gru_rule,
    "ConvLSTM1D": _conv_lstm_rule,
    "ConvLSTM2D": _conv_lstm_rule,
    "ConvLSTM3D": _conv_lstm_rule,
    "BatchNormalization": _batch_normalization_rule,
    "Discretization": _discretization_rule,
    "Resizing": _resizing_rule,
    "StochasticDepth": _stochastic_depth_rule,
    **dict.fromkeys(_LOOKUPS, _lookup_rule),
}
