"""A model with the channels first becomes one that computes with the channels last.

One idea: a tensor may exist in several layouts. Layers that have to do with channels say which one
they take and give; layers that work on single elements pass on what they get; every other layer
gets what it got before. A Permute stands where a layout is missing, so that inputs and outputs stay
as they were. TensorFlow on a CPU has no channels_first convolutions.
"""

import dataclasses
import typing
from collections.abc import Iterable

import keras
import numpy as np

from tf_finetune.models import flattening

# A layout is the axis whose channels were moved to the end; 0: nothing was moved.
_NOMINAL = 0

# Layers whose every output element depends on the input elements of the same position alone.
_ELEMENTWISE = (
    "Activation",
    "ActivityRegularization",
    "Add",
    "AlphaDropout",
    "Average",
    "Dropout",
    "ELU",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "LeakyReLU",
    "Maximum",
    "Minimum",
    "Multiply",
    "ReLU",
    "Subtract",
)
# Layers whose argument `axis` names an axis of their input, and whose weights lie along it alone.
_WITH_AXIS = (
    "BatchNormalization",
    "Concatenate",
    "CurrentBatchNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "Softmax",
)
# Layers with `shared_axes` and weights of the shape of an example.
_WITH_SHARED_AXES = ("PReLU", "ParametricSoftplus", "SReLU")
# Layers that reduce an image to a vector.
_FLATTENING = ("Flatten", "GlobalAveragePooling", "GlobalMaxPooling")
# Activations along the last axis, whatever that is.
_ALONG_AXIS = ("softmax", "log_softmax", "glu", "sparsemax")
# Our own, which computes with either layout.
_AS_IT_IS = ("LocallyConnected1D", "LocallyConnected2D")


@dataclasses.dataclass(frozen=True)
class _Step:
    """What becomes of a layer: its twin, the layout it takes and the one it gives."""

    layer: typing.Any
    takes: int = _NOMINAL
    gives: int = _NOMINAL
    activation: typing.Any = None


def find_channels_first(model: keras.Model) -> str | None:
    """Names the first layer that works with the channels first.

    Args:
      model: built; layers in nested models and in wrappers count too.

    Returns:
      Its name; None where there is none that `to_channels_last` would replace.
    """
    for layer in model._flatten_layers():
        if _is_first(layer):
            return layer.name
    return None


def to_channels_last(model: keras.Model) -> keras.Model:
    """Makes a twin that computes with the channels last inside.

    Args:
      model: functional or sequential, built. Its layers are taken over: it should not be used
        afterwards.

    Returns:
      The model itself where nothing in it works with the channels first, or where it has no fixed
      graph. Otherwise a functional model with the same inputs and outputs, and the same layers by
      name and weights (the slopes of PReLU transposed), plus Permute layers called
      NAME_channels_last and NAME_channels_first.
    """
    functional = flattening.functional_of(model)
    if functional is None or find_channels_first(model) is None:
        return model
    return _Twin().convert(functional, name=model.name, outermost=True)[0]


def drop_input_permute(model: keras.Model) -> keras.Model:
    """Lets a model take images with the channels last, where only a Permute needed them first.

    Args:
      model: functional, as `to_channels_last` returns it. Its layers are taken over where
        something is dropped.

    Returns:
      The model itself, or one without the Permute whose image input is [batch, height, width,
      channels].
    """
    functional = flattening.functional_of(model)
    if functional is None or len(functional.inputs) != 1:
        return model
    (image,) = functional.inputs
    consumers = [node for node in _nodes_in_order(functional) if _uses(node, image)]
    if len(consumers) != 1 or len(image.shape) != 4:
        return model
    permute = consumers[0].operation
    if not isinstance(permute, keras.layers.Permute) or tuple(permute.dims) != (2, 3, 1):
        return model
    (inner,) = consumers[0].outputs
    fresh = keras.Input(batch_shape=inner.shape, dtype=image.dtype, name=_name(image))
    new = {id(inner): fresh}
    nodes = [node for node in _nodes_in_order(functional) if node is not consumers[0]]
    _forget([node.operation for node in nodes])
    for node in nodes:
        args, kwargs = node.arguments.fill_in(new)
        kwargs.pop("training", None)
        outputs = keras.tree.flatten(node.operation(*args, **kwargs))
        new.update(zip(map(id, node.outputs), outputs, strict=True))
    outputs = keras.tree.map_structure(lambda old: new[id(old)], functional._outputs_struct)
    return keras.Model(fresh, outputs, name=model.name)


def undo_permute(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """The image with the channels last that a last Permute put first.

    Args:
      tensor: of a functional graph.

    Returns:
      The input of the Permute to [batch, channels, height, width] that made it; the tensor itself
      where something else made it.
    """
    layer, node_index, _ = tensor._keras_history
    if isinstance(layer, keras.layers.Permute) and tuple(layer.dims) == (3, 1, 2):
        return layer._inbound_nodes[node_index].input_tensors[0]
    return tensor


class _Twin:
    """Builds twins; a layer or model that is called twice has one."""

    def __init__(self) -> None:
        self._steps: dict[int, _Step] = {}
        self._models: dict[int, tuple[typing.Any, list[int], list[int]]] = {}

    def convert(
        self, functional: typing.Any, *, name: str, outermost: bool
    ) -> tuple[keras.Model, list[int], list[int]]:
        # The twin, and the layouts of its inputs and outputs.
        nodes = _nodes_in_order(functional)
        tensors = _Tensors()
        layouts = [
            1 if not outermost and _wants_last(nodes, image) else _NOMINAL
            for image in functional.inputs
        ]
        fresh = []
        for image, layout in zip(functional.inputs, layouts, strict=True):
            shape = _moved(tuple(image.shape), layout)
            fresh.append(keras.Input(batch_shape=shape, dtype=image.dtype, name=_name(image)))
            tensors.add(image, layout, fresh[-1])
        _forget([node.operation for node in nodes])
        for node in nodes:
            self._call(node, tensors)
        gives = [
            _NOMINAL if outermost else tensors.layouts(output)[0] for output in functional.outputs
        ]
        new = {
            id(old): tensors.get(old, layout)
            for old, layout in zip(functional.outputs, gives, strict=True)
        }
        outputs = keras.tree.map_structure(lambda old: new[id(old)], functional._outputs_struct)
        inputs = keras.tree.pack_sequence_as(functional._inputs_struct, fresh)
        return keras.Model(inputs, outputs, name=name), layouts, gives

    def _call(self, node: typing.Any, tensors: "_Tensors") -> None:
        operation = node.operation
        inner = flattening.functional_of(operation)
        if inner is not None and find_channels_first(operation) is not None:
            self._call_model(node, inner, tensors)
            return
        inputs = _tensors_in(node)
        step = self._step(operation, inputs, tensors)
        if step.takes == _NOMINAL and step.layer is operation:
            new = {id(old): tensors.get(old, _NOMINAL) for old in inputs}
        else:
            new = {id(old): tensors.get(old, step.takes) for old in inputs}
        args, kwargs = node.arguments.fill_in(new)
        kwargs.pop("training", None)
        outputs = keras.tree.flatten(step.layer(*args, **kwargs))
        if step.layer is not operation:
            _copy_weights(operation, step.layer)
        for position, (old, tensor) in enumerate(zip(node.outputs, outputs, strict=True)):
            # The states of a ConvLSTM have no steps: their channels stand at axis 1.
            layout = step.gives if position == 0 else min(step.gives, 1)
            tensors.add(old, layout, tensor)
            if step.activation is not None:
                tensors.replace(old, step.activation(tensors.get(old, _NOMINAL)))

    def _call_model(self, node: typing.Any, inner: typing.Any, tensors: "_Tensors") -> None:
        key = id(node.operation)
        if key not in self._models:
            self._models[key] = self.convert(inner, name=node.operation.name, outermost=False)
        model, takes, gives = self._models[key]
        # The inputs of a model stand in the order of its own.
        inputs = _tensors_in(node)
        new = {id(old): tensors.get(old, layout) for old, layout in zip(inputs, takes, strict=True)}
        args, kwargs = node.arguments.fill_in(new)
        kwargs.pop("training", None)
        outputs = keras.tree.flatten(model(*args, **kwargs))
        for old, layout, tensor in zip(node.outputs, gives, outputs, strict=True):
            tensors.add(old, layout, tensor)

    def _step(self, operation: typing.Any, inputs: list, tensors: "_Tensors") -> _Step:
        key = id(operation)
        # Only layers without weights may take another layout at each call.
        if key not in self._steps or type(operation).__name__ in _ELEMENTWISE:
            ranks = {len(tensor.shape) for tensor in inputs}
            rank = ranks.pop() if len(ranks) == 1 else 0
            offered = [layout for tensor in inputs for layout in tensors.layouts(tensor) if layout]
            self._steps[key] = _plan(
                operation, rank=rank, offered=offered[0] if offered and rank else _NOMINAL
            )
        return self._steps[key]


class _Tensors:
    """What is known of each tensor of the old graph: its twins by layout."""

    def __init__(self) -> None:
        self._twins: dict[int, dict[int, typing.Any]] = {}
        self._names: set[str] = set()

    def add(self, old: typing.Any, layout: int, tensor: typing.Any) -> None:
        self._twins.setdefault(id(old), {})[layout] = tensor

    def replace(self, old: typing.Any, tensor: typing.Any) -> None:
        self._twins[id(old)] = {_NOMINAL: tensor}

    def layouts(self, old: typing.Any) -> list[int]:
        return list(self._twins[id(old)])

    def get(self, old: typing.Any, layout: int) -> typing.Any:
        twins = self._twins[id(old)]
        if layout not in twins and _NOMINAL not in twins:
            other, tensor = next(iter(twins.items()))
            twins[_NOMINAL] = self._permute(tensor, _back(len(old.shape), other), "first")
        if layout not in twins:
            twins[layout] = self._permute(twins[_NOMINAL], _forth(len(old.shape), layout), "last")
        return twins[layout]

    def _permute(self, tensor: typing.Any, order: list[int], end: str) -> typing.Any:
        stem = f"{_name(tensor)}_channels_{end}"
        name, number = stem, 0
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return keras.layers.Permute(order[1:], name=name)(tensor)


def _plan(layer: typing.Any, *, rank: int, offered: int) -> _Step:
    kind = type(layer).__name__
    if kind == "TimeDistributed":
        return _plan_wrapped(layer, rank=rank, offered=offered)
    if kind == "Bidirectional":
        return _plan_bidirectional(layer)
    if _is_first(layer):
        return _plan_first(layer, kind)
    if not offered:
        return _Step(layer)
    if kind in _ELEMENTWISE and _is_elementwise(layer):
        return _Step(layer, offered, offered)
    axis = getattr(layer, "axis", None)
    if kind in _WITH_AXIS and isinstance(axis, int):
        twin = _clone(layer, {"axis": _moved_axis(axis % rank, rank, offered)})
        return _Step(twin, offered, offered)
    if kind in _WITH_SHARED_AXES and offered == 1:
        shared = layer.shared_axes
        if shared is not None:
            shared = sorted(_moved_axis(axis, rank, offered) for axis in shared)
        return _Step(_clone(layer, {"shared_axes": shared}), offered, offered)
    return _Step(layer)


def _plan_first(layer: typing.Any, kind: str) -> _Step:
    changed: dict[str, typing.Any] = {"data_format": "channels_last"}
    activation = None
    takes = 2 if kind == "ConvLSTM2D" else 1
    if kind != "ConvLSTM2D" and _activation_name(layer) in _ALONG_AXIS:
        changed["activation"] = "linear"
        activation = keras.layers.Activation(layer.activation, name=f"{layer.name}_activation")
    gives = takes
    if kind == "ConvLSTM2D" and not layer.return_sequences:
        gives = 1
    if kind.startswith(_FLATTENING) and not getattr(layer, "keepdims", False):
        gives = _NOMINAL
    return _Step(_clone(layer, changed), takes, gives, activation)


def _plan_bidirectional(layer: typing.Any) -> _Step:
    # Keras concatenates both directions along the last axis, which is no longer the columns'.
    inner = layer.forward_layer
    if not _is_first(inner) or layer.merge_mode in ("concat", None):
        return _Step(layer)
    gives = 2 if inner.return_sequences else 1
    return _Step(_clone(layer, {"data_format": "channels_last"}), 2, gives)


def _plan_wrapped(layer: typing.Any, *, rank: int, offered: int) -> _Step:
    inner = layer.layer
    functional = flattening.functional_of(inner)
    if functional is not None:
        twin = to_channels_last(inner)
        return _Step(layer if twin is inner else _rewrap(layer, twin))
    step = _plan(inner, rank=rank - 1, offered=max(offered - 1, 0))
    if step.takes == _NOMINAL and step.layer is inner:
        return _Step(layer)
    wrapper = layer if step.layer is inner else _rewrap(layer, step.layer)
    activation = step.activation and keras.layers.TimeDistributed(
        step.activation, name=step.activation.name
    )
    return _Step(wrapper, step.takes + 1, step.gives + 1 if step.gives else 0, activation)


def _rewrap(layer: typing.Any, inner: typing.Any) -> typing.Any:
    config = layer.get_config()
    config.pop("layer")
    return type(layer)(inner, **config)


def _clone(layer: typing.Any, changed: dict[str, typing.Any]) -> typing.Any:
    config = layer.get_config()
    wrapped = [config[name] for name in ("layer", "backward_layer") if config.get(name)]
    for part in [entry["config"] for entry in wrapped] or [config]:
        part.update(changed)
    # The shapes that a layer was built with are not those of its twin.
    config.pop("build_config", None)
    for entry in wrapped:
        entry.pop("build_config", None)
    return type(layer).from_config(config)


def _copy_weights(old: typing.Any, new: typing.Any) -> None:
    if not new.weights:
        return
    inner = getattr(old, "layer", old)
    values = [np.asarray(weight) for weight in old.weights]
    if type(inner).__name__ in _WITH_SHARED_AXES:
        values = [np.moveaxis(value, 0, -1) for value in values]
    for weight, value in zip(new.weights, values, strict=True):
        weight.assign(value)
    new.trainable = old.trainable


def _is_first(layer: typing.Any) -> bool:
    return (
        getattr(layer, "data_format", None) == "channels_first"
        and type(layer).__name__ not in _AS_IT_IS
    )


def _is_elementwise(layer: typing.Any) -> bool:
    if getattr(layer, "noise_shape", None) is not None:
        return False
    return _activation_name(layer) not in _ALONG_AXIS


def _activation_name(layer: typing.Any) -> str:
    return getattr(getattr(layer, "activation", None), "__name__", "")


def _wants_last(nodes: Iterable[typing.Any], image: typing.Any) -> bool:
    if len(image.shape) < 3:
        return False
    for node in nodes:
        if _uses(node, image) and _is_first(node.operation):
            return type(node.operation).__name__ != "ConvLSTM2D"
    return False


def _nodes_in_order(functional: typing.Any) -> list[typing.Any]:
    by_depth = functional._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [node for node in nodes if not node.is_input]


def _tensors_in(node: typing.Any) -> list[typing.Any]:
    found = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    return [tensor for tensor in found if isinstance(tensor, keras.KerasTensor)]


def _uses(node: typing.Any, tensor: typing.Any) -> bool:
    return any(used is tensor for used in _tensors_in(node))


def _forget(operations: Iterable[typing.Any]) -> None:
    # So that `layer.output` means the new graph.
    for operation in operations:
        operation._inbound_nodes = []
        operation._outbound_nodes = []


def _forth(rank: int, axis: int) -> list[int]:
    return [*(other for other in range(rank) if other != axis), axis]


def _back(rank: int, axis: int) -> list[int]:
    return [int(place) for place in np.argsort(_forth(rank, axis))]


def _moved(shape: tuple, axis: int) -> tuple:
    return tuple(shape[other] for other in _forth(len(shape), axis)) if axis else shape


def _moved_axis(axis: int, rank: int, layout: int) -> int:
    return _forth(rank, layout).index(axis)


def _name(tensor: typing.Any) -> str:
    return tensor._keras_history.operation.name
