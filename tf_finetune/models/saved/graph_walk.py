"""Steps through the graph of a SavedModel: which operation makes an output, what scales its pixels.

One idea: a restored function is a nest of calls. A walk follows one tensor through the calls, up
from an output or down from an input, over operations that only pass it on, and stops at the first
one that does something. Where a walk loses its way it says nothing.

Reference: graph.proto, function.proto, node_def.proto, attr_value.proto and tensor.proto of
TensorFlow 2.21 (numbers of the fields below).
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from tf_finetune.models.saved import module_graph
from tf_finetune.trust import protobuf, refusals

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_PASSING = frozenset(
    (
        *("Identity", "IdentityN", "Cast", "StopGradient", "PreventGradient", "CheckNumerics"),
        *("EnsureShape", "Reshape", "Squeeze", "ExpandDims", "Pad", "PadV2"),
    )
)
_LOOKING = frozenset(("Shape", "ShapeN", "Rank", "Size", "Assert"))
_WEIGHTED = frozenset(("Conv2D", "DepthwiseConv2dNative", "MatMul", "FusedBatchNormV3"))
_MAX_STEPS = 500
# dtype -> its letter in NumPy, and the field of TensorProto: float32, int32.
_NUMBERS = {1: ("f", 5), 3: ("i", 7)}


@dataclasses.dataclass(frozen=True)
class Scaling:
    """What pixels become before the first weights see them.

    Attributes:
      dark: float64 [channels] or scalar, of a pixel of 0.
      bright: likewise, of a pixel of 255.
      names: of the operations that did it.
    """

    dark: np.ndarray
    bright: np.ndarray
    names: tuple[str, ...]


class GraphWalk:
    """The operations of a graph and of its functions, each read when a walk comes by.

    Args:
      graph: of a SavedModel.
    """

    def __init__(self, graph: module_graph.MetaGraph):
        self._graph_def = graph.graph_def
        self._bodies: dict[str, _Body] = {}
        self._steps = 0

    def find_maker(self, tensor: str) -> str:
        """The operation that makes a tensor of the outer graph.

        Args:
          tensor: for example "StatefulPartitionedCall:0".

        Returns:
          For example "Softmax"; "" where it is not clear.
        """
        return self._up_from(_Place(self._main), tensor)

    def find_makers(self, function: str) -> tuple[str, ...]:
        """The operations that make what a function returns.

        Args:
          function: its name in the graph's library.

        Returns:
          One for each output in order; none where there is no such function.
        """
        body = self._body(function)
        if body is None:
            return ()
        return tuple(self._up_from(_Place(body), ref) for ref in body.returns)

    def find_scaling(self, tensor: str, *, function: str | None = None) -> Scaling | None:
        """What pixels go through before the first convolution.

        Args:
          tensor: a tensor of the outer graph; of a function the number of its argument.
          function: its name; None: the outer graph.

        Returns:
          The scaling; None where it is not clear, or nothing scales.
        """
        if function is None:
            place = _Place(self._main)
        else:
            body = self._body(function)
            if body is None or int(tensor) >= len(body.arguments):
                return None
            place, tensor = _Place(body), body.arguments[int(tensor)]
        start = Scaling(np.zeros(()), np.full((), 255.0), ())
        self._steps = 0
        try:
            end = self._down_from(place, tensor, start)
        except refusals.BrokenFileError:
            return None
        return end if isinstance(end, Scaling) and end.names else None

    @functools.cached_property
    def _main(self) -> "_Body":
        return _Body(list(protobuf.messages(self._graph_def, 1, what=module_graph.NAME)), (), ())

    @functools.cached_property
    def _library(self) -> dict[str, memoryview]:
        what = module_graph.NAME
        return {
            protobuf.text(signature, 1, what=what): function
            for library in protobuf.messages(self._graph_def, 2, what=what)
            for function in protobuf.messages(library, 1, what=what)
            for signature in protobuf.messages(function, 1, what=what)
        }

    def _body(self, name: str) -> "_Body | None":
        if name not in self._library:
            return None
        if name not in self._bodies:
            self._bodies[name] = _read_function(self._library[name])
        return self._bodies[name]

    def _up_from(self, place: "_Place", tensor: str) -> str:
        for _ in range(_MAX_STEPS):
            name, index = _split(tensor)
            if name in place.body.arguments:
                given = place.argument(name)
                if given is None:
                    return ""
                place, tensor = given
                continue
            node = place.body.nodes.get(name)
            if node is None:
                return ""
            body = self._body(node.function) if node.operation in _CALLS else None
            if body is not None and index < len(body.returns):
                place, tensor = _Place(body, (node, place)), body.returns[index]
            elif node.operation in _PASSING and node.inputs:
                tensor = node.inputs[index if node.operation == "IdentityN" else 0]
            else:
                return node.operation
        return ""

    def _down_from(
        self, place: "_Place", tensor: str, now: Scaling
    ) -> "Scaling | _Returned | None":
        while self._steps < _MAX_STEPS:
            self._steps += 1
            users = place.body.users(tensor)
            returned = [
                number for number, ref in enumerate(place.body.returns) if _same(ref, tensor)
            ]
            if len(users) + len(returned) != 1:
                return None
            if returned:
                return _Returned(returned[0], now)
            ((node, position),) = users
            if node.operation in _CALLS:
                body = self._body(node.function)
                if body is None or position >= len(body.arguments):
                    return None
                inner = _Place(body, (node, place))
                found = self._down_from(inner, body.arguments[position], now)
                if not isinstance(found, _Returned):
                    return found
                now, tensor = found.now, f"{node.name}:{found.index}"
                continue
            if node.operation in _WEIGHTED:
                return now
            if node.operation not in _PASSING:
                after = self._apply(place, node, position, now)
                if after is None:
                    return None
                now = after
            tensor = f"{node.name}:0"
        return None

    def _apply(self, place: "_Place", node: "_Node", position: int, now: Scaling) -> Scaling | None:
        if node.operation not in _ARITHMETIC or len(node.inputs) < 2:
            return None
        other = self._constant(place, node.inputs[1 - position])
        if other is None or other.size not in (1, 3):
            return None
        with np.errstate(all="ignore"):
            dark, bright = (
                _ARITHMETIC[node.operation](*((value, other) if position == 0 else (other, value)))
                for value in (now.dark, now.bright)
            )
        if not (np.all(np.isfinite(dark)) and np.all(np.isfinite(bright))):
            return None
        return Scaling(dark, bright, (*now.names, node.operation))

    def _constant(self, place: "_Place", tensor: str) -> np.ndarray | None:
        for _ in range(_MAX_STEPS):
            name, _ = _split(tensor)
            if name in place.body.arguments:
                given = place.argument(name)
                if given is None:
                    return None
                place, tensor = given
                continue
            node = place.body.nodes.get(name)
            if node is None:
                return None
            if node.operation == "Const":
                return _read_numbers(node.attributes.get("value", memoryview(b"")))
            if node.operation not in _PASSING or not node.inputs:
                return None
            tensor = node.inputs[0]
        return None


@dataclasses.dataclass(frozen=True)
class _Node:
    name: str
    operation: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, memoryview]

    @property
    def function(self) -> str:
        # Of a call.
        value = self.attributes.get("f", memoryview(b""))
        for called in protobuf.messages(value, 10, what=module_graph.NAME):
            return protobuf.text(called, 1, what=module_graph.NAME)
        return ""


class _Body:
    # The operations of a graph or of a function.

    def __init__(
        self, nodes: list[memoryview], arguments: tuple[str, ...], returns: tuple[str, ...]
    ):
        read = [_read_node(node) for node in nodes]
        self.nodes = {node.name: node for node in read}
        self.arguments = arguments
        self.returns = returns

    @functools.cached_property
    def _users(self) -> dict[tuple[str, int], list[tuple[_Node, int]]]:
        found: dict[tuple[str, int], list[tuple[_Node, int]]] = {}
        for node in self.nodes.values():
            if node.operation in _LOOKING:
                continue
            for position, ref in enumerate(node.inputs):
                found.setdefault(_split(ref), []).append((node, position))
        return found

    def users(self, tensor: str) -> list[tuple[_Node, int]]:
        return self._users.get(_split(tensor), [])


@dataclasses.dataclass(frozen=True)
class _Place:
    # A body, and the call that led there with the place where it stands.
    body: _Body
    call: "tuple[_Node, _Place] | None" = None

    def argument(self, name: str) -> "tuple[_Place, str] | None":
        # What the call gave for an argument, and where.
        number = self.body.arguments.index(name)
        if self.call is None or number >= len(self.call[0].inputs):
            return None
        node, outer = self.call
        return outer, node.inputs[number]


@dataclasses.dataclass(frozen=True)
class _Returned:
    index: int
    now: Scaling


_ARITHMETIC = {
    "Mul": np.multiply,
    "Add": np.add,
    "AddV2": np.add,
    "Sub": np.subtract,
    "RealDiv": np.divide,
    "Div": np.divide,
    "DivNoNan": np.divide,
}


def _same(one: str, other: str) -> bool:
    return _split(one) == _split(other)


def _split(tensor: str) -> tuple[str, int]:
    # "node", "node:2" in a graph; "argument", "node:output:2" in a function.
    parts = tensor.split(":")
    last = parts[-1]
    return parts[0], int(last) if len(parts) > 1 and last.isdecimal() else 0


def _read_function(data: memoryview) -> _Body:
    what = module_graph.NAME
    arguments: list[str] = []
    outputs: list[str] = []
    for signature in protobuf.messages(data, 1, what=what):
        arguments += [
            protobuf.text(a, 1, what=what) for a in protobuf.messages(signature, 2, what=what)
        ]
        outputs += [
            protobuf.text(a, 1, what=what) for a in protobuf.messages(signature, 3, what=what)
        ]
    returned = {
        protobuf.text(entry, 1, what=what): protobuf.text(entry, 2, what=what)
        for entry in protobuf.messages(data, 4, what=what)
    }
    nodes = list(protobuf.messages(data, 3, what=what))
    return _Body(nodes, tuple(arguments), tuple(returned.get(name, "") for name in outputs))


def _read_node(data: memoryview) -> _Node:
    what = module_graph.NAME
    name = operation = ""
    inputs: list[str] = []
    attributes: dict[str, memoryview] = {}
    for number, _, value in protobuf.read_fields(data, what=what):
        if isinstance(value, int):
            continue
        if number == 1:
            name = str(value, "utf-8", "backslashreplace")
        elif number == 2:
            operation = str(value, "utf-8", "backslashreplace")
        elif number == 3 and value[:1] != b"^":
            inputs.append(str(value, "utf-8", "backslashreplace"))
        elif number == 5:
            key = protobuf.text(value, 1, what=what)
            if key in ("f", "value"):
                for content in protobuf.messages(value, 2, what=what):
                    attributes[key] = content
    return _Node(name, operation, tuple(inputs), attributes)


def _read_numbers(attribute: memoryview) -> np.ndarray | None:
    # A small constant; TensorFlow writes one value for many that are the same.
    what = module_graph.NAME
    for tensor in protobuf.messages(attribute, 8, what=what):
        dtype = protobuf.number(tensor, 1, what=what)
        if dtype not in _NUMBERS:
            return None
        code, field = _NUMBERS[dtype]
        for content in protobuf.messages(tensor, 4, what=what):
            if len(content) % 4 == 0:
                return np.frombuffer(content, f"<{code}4").astype(np.float64)
        found: list[float] = []
        for number, _, value in protobuf.read_fields(tensor, what=what):
            if number != field:
                continue
            if code == "f" and not isinstance(value, int) and len(value) % 4 == 0:
                found += np.frombuffer(value, "<f4").tolist()
            elif code == "i":
                found += _read_varints(value)
        return np.array(found, np.float64) if found else None
    return None


def _read_varints(value: int | memoryview) -> list[float]:
    if isinstance(value, int):
        return [protobuf.signed(value)]
    found, position = list[float](), 0
    while position < len(value):
        number, position = protobuf.read_varint(value, position, what=module_graph.NAME)
        found.append(protobuf.signed(number))
    return found
