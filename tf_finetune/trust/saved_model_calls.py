"""Who calls whom in a SavedModel, and where a file's name comes from.

One idea: the saver's operations read and write files by design, so they are let through only where
nothing but saving and restoring reaches them, and where the name that they use is the one that the
loader gives. A table may read a text file, if its name is that of an asset.
"""

import collections
from collections.abc import Collection, Iterable, Iterator

from tf_finetune.trust import constants
from tf_finetune.trust import saved_model_graph as graphs

_PASS_ON = frozenset({"Identity", "Reshape", "ExpandDims", "Squeeze", "EnsureShape"})
_FIRST_ONLY = frozenset({"ShardedFilename", "ShardedFilespec"})
_ALL_INPUTS = frozenset({"Pack", "ConcatV2", "IdentityN"})
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
# Inputs before those of the called functions. A loop is missing: its later rounds are given what
# its body returned.
_OFFSETS = {"If": 1, "StatelessIf": 1, "Case": 1, "StatelessCase": 1}
_VARIABLE = "VarHandleOp"
_VARIABLE_READERS = ("ReadVariableOp", "VarIsInitializedOp")
_MAX_STEPS = 200
_WHAT = "saved_model.pb"


class Calls:
    """The call graph of one meta graph.

    Args:
      meta: the graph.
    """

    def __init__(self, meta: graphs.MetaGraph):
        self._meta = meta
        self._sites: dict[str, list[tuple[graphs.Graph, graphs.Node]]] | None = None
        self._variables: collections.Counter[tuple[bytes, bytes]] | None = None

    def ancestors(self, names: Iterable[str]) -> set[str]:
        """Nodes of the outer graph that run when some nodes are asked for.

        Args:
          names: of nodes of the outer graph.

        Returns:
          Their names and those of all they depend on.
        """
        nodes = self._meta.graph.nodes
        found: set[str] = set()
        waiting = [name for name in names if name in nodes]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                inputs = (graphs.node_of(item) for item in nodes[name].inputs)
                waiting += [item for item in inputs if item in nodes]
        return found

    def functions_called(
        self, nodes: Collection[str] = (), functions: Iterable[str] = ()
    ) -> set[str]:
        """Functions that run when nodes of the outer graph or functions run.

        Args:
          nodes: of the outer graph.
          functions: called from elsewhere.

        Returns:
          Names of functions of the library.
        """
        waiting = [name for node in nodes for name in self.called_by(self._meta.graph.nodes[node])]
        waiting += [name for name in functions if name in self._meta.functions]
        found: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            found.add(name)
            for node in self._meta.functions[name].nodes.values():
                waiting += self.called_by(node)
        return found

    def called_by(self, node: graphs.Node) -> list[str]:
        """The functions of the library that one operation calls.

        Args:
          node: of any graph.

        Returns:
          Their names.
        """
        names = (*node.functions, node.op)
        return [name for name in names if name in self._meta.functions]

    def find_recursion(self) -> str:
        """A function that calls itself, over others or not.

        Returns:
          Its name; "" where there is none.
        """
        done: set[str] = set()
        for start in self._meta.functions:
            path: dict[str, Iterator[str]] = {start: self._callees(start)}
            while path and start not in done:
                name = next(reversed(path))
                callee = next(path[name], None)
                if callee is None:
                    done.add(name)
                    del path[name]
                elif callee in path:
                    return callee
                elif callee not in done:
                    path[callee] = self._callees(callee)
        return ""

    def _callees(self, name: str) -> Iterator[str]:
        for node in self._meta.functions[name].nodes.values():
            yield from self.called_by(node)

    def is_from(
        self,
        graph: graphs.Graph,
        tensor: str,
        *,
        sources: Collection[str],
        bound_assets: bool = False,
    ) -> bool:
        """Whether a text begins with what one of some nodes of the outer graph gives.

        Args:
          graph: where the tensor is.
          tensor: an input of one of its nodes.
          sources: names of nodes of the outer graph.
          bound_assets: an asset that the loader binds to a function is a source too.

        Returns:
          True where it comes from there and can come from nowhere else.
        """
        waiting = [(graph, graphs.node_of(tensor))]
        seen: set[tuple[str, str]] = set()
        found = False
        while waiting:
            graph, name = waiting.pop()
            if (graph.name, name) in seen:
                continue
            seen.add((graph.name, name))
            if len(seen) > _MAX_STEPS:
                return False
            if not graph.name and name in sources:
                found = True
            elif name in graph.args and name not in graph.nodes:
                is_bound, further = self._givers(graph, graph.args.index(name))
                if further is None or (is_bound and not bound_assets):
                    return False
                found = found or is_bound
                waiting += further
            else:
                steps = self._step(graph, graph.nodes.get(name))
                if not steps:
                    return False
                waiting += steps
        return found

    def _step(
        self, graph: graphs.Graph, node: graphs.Node | None
    ) -> list[tuple[graphs.Graph, str]]:
        """Where a node's text comes from; nothing where that cannot be told."""
        if node is None:
            return []
        inputs = node.data_inputs
        if node.op == "ReadVariableOp":
            return self._assigned(graph, inputs[0]) if inputs else []
        if node.op in _ALL_INPUTS:
            return [(graph, name) for name in inputs if not self._is_number(graph, name)]
        if node.op == "StringJoin":
            if node.texts.get("separator") or not all(
                self._is_suffix(graph, name) for name in inputs[1:]
            ):
                return []
        elif node.op not in _PASS_ON and node.op not in _FIRST_ONLY:
            return []
        return [(graph, name) for name in inputs[:1]]

    def _assigned(self, graph: graphs.Graph, handle: str) -> list[tuple[graphs.Graph, str]]:
        # A variable is what it is assigned, where nobody else gets hold of it.
        variable = graph.nodes.get(handle)
        if variable is None or variable.op != _VARIABLE or not self._is_only(variable):
            return []
        found = []
        for node in graph.nodes.values():
            inputs = node.data_inputs
            if handle not in inputs:
                continue
            if node.op == "AssignVariableOp" and inputs[0] == handle and inputs[1] != handle:
                found.append((graph, inputs[1]))
            elif node.op not in _VARIABLE_READERS:
                return []
        return found

    def _is_only(self, variable: graphs.Node) -> bool:
        # Two handles of one name are one variable.
        if self._variables is None:
            self._variables = collections.Counter(
                _resource_name(node)
                for graph in (self._meta.graph, *self._meta.functions.values())
                for node in graph.nodes.values()
                if node.op == _VARIABLE
            )
        return self._variables[_resource_name(variable)] == 1

    def _is_number(self, graph: graphs.Graph, name: str) -> bool:
        node = graph.nodes.get(name)
        return (
            node is not None
            and node.value is not None
            and constants.read_dtype(node.value, what=_WHAT) == constants.INT32
        )

    def _is_suffix(self, graph: graphs.Graph, name: str) -> bool:
        # What the saver puts behind the path: constants, or one of two. Two of them must not make
        # a ".." together.
        node = graph.nodes.get(name)
        if node is None:
            return False
        if node.op == "Const":
            texts = constants.read_texts(node.value, what=_WHAT) if node.value is not None else ()
            return bool(texts) and not any(
                b".." in text or b"://" in text or text.endswith(b".") for text in texts
            )
        if node.op in ("Select", "SelectV2"):
            chosen = node.data_inputs[1:]
            return len(chosen) == 2 and all(
                graph.nodes[item].op == "Const" and self._is_suffix(graph, item)
                for item in chosen
                if item in graph.nodes
            )
        return False

    def _givers(
        self, graph: graphs.Graph, index: int
    ) -> tuple[bool, list[tuple[graphs.Graph, str]] | None]:
        """(whether the loader binds an asset to it, who else gives an argument; None: anybody)."""
        found: list[tuple[graphs.Graph, str]] = []
        is_bound = False
        function = self._meta.concrete.get(graph.name)
        if function is not None:
            bound = index - (len(graph.args) - len(function.bound))
            if bound < 0 or function.bound[bound] != "asset":
                return False, None
            is_bound = True
        for caller, node in self._call_sites().get(graph.name, ()):
            inputs = node.data_inputs
            place = index + (
                0 if node.op in _CALLS or node.op == graph.name else _OFFSETS.get(node.op, -1)
            )
            if place < index or place >= len(inputs):
                return False, None
            found.append((caller, inputs[place]))
        return is_bound, found

    def _call_sites(self) -> dict[str, list[tuple[graphs.Graph, graphs.Node]]]:
        if self._sites is None:
            self._sites = {}
            for graph in (self._meta.graph, *self._meta.functions.values()):
                for node in graph.nodes.values():
                    for name in self.called_by(node):
                        self._sites.setdefault(name, []).append((graph, node))
        return self._sites


def _resource_name(node: graphs.Node) -> tuple[bytes, bytes]:
    # TensorFlow takes the node's name where none is shared.
    shared = node.texts.get("shared_name") or node.name.encode()
    return node.texts.get("container", b""), shared
