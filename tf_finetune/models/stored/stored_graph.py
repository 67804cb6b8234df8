"""The graph of a stored model, without Keras.

One idea: replaying calls with shapes instead of tensors gives what Keras would build: the same
order of layers, nested models opened in the same places as `flattening` opens them. `graph_reader`
makes the graph of a configuration.

Reference: keras/src/ops/function.py of Keras 3.15 (`map_graph`: by depth, then by traversal).
"""

import dataclasses
import typing
from collections.abc import Iterator, Sequence

from tf_finetune.models.stored import stored_shapes

Shape = tuple[int | None, ...]


class GraphError(ValueError):
    """A configuration that describes no graph; the text is a sentence for the user."""


class UnknownShapeError(LookupError):
    """A rule needs a shape that no rule derives; the text names the layer."""


@dataclasses.dataclass(eq=False)
class Layer:
    """A layer, or an operation of keras.ops, as stored.

    Attributes:
      name: unique in its graph.
      class_name: for example "Conv2D".
      config: its arguments.
      path: names of the models it stands in, then its own stored name: what its weights go by.
      is_operation: of keras.ops: no layer that --freeze counts.
      graph: of a nested model; None for every other layer.
    """

    name: str
    class_name: str
    config: dict[str, typing.Any]
    path: tuple[str, ...]
    is_operation: bool = False
    graph: "Graph | None" = None


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a layer.

    Attributes:
      layer: what is called.
      args: positional arguments: JSON with a `Tensor` in place of each tensor.
      kwargs: named arguments, alike.
      inputs: the tensors among them, in Keras's order.
      outputs: what it returned.
    """

    layer: Layer
    args: list[typing.Any]
    kwargs: dict[str, typing.Any]
    inputs: tuple["Tensor", ...]
    outputs: tuple["Tensor", ...] = ()


@dataclasses.dataclass(eq=False)
class Tensor:
    """What a call returned.

    Attributes:
      call: the call.
      known_shape: with None for the batch and for free sizes; None: no rule derives it.
      dtype: of an input as stored, else "float32".
    """

    call: Call
    known_shape: Shape | None
    dtype: str = "float32"

    @property
    def shape(self) -> Shape:
        """The shape, for rules that cannot go on without it."""
        if self.known_shape is None:
            raise UnknownShapeError(self.call.layer.name)
        return self.known_shape


@dataclasses.dataclass(eq=False)
class Graph:
    """The layers of one model and the calls between them.

    Attributes:
      name: of the model.
      class_name: "Functional" or "Sequential".
      inputs: its inputs, in order.
      outputs: what it returns, in order.
      layers: as configured, input layers included.
      takes_dict: its inputs go by name.
    """

    name: str
    class_name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    takes_dict: bool = False


@dataclasses.dataclass(eq=False)
class FlatGraph:
    """A graph without nested models, as `flattening.FlatGraph`.

    Attributes:
      inputs: its inputs, in order.
      outputs: what the model returned, in order.
      by_name: the last output of each layer and of each nested model that was opened.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    by_name: dict[str, Tensor]


def flatten(graph: Graph) -> FlatGraph:
    """Opens nested models, in the places where `flattening.flatten_graph` opens them.

    Args:
      graph: of the whole model.

    Returns:
      The graph over new layers, names that occur twice made unique in the same way.
    """
    walk = _Walk(_find_whole(graph))
    inputs = [walk.add_input(tensor) for tensor in graph.inputs]
    outputs = walk.run(graph, inputs)
    return FlatGraph(tuple(inputs), tuple(outputs), walk.by_name)


def sort_calls(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> tuple[list[Call], list[Layer]]:
    """Orders a graph as Keras does: by depth from the outputs, then by traversal.

    Args:
      inputs: of the graph.
      outputs: of the graph; only what leads to them is kept.

    Returns:
      (calls, layers), inputs included; `layers` is the order of `model.layers`.
    """
    finished, first_seen = _traverse(outputs)
    depths: dict[Call, int] = {}
    layer_depths: dict[Layer, int] = {}
    for call in reversed(finished):
        # A shared layer stands as deep as its deepest call.
        depth = max(depths.get(call, 0), layer_depths.get(call.layer, 0))
        layer_depths[call.layer] = depths[call] = depth
        for tensor in call.inputs:
            depths[tensor.call] = max(depth + 1, depths.get(tensor.call, 0))
    for tensor in inputs:
        if tensor.call not in depths:
            depths[tensor.call] = layer_depths[tensor.call.layer] = 0
            first_seen[tensor.call.layer] = -1
    calls = sorted(depths, key=lambda call: -depths[call])
    layers = sorted(layer_depths, key=lambda layer: (-layer_depths[layer], first_seen[layer]))
    return calls, layers


def variable_dtype(config: dict[str, typing.Any]) -> str:
    """What a layer's weights are kept in, by its configuration.

    Args:
      config: the arguments of a layer.

    Returns:
      For example "float32", which is also the default.
    """
    policy = _policy(config)
    return "float32" if policy.startswith("mixed_") else policy


def _compute_dtype(config: dict[str, typing.Any]) -> str:
    return _policy(config).removeprefix("mixed_")


def _policy(config: dict[str, typing.Any]) -> str:
    dtype = config.get("dtype")
    if isinstance(dtype, dict):  # a serialized policy
        inner = dtype.get("config")
        dtype = inner.get("name") if isinstance(inner, dict) else None
    return dtype if isinstance(dtype, str) else "float32"


def _traverse(outputs: Sequence[Tensor]) -> tuple[list[Call], dict[Layer, int]]:
    finished: dict[Call, None] = {}
    first_seen: dict[Layer, int] = {}
    for output in outputs:
        waiting = [(output.call, iter(output.call.inputs))]
        while waiting:
            call, inputs = waiting[-1]
            if call in finished:
                waiting.pop()
                continue
            first_seen.setdefault(call.layer, len(first_seen))
            following = next(inputs, None)
            if following is None:
                finished[call] = None
                waiting.pop()
            elif following.call not in finished:
                waiting.append((following.call, iter(following.call.inputs)))
    return list(finished), first_seen


def find_tensors(value: typing.Any) -> Iterator[Tensor]:
    """The tensors in a structure, in Keras's order: names in alphabetical order.

    Args:
      value: lists, dicts, tensors and constants.

    Yields:
      Each tensor, as often as it occurs.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for element in value:
            yield from find_tensors(element)
    elif isinstance(value, dict):
        for name in sorted(value):
            yield from find_tensors(value[name])


def make_call(layer: Layer, args: list[typing.Any], kwargs: dict[str, typing.Any]) -> Call:
    """Calls a layer with shapes.

    Args:
      layer: what is called.
      args: positional arguments with a `Tensor` in place of each tensor.
      kwargs: named arguments, alike.

    Returns:
      The call and what it returned.
    """
    inputs = (*find_tensors(args), *find_tensors(kwargs))
    call = Call(layer, args, kwargs, inputs)
    shapes: Sequence[Shape | None]
    if layer.graph is not None:
        shapes = _inner_shapes(layer.graph, inputs)
    else:
        shapes = stored_shapes.output_shapes(
            layer.class_name,
            layer.config,
            [tensor.known_shape for tensor in inputs],
            is_operation=layer.is_operation,
        )
    dtype = _compute_dtype(layer.config)
    call.outputs = tuple(Tensor(call, shape, dtype) for shape in shapes)
    return call


def _inner_shapes(graph: Graph, inputs: Sequence[Tensor]) -> list[Shape | None]:
    if len(inputs) != len(graph.inputs):
        return [tensor.known_shape for tensor in graph.outputs]
    walk = _Walk(set(graph.layers))
    given = [walk.add_input(tensor, shape=tensor.known_shape) for tensor in inputs]
    return [tensor.known_shape for tensor in walk.run(graph, given)]


def make_input(layer: Layer, shape: Shape | None) -> Tensor:
    """Makes an input.

    Args:
      layer: an InputLayer.
      shape: with None for the batch; None: not known.

    Returns:
      What it stands for.
    """
    call = Call(layer, [], {}, ())
    tensor = Tensor(call, shape, _policy(layer.config))
    call.outputs = (tensor,)
    return tensor


class _Walk:
    """Calls layers again; the counterpart of `flattening._Walk`."""

    def __init__(self, whole: set[Layer]):
        self.by_name: dict[str, Tensor] = {}
        self._names: set[str] = set()
        self._whole = whole
        self._new_layers: dict[Layer, Layer] = {}

    def add_input(self, old: Tensor, *, shape: Shape | None = None) -> Tensor:
        layer = dataclasses.replace(old.call.layer, class_name="InputLayer", graph=None)
        self._names.add(layer.name)
        return make_input(layer, shape or old.known_shape)

    def run(self, graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
        new = dict(zip(graph.inputs, inputs, strict=True))
        calls, _ = sort_calls(graph.inputs, graph.outputs)
        for call in calls:
            if not call.inputs and call.layer.class_name == "InputLayer":
                continue
            args, kwargs = _replace(call.args, new), _replace(call.kwargs, new)
            outputs = self._call(call, args, kwargs)
            for old, tensor in zip(call.outputs, outputs, strict=False):
                if tensor.known_shape is None:
                    tensor.known_shape = old.known_shape
                new[old] = tensor
        return [_new_tensor(tensor, new) for tensor in graph.outputs]

    def _call(
        self, call: Call, args: list[typing.Any], kwargs: dict[str, typing.Any]
    ) -> Sequence[Tensor]:
        layer = call.layer
        if layer.graph is not None and layer not in self._whole:
            opened = self.run(layer.graph, list(find_tensors(args)))
            self.by_name.setdefault(layer.name, opened[0])
            return opened
        if layer not in self._new_layers:
            name, number = layer.name, 0
            while name in self._names:
                number += 1
                name = f"{layer.name}_{number}"
            self._names.add(name)
            self._new_layers[layer] = dataclasses.replace(layer, name=name)
        new = self._new_layers[layer]
        made = make_call(new, args, kwargs)
        # How many tensors a layer without a rule returns shows where they are used.
        missing = len(call.outputs) - len(made.outputs)
        made.outputs += tuple(Tensor(made, None) for _ in range(missing))
        self.by_name[new.name] = made.outputs[0]
        return made.outputs


def _new_tensor(old: Tensor, new: dict[Tensor, Tensor]) -> Tensor:
    if old not in new:
        number = old.call.outputs.index(old)
        raise GraphError(f"its layer '{old.call.layer.name}' has no output {number}.")
    return new[old]


def _replace(value: typing.Any, new: dict[Tensor, Tensor]) -> typing.Any:
    if isinstance(value, Tensor):
        return _new_tensor(value, new)
    if isinstance(value, list):
        return [_replace(element, new) for element in value]
    if isinstance(value, dict):
        return {name: _replace(element, new) for name, element in value.items()}
    return value


def _find_whole(graph: Graph) -> set[Layer]:
    whole = set()
    for call in sort_calls(graph.inputs, graph.outputs)[0]:
        inner = call.layer.graph
        if inner is None:
            continue
        if not _fits(inner, call):
            whole.add(call.layer)
        whole |= _find_whole(inner)
    return whole


def _fits(inner: Graph, call: Call) -> bool:
    inputs = list(find_tensors(call.args))
    by_name = inner.takes_dict or any(isinstance(value, dict) for value in call.args)
    named = [value for name, value in call.kwargs.items() if name != "training"]
    return (
        len(call.args) == 1
        and (len(inputs) == 1 or not by_name)
        and not any(value is not None for value in named)
        and len(inputs) == len(inner.inputs)
        and all(map(_is_alike, inputs, inner.inputs))
    )


def _is_alike(given: Tensor, wanted: Tensor) -> bool:
    if given.known_shape is None or wanted.known_shape is None:
        return True
    same = ("float" in given.dtype) == ("float" in wanted.dtype)
    return same and len(given.known_shape) == len(wanted.known_shape)
