"""The graph that a stored configuration describes, without Keras.

One idea: a configuration names layers and the calls between them. Calls are made again, in any
order in which their inputs exist, with shapes instead of tensors.

Reference: keras/src/models/functional.py of Keras 3.15 (`functional_from_config`); the canonical
form of older files: `stored_model`.
"""

import typing
from collections.abc import Iterator

from tf_finetune.models.stored import stored_graph

_FUNCTIONAL = ("Functional", "Model")
_GRAPHS = (*_FUNCTIONAL, "Sequential")
_INPUT_SHAPES = ("batch_shape", "batch_input_shape")
_KERAS_OPERATIONS = ("keras.src.ops", "keras.ops")
# A configuration nests as deep as its author did; Python's stack ends at a thousand frames.
_MAX_NESTING = 50
_MAX_OUTPUTS = 1000


def read_graph(config: dict[str, typing.Any]) -> stored_graph.Graph | None:
    """Builds the graph of a model.

    Args:
      config: of the whole model, {"class_name": ..., "config": ...}, as Keras 3 writes it.

    Returns:
      The graph; None where the model has none: a class of its own, or a Sequential that does not
      know its input.

    Raises:
      stored_graph.GraphError: the configuration contradicts itself.
    """
    try:
        return _read_model(config, ())
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise stored_graph.GraphError(
            f"its stored configuration is damaged ({type(error).__name__}: {error})."
        ) from error


def read_layers(config: dict[str, typing.Any]) -> stored_graph.Graph:
    """The layers of a model that has no graph, without the calls between them.

    Args:
      config: as for `read_graph`.

    Returns:
      A graph without inputs and outputs.
    """
    inner = config["config"] if isinstance(config.get("config"), dict) else {}
    values = inner.get("layers", ())
    layers = [_read_layer(value, ()) for value in values if isinstance(value, dict)]
    return stored_graph.Graph(
        str(inner.get("name", "")), config["class_name"], (), (), tuple(layers)
    )


def _read_model(value: dict[str, typing.Any], path: tuple[str, ...]) -> stored_graph.Graph | None:
    class_name, config = value["class_name"], value["config"]
    if len(path) > _MAX_NESTING:
        raise stored_graph.GraphError(f"its models are nested more than {_MAX_NESTING} deep.")
    if class_name == "Sequential":
        built = value.get("build_config") or {}
        return _read_sequential(config, path, _shape(built.get("input_shape")))
    if class_name in _FUNCTIONAL and "layers" in config:
        return _read_functional(config, path)
    return None


def _read_layer(value: dict[str, typing.Any], path: tuple[str, ...]) -> stored_graph.Layer:
    config = value["config"] if isinstance(value["config"], dict) else {}
    name = value.get("name") or config.get("name") or value["class_name"].lower()
    module = str(value.get("module") or "")
    path = (*path, name)
    nested = value["class_name"] in _GRAPHS
    return stored_graph.Layer(
        name=name,
        class_name=value["class_name"],
        config=config,
        path=path,
        is_operation=module.startswith(_KERAS_OPERATIONS),
        graph=_read_model(value, path) if nested else None,
    )


def _read_sequential(
    config: dict[str, typing.Any], path: tuple[str, ...], built: stored_graph.Shape | None
) -> stored_graph.Graph | None:
    layers = [_read_layer(value, path) for value in config["layers"]]
    if not layers or any(layer.class_name in _GRAPHS and not layer.graph for layer in layers):
        return None
    if layers[0].class_name == "InputLayer":
        shape = _input_shape(layers[0].config)
    else:
        shape = _shape(config.get("build_input_shape")) or _input_shape(layers[0].config)
        inner = layers[0].graph
        if shape is None and inner and len(inner.inputs) == 1:
            shape = inner.inputs[0].known_shape
        shape = shape or built
        layers.insert(
            0, stored_graph.Layer("input_layer", "InputLayer", {}, (*path, "input_layer"))
        )
    if shape is None:
        return None
    tensor = stored_graph.make_input(layers[0], shape)
    inputs = (tensor,)
    for layer in layers[1:]:
        (tensor, *_) = stored_graph.make_call(layer, [tensor], {}).outputs
    return stored_graph.Graph(
        str(config.get("name", "sequential")), "Sequential", inputs, (tensor,), tuple(layers)
    )


def _read_functional(
    config: dict[str, typing.Any], path: tuple[str, ...]
) -> stored_graph.Graph | None:
    layers = {value["name"]: _read_layer(value, path) for value in config["layers"]}
    if any(layer.class_name in _GRAPHS and not layer.graph for layer in layers.values()):
        return None
    calls: dict[str, list[stored_graph.Call]] = {name: [] for name in layers}
    waiting = {value["name"]: list(value.get("inbound_nodes", ())) for value in config["layers"]}
    for name, layer in layers.items():
        if layer.class_name == "InputLayer":
            calls[name].append(stored_graph.make_input(layer, _input_shape(layer.config)).call)
    while any(waiting.values()):
        progress = False
        for name, nodes in waiting.items():
            while nodes:
                try:
                    args, kwargs = _fill_in(nodes[0], calls)
                except IndexError:  # a call that comes later
                    break
                calls[name].append(stored_graph.make_call(layers[name], args, kwargs))
                nodes.pop(0)
                progress = True
        if not progress:
            first = next(name for name, nodes in waiting.items() if nodes)
            raise stored_graph.GraphError(f"its layer '{first}' has inputs that no layer makes.")

    def end(reference: list[typing.Any]) -> stored_graph.Tensor:
        name, node, index = reference[:3]
        if layers[name].class_name in _FUNCTIONAL:
            node -= 1  # Keras counts a functional model's own call as its first.
        return _output(calls[name][max(node, 0)], index)

    inputs = [end(reference) for reference in _references(config["input_layers"])]
    outputs = [end(reference) for reference in _references(config["output_layers"])]
    takes_dict = isinstance(config["input_layers"], dict)
    name = str(config.get("name", "functional"))
    return stored_graph.Graph(
        name, "Functional", tuple(inputs), tuple(outputs), tuple(layers.values()), takes_dict
    )


def _references(value: typing.Any) -> Iterator[list[typing.Any]]:
    if isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _references(value[key])
    else:
        for element in value:
            yield from _references(element)


def _fill_in(
    node: typing.Any, calls: dict[str, list[stored_graph.Call]]
) -> tuple[list[typing.Any], dict[str, typing.Any]]:
    if isinstance(node, dict):
        return _plain(node["args"], calls), _plain(node.get("kwargs") or {}, calls)
    # As Keras 2, and Keras 3 for .h5 of older days, wrote it.
    tensors = [_output(calls[name][number], index) for name, number, index, *_ in node]
    named = _plain(node[0][3], calls) if len(node) and len(node[0]) > 3 else {}
    return [tensors[0] if len(tensors) == 1 else tensors], named


def _output(call: stored_graph.Call, index: int) -> stored_graph.Tensor:
    # How many tensors a layer without a rule returns shows where they are used.
    if not 0 <= index < _MAX_OUTPUTS:
        raise stored_graph.GraphError(f"its layer '{call.layer.name}' has no output {index}.")
    missing = index + 1 - len(call.outputs)
    call.outputs += tuple(stored_graph.Tensor(call, None) for _ in range(missing))
    return call.outputs[index]


def _plain(value: typing.Any, calls: dict[str, list[stored_graph.Call]]) -> typing.Any:
    """JSON with tensors in place of their references and lists in place of tuples."""
    if isinstance(value, list):
        return [_plain(element, calls) for element in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "__keras_tensor__":
        name, number, index = value["config"]["keras_history"]
        tensor = _output(calls[name][number], index)
        if tensor.known_shape is None:
            tensor.known_shape = _shape(value["config"].get("shape"))
        return tensor
    if value.get("class_name") == "__tuple__":
        return [_plain(element, calls) for element in value["items"]]
    if "class_name" in value:
        return value
    return {name: _plain(element, calls) for name, element in value.items()}


def read_input_shape(
    layer: stored_graph.Layer, shape: stored_graph.Shape | None
) -> stored_graph.Shape | None:
    """The shape of an input with the size of the batch, which a stateful model stores.

    Args:
      layer: an InputLayer.
      shape: of its tensor, with None for the batch.

    Returns:
      The shape as stored; `shape` where the layer stores none.
    """
    for key in _INPUT_SHAPES:
        sides = _sides(layer.config.get(key))
        if sides is not None:
            return sides
    return shape


def _input_shape(config: dict[str, typing.Any]) -> stored_graph.Shape | None:
    shapes = (_shape(config.get(key)) for key in _INPUT_SHAPES)
    return next((shape for shape in shapes if shape), None)


def _shape(value: typing.Any) -> stored_graph.Shape | None:
    sides = _sides(value)
    return None if sides is None else (None, *sides[1:])


def _sides(value: typing.Any) -> stored_graph.Shape | None:
    if isinstance(value, dict) and value.get("class_name") == "__tuple__":
        value = value["items"]
    if not isinstance(value, list | tuple) or not value:
        return None
    if not all(side is None or isinstance(side, int) for side in value):
        return None
    return tuple(value)
