"""The files of a SavedModel: what they say before TensorFlow acts on them.

One idea: saved_model.pb is read as plain data first, so that a wrong file ends in a sentence, and
without TensorFlow, so that whoever only asks what is in it has the answer at once. The graph and
its assets are also kept as bytes: they travel with the trained model, whose weights replace the
variables of the original.

Reference: TensorFlow, "Using the SavedModel format", https://www.tensorflow.org/guide/saved_model;
saved_model.proto, meta_graph.proto and saved_object_graph.proto of TensorFlow;
TensorFlow Hub, "Reusable SavedModels", https://www.tensorflow.org/hub/reusable_saved_models.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping

from tf_finetune import findings
from tf_finetune.models.saved import (
    module_graph,
    module_operations,
    module_rules,
    tensor_specs,
)
from tf_finetune.models.stored import stored_config, stored_table
from tf_finetune.trust import refusals

GRAPH_NAMES = ("saved_model.pb", "saved_model.pbtxt")
TF1_HUB_NAME = "tfhub_module.pb"
KERAS_NAME = "keras_metadata.pb"
ASSETS_DIR = "assets"
_VARIABLES_INDEX = os.path.join("variables", "variables.index")
_KINDS = {
    "hub1": "TF1 hub module",
    "keras": "SavedModel of Keras",
    "hub2": "SavedModel with __call__",
    "signatures": "SavedModel with signatures only",
}


@dataclasses.dataclass(frozen=True)
class StoredModule:
    """What saved_model.pb says.

    Attributes:
      path: its folder.
      meta_graph: the graph that is used.
      tags: of that graph.
      kind: "hub1" (tfhub_module.pb of TensorFlow 1), "keras", "hub2" (a reusable SavedModel) or
        "signatures".
      files: {path relative to the folder: content} of all but the variables.
      is_tensorflow_1: TensorFlow loads it as it loads what TensorFlow 1 wrote.
    """

    path: str
    meta_graph: module_graph.MetaGraph
    tags: tuple[str, ...]
    kind: str
    files: Mapping[str, bytes]
    is_tensorflow_1: bool = False

    @property
    def version(self) -> str:
        """TensorFlow's version that wrote it; "?" where it does not say."""
        return self.meta_graph.version or "?"

    @property
    def needs_text(self) -> bool:
        """It runs operations of TensorFlow Text."""
        return bool(module_operations.find_text_operations(self.meta_graph.operations))

    @property
    def source(self) -> str:
        """For the user, for example "TF1 hub module of TensorFlow 1.15.0"."""
        return f"{_KINDS[self.kind]} of TensorFlow {findings.one_line(self.version)}"


@dataclasses.dataclass(frozen=True)
class SignatureEnds:
    """A signature, for the user.

    Attributes:
      name: of the signature.
      inputs: sorted by name; without shape and dtype where one is several tensors.
      outputs: likewise.
    """

    name: str
    inputs: tuple[stored_table.End, ...]
    outputs: tuple[stored_table.End, ...]

    def __str__(self) -> str:
        """For the user, for example "image float32 [?, 8, 8, 3] -> output float32 [?, 5]"."""
        return " -> ".join(
            ", ".join(map(_describe_end, end)) for end in (self.inputs, self.outputs)
        )


def read_module(path: str, *, with_variables: bool = True) -> StoredModule:
    """Reads a SavedModel's folder without loading it.

    Args:
      path: the folder.
      with_variables: refuse it where it has variables and their files are not there.

    Returns:
      What it says.

    Raises:
      findings.RefusedError: saved_model.pb cannot be read or is truncated; it holds no graph, or
        several and none is for serving; the files of its variables are missing.
    """
    files = _read_files(path)
    graphs = _parse(path, files)
    meta_graph = _choose_graph(path, graphs)
    has_index = os.path.isfile(os.path.join(path, _VARIABLES_INDEX))
    if with_variables and not has_index and _count_variables(meta_graph):
        raise stored_config.refused(
            path,
            f"holds variables, and the file {_VARIABLES_INDEX} is missing. Copy or download the "
            "whole folder again.",
        )
    return StoredModule(
        path=path,
        meta_graph=meta_graph,
        tags=meta_graph.tags,
        kind=_find_kind(meta_graph, files),
        files=files,
        # TensorFlow restores objects only of a file with a single graph.
        is_tensorflow_1=len(graphs) > 1 or not meta_graph.nodes,
    )


def write_files(files: Mapping[str, bytes], folder: str) -> None:
    """Writes the files of a module, without its variables.

    Args:
      files: `StoredModule.files`.
      folder: an existing folder.

    Raises:
      OSError: they cannot be written.
    """
    for name, content in files.items():
        path = os.path.join(folder, *name.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)


def list_signatures(stored: StoredModule) -> tuple[SignatureEnds, ...]:
    """The signatures that a user may call.

    Args:
      stored: from `read_module`.

    Returns:
      In the order of their names, without those of initializers.
    """
    return tuple(
        SignatureEnds(
            name,
            make_ends(sorted(signature.inputs.items())),
            make_ends(sorted(signature.outputs.items())),
        )
        for name, signature in sorted(stored.meta_graph.signatures.items())
        if name not in module_rules.PRIVATE_SIGNATURES
    )


def make_ends(
    named: Iterable[tuple[str, tensor_specs.Spec | None]],
) -> tuple[stored_table.End, ...]:
    """Inputs or outputs, for the user.

    Args:
      named: (name, spec) pairs; None for what is no single tensor.

    Returns:
      In the same order.
    """
    return tuple(
        stored_table.End(name, spec.shape if spec else None, spec.dtype if spec else None)
        for name, spec in named
    )


def _describe_end(end: stored_table.End) -> str:
    what = tensor_specs.Spec(end.dtype, end.shape) if end.dtype else "(several tensors)"
    return f"{findings.one_line(end.name)} {what}"


def describe_signatures(path: str) -> tuple[tuple[str, str], ...]:
    """What a user of a SavedModel wants to know, from saved_model.pb alone.

    Args:
      path: the folder.

    Returns:
      (label, text) pairs in the order of printing: format, tags, callable, each signature with its
      inputs and outputs, variables, assets.

    Raises:
      findings.RefusedError: as for `read_module`.
    """
    stored = read_module(path, with_variables=False)
    lines = [
        ("format", stored.source),
        ("tags", ", ".join(map(findings.one_line, stored.tags)) or "none"),
    ]
    attributes = stored.meta_graph.root
    if "__call__" in attributes:
        names = ("variables", "trainable_variables", "regularization_losses")
        listed = [name for name in names if name in attributes]
        text = f"__call__, with {', '.join(listed)}" if listed else "__call__"
        lines.append(("callable", text))
    lines += [
        (f"signature {findings.one_line(signature.name)}", str(signature))
        for signature in list_signatures(stored)
    ]
    lines.append(("variables", str(_count_variables(stored.meta_graph))))
    assets = [name for name in stored.files if name.startswith(f"{ASSETS_DIR}/")]
    if assets:
        lines.append(("assets", findings.list_first(assets)))
    return tuple(lines)


def _read_files(path: str) -> dict[str, bytes]:
    files = {}
    names = [
        name
        for name in (*GRAPH_NAMES, TF1_HUB_NAME, KERAS_NAME)
        if os.path.isfile(os.path.join(path, name))
    ]
    for folder, _, found in os.walk(os.path.join(path, ASSETS_DIR)):
        relative = os.path.relpath(folder, path).replace(os.sep, "/")
        names += [f"{relative}/{name}" for name in sorted(found)]
    for name in names:
        if name == KERAS_NAME:
            # Keras's own description of the layers, Lambdas among them, is never read.
            files[name] = b""
            continue
        try:
            with open(os.path.join(path, *name.split("/")), "rb") as file:
                files[name] = file.read()
        except OSError as error:
            raise stored_config.refused(
                path, f"{findings.one_line(name)} cannot be read: {error.strerror}."
            ) from error
    return files


def _parse(path: str, files: Mapping[str, bytes]) -> tuple[module_graph.MetaGraph, ...]:
    name = next((name for name in GRAPH_NAMES if name in files), None)
    if name is None:
        raise stored_config.refused(path, f"holds no {GRAPH_NAMES[0]}. Expected a SavedModel.")
    data = files[name] if name.endswith(".pb") else _convert_text(path, name, files[name])
    try:
        graphs = module_graph.read_meta_graphs(data)
    except refusals.BrokenFileError as error:
        raise _truncated(path, name) from error
    if not graphs:
        raise _truncated(path, name)
    return graphs


def _convert_text(path: str, name: str, data: bytes) -> bytes:
    # Only TensorFlow knows the names of the fields that this notation writes.
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        saved = text_format.Parse(data.decode("utf-8"), saved_model_pb2.SavedModel())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise _truncated(path, name) from error
    return bytes(saved.SerializeToString())


def _truncated(path: str, name: str) -> findings.RefusedError:
    return stored_config.refused(
        path, f"its {name} is empty, truncated or damaged. Copy or download the folder again."
    )


def _choose_graph(path: str, graphs: tuple[module_graph.MetaGraph, ...]) -> module_graph.MetaGraph:
    by_tags = {frozenset(graph.tags): graph for graph in graphs}
    if len(by_tags) == 1:
        return next(iter(by_tags.values()))
    # A TF1 hub module keeps its graph for inference without tags, that for training as "train".
    for tags in (frozenset({"serve"}), frozenset[str]()):
        if tags in by_tags:
            return by_tags[tags]
    shown = "; ".join(", ".join(sorted(tags)) for tags in by_tags)
    raise stored_config.refused(
        path,
        f"holds {len(by_tags)} graphs, with the tags {findings.one_line(shown)}. Expected one, or "
        "one with the tag 'serve' alone: save it again with that tag.",
    )


def _find_kind(meta_graph: module_graph.MetaGraph, files: Mapping[str, bytes]) -> str:
    if KERAS_NAME in files or "keras_api" in meta_graph.root:
        return "keras"
    if TF1_HUB_NAME in files:
        return "hub1"
    return "hub2" if "__call__" in meta_graph.root else "signatures"


def _count_variables(meta_graph: module_graph.MetaGraph) -> int:
    if meta_graph.nodes:
        # TensorFlow adds a counter of its own to whatever it saves.
        own = meta_graph.root.get("save_counter")
        return sum(
            node.kind == "variable" and number != own
            for number, node in enumerate(meta_graph.nodes)
        )
    names = ("variables", "trainable_variables")
    return max(len(meta_graph.collections.get(name, ())) for name in names)
