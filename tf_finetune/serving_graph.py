"""The graph that TF Serving runs: from an image to probabilities and class names.

One idea: the graph is whole. It decodes and resizes the image, runs the network in inference mode,
and turns logits into probabilities and class names, so that a client needs neither our code nor
Keras. The weights in it are copies, one plain variable each, whatever strategy the model was
trained under.

Reference: TensorFlow, "Using the SavedModel format", https://www.tensorflow.org/guide/saved_model;
TensorFlow Serving, "RESTful API", https://www.tensorflow.org/tfx/serving/api_rest
"""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tf_finetune import head_kinds
from tf_finetune.data import preprocessing

SERVE_PIXELS = "serving_default"
SERVE_BYTES = "serve_bytes"
SIGNATURES = (SERVE_PIXELS, SERVE_BYTES)

_Tensors = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class ServingGraph:
    """What `write_saved_model` writes.

    Attributes:
      module: holds each weight of the model once.
      signatures: {signature's name: traced function}.
      heads: the heads whose labels go along.
    """

    module: tf.Module
    signatures: dict[str, tf.types.experimental.ConcreteFunction]
    heads: tuple[head_kinds.HeadInfo, ...]


def make_serving_graph(
    model: keras.Model,
    spec: preprocessing.PreprocessingSpec,
    *,
    heads: Sequence[head_kinds.HeadInfo],
) -> ServingGraph:
    """Copies a model's weights and traces both signatures (see `exporting.write_export`).

    Args:
      model: input {"image": float32 [batch, height, width, channels], values 0 to 255}, outputs
        {HEAD: float [batch, units] logits}.
      spec: what happens to an encoded image.
      heads: one per output of the model, with as many thresholds as its kind takes.

    Returns:
      The graph; the model is not changed, and what is later done to it does not reach the graph.
    """
    module, call_model = _copy_weights(model)
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
        image = tf.map_fn(
            lambda contents: preprocessing.decode_image(contents, spec),
            image_bytes,
            fn_output_signature=tf.TensorSpec(shape, tf.float32),
        )
        return classify(image)

    signatures = {
        SERVE_PIXELS: serve_pixels.get_concrete_function(),
        SERVE_BYTES: serve_bytes.get_concrete_function(),
    }
    return ServingGraph(module, signatures, tuple(heads))


def model_inputs(model: keras.Model, image: tf.Tensor) -> tf.Tensor | _Tensors:
    """The model's one input in the structure that the model was made with.

    Keras warns about any other.

    Args:
      model: the model.
      image: float32 [batch, height, width, channels].

    Returns:
      {"image": image} or the image alone.
    """
    return {"image": image} if isinstance(model.input, dict) else image


def output_prefix(head: head_kinds.HeadInfo, *, num_heads: int) -> str:
    """What stands before `probabilities` and `classes` in the names of a head's outputs.

    Args:
      head: the head.
      num_heads: number of heads of the model.

    Returns:
      "" for the only head, else "HEAD_".
    """
    return f"{head.name}_" if num_heads > 1 else ""


def write_saved_model(graph: ServingGraph, folder: str) -> None:
    """Writes the graph, its weights and assets/labels_HEAD.txt (a class name on each line).

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
            path = os.path.join(labels_dir, f"labels_{head.name}.txt")
            with open(path, "w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{name}\n" for name in head.classes)
            assets.append(tf.saved_model.Asset(path))
        graph.module.labels = assets
        tf.saved_model.save(graph.module, folder, signatures=graph.signatures, options=options)


def _copy_weights(model: keras.Model) -> tuple[tf.Module, Callable[[tf.Tensor], _Tensors]]:
    # tf.saved_model.save of a Keras model writes every weight twice, and the model's own variables
    # would carry the mirrored variables of a strategy into the graph.
    module = tf.Module(name="serving")
    with tf.device("CPU:0"):
        trainable, other = (
            [tf.Variable(keras.ops.convert_to_numpy(weight), trainable=False) for weight in group]
            for group in (model.trainable_variables, model.non_trainable_variables)
        )
    module.trainable_weights, module.other_weights = trainable, other

    def call_model(image: tf.Tensor) -> _Tensors:
        inputs = model_inputs(model, image)
        logits, _ = model.stateless_call(trainable, other, inputs, training=False)
        return logits

    return module, call_model


def _check_shape(image: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    # A session does not compare what it is fed with the signature's shape, and a network that
    # averages over positions would answer for any size.
    same = tf.reduce_all(tf.equal(tf.shape(image)[1:], shape))
    message = f"image expects the shape [n, {', '.join(map(str, shape))}]. Received:"
    with tf.control_dependencies([tf.debugging.Assert(same, [message, tf.shape(image)])]):
        return tf.identity(image)


def _make_outputs(logits: _Tensors, heads: Sequence[head_kinds.HeadInfo]) -> _Tensors:
    outputs = {}
    for head in heads:
        prefix = output_prefix(head, num_heads=len(heads))
        probabilities = _make_probabilities(tf.cast(logits[head.name], tf.float32), head.kind)
        outputs[f"{prefix}probabilities"] = probabilities
        outputs[f"{prefix}classes"] = _make_classes(probabilities, head)
    return outputs


def _make_probabilities(logits: tf.Tensor, kind: str) -> tf.Tensor:
    # The graph's twin of head_kinds.probabilities.
    row = head_kinds.HEAD_KINDS[kind]
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
