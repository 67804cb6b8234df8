"""SavedModel folders and TF-Hub modules: a program, judged without running it.

One idea: TensorFlow runs whatever operations a graph holds, some of them when it is merely loaded.
So every operation of the graph and of all its functions must be on a list (see `saved_model_ops`),
and of the few that touch files only the saver's own and the tables of assets are let through (see
`saved_model_calls`). TensorFlow is not imported.

saved_model.pbtxt is refused: it is another notation of the same, which only tests use, and a folder
with both has two contents.

Reference: TensorFlow, "Using the SavedModel format", https://www.tensorflow.org/guide/saved_model,
and "Using TensorFlow Securely", https://github.com/tensorflow/tensorflow/blob/master/SECURITY.md.
"""

import mmap
import os
import stat
from collections.abc import Collection, Iterator

from tf_finetune import findings
from tf_finetune.trust import (
    constants,
    member_rules,
    refusals,
    saved_model_calls,
    saved_model_ops,
    tensor_bundle,
)
from tf_finetune.trust import saved_model_graph as graphs

GRAPH, TEXT_GRAPH, TF1_HUB = "saved_model.pb", "saved_model.pbtxt", "tfhub_module.pb"
_ASSETS, _VARIABLES = "assets", "variables"
_MAX_FILES = 20_000
_MAX_GRAPH_BYTES = 2**31
_MAX_FILLED_BYTES = 512 * 2**20


def examine(path: str) -> Iterator[findings.Finding]:
    """Examines the folder of a SavedModel.

    Args:
      path: the folder.

    Yields:
      Findings.

    Raises:
      refusals.BrokenFileError: a file of it cannot be read.
    """
    found = list(check_folder(path))
    yield from found
    if found:
        return
    names = set(os.listdir(path))
    if TEXT_GRAPH in names:
        both = f"and {GRAPH}, which may differ" if GRAPH in names else "in place of the binary form"
        yield refusals.outside(
            TEXT_GRAPH, f"holds {TEXT_GRAPH} {both}. Expected {GRAPH} alone: export it again."
        )
        return
    if GRAPH not in names:
        yield refusals.broken("", f"holds no {GRAPH}.")
        return
    assets = _list_assets(path)
    with open(os.path.join(path, GRAPH), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not 0 < size < _MAX_GRAPH_BYTES:
            what = "is empty" if not size else "is larger than a protocol buffer can be"
            yield refusals.broken(GRAPH, f"{GRAPH} {what}.")
            return
        # Not closed: an error's traceback still refers to it.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        yield from examine_graph(memoryview(content), GRAPH, assets=assets)
    variables = os.path.join(path, _VARIABLES)
    if os.path.isdir(variables):
        yield from tensor_bundle.examine(variables)


def check_folder(path: str) -> Iterator[findings.Finding]:
    """Looks for what is neither a regular file nor a folder.

    Args:
      path: the folder.

    Yields:
      Findings.
    """
    waiting, count = [path], 0
    while waiting:
        for entry in sorted(os.scandir(waiting.pop()), key=lambda item: item.name):
            count += 1
            name = os.path.relpath(entry.path, path)
            shown = f"'{findings.one_line(name)}'"
            mode = entry.stat(follow_symlinks=False).st_mode
            problem = member_rules.name_problem(name, is_folder=False)
            if count > _MAX_FILES:
                yield refusals.outside("", f"holds more than {_MAX_FILES:,} files.")
                return
            if stat.S_ISLNK(mode):
                yield refusals.outside(
                    name,
                    f"{shown} is a symbolic link, which could lead to any file of this computer. "
                    "Copy the file itself into the folder.",
                )
            elif stat.S_ISDIR(mode):
                waiting.append(entry.path)
            elif not stat.S_ISREG(mode):
                yield refusals.outside(name, f"{shown} is no regular file. Remove it.")
            elif mode & (stat.S_ISUID | stat.S_ISGID):
                yield refusals.outside(
                    name, f"{shown} would run with another user's rights. Remove it."
                )
            elif "control" in problem:
                yield refusals.outside(name, f"{shown} {problem} Rename it.")


def examine_graph(
    data: bytes | memoryview, what: str, *, assets: Collection[str] | None
) -> Iterator[findings.Finding]:
    """Examines saved_model.pb.

    Args:
      data: its bytes.
      what: its name, for the texts.
      assets: files below assets/ that are there; None: not known.

    Yields:
      Findings.

    Raises:
      refusals.BrokenFileError: it is truncated or damaged.
    """
    if what.endswith(".pbtxt"):
        yield refusals.outside(what, f"holds {what}. Expected {GRAPH} alone: export it again.")
        return
    count = 0
    for meta in graphs.read_meta_graphs(memoryview(data), what=what):
        count += 1
        yield from _examine_meta_graph(meta, what, assets)
    if not count:
        yield refusals.broken(what, f"{what} holds no graph: it is truncated or damaged.")


def _examine_meta_graph(
    meta: graphs.MetaGraph, what: str, assets: Collection[str] | None
) -> Iterator[findings.Finding]:
    calls = saved_model_calls.Calls(meta)
    filled = 0
    told: set[str] = set()
    for graph in (meta.graph, *meta.functions.values()):
        for node in graph.nodes.values():
            finding = _check_operation(graph, node, meta)
            if finding is not None and node.op not in told:
                told.add(node.op)
                yield finding
            if node.value is not None:
                filled += constants.filled_bytes(node.value, what=what)
    if filled > _MAX_FILLED_BYTES:
        yield refusals.outside(
            what,
            f"its constants unpack to {filled:,} bytes that are not in the file: they would fill "
            "the memory. It is hostile.",
        )
    yield from _check_function_names(meta)
    yield from _check_files(meta, calls)
    yield from _check_loading(meta, calls)
    yield from _check_assets(meta, assets)


def _check_operation(
    graph: graphs.Graph, node: graphs.Node, meta: graphs.MetaGraph
) -> findings.Finding | None:
    op = node.op
    if node.value is not None and constants.read_dtype(node.value, what="") == constants.RESOURCE:
        return refusals.code(
            op,
            f"the constant {_place(graph, node)} is a handle: it could reach objects of this "
            "process.",
        )
    if op in saved_model_ops.ALLOWED or op in meta.functions:
        return None
    if op in saved_model_ops.SAVER or op in saved_model_ops.READS_ASSET:
        return None  # where they stand is checked apart
    if op in saved_model_ops.TAKES_ELEMENT and _takes_argument(graph, node):
        return None
    shown = findings.one_line(op)
    return refusals.code(
        op,
        f"the operation {shown} ({_place(graph, node)}) is excluded: {saved_model_ops.reason(op)}.",
    )


def _takes_argument(graph: graphs.Graph, node: graphs.Node) -> bool:
    if not node.inputs:
        return False
    source = graphs.node_of(node.inputs[0])
    if source in graph.args:
        return True
    # What an iterator gives may come wrapped, as an optional.
    made = graph.nodes.get(source)
    return (
        made is not None
        and made.op in saved_model_ops.TAKES_ELEMENT
        and _takes_argument(graph, made)
    )


def _check_function_names(meta: graphs.MetaGraph) -> Iterator[findings.Finding]:
    excluded = saved_model_ops.SAVER | set(saved_model_ops.READS_ASSET)
    for name in meta.functions:
        named = saved_model_ops.reason(name) != saved_model_ops.DEFAULT_REASON
        if name in excluded or (named and name.isalnum() and name[:1].isupper()):
            shown = findings.one_line(name)
            yield refusals.code(
                name,
                f"a function of the model is called {shown} like an operation that is excluded.",
            )


def _check_files(
    meta: graphs.MetaGraph, calls: saved_model_calls.Calls
) -> Iterator[findings.Finding]:
    saving = calls.ancestors([meta.save_node])
    restoring = calls.ancestors([meta.restore_node])
    running = calls.ancestors(meta.called_nodes | meta.init_nodes)
    areas = {
        "run": (running, calls.functions_called(running, meta.concrete)),
        "restore": (restoring, calls.functions_called(restoring)),
        "save": (saving, calls.functions_called(saving)),
    }
    # The loader gives an asset's name to the initializer. Anywhere else its node is a constant.
    elsewhere = calls.ancestors([*meta.called_nodes, meta.save_node, meta.restore_node])
    assets = {name for name, _ in meta.assets} - elsewhere
    for graph in (meta.graph, *meta.functions.values()):
        for node in graph.nodes.values():
            if node.op in saved_model_ops.READS_ASSET:
                place = saved_model_ops.READS_ASSET[node.op]
                names = node.data_inputs[place : place + 1]
                if not names or not calls.is_from(
                    graph, names[0], sources=assets, bound_assets=True
                ):
                    yield _refuse_table(graph, node)
            elif node.op in saved_model_ops.SAVE | saved_model_ops.RESTORE:
                reached = {
                    area
                    for area, (nodes, functions) in areas.items()
                    if (graph.name in functions if graph.name else node.name in nodes)
                }
                if not _is_savers(graph, node, meta, calls, reached=reached):
                    yield _refuse_saver(graph, node)


def _is_savers(
    graph: graphs.Graph,
    node: graphs.Node,
    meta: graphs.MetaGraph,
    calls: saved_model_calls.Calls,
    *,
    reached: set[str],
) -> bool:
    if not reached:
        return True  # left over from another saver: nothing runs it
    writes = node.op in saved_model_ops.SAVE
    if "run" in reached or (writes and "restore" in reached):
        return False
    inputs = node.data_inputs
    names = inputs[:2] if node.op == "MergeV2Checkpoints" else inputs[:1]
    sources = {meta.filename_tensor} - {""}
    return bool(names) and all(calls.is_from(graph, name, sources=sources) for name in names)


def _refuse_table(graph: graphs.Graph, node: graphs.Node) -> findings.Finding:
    return refusals.code(
        node.op,
        f"the operation {node.op} ({_place(graph, node)}) reads a file that is no asset of the "
        "model.",
    )


def _refuse_saver(graph: graphs.Graph, node: graphs.Node) -> findings.Finding:
    what = "writes" if node.op in saved_model_ops.SAVE else "reads"
    return refusals.code(
        node.op,
        f"the operation {node.op} ({_place(graph, node)}) {what} files outside of the model's own "
        "variables.",
    )


def _check_loading(
    meta: graphs.MetaGraph, calls: saved_model_calls.Calls
) -> Iterator[findings.Finding]:
    recursive = calls.find_recursion()
    if recursive:
        shown = findings.one_line(recursive)
        yield refusals.code("", f"its function '{shown}' calls itself, so it may never return.")
    nodes = calls.ancestors([*meta.init_nodes, meta.restore_node])
    functions = calls.functions_called(nodes, meta.run_at_load)
    bodies = [(meta.graph, meta.graph.nodes[name]) for name in sorted(nodes)]
    bodies += [
        (meta.functions[name], node)
        for name in sorted(functions)
        for node in meta.functions[name].nodes.values()
    ]
    for graph, node in bodies:
        if node.op in saved_model_ops.LOOPS:
            yield refusals.code(
                node.op,
                f"an initializer of the model holds a loop ({node.op}, {_place(graph, node)}), "
                "which runs when it is loaded and may never end.",
            )
            return


def _check_assets(
    meta: graphs.MetaGraph, assets: Collection[str] | None
) -> Iterator[findings.Finding]:
    for _, name in meta.assets:
        problem = member_rules.name_problem(name, is_folder=False)
        shown = f"asset '{findings.one_line(name)}'"
        if problem:
            yield refusals.outside(name, f"{shown} {problem} Export the model again.")
        elif assets is not None and name not in assets:
            yield refusals.broken(name, f"{shown} is missing.")


def _place(graph: graphs.Graph, node: graphs.Node) -> str:
    where = f" of function '{findings.one_line(graph.name)}'" if graph.name else ""
    return f"'{findings.one_line(node.name)}'{where}"


def _list_assets(path: str) -> frozenset[str]:
    folder = os.path.join(path, _ASSETS)
    return frozenset(
        os.path.relpath(os.path.join(here, name), folder).replace(os.sep, "/")
        for here, _, names in os.walk(folder)
        for name in names
    )
