"""The arrays of a Keras 1 file become those that Keras 2 would have stored.

One idea: Keras 1 named an array LAYER_PARAMETER; what it is called tells more than where it stands.
Where names are missing, the order of the class decides.

Reference: Chollet et al., 2017, Keras 2.1.3, keras/engine/topology.py
(preprocess_weights_for_loading); Keras 1.2.2, keras/layers,
https://github.com/keras-team/keras/tree/1.2.2.
"""

import re
import typing
from collections.abc import Callable, Sequence

import numpy as np

from tf_finetune import findings
from tf_finetune.models.legacy import keras1_config, keras1_graph
from tf_finetune.models.stored import stored_weights

Json = dict[str, typing.Any]
# Parameter of Keras 1, for example "W_i" -> its array.
Arrays = dict[str, np.ndarray]
Named = tuple[tuple[str, np.ndarray], ...]

_LSTM = tuple(f"{kind}_{gate}" for gate in "icfo" for kind in "WUb")
_GRU = tuple(f"{kind}_{gate}" for gate in "zrh" for kind in "WUb")
_JOINED = ("W", "U", "b")
_PLAIN = ("W", "b")
_STATISTICS = ("gamma", "beta", "running_mean", "running_std")

# Class -> the parameters of Keras 1 in the order they were stored in; the number of arrays tells
# which row holds (a layer without bias, a recurrent one with consume_less="gpu").
_PARAMETERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "Embedding": (("W",),),
    "SimpleRNN": (_JOINED,),
    "LSTM": (_LSTM, _JOINED),
    "GRU": (_GRU, _JOINED),
    "ConvLSTM2D": (_LSTM,),
    "BatchNormalization": (_STATISTICS,),
    "SeparableConvolution2D": (
        ("depthwise_kernel", "pointwise_kernel", "b"),
        ("depthwise_kernel", "pointwise_kernel"),
    ),
    "Highway": (("W", "W_carry", "b", "b_carry"), ("W", "W_carry")),
    "PReLU": (("alphas",),),
    "ParametricSoftplus": (("alphas", "betas"),),
    "SReLU": (("t_left", "a_left", "t_right", "a_right"),),
}
_PARAMETERS["SeparableConv2D"] = _PARAMETERS["SeparableConvolution2D"]
_WITH_KERNEL = (
    "Dense TimeDistributedDense MaxoutDense Convolution1D Conv1D AtrousConvolution1D AtrousConv1D "
    "Convolution2D Conv2D AtrousConvolution2D AtrousConv2D Convolution3D Conv3D Deconvolution2D "
    "Deconv2D LocallyConnected1D LocallyConnected2D"
)
_PARAMETERS |= dict.fromkeys(_WITH_KERNEL.split(), (_PLAIN, ("W",)))

# Parameter of Keras 1 -> of Keras 2.
_NAMES = {
    "W": "kernel",
    "U": "recurrent_kernel",
    "b": "bias",
    "W_carry": "gate_kernel",
    "b_carry": "gate_bias",
    "alphas": "alpha",
    "betas": "beta",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
}
_NOT_TRAINED = ("moving_mean", "moving_variance")


def convert_weights(
    layers: Sequence[stored_weights.StoredLayer], config: Json, *, where: str = ""
) -> list[stored_weights.StoredLayer]:
    """Gives arrays the names, order and layout of Keras 2, for a TensorFlow backend.

    Kernels are not rotated, see `theano_kernels`.

    Args:
      layers: as read from a file of Keras 1.
      config: {"class_name": ..., "config": ...} as stored by Keras 1.
      where: the file, for the errors' texts.

    Returns:
      The layers in the file's order, under the names that `keras1_config.translate_config` gives
      them. Of a layer the paths are "LAYER/PARAMETER:0" ("lstm_1/recurrent_kernel:0",
      "batchnormalization_1/moving_variance:0"), of a wrapped or nested one they go on below its
      model's name; a nested model has its trained arrays first, as in Keras 2.

    Raises:
      findings.RefusedError: a layer's arrays do not suit its class.
    """
    with keras1_graph.errors_of(where):
        return _convert_all(layers, keras1_graph.normalize_config(config))


class _Converter:
    """Holds what single layers do not say."""

    def __init__(self, dim_ordering: str) -> None:
        self._dim_ordering = dim_ordering

    def convert(self, entry: Json, weights: list[tuple[str, np.ndarray]]) -> Named:
        """(path, array) of Keras 2 of one layer of a normalized configuration."""
        class_name, name = entry["class_name"], str(entry["name"])
        if class_name in keras1_graph.CONTAINERS:
            named = self._nested(entry, weights)
        elif class_name == "TimeDistributed":
            named = self.convert(_wrapped(entry), weights)
            named = tuple((path.partition("/")[2], array) for path, array in named)
        elif class_name == "Bidirectional":
            named = self._both_directions(entry, weights)
        else:
            named = self._plain(entry, weights)
        return tuple((f"{name}/{path}", array) for path, array in named)

    def _plain(self, entry: Json, weights: list[tuple[str, np.ndarray]]) -> Named:
        arrays = _by_parameter(entry, weights)
        rule = _RULES.get(entry["class_name"])
        if rule:
            stored = entry["config"].get("dim_ordering")
            ordering = stored if stored in ("th", "tf") else self._dim_ordering
            arrays = rule(arrays, entry["config"], ordering == "th")
        names = _NAMES | ({"W": "embeddings"} if entry["class_name"] == "Embedding" else {})
        return tuple((f"{names.get(key, key)}:0", array) for key, array in arrays.items())

    def _both_directions(self, entry: Json, weights: list[tuple[str, np.ndarray]]) -> Named:
        half = len(weights) // 2
        inner = _wrapped(entry)
        named: Named = ()
        for prefix, part in (("forward", weights[:half]), ("backward", weights[half:])):
            # Forward and backward arrays share their names but for a number or a prefix.
            plain = [(f"{inner['name']}_{_after(path, inner['name'])}", a) for path, a in part]
            converted = self.convert(inner, plain)
            named += tuple((f"{prefix}_{path}", array) for path, array in converted)
        return named

    def _nested(self, entry: Json, weights: list[tuple[str, np.ndarray]]) -> Named:
        # Which arrays belong to which layer: by name, else by the number that each class has.
        layers = [layer for layer in _leaves(entry) if _rows(layer)]
        shares = _share_by_name(layers, weights)
        if shares is None:
            shares = _share_by_number(layers, weights)
        if shares is None:
            raise _refuse_arrays(entry, weights, "the arrays of its layers")
        named = [
            pair
            for layer, share in zip(layers, shares, strict=True)
            for pair in self.convert(layer, share)
        ]
        later = [pair for pair in named if _is_statistic(pair[0])]
        return (*(pair for pair in named if not _is_statistic(pair[0])), *later)


def _convert_all(
    layers: Sequence[stored_weights.StoredLayer], normal: Json
) -> list[stored_weights.StoredLayer]:
    converter = _Converter(keras1_config.find_dim_ordering(normal))
    by_name = {layer["name"]: layer for layer in keras1_graph.find_layers(normal)}
    unnamed = iter(_unnamed_models(normal, {layer.name for layer in layers}))
    result = []
    for layer in layers:
        entry = by_name.get(layer.name)
        if entry is None and layer.weights:
            entry = next(unnamed, None)
        if entry is None or not layer.weights:
            result.append(layer)
            continue
        weights = converter.convert(entry, list(layer.weights))
        result.append(stored_weights.StoredLayer(entry["name"], weights))
    return result


def _rotate_axes(arrays: Arrays, config: Json, first: bool) -> Arrays:
    # (filters, channels, rows, ...) -> (rows, ..., channels, filters).
    kernel = arrays["W"]
    if first:
        arrays["W"] = np.transpose(kernel, (*range(2, kernel.ndim), 1, 0))
    return arrays


def _convolution_1d(arrays: Arrays, config: Json, first: bool) -> Arrays:
    kernel = arrays["W"]
    length, filters = config["filter_length"], config["nb_filter"]
    if kernel.shape[:2] != (length, 1) or kernel.shape[3] != filters:
        # Before 1.1: (filters, channels, length, 1).
        kernel = np.transpose(kernel, (2, 3, 1, 0))
    arrays["W"] = kernel[:, 0]
    return arrays


def _deconvolution(arrays: Arrays, config: Json, first: bool) -> Arrays:
    # To (rows, columns, filters, channels).
    arrays["W"] = np.transpose(arrays["W"], (2, 3, 0, 1) if first else (0, 1, 3, 2))
    return arrays


def _separable(arrays: Arrays, config: Json, first: bool) -> Arrays:
    if first:
        # From (multiplier, channels, rows, columns) and (filters, all channels, 1, 1).
        for name in ("depthwise_kernel", "pointwise_kernel"):
            arrays[name] = np.transpose(arrays[name], (2, 3, 1, 0))
    return arrays


def _join_gates(order: str) -> Callable[[Arrays, Json, bool], Arrays]:
    def join(arrays: Arrays, config: Json, first: bool) -> Arrays:
        if "W" in arrays:
            return arrays
        joined = {}
        for kind in "WUb":
            gates = [arrays[f"{kind}_{gate}"] for gate in order]
            if first and gates[0].ndim == 4:
                gates = [np.transpose(gate, (2, 3, 1, 0)) for gate in gates]
            joined[kind] = np.concatenate(gates, axis=-1)
        return joined

    return join


_RULES: dict[str, Callable[[Arrays, Json, bool], Arrays]] = {
    "LSTM": _join_gates("ifco"),
    "GRU": _join_gates("zrh"),
    "ConvLSTM2D": _join_gates("ifco"),
    "SeparableConvolution2D": _separable,
    "SeparableConv2D": _separable,
    "Deconvolution2D": _deconvolution,
    "Deconv2D": _deconvolution,
    **dict.fromkeys(
        ("Convolution1D", "Conv1D", "AtrousConvolution1D", "AtrousConv1D"), _convolution_1d
    ),
    **dict.fromkeys(
        (
            "Convolution2D",
            "Conv2D",
            "AtrousConvolution2D",
            "AtrousConv2D",
            "Convolution3D",
            "Conv3D",
        ),
        _rotate_axes,
    ),
}


def _by_parameter(entry: Json, weights: list[tuple[str, np.ndarray]]) -> Arrays:
    rows = [row for row in _rows(entry) if len(row) == len(weights)]
    if not rows:
        expected = " or ".join(str(len(row)) for row in _rows(entry)) or "no"
        raise _refuse_arrays(entry, weights, f"{expected} arrays")
    row = rows[0]
    named = {_parameter(path, row): array for path, array in weights}
    if set(named) == set(row):
        return {name: named[name] for name in row}
    return dict(zip(row, (array for _, array in weights), strict=True))


def _rows(entry: Json) -> tuple[tuple[str, ...], ...]:
    if entry["class_name"] in ("TimeDistributed", "Bidirectional"):
        return _rows(_wrapped(entry))
    return _PARAMETERS.get(entry["class_name"], ())


def _parameter(path: str, row: tuple[str, ...]) -> str:
    # TensorFlow made names unique by a number: "dense_1_W_2:0".
    text = re.sub(r"(:\d+)?$", "", path.rpartition("/")[2], count=1)
    for candidate in (text, re.sub(r"_\d+$", "", text)):
        for name in sorted(row, key=len, reverse=True):
            if candidate == name or candidate.endswith("_" + name):
                return name
    return text


def _after(path: str, layer: str) -> str:
    text = path.rpartition("/")[2]
    return text.rpartition(f"{layer}_")[2]


def _leaves(entry: Json) -> list[Json]:
    found: list[Json] = []
    for layer in entry["config"]["layers"]:
        found += _leaves(layer) if layer["class_name"] in keras1_graph.CONTAINERS else [layer]
    return found


def _share_by_name(
    layers: list[Json], weights: list[tuple[str, np.ndarray]]
) -> list[list[tuple[str, np.ndarray]]] | None:
    shares: list[list[tuple[str, np.ndarray]]] = [[] for _ in layers]
    names = sorted(enumerate(layers), key=lambda pair: len(_inner_name(pair[1])), reverse=True)
    for path, array in weights:
        text = path.rpartition("/")[2]
        for index, layer in names:
            if re.match(f"(forward_|backward_)?{re.escape(_inner_name(layer))}_", text):
                shares[index].append((path, array))
                break
        else:
            return None
    fits = all(
        len(share) in [len(row) * _directions(layer) for row in _rows(layer)]
        for layer, share in zip(layers, shares, strict=True)
    )
    return shares if fits else None


def _share_by_number(
    layers: list[Json], weights: list[tuple[str, np.ndarray]]
) -> list[list[tuple[str, np.ndarray]]] | None:
    # Trained arrays come first, then those of BatchNormalization that are not.
    shares: list[list[tuple[str, np.ndarray]]] = [[] for _ in layers]
    rest = list(weights)
    for statistics in (False, True):
        for share, layer in zip(shares, layers, strict=True):
            row = _row_by_config(layer)
            names = [name for name in row if name.startswith("running_") == statistics]
            number = len(names) * _directions(layer)
            share += rest[:number]
            rest = rest[number:]
    complete = all(shares) and not rest
    return shares if complete else None


def _row_by_config(layer: Json) -> tuple[str, ...]:
    rows = _rows(layer)
    inner = _wrapped(layer)["config"] if "layer" in layer["config"] else layer["config"]
    other = inner.get("bias") is False or inner.get("consume_less") == "gpu"
    return rows[-1] if other else rows[0]


def _directions(layer: Json) -> int:
    return 2 if layer["class_name"] == "Bidirectional" else 1


def _inner_name(layer: Json) -> str:
    wraps = layer["class_name"] in ("TimeDistributed", "Bidirectional")
    return str(_wrapped(layer)["name"] if wraps else layer["name"])


def _wrapped(entry: Json) -> Json:
    inner = entry["config"]["layer"]
    if inner["class_name"] in keras1_graph.CONTAINERS:
        model = keras1_graph.normalize_config(inner)
        return {**model, "name": model["config"]["name"]}
    return {**inner, "name": inner["config"].get("name")}


def _unnamed_models(normal: Json, stored: set[str]) -> list[Json]:
    # Models in a Sequential have no name in its configuration: they are taken in the file's order.
    layers = normal["config"]["layers"]
    return [
        layer
        for layer in layers
        if layer["class_name"] in keras1_graph.CONTAINERS and layer["name"] not in stored
    ]


def _is_statistic(path: str) -> bool:
    return path.rpartition("/")[2].removesuffix(":0") in _NOT_TRAINED


def _refuse_arrays(
    entry: Json, weights: list[tuple[str, np.ndarray]], expected: str
) -> findings.RefusedError:
    return keras1_graph.refuse(
        f"layer '{findings.one_line(entry['name'])}' ({findings.one_line(entry['class_name'])}) "
        f"has {len(weights)} stored arrays. Expected {expected}. The file is damaged, or the layer "
        "is not Keras's own."
    )
