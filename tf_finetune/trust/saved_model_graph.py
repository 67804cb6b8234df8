"""The parts of saved_model.pb that say what would run, as plain data.

One idea: operations, which functions they call, where their inputs come from, and who calls whom is
enough to judge a graph; values of constants stay bytes.

Reference: saved_model.proto, meta_graph.proto, graph.proto, node_def.proto, function.proto,
attr_value.proto, saver.proto and saved_object_graph.proto of TensorFlow 2.21 (field numbers below).
"""

import dataclasses
from collections.abc import Iterator, Mapping

from tf_finetune.trust import protobuf, refusals

_MAX_NODES = 5_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """An operation of a graph or function.

    Attributes:
      name: within its graph.
      op: for example "MatMul", or the name of a function.
      inputs: names of what it takes, "^name" where it only waits for it.
      functions: names of functions in its attributes.
      value: TensorProto of a constant, or None.
      texts: attributes that are texts, by name.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    functions: tuple[str, ...]
    value: memoryview | None
    texts: Mapping[str, bytes]

    @property
    def data_inputs(self) -> tuple[str, ...]:
        """The nodes or arguments whose tensors it takes, without those it only waits for."""
        return tuple(node_of(item) for item in self.inputs if not item.startswith("^"))


@dataclasses.dataclass(frozen=True)
class Graph:
    """The outer graph, or the body of a function.

    Attributes:
      name: of the function; "" for the outer graph.
      args: names of a function's arguments.
      nodes: by name.
    """

    name: str
    args: tuple[str, ...]
    nodes: Mapping[str, Node]


@dataclasses.dataclass(frozen=True)
class ConcreteFunction:
    """A function that can be called from Python.

    Attributes:
      bound: kinds of the objects that its last arguments are bound to, for example "asset".
    """

    bound: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class MetaGraph:
    """One graph of a SavedModel and what belongs to it.

    Attributes:
      graph: the outer graph.
      functions: by name.
      filename_tensor: node of the outer graph that receives the variables' path.
      save_node: node that writes the variables.
      restore_node: node that reads them.
      called_nodes: nodes that signatures read or return.
      init_nodes: nodes that run when the model is loaded.
      assets: (node of the outer graph, file name below assets/).
      concrete: functions that can be called from Python.
      run_at_load: names of functions that loading calls.
    """

    graph: Graph
    functions: Mapping[str, Graph]
    filename_tensor: str
    save_node: str
    restore_node: str
    called_nodes: frozenset[str]
    init_nodes: frozenset[str]
    assets: tuple[tuple[str, str], ...]
    concrete: Mapping[str, ConcreteFunction]
    run_at_load: frozenset[str]


_CONSTANT, _VALUE = "Const", "value"
_NO_TEXTS: Mapping[str, bytes] = {}
_INIT_SIGNATURES = ("__saved_model_init_op", "__saved_model_train_op")
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op", "table_initializer", "local_init_op")
# Fields of SavedObject that tell its kind.
_OBJECT_KINDS = {
    4: "user_object",
    5: "asset",
    6: "function",
    7: "variable",
    8: "bare_function",
    9: "constant",
    10: "resource",
    12: "captured",
}


def read_meta_graphs(data: memoryview, *, what: str) -> Iterator[MetaGraph]:
    """Reads saved_model.pb.

    Args:
      data: its bytes.
      what: its name, for the errors' texts.

    Yields:
      Its graphs.

    Raises:
      refusals.BrokenFileError: it is truncated or damaged, or has too many operations.
    """
    for meta_graph in protobuf.messages(data, 2, what=what):
        yield _read_meta_graph(meta_graph, what)


def node_of(tensor: str) -> str:
    """The node that makes a tensor.

    Args:
      tensor: as an input names it: "node", "node:0", "node:output:0" or "^node".

    Returns:
      The node's name, or a function's argument.
    """
    return tensor.removeprefix("^").partition(":")[0]


def _read_meta_graph(data: memoryview, what: str) -> MetaGraph:
    parts: dict[int, list[memoryview]] = {number: [] for number in (2, 3, 4, 5, 6, 7)}
    for number, _, value in protobuf.read_fields(data, what=what):
        if number in parts and not isinstance(value, int):
            parts[number].append(value)
    # Protobuf merges a message that comes twice, which is what joining the bytes does.
    graph_def, saver, objects = (
        memoryview(b"".join(parts[number])) if len(parts[number]) != 1 else parts[number][0]
        for number in (2, 3, 7)
    )
    graph, functions = _read_graph_def(graph_def, what)
    signatures = dict(_read_map(parts[5], what))
    collections = dict(_read_map(parts[4], what))
    init = {
        node for name in _INIT_SIGNATURES for node in _signature_nodes(signatures.get(name), what)
    } | {
        node
        for name in _INIT_COLLECTIONS
        for node in _collection_nodes(collections.get(name), what)
    }
    called = {
        node
        for name, value in signatures.items()
        if name not in _INIT_SIGNATURES
        for node in _signature_nodes(value, what)
    }
    concrete, run_at_load = _read_objects(objects, what)
    return MetaGraph(
        graph=graph,
        functions=functions,
        filename_tensor=node_of(protobuf.text(saver, 1, what=what)),
        save_node=node_of(protobuf.text(saver, 2, what=what)),
        restore_node=node_of(protobuf.text(saver, 3, what=what)),
        called_nodes=frozenset(called),
        init_nodes=frozenset(init),
        assets=tuple(_read_asset(asset, what) for asset in parts[6]),
        concrete=concrete,
        run_at_load=run_at_load,
    )


def _read_graph_def(data: memoryview, what: str) -> tuple[Graph, dict[str, Graph]]:
    nodes: dict[str, Node] = {}
    functions: dict[str, Graph] = {}
    count = 0
    for number, _, value in protobuf.read_fields(data, what=what):
        if number == 1 and not isinstance(value, int):
            _add(nodes, _read_node(value, what), what)
        elif number == 2 and not isinstance(value, int):
            for function in protobuf.messages(value, 1, what=what):
                graph = _read_function(function, what)
                if graph.name in functions:
                    raise refusals.BrokenFileError(_twice(f"function '{graph.name}'", what))
                functions[graph.name] = graph
                count += len(graph.nodes)
        if count + len(nodes) > _MAX_NODES:
            message = f"{what} has more than {_MAX_NODES:,} operations."
            raise refusals.BrokenFileError(refusals.outside(what, message))
    return Graph("", (), nodes), functions


def _read_function(data: memoryview, what: str) -> Graph:
    name, args = "", []
    nodes: dict[str, Node] = {}
    for number, _, value in protobuf.read_fields(data, what=what):
        if isinstance(value, int):
            continue
        if number == 1:
            name = protobuf.text(value, 1, what=what) or name
            args += [
                protobuf.text(argument, 1, what=what)
                for argument in protobuf.messages(value, 2, what=what)
            ]
        elif number == 3:
            _add(nodes, _read_node(value, what), what)
    return Graph(name, tuple(args), nodes)


def _add(nodes: dict[str, Node], node: Node, what: str) -> None:
    if node.name in nodes:
        raise refusals.BrokenFileError(_twice(f"operation '{node.name}'", what))
    nodes[node.name] = node


def _read_node(data: memoryview, what: str) -> Node:
    name = op = ""
    inputs, functions = [], []
    texts: dict[str, bytes] = {}
    tensors: list[memoryview] = []
    for number, _, value in protobuf.read_fields(data, what=what):
        if isinstance(value, int):
            continue
        if number == 1:
            name = bytes(value).decode("utf-8", "backslashreplace")
        elif number == 2:
            op = bytes(value).decode("utf-8", "backslashreplace")
        elif number == 3:
            inputs.append(bytes(value).decode("utf-8", "backslashreplace"))
        elif number == 5:
            key = protobuf.text(value, 1, what=what)
            for attribute in protobuf.messages(value, 2, what=what):
                found, tensor, text = _read_attribute(attribute, what)
                functions += found
                tensors += tensor if key == _VALUE else ()
                if text is not None:
                    texts[key] = text
    if op != _CONSTANT:
        return Node(name, op, tuple(inputs), tuple(functions), None, texts or _NO_TEXTS)
    if len(tensors) > 1:
        raise refusals.BrokenFileError(_twice(f"value of the constant '{name}'", what))
    return Node(name, op, tuple(inputs), tuple(functions), tensors[0] if tensors else None, texts)


def _read_attribute(
    data: memoryview, what: str
) -> tuple[list[str], list[memoryview], bytes | None]:
    """(names of functions, tensors, the text) of an attribute's value."""
    functions: list[str] = []
    tensors: list[memoryview] = []
    text = None
    for number, _, value in protobuf.read_fields(data, what=what):
        if isinstance(value, int):
            continue
        if number == 10:
            functions.append(protobuf.text(value, 1, what=what))
        elif number == 1:
            functions += [
                protobuf.text(function, 1, what=what)
                for function in protobuf.messages(value, 9, what=what)
            ]
        elif number == 2:
            text = bytes(value)
        elif number == 8:
            tensors.append(value)
    return functions, tensors, text


def _read_map(entries: list[memoryview], what: str) -> Iterator[tuple[str, memoryview]]:
    for entry in entries:
        value = memoryview(b"")
        for value in protobuf.messages(entry, 2, what=what):  # noqa: B007 (the last one counts)
            pass
        yield protobuf.text(entry, 1, what=what), value


def _signature_nodes(signature: memoryview | None, what: str) -> Iterator[str]:
    if signature is None:
        return
    for field in (1, 2):
        entries = list(protobuf.messages(signature, field, what=what))
        for _, info in _read_map(entries, what):
            for number, _, value in protobuf.read_fields(info, what=what):
                if number == 1 and not isinstance(value, int):
                    yield node_of(bytes(value).decode("utf-8", "backslashreplace"))
                elif number in (4, 5) and not isinstance(value, int):
                    # CooSparse and CompositeTensorInfo: names of their parts, all strings.
                    yield from _tensor_names(value, what)


def _tensor_names(data: memoryview, what: str) -> Iterator[str]:
    for _, _, value in protobuf.read_fields(data, what=what):
        if not isinstance(value, int):
            yield node_of(bytes(value).decode("utf-8", "backslashreplace"))
            try:
                yield node_of(protobuf.text(value, 1, what=what))
            except refusals.BrokenFileError:
                continue  # a plain string


def _collection_nodes(collection: memoryview | None, what: str) -> Iterator[str]:
    for nodes in protobuf.messages(collection, 1, what=what) if collection is not None else ():
        for value in protobuf.messages(nodes, 1, what=what):
            yield node_of(bytes(value).decode("utf-8", "backslashreplace"))


def _read_asset(data: memoryview, what: str) -> tuple[str, str]:
    info = b"".join(bytes(value) for value in protobuf.messages(data, 1, what=what))
    node = node_of(protobuf.text(memoryview(info), 1, what=what))
    return node, protobuf.text(data, 2, what=what)


def _read_objects(
    data: memoryview, what: str
) -> tuple[dict[str, ConcreteFunction], frozenset[str]]:
    objects = list(protobuf.messages(data, 1, what=what))
    kinds = [_object_kind(item, what) for item in objects]
    concrete = {}
    for name, value in _read_map(list(protobuf.messages(data, 2, what=what)), what):
        bound = tuple(
            kinds[number] if number < len(kinds) else ""
            for number in protobuf.numbers(value, 2, what=what)
        )
        concrete[name] = ConcreteFunction(bound)
    run: set[str] = set()
    for item, kind in zip(objects, kinds, strict=True):
        for child in _children_at_load(item, kind, what):
            if child < len(objects):
                run.update(_function_names(objects[child], what))
    return concrete, frozenset(run)


def _children_at_load(item: memoryview, kind: str, what: str) -> Iterator[int]:
    if kind == "resource":
        for child in protobuf.messages(item, 1, what=what):
            yield protobuf.number(child, 1, what=what)
    for _, saveable in _read_map(list(protobuf.messages(item, 11, what=what)), what):
        # Its save function runs too: loading asks it what it would save.
        yield protobuf.number(saveable, 2, what=what)
        yield protobuf.number(saveable, 3, what=what)


def _function_names(item: memoryview, what: str) -> Iterator[str]:
    for function in protobuf.messages(item, 6, what=what):
        for name in protobuf.messages(function, 1, what=what):
            yield bytes(name).decode("utf-8", "backslashreplace")
    for function in protobuf.messages(item, 8, what=what):
        yield protobuf.text(function, 1, what=what)


def _object_kind(item: memoryview, what: str) -> str:
    kind = ""
    for number, _, _ in protobuf.read_fields(item, what=what):
        kind = _OBJECT_KINDS.get(number, kind)
    return kind


def _twice(name: str, what: str):  # type: ignore[no-untyped-def]
    return refusals.outside(what, f"{what} has the {name} twice, so readers may see two contents.")
