"""Who calls whom in a SavedModel, and where a file's name comes from.

One idea: the saver's operations read and write files by design, so they are let through only where
nothing but saving and restoring reaches them, and where the name that they use is the one that the
loader gives. A table may read a text file, if its name is that of an asset.
"""

from collections.abc import Collection, Iterable, Iterator

from tf_finetune.trust import saved_model_graph as graphs

_PASS_ON = frozenset({"Identity", "Reshape", "ExpandDims", "Squeeze", "EnsureShape"})
_FIRST_ONLY = frozenset({"ShardedFilename", "ShardedFilespec"})
_ALL_INPUTS = frozenset({"Pack", "ConcatV2", "IdentityN"})
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
# Inputs before those of the called functions.
_OFFSETS = {
    "If": 1,
    "StatelessIf": 1,
    "Case": 1,
    "StatelessCase": 1,
    "While": 0,
    "StatelessWhile": 0,
}
_VARIABLE_READERS = ("ReadVariableOp", "VarIsInitializedOp")
_MAX_STEPS = 200


class Calls:
    """The call graph of one meta graph.

    Args:
      meta: the graph.
    """

    def __init__(self, meta: graphs.MetaGraph):
        self._meta = meta
        self._sites: dict[str, list[tuple[graphs.Graph, graphs.Node]]] | None = None

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

    def is_from(self, graph: graphs.Graph, tensor: str, *, sources: Collection[str]) -> bool:
        """Whether a text begins with what one of some nodes of the outer graph gives.

        Args:
          graph: where the tensor is.
          tensor: an input of one of its nodes.
          sources: names of nodes of the outer graph; "asset" also stands for bound assets.

        Returns:
          True where it can come from nowhere else.
        """
        waiting = [(graph, graphs.node_of(tensor))]
        seen: set[tuple[str, str]] = set()
        while waiting:
            graph, name = waiting.pop()
            if (graph.name, name) in seen:
                continue
            seen.add((graph.name, name))
            if len(seen) > _MAX_STEPS:
                return False
            if not graph.name and name in sources:
                continue
            if name in graph.args and name not in graph.nodes:
                further = self._givers(graph, graph.args.index(name), assets="asset" in sources)
            else:
                further = self._step(graph, graph.nodes.get(name))
            if further is None:
                return False
            waiting += further
        return True

    def _step(
        self, graph: graphs.Graph, node: graphs.Node | None
    ) -> list[tuple[graphs.Graph, str]] | None:
        if node is None:
            return None
        inputs = [graphs.node_of(item) for item in node.inputs if not item.startswith("^")]
        if node.op == "ReadVariableOp":
            return self._assigned(graph, inputs[0]) if inputs else None
        if node.op in _ALL_INPUTS:
            return [(graph, name) for name in inputs if not self._is_number(graph, name)]
        if node.op == "StringJoin":
            if not inputs or not all(self._is_suffix(graph, name) for name in inputs[1:]):
                return None
        elif node.op not in _PASS_ON and node.op not in _FIRST_ONLY:
            return None
        return [(graph, name) for name in inputs[:1]] or None

    def _assigned(self, graph: graphs.Graph, handle: str) -> list[tuple[graphs.Graph, str]] | None:
        # A variable is what it is assigned, where nobody else gets hold of it.
        found = []
        for node in graph.nodes.values():
            inputs = [graphs.node_of(item) for item in node.inputs if not item.startswith("^")]
            if handle not in inputs:
                continue
            if node.op == "AssignVariableOp" and inputs[0] == handle:
                found.append((graph, inputs[1]))
            elif node.op not in _VARIABLE_READERS:
                return None
        is_variable = handle in graph.nodes and graph.nodes[handle].op == "VarHandleOp"
        return found if is_variable and found else None

    def _is_number(self, graph: graphs.Graph, name: str) -> bool:
        node = graph.nodes.get(name)
        return node is not None and node.value is not None and bytes(node.value[:2]) == b"\x08\x03"

    def _is_suffix(self, graph: graphs.Graph, name: str) -> bool:
        # What the saver puts behind the path: constants, or one of two.
        node = graph.nodes.get(name)
        if node is None:
            return False
        if node.op == "Const":
            content = bytes(node.value[:4096]) if node.value is not None else b""
            return b".." not in content and b"://" not in content
        inputs = [graphs.node_of(item) for item in node.inputs if not item.startswith("^")]
        if node.op in ("Select", "SelectV2"):
            return all(
                self._is_suffix(graph, item)
                for item in inputs[1:]
                if graph.nodes.get(item, node) is not node
            )
        return False

    def _givers(
        self, graph: graphs.Graph, index: int, *, assets: bool
    ) -> list[tuple[graphs.Graph, str]] | None:
        found: list[tuple[graphs.Graph, str]] = []
        function = self._meta.concrete.get(graph.name)
        if function is not None:
            bound = index - (len(graph.args) - len(function.bound))
            if not assets or bound < 0 or function.bound[bound] != "asset":
                return None
        for caller, node in self._call_sites().get(graph.name, ()):
            inputs = [item for item in node.inputs if not item.startswith("^")]
            place = index + (
                0 if node.op in _CALLS or node.op == graph.name else _OFFSETS.get(node.op, -1)
            )
            if place < index or place >= len(inputs):
                return None
            found.append((caller, graphs.node_of(inputs[place])))
        return found

    def _call_sites(self) -> dict[str, list[tuple[graphs.Graph, graphs.Node]]]:
        if self._sites is None:
            self._sites = {}
            for graph in (self._meta.graph, *self._meta.functions.values()):
                for node in graph.nodes.values():
                    for name in self.called_by(node):
                        self._sites.setdefault(name, []).append((graph, node))
        return self._sites
