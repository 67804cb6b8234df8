"""saved_model.pb as plain data, read without TensorFlow.

One idea: what a module takes, returns and reads stands beside its graph: in the signatures, in the
graph of Python objects, and of TensorFlow 1 in collections. Of the graph itself only the names of
operations are looked at, so that a large one costs little.

Reference: saved_model.proto, meta_graph.proto, saved_object_graph.proto, struct.proto,
variable.proto, tensor_shape.proto and types.proto of TensorFlow 2.21 (numbers of the fields below).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tf_finetune.models.saved import tensor_specs
from tf_finetune.trust import protobuf

NAME = "saved_model.pb"
_MAX_DEPTH = 50
# types.proto; a reference to a variable has 100 more.
_DTYPES = dict(
    enumerate(
        (
            *("float32", "float64", "int32", "uint8", "int16", "int8", "string", "complex64"),
            *("int64", "bool", "qint8", "quint8", "qint32", "bfloat16", "qint16", "quint16"),
            *("uint16", "complex128", "float16", "resource", "variant", "uint32", "uint64"),
            *("float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz"),
            *("float8_e5m2fnuz", "int4", "uint4", "int2", "uint2"),
        ),
        start=1,
    )
)
_REFERENCE = 100
# Fields of SavedObject that tell its kind.
_KINDS = {
    4: "user_object",
    5: "asset",
    6: "function",
    7: "variable",
    8: "bare_function",
    9: "constant",
    10: "resource",
    12: "captured",
}


@dataclasses.dataclass(frozen=True)
class Variable:
    """A variable as its module describes it.

    Attributes:
      name: without ":0".
      spec: dtype and shape.
      trainable: gradients may change it.
    """

    name: str
    spec: tensor_specs.Spec
    trainable: bool


@dataclasses.dataclass(frozen=True)
class Node:
    """A Python object of the program that was saved.

    Attributes:
      kind: for example "user_object", "function", "bare_function" or "variable".
      children: {attribute: number of the node}.
      functions: names of the concrete functions of a function.
      variable: of a variable.
    """

    kind: str
    children: Mapping[str, int]
    functions: tuple[str, ...] = ()
    variable: Variable | None = None


@dataclasses.dataclass(frozen=True)
class ConcreteFunction:
    """A function as it was traced once.

    Attributes:
      bound: numbers of the nodes that it reads, in the order of reading.
      inputs: (arguments, keyword arguments) in nested lists and dicts with a `tensor_specs.Spec`
        for each tensor; None: not stored.
      outputs: likewise.
    """

    bound: tuple[int, ...]
    inputs: Any
    outputs: Any


@dataclasses.dataclass(frozen=True)
class Signature:
    """A way to call a graph by names.

    Attributes:
      inputs: {name: spec}; None for what is no single tensor.
      outputs: likewise.
      tensors: {("input" or "output", name): tensor of the graph, for example "pixels:0"}.
    """

    inputs: Mapping[str, tensor_specs.Spec | None]
    outputs: Mapping[str, tensor_specs.Spec | None]
    tensors: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class MetaGraph:
    """One graph of a SavedModel and what belongs to it.

    Attributes:
      tags: of the graph.
      version: of the TensorFlow that wrote it; "" where it does not say.
      signatures: by name.
      nodes: Python objects, the root first; none of TensorFlow 1.
      functions: concrete functions by name.
      collections: {name: items}, of those that hold bytes or names.
      operations: names of the operations that its graph runs, functions of its own left out.
      graph_def: bytes of the graph.
    """

    tags: tuple[str, ...]
    version: str
    signatures: Mapping[str, Signature]
    nodes: tuple[Node, ...]
    functions: Mapping[str, ConcreteFunction]
    collections: Mapping[str, tuple[bytes, ...]]
    operations: frozenset[str]
    graph_def: memoryview = dataclasses.field(repr=False)

    @property
    def root(self) -> Mapping[str, int]:
        """The root's children; none of TensorFlow 1."""
        return self.nodes[0].children if self.nodes else {}

    def graph_variables(self) -> tuple[Variable, ...]:
        """The resource variables of a graph of TensorFlow 1.

        Returns:
          In the order of its collections, which is that in which TensorFlow restores them. Those
          of the older kind, which it does not restore as objects, are left out.

        Raises:
          refusals.BrokenFileError: the graph is damaged.
          KeyError: the graph has no such variable.
        """
        trainable = set(self.collections.get("trainable_variables", ()))
        found: dict[str, bool] = {}
        for collection in ("variables", "local_variables"):
            for item in self.collections.get(collection, ()):
                name, is_resource, can_train = _read_variable_def(memoryview(item))
                if is_resource and name not in found:
                    old = _is_before_1_9(self.version)
                    found[name] = item in trainable if old else can_train
        handles = _read_handles(self.graph_def, set(found))
        return tuple(Variable(name, handles[name], found[name]) for name in found)


def read_meta_graphs(data: bytes) -> tuple[MetaGraph, ...]:
    """Reads saved_model.pb.

    Args:
      data: its bytes.

    Returns:
      Its graphs.

    Raises:
      refusals.BrokenFileError: it is truncated or damaged.
    """
    return tuple(map(_read_meta_graph, protobuf.messages(memoryview(data), 2, what=NAME)))


def _read_meta_graph(data: memoryview) -> MetaGraph:
    info, graph_def = _joined(data, 1), _joined(data, 2)
    objects = _joined(data, 7)
    return MetaGraph(
        tags=tuple(_texts(info, 4)),
        version=protobuf.text(info, 5, what=NAME),
        signatures=_read_map(data, 5, _read_signature),
        nodes=tuple(map(_read_node, protobuf.messages(objects, 1, what=NAME))),
        functions=_read_map(objects, 2, _read_function),
        collections=_read_map(data, 4, _read_collection),
        operations=_read_operations(graph_def),
        graph_def=graph_def,
    )


def _joined(data: memoryview, wanted: int) -> memoryview:
    # Protobuf merges a message that comes twice, which is what joining the bytes does.
    parts = list(protobuf.messages(data, wanted, what=NAME))
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def _texts(data: memoryview, wanted: int) -> Iterator[str]:
    for value in protobuf.messages(data, wanted, what=NAME):
        yield bytes(value).decode("utf-8", "backslashreplace")


def _read_map(data: memoryview, wanted: int, read: Callable[[memoryview], Any]) -> dict[str, Any]:
    return {
        protobuf.text(entry, 1, what=NAME): read(_joined(entry, 2))
        for entry in protobuf.messages(data, wanted, what=NAME)
    }


def _read_signature(data: memoryview) -> Signature:
    tensors = {
        (kind, name): tensor
        for kind, field in (("input", 1), ("output", 2))
        for name, tensor in _read_map(data, field, _read_tensor_name).items()
    }
    inputs, outputs = (_read_map(data, field, _read_tensor_info) for field in (1, 2))
    return Signature(inputs, outputs, tensors)


def _read_tensor_name(data: memoryview) -> str:
    return protobuf.text(data, 1, what=NAME)


def _read_tensor_info(data: memoryview) -> tensor_specs.Spec | None:
    # coo_sparse and composite_tensor are several tensors.
    fields = [number for number, _, _ in protobuf.read_fields(data, what=NAME)]
    if 4 in fields or 5 in fields:
        return None
    return _make_spec(data, dtype=2, shape=3)


def _read_collection(data: memoryview) -> tuple[bytes, ...]:
    # NodeList and BytesList hold the same: field 1, repeated.
    return tuple(
        bytes(value)
        for number in (1, 2)
        for values in protobuf.messages(data, number, what=NAME)
        for value in protobuf.messages(values, 1, what=NAME)
    )


def _make_spec(data: memoryview, *, dtype: int, shape: int) -> tensor_specs.Spec:
    return tensor_specs.Spec(
        _dtype_name(protobuf.number(data, dtype, what=NAME)), _read_shape(_joined(data, shape))
    )


def _dtype_name(number: int) -> str:
    return _DTYPES.get(number % _REFERENCE if number > _REFERENCE else number, "unknown")


def _read_shape(data: memoryview) -> tuple[int | None, ...] | None:
    if protobuf.number(data, 3, what=NAME):
        return None
    sizes = [
        protobuf.signed(protobuf.number(side, 1, what=NAME))
        for side in protobuf.messages(data, 2, what=NAME)
    ]
    return tuple(None if size < 0 else size for size in sizes)


def _read_node(data: memoryview) -> Node:
    children: dict[str, int] = {}
    kind, value = "", memoryview(b"")
    for number, _, part in protobuf.read_fields(data, what=NAME):
        if isinstance(part, int):
            continue
        if number == 1:
            name = protobuf.text(part, 2, what=NAME)
            children[name] = protobuf.number(part, 1, what=NAME)
        elif number in _KINDS:
            kind, value = _KINDS[number], part
    functions: Sequence[str] = ()
    if kind in ("function", "bare_function"):
        functions = tuple(_texts(value, 1))
    variable = _read_variable(value) if kind == "variable" else None
    return Node(kind, children, tuple(functions), variable)


def _read_variable(data: memoryview) -> Variable:
    # TensorFlow calls one without a name so.
    name = protobuf.text(data, 6, what=NAME) or "Variable"
    trainable = bool(protobuf.number(data, 3, what=NAME))
    return Variable(name, _make_spec(data, dtype=1, shape=2), trainable)


def _read_function(data: memoryview) -> ConcreteFunction:
    inputs, outputs = (list(protobuf.messages(data, field, what=NAME)) for field in (3, 4))
    return ConcreteFunction(
        bound=tuple(protobuf.numbers(data, 2, what=NAME)),
        inputs=_read_structure(inputs[-1]) if inputs else None,
        outputs=_read_structure(outputs[-1]) if outputs else None,
    )


def _read_structure(data: memoryview, depth: int = 0) -> Any:
    # A StructuredValue: nested, with specs and constants as leaves.
    if depth > _MAX_DEPTH:
        raise protobuf.damaged(NAME)
    result: Any = None
    for number, _, value in protobuf.read_fields(data, what=NAME):
        if isinstance(value, int):
            result = bool(value) if number == 14 else value
        elif number in (33, 35):
            result = _make_spec(value, dtype=3, shape=2)
        elif number in (51, 52):
            items = protobuf.messages(value, 1, what=NAME)
            result = [_read_structure(item, depth + 1) for item in items]
        elif number == 53:
            result = _read_map(value, 1, lambda item: _read_structure(item, depth + 1))
        elif number == 54:
            pairs = protobuf.messages(value, 2, what=NAME)
            result = [_read_structure(_joined(pair, 2), depth + 1) for pair in pairs]
        elif number == 34:
            result = tensor_specs.OTHER
        elif number == 13:
            result = bytes(value).decode("utf-8", "backslashreplace")
    return result


def _read_operations(graph_def: memoryview) -> frozenset[str]:
    used: set[str] = set()
    functions: set[str] = set()
    for number, _, value in protobuf.read_fields(graph_def, what=NAME):
        if number == 1 and not isinstance(value, int):
            used.add(_read_op(value))
        elif number == 2 and not isinstance(value, int):
            for function in protobuf.messages(value, 1, what=NAME):
                name, found = _read_body(function)
                functions.add(name)
                used |= found
    return frozenset(used - functions)


def _read_body(function: memoryview) -> tuple[str, set[str]]:
    name, used = "", set()
    for number, _, value in protobuf.read_fields(function, what=NAME):
        if number == 1 and not isinstance(value, int):
            name = protobuf.text(value, 1, what=NAME)
        elif number == 3 and not isinstance(value, int):
            used.add(_read_op(value))
    return name, used


def _read_op(node: memoryview) -> str:
    for number, _, value in protobuf.read_fields(node, what=NAME):
        # Fields are written in their order: what follows need not be read.
        if number == 2 and not isinstance(value, int):
            return bytes(value).decode("utf-8", "backslashreplace")
    return ""


def _read_variable_def(data: memoryview) -> tuple[str, bool, bool]:
    name = protobuf.text(data, 1, what=NAME).partition(":")[0]
    is_resource = bool(protobuf.number(data, 5, what=NAME))
    return name, is_resource, bool(protobuf.number(data, 7, what=NAME))


def _read_handles(graph_def: memoryview, wanted: set[str]) -> dict[str, tensor_specs.Spec]:
    handles = {}
    for node in protobuf.messages(graph_def, 1, what=NAME) if wanted else ():
        if _read_op(node) != "VarHandleOp":
            continue
        name = protobuf.text(node, 1, what=NAME)
        if name in wanted:
            values = _read_map(node, 5, lambda value: value)
            empty = memoryview(b"")
            handles[name] = tensor_specs.Spec(
                _dtype_name(protobuf.number(values.get("dtype", empty), 6, what=NAME)),
                _read_shape(_joined(values.get("shape", empty), 7)),
            )
    return handles


def _is_before_1_9(version: str) -> bool:
    # Variables of older versions do not say whether they are trained.
    numbers = version.split(".")[:2]
    if len(numbers) != 2 or not all(part.isdigit() for part in numbers):
        return False
    return tuple(map(int, numbers)) < (1, 9)
