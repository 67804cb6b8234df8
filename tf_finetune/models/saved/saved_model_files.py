"""The files of a SavedModel: what they say before TensorFlow acts on them.

One idea: saved_model.pb is read as plain data first, so that a wrong file ends in a sentence. The
graph and its assets are also kept as bytes: they travel with the trained model, whose weights
replace the variables of the original.

Reference: TensorFlow, "Using the SavedModel format", https://www.tensorflow.org/guide/saved_model;
saved_model.proto, meta_graph.proto and saved_object_graph.proto of TensorFlow;
TensorFlow Hub, "Reusable SavedModels", https://www.tensorflow.org/hub/reusable_saved_models.
"""

import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from google.protobuf import message, text_format
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

# TensorFlow has no public list of the operations that it knows.
from tensorflow.python.framework import op_def_registry

from tf_finetune import findings
from tf_finetune.models.stored import stored_config

GRAPH_NAMES = ("saved_model.pb", "saved_model.pbtxt")
TF1_HUB_NAME = "tfhub_module.pb"
KERAS_NAME = "keras_metadata.pb"
ASSETS_DIR = "assets"
_VARIABLES_INDEX = os.path.join("variables", "variables.index")
# Signature of a module's initializer, which nobody calls.
_PRIVATE_SIGNATURES = ("__saved_model_init_op", "__saved_model_train_op")
_KINDS = {
    "hub1": "TF1 hub module",
    "keras": "SavedModel of Keras",
    "hub2": "SavedModel with __call__",
    "signatures": "SavedModel with signatures only",
}

# Operations of TensorFlow Text 2.20, beside those that begin with TFText>.
_TEXT_PREFIX = "TFText>"
_TEXT_OPERATIONS = frozenset(
    (
        "CaseFoldUTF8",
        "ConstrainedSequence",
        "FastBertNormalize",
        "FastWordpieceTokenizeWithOffsets",
        "FindSourceOffsets",
        "MaxSpanningTree",
        "NormalizeUTF8",
        "NormalizeUTF8WithOffsetsMap",
        "PhraseTokenize",
        "RegexSplitWithOffsets",
        "RougeL",
        "SentenceFragments",
        "SentenceFragmentsV2",
        "SentencepieceDetokenizeOp",
        "SentencepieceIdToStringOp",
        "SentencepieceOp",
        "SentencepieceStringToIdOp",
        "SentencepieceTokenizeOp",
        "SentencepieceTokenizeWithOffsetsOp",
        "SentencepieceVocabSizeOp",
        "SplitMergeTokenizeWithOffsets",
        "TokenizerFromLogits",
        "UnicodeScriptTokenizeWithOffsets",
        "WhitespaceTokenizeWithOffsets",
        "WordpieceTokenizeWithOffsets",
    )
)


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
      needs_text: TensorFlow Text was imported for its operations.
    """

    path: str
    meta_graph: meta_graph_pb2.MetaGraphDef
    tags: tuple[str, ...]
    kind: str
    files: Mapping[str, bytes]
    needs_text: bool = False

    @property
    def version(self) -> str:
        """TensorFlow's version that wrote it; "?" where it does not say."""
        return self.meta_graph.meta_info_def.tensorflow_version or "?"

    @property
    def source(self) -> str:
        """For the user, for example "TF1 hub module of TensorFlow 1.15.0"."""
        return f"{_KINDS[self.kind]} of TensorFlow {findings.one_line(self.version)}"


def read_module(path: str, *, with_variables: bool = True) -> StoredModule:
    """Reads a SavedModel's folder without loading it.

    Args:
      path: the folder.
      with_variables: refuse it where it has variables and their files are not there.

    Returns:
      What it says.

    Raises:
      findings.RefusedError: saved_model.pb cannot be read or is truncated; it holds no graph, or
        several and none is for serving; the files of its variables are missing; it needs
        operations that TensorFlow does not have.
    """
    files = _read_files(path)
    meta_graph = _choose_graph(path, _parse(path, files))
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
        tags=tuple(meta_graph.meta_info_def.tags),
        kind=_find_kind(meta_graph, files),
        files=files,
        needs_text=_check_operations(path, meta_graph),
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
    attributes = _root_attributes(stored.meta_graph)
    if "__call__" in attributes:
        present = [name for name in ("trainable_variables", "regularization_losses")]
        listed = [name for name in ("variables", *present) if name in attributes]
        text = f"__call__, with {', '.join(listed)}" if listed else "__call__"
        lines.append(("callable", text))
    for name, signature in sorted(stored.meta_graph.signature_def.items()):
        if name not in _PRIVATE_SIGNATURES:
            ends = (_describe_tensors(end) for end in (signature.inputs, signature.outputs))
            lines.append((f"signature {findings.one_line(name)}", " -> ".join(ends)))
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


def _parse(path: str, files: Mapping[str, bytes]) -> saved_model_pb2.SavedModel:
    name = next((name for name in GRAPH_NAMES if name in files), None)
    if name is None:
        raise stored_config.refused(path, f"holds no {GRAPH_NAMES[0]}. Expected a SavedModel.")
    try:
        if name.endswith(".pb"):
            saved = saved_model_pb2.SavedModel.FromString(files[name])
        else:
            saved = text_format.Parse(files[name].decode("utf-8"), saved_model_pb2.SavedModel())
    except (message.DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise _truncated(path, name) from error
    if not saved.meta_graphs:
        raise _truncated(path, name)
    return saved


def _truncated(path: str, name: str) -> findings.RefusedError:
    return stored_config.refused(
        path, f"its {name} is empty, truncated or damaged. Copy or download the folder again."
    )


def _choose_graph(path: str, saved: saved_model_pb2.SavedModel) -> meta_graph_pb2.MetaGraphDef:
    graphs = {frozenset(graph.meta_info_def.tags): graph for graph in saved.meta_graphs}
    if len(graphs) == 1:
        return next(iter(graphs.values()))
    # A TF1 hub module keeps its graph for inference without tags, that for training as "train".
    for tags in (frozenset({"serve"}), frozenset[str]()):
        if tags in graphs:
            return graphs[tags]
    shown = "; ".join(", ".join(sorted(tags)) for tags in graphs)
    raise stored_config.refused(
        path,
        f"holds {len(graphs)} graphs, with the tags {findings.one_line(shown)}. Expected one, or "
        "one with the tag 'serve' alone: save it again with that tag.",
    )


def _find_kind(meta_graph: meta_graph_pb2.MetaGraphDef, files: Mapping[str, bytes]) -> str:
    attributes = _root_attributes(meta_graph)
    if KERAS_NAME in files or "keras_api" in attributes:
        return "keras"
    if TF1_HUB_NAME in files:
        return "hub1"
    return "hub2" if "__call__" in attributes else "signatures"


def _root_attributes(meta_graph: meta_graph_pb2.MetaGraphDef) -> set[str]:
    nodes = meta_graph.object_graph_def.nodes
    return {child.local_name for child in nodes[0].children} if nodes else set()


def _count_variables(meta_graph: meta_graph_pb2.MetaGraphDef) -> int:
    nodes = meta_graph.object_graph_def.nodes
    if nodes:
        # TensorFlow adds a counter of its own to whatever it saves.
        own = {child.node_id for child in nodes[0].children if child.local_name == "save_counter"}
        return sum(
            node.WhichOneof("kind") == "variable" and number not in own
            for number, node in enumerate(nodes)
        )
    collections = meta_graph.collection_def
    return max(
        (
            len(getattr(collections[name], str(collections[name].WhichOneof("kind"))).value)
            for name in ("variables", "trainable_variables")
            if name in collections
        ),
        default=0,
    )


def _check_operations(path: str, meta_graph: meta_graph_pb2.MetaGraphDef) -> bool:
    unknown = _unknown_operations(meta_graph)
    text = [name for name in unknown if name.startswith(_TEXT_PREFIX) or name in _TEXT_OPERATIONS]
    if text and importlib.util.find_spec("tensorflow_text") is not None:
        importlib.import_module("tensorflow_text")
        unknown = _unknown_operations(meta_graph)
    if not unknown:
        return bool(text)
    named = findings.list_first(unknown)
    if text:
        hint = "They are of TensorFlow Text: pip install tensorflow-text"
    else:
        hint = "Expected a SavedModel of TensorFlow's own operations."
    raise stored_config.refused(
        path, f"its graph needs operations that TensorFlow does not have: {named}. {hint}"
    )


def _unknown_operations(meta_graph: meta_graph_pb2.MetaGraphDef) -> list[str]:
    library = meta_graph.graph_def.library.function
    functions = {function.signature.name for function in library}
    used = {node.op for node in _nodes(meta_graph)} - functions
    return sorted(name for name in used if op_def_registry.get(name) is None)


def _nodes(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[Any]:
    yield from meta_graph.graph_def.node
    for function in meta_graph.graph_def.library.function:
        yield from function.node_def


def _describe_tensors(tensors: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{findings.one_line(name)} {_describe_tensor(tensor)}"
        for name, tensor in sorted(tensors.items())
    )


def _describe_tensor(tensor: meta_graph_pb2.TensorInfo) -> str:
    name = tf.dtypes.as_dtype(tensor.dtype).name
    if tensor.tensor_shape.unknown_rank:
        return f"{name} of any shape"
    sides = ["?" if dim.size < 0 else str(dim.size) for dim in tensor.tensor_shape.dim]
    return f"{name} [{', '.join(sides)}]"
