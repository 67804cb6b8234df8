"""The graph that TF Serving runs: from an image or a text to probabilities and class names.

One idea: the graph is whole. It decodes and resizes the image, or makes tokens of the text, runs
the network in inference mode, and turns logits into probabilities and class names, so that a client
needs neither our code nor Keras. The weights in it are copies, one plain variable each, whatever
strategy the model was trained under; lookup tables, which training does not change, are the
model's own.

Reference: TensorFlow, "Using the SavedModel format", https://www.tensorflow.org/guide/saved_model;
TensorFlow Serving, "RESTful API", https://www.tensorflow.org/tfx/serving/api_rest
"""

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_finetune import head_kinds
from tf_finetune.data import (
    column_serving,
    columns,
    image_stores,
    mixed_serving,
    mixed_spec,
    preprocessing,
    text_store,
)
from tf_finetune.models.saved import saved_model_layer
from tf_finetune.text import first_pieces

SERVE_PIXELS = SERVE_TEXT = SERVE_COLUMNS = "serving_default"
SERVE_BYTES = "serve_bytes"
SIGNATURES = (SERVE_PIXELS, SERVE_BYTES)
TEXT_SIGNATURES = COLUMNS_SIGNATURES = (SERVE_TEXT,)
# Which columns feed which argument, for --mode=predict on an export.
COLUMNS_FILE = "columns.json"
# What `serve_bytes` does to an image, so that --mode=predict can put a mask back where it belongs.
IMAGE_FILE = "image.json"

_Tensors = dict[str, tf.Tensor]
_CallModel = Callable[[tf.Tensor | _Tensors], _Tensors]
_Functions = dict[str, tf.types.experimental.ConcreteFunction]


@dataclasses.dataclass(frozen=True)
class ServingGraph:
    """What `write_saved_model` writes.

    Attributes:
      module: holds each weight of the model once, and its tables.
      signatures: {signature's name: traced function}.
      heads: the heads whose labels go along.
      call_model: what was traced; it keeps the files of restored modules until they are written.
      fed_by: what feeds the inputs of a model of columns, alone or beside an image or a text.
      geometry: what happens to images, where a head is about pixels.
    """

    module: tf.Module
    signatures: dict[str, tf.types.experimental.ConcreteFunction]
    heads: tuple[head_kinds.HeadInfo, ...]
    call_model: _CallModel | None = None
    fed_by: columns.ColumnsSpec | mixed_spec.MixedSpec | None = None
    geometry: preprocessing.PreprocessingSpec | None = None


def make_serving_graph(
    model: keras.Model,
    spec: preprocessing.InputSpec,
    *,
    heads: Sequence[head_kinds.HeadInfo],
) -> ServingGraph:
    """Copies a model's weights and traces its signatures (see `exporting.write_export`).

    Args:
      model: input {"image": float32 [batch, height, width, channels], values 0 to 255} or {"text":
        string [batch]}, outputs {HEAD: float [batch, units] logits}.
      spec: what happens to an encoded image; a TextSpec for texts, a ColumnsSpec for columns, a
        MixedSpec for both.
      heads: one per output of the model, with as many thresholds as its kind takes.

    Returns:
      The graph; the model is not changed, and what is later done to it does not reach the graph.
    """
    module, call_model = _copy_weights(model)
    if isinstance(spec, preprocessing.PreprocessingSpec):
        signatures = _trace_images(call_model, spec, heads)
    elif isinstance(spec, mixed_spec.MixedSpec):
        signatures = _trace_mixed(call_model, spec, heads)
    elif isinstance(spec, columns.ColumnsSpec):
        signatures = _trace_columns(call_model, spec, heads)
    else:
        signatures = _trace_texts(call_model, heads)
    module.resources = _find_resources(model, signatures)
    fed = spec if isinstance(spec, columns.ColumnsSpec | mixed_spec.MixedSpec) else None
    of_pixels = any(head_kinds.HEAD_KINDS[head.kind].positions == "pixels" for head in heads)
    geometry = None
    if of_pixels and isinstance(spec, preprocessing.PreprocessingSpec):
        geometry = spec
    return ServingGraph(module, signatures, tuple(heads), call_model, fed, geometry)


def _trace_columns(
    call_model: _CallModel, spec: columns.ColumnsSpec, heads: Sequence[head_kinds.HeadInfo]
) -> _Functions:
    @tf.function(autograph=False)
    def serve_columns(**given: tf.Tensor) -> _Tensors:
        return _make_outputs(call_model(column_serving.stack_arguments(spec, given)), heads)

    specs = column_serving.make_specs(spec)
    return {SERVE_COLUMNS: serve_columns.get_concrete_function(**specs)}


def _trace_mixed(
    call_model: _CallModel, spec: mixed_spec.MixedSpec, heads: Sequence[head_kinds.HeadInfo]
) -> _Functions:
    main = spec.main

    # A function of its own, so that the network is written once and not once per signature.
    @tf.function(autograph=False)
    def classify(inputs: _Tensors) -> _Tensors:
        return _make_outputs(call_model(inputs), heads)

    @tf.function(autograph=False)
    def serve_main(**given: tf.Tensor) -> _Tensors:
        taken = given[mixed_serving.find_main_name(spec, encoded=False)]
        if isinstance(main, preprocessing.PreprocessingSpec):
            taken = _check_shape(taken, (main.height, main.width, main.channels))
        return classify(mixed_serving.stack_arguments(spec, given, taken))

    arguments = mixed_serving.make_specs(spec, encoded=False)
    made = {SERVE_PIXELS: serve_main.get_concrete_function(**arguments)}
    if isinstance(main, text_store.TextSpec):
        return made

    @tf.function(autograph=False)
    def serve_bytes(**given: tf.Tensor) -> _Tensors:
        contents = given[mixed_serving.find_main_name(spec, encoded=True)]
        pixels = preprocessing.decode_images(contents, main)
        return classify(mixed_serving.stack_arguments(spec, given, pixels))

    arguments = mixed_serving.make_specs(spec, encoded=True)
    return {**made, SERVE_BYTES: serve_bytes.get_concrete_function(**arguments)}


def _trace_texts(call_model: _CallModel, heads: Sequence[head_kinds.HeadInfo]) -> _Functions:
    texts = tf.TensorSpec([None], tf.string, name=text_store.INPUT)

    @tf.function(input_signature=[texts], autograph=False)
    def serve_text(text: tf.Tensor) -> _Tensors:
        return _make_outputs(call_model(text), heads, texts=text)

    return {SERVE_TEXT: serve_text.get_concrete_function()}


def _trace_images(
    call_model: _CallModel,
    spec: preprocessing.PreprocessingSpec,
    heads: Sequence[head_kinds.HeadInfo],
) -> _Functions:
    shape = (spec.height, spec.width, spec.channels)
    pixels = tf.TensorSpec([None, *shape], tf.float32, name="image")
    encoded = tf.TensorSpec([None], tf.string, name="image_bytes")

    # A function of its own, so that the network is written once and not once per signature.
    @tf.function(input_signature=[pixels], autograph=False)
    def classify(image: tf.Tensor) -> _Tensors:
        return _make_outputs(call_model(image), heads)

    @tf.function(input_signature=[pixels], autograph=False)
    def serve_pixels(image: tf.Tensor) -> _Tensors:
        return classify(_check_shape(image, shape))

    @tf.function(input_signature=[encoded], autograph=False)
    def serve_bytes(image_bytes: tf.Tensor) -> _Tensors:
        return classify(preprocessing.decode_images(image_bytes, spec))

    return {
        SERVE_PIXELS: serve_pixels.get_concrete_function(),
        SERVE_BYTES: serve_bytes.get_concrete_function(),
    }


def model_inputs(model: keras.Model, values: tf.Tensor | _Tensors) -> tf.Tensor | _Tensors:
    """The model's one input in the structure that the model was made with.

    Keras warns about any other.

    Args:
      model: the model.
      values: float32 [batch, height, width, channels], or string [batch]; of columns {input:
        tensor}.

    Returns:
      {"image": values}, {"text": values} or the values alone.
    """
    if isinstance(values, dict) or not isinstance(model.input, dict):
        return values
    return {text_store.INPUT if values.dtype == tf.string else image_stores.INPUT: values}


def output_prefix(head: head_kinds.HeadInfo, *, num_heads: int) -> str:
    """What stands before `probabilities`, `classes`, `class_ids` or `predictions` in the names of
    outputs.

    Args:
      head: the head.
      num_heads: number of heads of the model.

    Returns:
      "" for the only head, else "HEAD_".
    """
    return f"{head.name}_" if num_heads > 1 else ""


def write_saved_model(graph: ServingGraph, folder: str) -> None:
    """Writes the graph, its weights and assets/labels_HEAD.txt (a class name on each line).

    A head of numbers has no labels file. A model of columns has assets/columns.json, one with a
    head about pixels assets/image.json.

    Args:
      graph: the graph; its module takes the labels files along.
      folder: an existing, empty folder.

    Raises:
      OSError: the labels cannot be written.
      tensorflow.errors.OpError: the folder cannot be written or the disk is full.
    """
    # Gradients would make the graph larger; an export is not trained.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    with tempfile.TemporaryDirectory() as labels_dir:
        assets = []
        for head in graph.heads:
            if not head_kinds.HEAD_KINDS[head.kind].has_classes:
                continue
            path = os.path.join(labels_dir, f"labels_{head.name}.txt")
            with open(path, "w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{name}\n" for name in head.classes)
            assets.append(tf.saved_model.Asset(path))
        for name, spec in ((COLUMNS_FILE, graph.fed_by), (IMAGE_FILE, graph.geometry)):
            if spec is not None:
                path = os.path.join(labels_dir, name)
                with open(path, "w", encoding="utf-8") as file:
                    json.dump(spec.to_dict(), file, ensure_ascii=False)
                assets.append(tf.saved_model.Asset(path))
        graph.module.labels = assets
        tf.saved_model.save(graph.module, folder, signatures=graph.signatures, options=options)


def _copy_weights(model: keras.Model) -> tuple[tf.Module, _CallModel]:
    # tf.saved_model.save of a Keras model writes every weight twice, and the model's own variables
    # would carry the mirrored variables of a strategy into the graph.
    module = tf.Module(name="serving")
    copies = [
        saved_model_layer.copy_module(layer) for layer in saved_model_layer.find_layers(model)
    ]
    # A restored graph reads its own variables, whatever a stateless call hands over.
    own = {key: variable for copy in copies for key, variable in copy.variables.items()}
    module.restored = [resource for copy in copies for resource in copy.trackables]
    with tf.device("CPU:0"):
        trainable, other = (
            [own[id(weight)] if id(weight) in own else _copy_weight(weight) for weight in group]
            for group in (model.trainable_variables, model.non_trainable_variables)
        )
    module.trainable_weights, module.other_weights = trainable, other

    def call_model(values: tf.Tensor | _Tensors) -> _Tensors:
        inputs = model_inputs(model, values)
        with contextlib.ExitStack() as stack:
            for copy in copies:
                stack.enter_context(copy.layer.calling(copy.module))
            logits, _ = model.stateless_call(trainable, other, inputs, training=False)
        return logits

    return module, call_model


def _copy_weight(weight: keras.Variable) -> tf.Variable:
    return tf.Variable(keras.ops.convert_to_numpy(weight), trainable=False)


def _find_resources(model: keras.Model, signatures: _Functions) -> list[Any]:
    """The tables and files that the graph uses: only what is tracked is saved and initialized."""
    used = {id(outer) for function in signatures.values() for outer, _ in function.graph.captures}
    found = []
    for part in tf.train.TrackableView(model).descendants():
        if isinstance(part, tf.saved_model.experimental.TrackableResource):
            if id(part.resource_handle) in used:
                found.append(part)
        elif isinstance(part, tf.saved_model.Asset) and id(part.asset_path) in used:
            found.append(part)
    return found


def _check_shape(image: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    # A session does not compare what it is fed with the signature's shape, and a network that
    # averages over positions would answer for any size.
    same = tf.reduce_all(tf.equal(tf.shape(image)[1:], shape))
    message = f"image expects the shape [n, {', '.join(map(str, shape))}]. Received:"
    with tf.control_dependencies([tf.debugging.Assert(same, [message, tf.shape(image)])]):
        return tf.identity(image)


def _make_outputs(
    logits: _Tensors, heads: Sequence[head_kinds.HeadInfo], *, texts: tf.Tensor | None = None
) -> _Tensors:
    outputs = {}
    for head in heads:
        prefix = output_prefix(head, num_heads=len(heads))
        row = head_kinds.HEAD_KINDS[head.kind]
        numbers = _make_probabilities(tf.cast(logits[head.name], tf.float32), row)
        outputs[f"{prefix}{row.output}"] = numbers
        if row.positions:
            # Names of a million pixels would be megabytes: the labels file has them.
            ids = tf.argmax(numbers, axis=-1, output_type=tf.int32)
            if texts is not None:
                ids = _drop_padding(ids, texts)
                names = tf.constant([*(name.encode("utf-8") for name in head.classes), b""])
                outputs[f"{prefix}classes"] = tf.gather(names, ids % (len(head.classes) + 1))
            outputs[f"{prefix}{head_kinds.CLASS_IDS}"] = ids
        elif row.has_classes:
            outputs[f"{prefix}classes"] = _make_classes(numbers, head)
    return outputs


def _drop_padding(ids: tf.Tensor, texts: tf.Tensor) -> tf.Tensor:
    """-1 behind the last word of a text."""
    counts = first_pieces.split_at_space(texts).row_lengths()
    return tf.where(tf.sequence_mask(counts, tf.shape(ids)[1]), ids, -1)


def _make_probabilities(logits: tf.Tensor, row: head_kinds.HeadKind) -> tf.Tensor:
    # The graph's twin of head_kinds.probabilities.
    if row.activation == "linear":
        return logits[:, 0]
    if row.activation == "softmax":
        return tf.nn.softmax(logits)
    if row.exclusive:
        return tf.concat([tf.sigmoid(-logits), tf.sigmoid(logits)], axis=-1)
    return tf.sigmoid(logits)


def _make_classes(probabilities: tf.Tensor, head: head_kinds.HeadInfo) -> tf.Tensor:
    names = tf.constant([name.encode("utf-8") for name in head.classes])
    if not head.thresholds:
        return tf.gather(names, tf.argmax(probabilities, axis=-1))
    reached = probabilities[:, -len(head.thresholds) :] >= tf.constant(head.thresholds)
    if head_kinds.HEAD_KINDS[head.kind].exclusive:
        return tf.gather(names, tf.cast(reached[:, 0], tf.int32))
    packed = tf.ragged.boolean_mask(tf.broadcast_to(names, tf.shape(reached)), reached)
    return packed.to_tensor(default_value="", shape=[None, len(head.classes)])
