"""A Keras 1 configuration becomes one as Keras 2.2 would have written it.

One idea: a layer is its class and its arguments; tables rename both, a rule per class does what
renaming cannot. Nothing is executed, and no weight is needed: it runs without Keras. Meanings that
stayed the same in Keras 1 and 2, such as hard_sigmoid, are left to the next translation.

Layers that Keras 3 does not have become layers of `keras1_layers`.

Reference: Chollet et al., 2017, Keras 2.1.3, keras/legacy/interfaces.py; Keras 1.2.2, keras/layers,
https://github.com/keras-team/keras/tree/1.2.2.
"""

import collections
import typing
from collections.abc import Callable, Mapping, Sequence

from tf_finetune import findings
from tf_finetune.models.legacy import keras1_graph

Json = dict[str, typing.Any]
Shapes = Mapping[str, Sequence[tuple[int, ...]]]

OWN = "tf_finetune>"

# Argument of Keras 1 -> of Keras 2, in whichever layer it stands.
_ARGUMENTS = {
    "W_regularizer": "kernel_regularizer",
    "U_regularizer": "recurrent_regularizer",
    "b_regularizer": "bias_regularizer",
    "W_constraint": "kernel_constraint",
    "U_constraint": "recurrent_constraint",
    "b_constraint": "bias_constraint",
    "init": "kernel_initializer",
    "inner_init": "recurrent_initializer",
    "inner_activation": "recurrent_activation",
    "beta_init": "beta_initializer",
    "gamma_init": "gamma_initializer",
    "dropout_W": "dropout",
    "dropout_U": "recurrent_dropout",
    "bias": "use_bias",
    "border_mode": "padding",
    "dim_ordering": "data_format",
    "nb_filter": "filters",
    "subsample": "strides",
    "subsample_length": "strides",
    "atrous_rate": "dilation_rate",
    "filter_length": "kernel_size",
    "pool_length": "pool_size",
    "stride": "strides",
    "p": "rate",
    "sigma": "stddev",
    "length": "size",
}
# What Keras 2 has no use for: the shapes and types of inputs that the layer learns when built, and
# choices of speed.
_DROPPED = ("input_dim", "input_length", "input_dtype", "consume_less", "weights", "cache_enabled")

_INITIALIZERS: dict[str, Json] = {
    "uniform": {"class_name": "RandomUniform", "config": {"minval": -0.05, "maxval": 0.05}},
    "normal": {"class_name": "RandomNormal", "config": {"mean": 0.0, "stddev": 0.05}},
    "orthogonal": {"class_name": "Orthogonal", "config": {"gain": 1.1}},
    "identity": {"class_name": "Identity", "config": {"gain": 1.0}},
    "zero": {"class_name": "Zeros", "config": {}},
    "one": {"class_name": "Ones", "config": {}},
}
_SAME_INITIALIZERS = (
    "lecun_uniform",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
)
_DATA_FORMATS = {"th": "channels_first", "tf": "channels_last"}
_CONSTRAINTS = {
    "MaxNorm": {"m": "max_value", "axis": "axis"},
    "NonNeg": {},
    "UnitNorm": {"axis": "axis"},
    "MinMaxNorm": {"low": "min_value", "high": "max_value", "rate": "rate", "axis": "axis"},
}
_MERGES = {"sum": "Add", "mul": "Multiply", "ave": "Average", "max": "Maximum"}

# Class of Keras 1 -> of Keras 2; where it is not named here it kept its name.
_CLASSES = {
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "AtrousConvolution1D": "Conv1D",
    "AtrousConvolution2D": "Conv2D",
    "AtrousConv1D": "Conv1D",
    "AtrousConv2D": "Conv2D",
    "Deconvolution2D": "Conv2DTranspose",
    "Deconv2D": "Conv2DTranspose",
    "SeparableConvolution2D": "SeparableConv2D",
    "TimeDistributedDense": "Dense",
    "LocallyConnected1D": OWN + "LocallyConnected1D",
    "LocallyConnected2D": OWN + "LocallyConnected2D",
    "Highway": OWN + "Highway",
    "MaxoutDense": OWN + "MaxoutDense",
    "ParametricSoftplus": OWN + "ParametricSoftplus",
    "SReLU": OWN + "SReLU",
}
_DENSE = ("Dense", "MaxoutDense", "TimeDistributedDense", "SimpleRNN", "GRU", "LSTM")
_CONV1D = (
    "Convolution1D",
    "Conv1D",
    "AtrousConvolution1D",
    "AtrousConv1D",
    "LocallyConnected1D",
    "MaxPooling1D",
    "AveragePooling1D",
)
# Image layers by the end of their names; Keras 1 did not store the dim_ordering of all of them.
_IMAGE_ENDS = ("2D", "3D")
_SHARING = ("PReLU", "ParametricSoftplus", "SReLU")


def translate_config(config: Json, *, where: str = "", shapes: Shapes | None = None) -> Json:
    """Translates the configuration of a whole Keras 1 model.

    Args:
      config: {"class_name": ..., "config": ...} as stored by Keras 1.0 to 1.2.2.
      where: the file, for the errors' texts.
      shapes: layer name -> shapes of its stored arrays; only they tell the shared_axes of PReLU,
        ParametricSoftplus and SReLU, which Keras 1 did not store. None: nothing is shared.

    Returns:
      A new configuration in the form of Keras 2.2: every Sequential is {"name", "layers"}, a
      Sequential that begins with a Merge is a functional Model. Classes that start with
      "tf_finetune>" are those of `keras1_layers`.

    Raises:
      findings.RefusedError: a Merge by a function, which is code; border_mode "full"; a mode of
        BatchNormalization or Merge that Keras 1 did not have; a model of the class Graph.

    Reference: see the module.
    """
    with keras1_graph.errors_of(where):
        normal = keras1_graph.normalize_config(config)
        return _Translator(find_dim_ordering(normal), shapes or {}).container(normal)


def find_dim_ordering(config: Json) -> str:
    """What image layers without a stored dim_ordering use: what most of the others use.

    Args:
      config: of a model of Keras 1, normalized or not.

    Returns:
      "th" (channels first) or "tf" (channels last); "tf" where no layer says it.
    """
    counts = collections.Counter(_walk_values(config, "dim_ordering"))
    return "th" if counts["th"] > counts["tf"] else "tf"


def find_losses_dropped(config: Json) -> tuple[str, ...]:
    """Names what plays a part in training only and is not carried over.

    Args:
      config: as for `translate_config`.

    Returns:
      A line for the user per layer: Embedding's dropout and regularizers by eigenvalue.
    """
    lines = []
    for layer in keras1_graph.find_layers(keras1_graph.normalize_config(config)):
        name = findings.one_line(layer["name"])
        if layer["class_name"] == "Embedding" and layer["config"].get("dropout"):
            lines.append(f"'{name}': the dropout of whole words is left out (training only).")
        if "EigenvalueRegularizer" in _walk_values(layer["config"], "name"):
            lines.append(f"'{name}': EigenvalueRegularizer is left out (training only).")
    return tuple(lines)


class _Translator:
    """Holds what single layers do not say."""

    def __init__(self, dim_ordering: str, shapes: Shapes) -> None:
        self._dim_ordering = dim_ordering
        self._shapes = shapes

    def container(self, entry: Json) -> Json:
        config = dict(entry["config"])
        config["layers"] = [self.layer(layer) for layer in config["layers"]]
        return {**entry, "config": config}

    def layer(self, entry: Json) -> Json:
        if entry["class_name"] in keras1_graph.CONTAINERS:
            return _with_nodes(self.container(entry))
        class_name, config = self.plain(entry["class_name"], entry["config"])
        return _with_nodes({**entry, "class_name": class_name, "config": config})

    def plain(self, old_class: str, old: Json) -> tuple[str, Json]:
        config = {_ARGUMENTS.get(name, name): value for name, value in old.items()}
        if old_class.endswith(_IMAGE_ENDS):
            stored = config.get("data_format")
            ordering = stored if stored in _DATA_FORMATS else self._dim_ordering
            config["data_format"] = _DATA_FORMATS[ordering]
        for name, value in config.items():
            if name.endswith("_initializer"):
                config[name] = _initializer(value)
            elif name.endswith("_regularizer"):
                config[name] = _regularizer(value)
            elif name.endswith("_constraint"):
                config[name] = _constraint(value, channels_first=_is_first(old_class, config))
        if config.get("padding") == "full":
            raise _refuse_layer(old, old_class, "border_mode 'full'", "'valid' or 'same'")
        class_name, config = self._apply_rules(old_class, config)
        for name in _DROPPED:
            if not (old_class == "Embedding" and name in ("input_dim", "input_length")):
                config.pop(name, None)
        return class_name, config

    def _apply_rules(self, old_class: str, config: Json) -> tuple[str, Json]:
        class_name = _CLASSES.get(old_class, old_class)
        if old_class in _DENSE:
            config["units"] = config.pop("output_dim")
        if old_class in _CONV1D:
            for name in ("kernel_size", "pool_size", "strides", "dilation_rate"):
                if isinstance(config.get(name), int):
                    config[name] = [config[name]]
        if isinstance(config.get("dilation_rate"), int):
            config["dilation_rate"] = [config["dilation_rate"]] * 2
        if "nb_row" in config:
            config["kernel_size"] = [config.pop("nb_row"), config.pop("nb_col")]
        if old_class in _SHARING:
            config["shared_axes"] = self._shared_axes(config)
        if isinstance(config.get("layer"), dict):
            config["layer"] = self._wrapped(config["layer"])
        rule = _RULES.get(old_class)
        return rule(class_name, config) if rule else (class_name, config)

    def _wrapped(self, entry: Json) -> Json:
        if entry["class_name"] in keras1_graph.CONTAINERS:
            model = keras1_graph.normalize_config(entry)
            return self.container(model)
        class_name, config = self.plain(entry["class_name"], entry["config"])
        config.pop("batch_input_shape", None)
        return {"class_name": class_name, "config": config}

    def _shared_axes(self, config: Json) -> list[int] | None:
        shapes = self._shapes.get(config["name"], ())
        axes = [axis for axis, size in enumerate(shapes[0], 1) if size == 1] if shapes else []
        return axes or None


def _input_layer(class_name: str, config: Json) -> tuple[str, Json]:
    config["dtype"] = config.get("input_dtype", "float32")
    return class_name, config


def _embedding(class_name: str, config: Json) -> tuple[str, Json]:
    config["embeddings_initializer"] = config.pop("kernel_initializer", "uniform")
    config["embeddings_regularizer"] = config.pop("kernel_regularizer", None)
    config["embeddings_constraint"] = config.pop("kernel_constraint", None)
    config.pop("dropout", None)
    return class_name, config


def _recurrent(class_name: str, config: Json) -> tuple[str, Json]:
    if class_name != "SimpleRNN":
        config.setdefault("recurrent_activation", "hard_sigmoid")
    if class_name == "GRU":
        config["reset_after"] = False
    if class_name in ("LSTM", "ConvLSTM2D"):
        config["unit_forget_bias"] = config.pop("forget_bias_init", "one") == "one"
    config["use_bias"] = True
    return class_name, config


def _convolution_3d(class_name: str, config: Json) -> tuple[str, Json]:
    names = ("kernel_dim1", "kernel_dim2", "kernel_dim3")
    config["kernel_size"] = [config.pop(name) for name in names]
    return class_name, config


def _deconvolution(class_name: str, config: Json) -> tuple[str, Json]:
    config.pop("output_shape", None)
    return class_name, config


def _separable(class_name: str, config: Json) -> tuple[str, Json]:
    initializer = config.pop("kernel_initializer", "glorot_uniform")
    config["depthwise_initializer"] = config["pointwise_initializer"] = initializer
    return class_name, config


def _zero_padding(class_name: str, config: Json) -> tuple[str, Json]:
    padding = config["padding"]
    one_dimension = class_name == "ZeroPadding1D"
    names = ["left_pad", "right_pad"]
    if not one_dimension:
        names = ["top_pad", "bottom_pad", *names]
    if isinstance(padding, dict):
        padding = [padding.get(name, 0) for name in names]
    if one_dimension:
        config["padding"] = [padding] * 2 if isinstance(padding, int) else list(padding)
    elif class_name == "ZeroPadding2D" and len(padding) == 4:
        config["padding"] = [list(padding[:2]), list(padding[2:])]
    else:
        config["padding"] = [[size, size] for size in padding]
    return class_name, config


def _batch_normalization(class_name: str, config: Json) -> tuple[str, Json]:
    mode = config.pop("mode", 0)
    config.setdefault("epsilon", 1e-3)
    config.setdefault("momentum", 0.99)
    config.setdefault("axis", -1)
    if mode == 0:
        return class_name, config
    if mode == 1:
        config.pop("axis")
        config.pop("momentum")
        return OWN + "SampleNormalization", config
    if mode == 2:
        config.pop("momentum")
        return OWN + "CurrentBatchNormalization", config
    raise _refuse_layer(config, class_name, f"mode {mode}", "0, 1 or 2")


def _prelu(class_name: str, config: Json) -> tuple[str, Json]:
    config["alpha_initializer"] = config.pop("kernel_initializer", "zeros")
    return class_name, config


def _with_initial_values(class_name: str, config: Json) -> tuple[str, Json]:
    # The weights are read afterwards: how they began does not matter.
    names = ("alpha_init", "t_left_init", "a_left_init", "t_right_init", "a_right_init")
    for name in (*names, "beta_initializer", "beta_init"):
        config.pop(name, None)
    return class_name, config


def _flatten(class_name: str, config: Json) -> tuple[str, Json]:
    # Keras 1 flattened in memory order whatever the dim_ordering.
    config["data_format"] = "channels_last"
    return class_name, config


def _reshape(class_name: str, config: Json) -> tuple[str, Json]:
    if "target_shape" not in config:
        config["target_shape"] = config.pop("dims")
    return class_name, config


def _merge(class_name: str, config: Json) -> tuple[str, Json]:
    mode, kept = config.get("mode"), {"name": config["name"]}
    if config.get("mode_type", "raw") != "raw":
        raise keras1_graph.refuse(
            f"layer '{findings.one_line(config['name'])}' is a Merge whose mode is a function "
            f"({findings.one_line(config['mode_type'])}), which is stored Python code and is never "
            "run. Build the model with a plain mode (sum, concat, ...) and save it again."
        )
    if mode in _MERGES:
        return _MERGES[mode], kept
    if mode == "concat":
        return "Concatenate", {**kept, "axis": config.get("concat_axis", -1)}
    if mode == "dot":
        return "Dot", {**kept, "axes": config.get("dot_axes", -1), "normalize": False}
    if mode == "cos":
        return OWN + "CosineMerge", {**kept, "axes": config.get("dot_axes", -1)}
    raise _refuse_layer(
        config, class_name, f"mode {mode!r}", "sum, mul, concat, ave, cos, dot, max"
    )


_RULES: dict[str, Callable[[str, Json], tuple[str, Json]]] = {
    "InputLayer": _input_layer,
    "Embedding": _embedding,
    "SimpleRNN": _recurrent,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "ConvLSTM2D": _recurrent,
    "Convolution3D": _convolution_3d,
    "Conv3D": _convolution_3d,
    "Deconvolution2D": _deconvolution,
    "Deconv2D": _deconvolution,
    "SeparableConvolution2D": _separable,
    "SeparableConv2D": _separable,
    "ZeroPadding1D": _zero_padding,
    "ZeroPadding2D": _zero_padding,
    "ZeroPadding3D": _zero_padding,
    "BatchNormalization": _batch_normalization,
    "PReLU": _prelu,
    "ParametricSoftplus": _with_initial_values,
    "SReLU": _with_initial_values,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Merge": _merge,
}


def _with_nodes(entry: Json) -> Json:
    if "inbound_nodes" not in entry:
        return entry
    nodes = [[[*source[:3], {}] for source in node] for node in entry["inbound_nodes"]]
    return {**entry, "inbound_nodes": nodes}


def _initializer(value: typing.Any) -> typing.Any:
    # A name of the author's own function is replaced: the stored weights overwrite what it made.
    if value in _INITIALIZERS:
        return _INITIALIZERS[value]
    return value if value in _SAME_INITIALIZERS else "glorot_uniform"


def _regularizer(value: typing.Any) -> Json | None:
    if not isinstance(value, dict) or value.get("name") == "EigenvalueRegularizer":
        return None
    rates = {name: float(value.get(name) or 0.0) for name in ("l1", "l2")}
    return {"class_name": "L1L2", "config": rates}


def _constraint(value: typing.Any, *, channels_first: bool) -> Json | None:
    if not isinstance(value, dict) or value.get("name") not in _CONSTRAINTS:
        return None
    names = _CONSTRAINTS[value["name"]]
    config = {new: value[old] for old, new in names.items() if old in value}
    if channels_first and "axis" in config:
        # The axes of (filters, channels, rows, columns) in (rows, columns, channels, filters).
        axes = config["axis"] if isinstance(config["axis"], list) else [config["axis"]]
        config["axis"] = sorted((3, 2, 0, 1)[axis] for axis in axes)
    return {"class_name": value["name"], "config": config}


def _is_first(old_class: str, config: Json) -> bool:
    return "Conv" in old_class and "nb_row" in config and config["data_format"] == "channels_first"


def _refuse_layer(config: Json, class_name: str, has: str, expected: str) -> findings.RefusedError:
    return keras1_graph.refuse(
        f"layer '{findings.one_line(config.get('name'))}' ({class_name}) has "
        f"{findings.one_line(has)}, which Keras 3 cannot do. Expected {expected}: build the model "
        "so in Keras 1, load its weights and save it again."
    )


def _walk_values(value: typing.Any, key: str) -> list[typing.Any]:
    if isinstance(value, list):
        return [found for element in value for found in _walk_values(element, key)]
    if not isinstance(value, dict):
        return []
    own = [value[key]] if isinstance(value.get(key), str) else []
    return own + [found for element in value.values() for found in _walk_values(element, key)]
