"""From a trained model to a version folder that TF Serving loads.

One idea: nothing gets a version number before it has been loaded again and has given the trained
model's answers. `serving_graph` says what is in a version, `warmup` what a server replays when it
loads one, and `version_folders` how one appears.

Reference: TensorFlow Serving, "RESTful API", https://www.tensorflow.org/tfx/serving/api_rest
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tf_finetune import disk_room, findings, head_kinds, serving_graph, version_folders, warmup
from tf_finetune.data import (
    column_serving,
    columns,
    input_stores,
    mixed_serving,
    mixed_spec,
    text_store,
)
from tf_finetune.data import preprocessing as input_preprocessing

# WebP is decoded by the DecodeImage operation since TensorFlow 2.21; an older server runs the other
# formats, and answers a WebP with INVALID_ARGUMENT.
LOWEST_TF_SERVING = "2.21"

MAX_DIFFERENCE = 1e-5
# Half precision rounds after each operation, and which operations the graph fuses differs between
# the model and its export: a few units in the last place (bfloat16: 2**-8) of the features.
MAX_DIFFERENCE_HALF = 2e-2
# One of the requests that TF Serving replays goes to serving_default.
MAX_WARMUP_INPUTS = warmup.MAX_REQUESTS - 1

# Dimensions of a head's logits between the batch and the classes.
_PLACES: dict[str, list[str]] = {"": [], "pixels": ["height", "width"], "words": ["words"]}

# Operations that call back into the Python process which traced them: they work when the model is
# loaded again right here, and in no server.
_PYTHON_OPERATIONS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A published version.

    Attributes:
      path: EXPORT_DIR/VERSION; "" on a worker that is not the chief, which writes nothing.
      version: 1 or larger; 0 on a worker that is not the chief.
      signatures: names of the signatures.
      num_bytes: size of all its files.
    """

    path: str
    version: int
    signatures: tuple[str, ...]
    num_bytes: int


def write_export(
    model: keras.Model,
    *,
    heads: tuple[head_kinds.HeadInfo, ...],
    preprocessing: input_preprocessing.InputSpec,
    export_dir: str,
    warmup_inputs: Sequence[bytes | dict[str, np.ndarray] | tuple[bytes, dict[str, np.ndarray]]],
    is_chief: bool = True,
) -> ExportedModel:
    """Writes, checks and publishes the next version of a model for TF Serving 2.21 or later.

    Signatures: `serving_default` takes `image`, float32 [n, height, width, channels] from 0 to 255;
    `serve_bytes` takes `image_bytes`, string [n], encoded images of any size. A model of texts has
    `serving_default` only, which takes `text`, string [n] in UTF-8. So has a model of columns: it
    takes each column by its name (letters, digits and underscores of it), [n] of float32, int or
    string; of more than 64 columns each input of the model by its name. A model of an image or a
    text and columns takes both in each signature. All return, under these names with one head and
    as HEAD_probabilities, HEAD_classes, HEAD_predictions with several,

    - `probabilities`, float32 [n, num_classes]; binary: (negative, positive);
    - `classes`, string [n]: the most probable class; binary: the positive one from its threshold
      on. Multilabel: string [n, num_classes], the classes at or above their thresholds in the
      order of the labels file, then empty strings. Its width is the same for every request, so
      that neither the row format of REST nor the server's batching makes an answer depend on
      the other examples in the batch;
    - of a regression head only `predictions`, float32 [n], in the unit of the labels;
    - of a segmentation head `probabilities`, float32 [n, height, width, num_classes], and
      `class_ids`, int32 [n, height, width], lines of the labels file from 0; both of the size of
      the model's input, also for `serve_bytes`;
    - of a token_classification head `probabilities`, float32 [n, most words, num_classes],
      `class_ids`, int32 [n, most words], and `classes`, string [n, most words]: a tag for each word
      that white space parts; -1 and "" behind the last word of a text.

    `n` is any number from 1 on. An image that cannot be decoded, or pixels of another size, fail
    their whole request with INVALID_ARGUMENT. Class names are also in assets/labels_HEAD.txt, one
    on a line. Softmax and sigmoid are computed in float32. Before it is published, the version is
    loaded again and must answer its own warm-up requests as the model does. When anything fails,
    nothing stays behind, and older versions are never touched.

    Args:
      model: input {"image": float32 [batch, height, width, channels], values 0 to 255} or {"text":
        string [batch]}, outputs {HEAD: float [batch, units] logits}; trained under any strategy,
        in any precision.
      heads: one per output of the model.
      preprocessing: what `serve_bytes` does to an encoded image, its size is the model's; or a
        TextSpec, ColumnsSpec or MixedSpec.
      export_dir: folder of versions; made where missing.
      warmup_inputs: encoded images, texts in UTF-8, {input: [1, ...]} of columns or pairs of both,
        which TF Serving replays when it loads the version (the first 999); none: a gray image, a
        sentence, or zeros.
      is_chief: False writes nothing.

    Returns:
      The published version.

    Raises:
      findings.RefusedError: `export_dir` cannot be written or is full, a class name does not fit a
        line of UTF-8, a warm-up image cannot be decoded, or a layer of the model runs Python code.
      ValueError: heads, thresholds or preprocessing do not fit the model, or the call is inside a
        strategy's scope.
      RuntimeError: the written version does not answer as the model does.
    """
    if tf.distribute.has_strategy():
        raise ValueError(
            "The export holds plain variables. Call write_export outside strategy.scope()."
        )
    _check_heads(model, heads)
    _check_input(model, preprocessing)
    names: tuple[str, ...] = serving_graph.SIGNATURES
    if input_preprocessing.find_kind(preprocessing) != input_stores.IMAGE:
        names = serving_graph.TEXT_SIGNATURES
    if not is_chief:
        return ExportedModel("", 0, names, 0)
    problems = find_class_name_problems(heads) + version_folders.check_export_dir(export_dir)
    if problems:
        raise findings.RefusedError(*problems)
    if isinstance(preprocessing, text_store.TextSpec):
        replays = _make_text_replays([text for text in warmup_inputs if isinstance(text, bytes)])
    elif isinstance(preprocessing, columns.ColumnsSpec):
        rows = [row for row in warmup_inputs if isinstance(row, dict)]
        replays = _make_column_replays(rows, preprocessing)
    elif isinstance(preprocessing, mixed_spec.MixedSpec):
        pairs = [pair for pair in warmup_inputs if isinstance(pair, tuple)]
        replays = _make_mixed_replays(pairs, preprocessing)
    else:
        images = [image for image in warmup_inputs if isinstance(image, bytes)]
        replays = _make_image_replays(images, preprocessing)
    graph = serving_graph.make_serving_graph(model, preprocessing, heads=heads)
    with _refuse_write_errors(export_dir), version_folders.temporary_folder(export_dir) as folder:
        serving_graph.write_saved_model(graph, folder)
        warmup.write_requests(folder, [replay.request for replay in replays])
        _check_operations(folder)
        _check_answers(folder, model, heads=heads, replays=replays)
        num_bytes = _count_bytes(folder)
        version = version_folders.publish(folder, export_dir)
    path = os.path.join(export_dir, str(version))
    return ExportedModel(path, version, names, num_bytes)


def find_class_name_problems(
    heads: Sequence[head_kinds.HeadInfo],
) -> tuple[findings.Problem, ...]:
    """Class names that a server could not return or that a labels file could not hold.

    Args:
      heads: the heads with their class names.

    Returns:
      One problem per head that has an empty name, a name with a line end, or one that is not
      valid Unicode (a folder whose name is not UTF-8).
    """
    problems = []
    for head in heads:
        bad = [name for name in head.classes if not _fits_a_line(name)]
        if bad:
            message = (
                f"Head '{head.name}': the export expects class names of at least one character, in "
                f"UTF-8 and on one line. Received {findings.list_first(bad)}. Rename them."
            )
            problems.append(findings.Problem(message))
    return tuple(problems)


def _fits_a_line(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return name.splitlines() == [name]


def _check_heads(model: keras.Model, heads: tuple[head_kinds.HeadInfo, ...]) -> None:
    names = sorted(head.name for head in heads)
    if not isinstance(model.output, dict) or sorted(model.output) != names:
        raise ValueError(
            f"The export expects a model with the outputs {names}. Received {model.output}."
        )
    for head in heads:
        expected = head_kinds.num_logits(head.kind, len(head.classes))
        received = model.output[head.name].shape
        places = _PLACES[head_kinds.HEAD_KINDS[head.kind].positions]
        if len(received) != 2 + len(places) or received[-1] != expected:
            shape = ", ".join(["batch", *places, str(expected)])
            raise ValueError(
                f"Head '{head.name}' ({head.kind}, {len(head.classes)} classes) expects logits of "
                f"shape [{shape}]. Received {received}."
            )
        expected = head_kinds.HEAD_KINDS[head.kind].num_thresholds(len(head.classes))
        if len(head.thresholds) != expected:
            raise ValueError(
                f"Head '{head.name}' ({head.kind}) expects {expected} thresholds. "
                f"Received {len(head.thresholds)}."
            )


def _check_input(model: keras.Model, preprocessing: input_preprocessing.InputSpec) -> None:
    inputs = {tensor._keras_history.operation.name: tensor for tensor in model.inputs}
    own = mixed_spec.find_columns(preprocessing)
    if own is not None:
        _check_columns(inputs, own, is_all=preprocessing is own)
        if preprocessing is own:
            return
        inputs = {name: inputs[name] for name in inputs.keys() - {part.name for part in own.inputs}}
    main = mixed_spec.find_main(preprocessing)
    (image,) = inputs.values()
    is_text = isinstance(main, text_store.TextSpec)
    if (image.dtype == "string") != is_text:
        kind = "texts" if is_text else "images"
        raise ValueError(
            f"The preprocessing is of {kind}, and the model's input is {image.dtype} "
            f"{tuple(image.shape)}. Use the preprocessing that the model was trained with."
        )
    if is_text:
        return
    shape = (main.height, main.width, main.channels)
    if len(image.shape) != 4 or any(
        side not in (None, expected) for side, expected in zip(image.shape[1:], shape, strict=True)
    ):
        raise ValueError(
            f"The preprocessing makes images of shape {shape}, and the model expects "
            f"{tuple(image.shape)}. Use the PreprocessingSpec that the model was trained with."
        )


def _check_columns(
    inputs: dict[str, keras.KerasTensor], spec: columns.ColumnsSpec, *, is_all: bool
) -> None:
    expected = {part.name: (part.shape, part.dtype) for part in spec.inputs}
    received = {
        name: (tuple(tensor.shape[1:]), tensor.dtype)
        for name, tensor in inputs.items()
        if is_all or name in expected
    }
    fits = expected.keys() == received.keys() and all(
        dtype == received[name][1]
        and len(shape) == len(received[name][0])
        and all(side in (None, size) for side, size in zip(received[name][0], shape, strict=True))
        for name, (shape, dtype) in expected.items()
    )
    if not fits:
        raise ValueError(
            f"The preprocessing is of columns for the inputs {expected}, and the model has "
            f"{received}. Use the ColumnsSpec that the model was trained with."
        )


@contextlib.contextmanager
def _refuse_write_errors(export_dir: str) -> Iterator[None]:
    # TensorFlow's file system raises its own errors for a full disk.
    try:
        with disk_room.naming(export_dir):
            yield
    except (OSError, tf.errors.OpError) as error:
        reason = error.message if isinstance(error, tf.errors.OpError) else error.strerror or error
        message = (
            f"The export cannot be written below '{findings.one_line(export_dir)}': "
            f"{findings.one_line(reason)}. Free space there or choose another --export_dir."
        )
        problem = findings.Problem(message, path=export_dir, flag="--export_dir")
        raise findings.RefusedError(problem) from error


@dataclasses.dataclass(frozen=True)
class _Replay:
    request: warmup.Request
    # What the model sees: float32 [1, height, width, channels], 0 to 255, or [1] of bytes; of
    # columns {input: [1, ...]}.
    values: np.ndarray | dict[str, np.ndarray]


def _make_text_replays(texts: Sequence[bytes]) -> list[_Replay]:
    replays = []
    for text in texts[:MAX_WARMUP_INPUTS] or [warmup.SENTENCE]:
        values = np.array([text], object)
        request = warmup.Request(serving_graph.SERVE_TEXT, {text_store.INPUT: values})
        replays.append(_Replay(request, values))
    return replays


def _make_column_replays(
    rows: Sequence[dict[str, np.ndarray]], spec: columns.ColumnsSpec
) -> list[_Replay]:
    replays = []
    for values in rows[:MAX_WARMUP_INPUTS] or [column_serving.make_sample(spec)]:
        request = column_serving.make_request(spec, values)
        replays.append(_Replay(warmup.Request(serving_graph.SERVE_COLUMNS, request), values))
    return replays


def _make_mixed_replays(
    pairs: Sequence[tuple[bytes, dict[str, np.ndarray]]], spec: mixed_spec.MixedSpec
) -> list[_Replay]:
    given = [content for content, _ in pairs]
    rows = [values for _, values in pairs] or [column_serving.make_sample(spec.columns)]
    if isinstance(spec.main, text_store.TextSpec):
        alone = _make_text_replays(given)
    else:
        alone = _make_image_replays(given, spec.main)
        # The first image is replayed as pixels and as bytes.
        rows = [rows[0], *rows]
    replays = []
    for replay, values in zip(alone, rows, strict=False):
        ((_, main),) = replay.request.inputs.items()
        signature = replay.request.signature
        encoded = signature == serving_graph.SERVE_BYTES
        request = mixed_serving.make_request(spec, main, values, encoded=encoded)
        name = mixed_serving.find_main_name(spec, encoded=False)
        inputs = {name: np.asarray(replay.values), **values}
        replays.append(_Replay(warmup.Request(signature, request), inputs))
    return replays


def _make_image_replays(
    images: Sequence[bytes], spec: input_preprocessing.PreprocessingSpec
) -> list[_Replay]:
    gray = warmup.make_gray_png(height=spec.height, width=spec.width, channels=spec.channels)
    replays: list[_Replay] = []
    for number, contents in enumerate(images[:MAX_WARMUP_INPUTS] or [gray], start=1):
        try:
            pixels = input_preprocessing.decode_image(tf.constant(contents), spec).numpy()[None]
        except tf.errors.InvalidArgumentError as error:
            reason = findings.one_line(error.message)
            message = f"Warm-up image {number} expects an encoded image: {reason}. Leave it out."
            raise findings.RefusedError(findings.Problem(message)) from error
        if not replays:
            replays.append(
                _Replay(warmup.Request(serving_graph.SERVE_PIXELS, {"image": pixels}), pixels)
            )
        encoded = np.array([contents], object)
        replays.append(
            _Replay(warmup.Request(serving_graph.SERVE_BYTES, {"image_bytes": encoded}), pixels)
        )
    return replays


def _check_operations(folder: str) -> None:
    with open(os.path.join(folder, "saved_model.pb"), "rb") as file:
        (meta_graph,) = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs
    graph = meta_graph.graph_def
    nodes = [*graph.node, *(node for body in graph.library.function for node in body.node_def)]
    names = sorted({node.name for node in nodes if node.op in _PYTHON_OPERATIONS})
    if names:
        message = (
            "The model cannot be exported: a server has no Python, and its operations "
            f"{findings.list_first(names)} call Python code (tf.py_function or tf.numpy_function). "
            "Write those layers with TensorFlow or keras.ops operations."
        )
        raise findings.RefusedError(findings.Problem(message))


def _check_answers(
    folder: str,
    model: keras.Model,
    *,
    heads: tuple[head_kinds.HeadInfo, ...],
    replays: Sequence[_Replay],
) -> None:
    allowed = _find_max_difference(model)
    # On one device: two GPU kernels for the same convolution may differ by more than is allowed.
    with tf.device("CPU:0"):
        try:
            signatures = tf.saved_model.load(folder).signatures
            for replay in replays:
                outputs = signatures[replay.request.signature](
                    **{name: tf.constant(value) for name, value in replay.request.inputs.items()}
                )
                values = tf.nest.map_structure(tf.constant, replay.values)
                inputs = serving_graph.model_inputs(model, values)
                logits = model(inputs, training=False)
                for head in heads:
                    prefix = serving_graph.output_prefix(head, num_heads=len(heads))
                    output = head_kinds.HEAD_KINDS[head.kind].output
                    received = outputs[f"{prefix}{output}"].numpy()
                    expected = tf.cast(logits[head.name], tf.float32)
                    _check_probabilities(received, expected, head, allowed=allowed)
        except tf.errors.OpError as error:
            raise RuntimeError(
                "The export was not published, because it cannot be loaded or fails on a warm-up "
                f"request: {error.message}"
            ) from error


def _find_max_difference(model: keras.Model) -> float:
    dtypes = {layer.compute_dtype for layer in model._flatten_layers()}
    return MAX_DIFFERENCE_HALF if dtypes & {"bfloat16", "float16"} else MAX_DIFFERENCE


def _check_probabilities(
    received: np.ndarray, logits: tf.Tensor, head: head_kinds.HeadInfo, *, allowed: float
) -> None:
    expected = head_kinds.probabilities(logits.numpy(), head.kind)
    output = head_kinds.HEAD_KINDS[head.kind].output
    # Numbers are compared in the deviation of the training labels, probabilities as they are.
    difference = float(np.abs(expected - received.reshape(expected.shape)).max())
    difference /= max(head.deviation, abs(head.mean) / 100)
    # Not `>`: NaN must not be published either.
    if not difference <= allowed:
        raise RuntimeError(
            f"The export was not published, because its {output} for head '{head.name}' "
            f"differ from the trained model's by {difference:.3g}, and {allowed:g} is "
            "allowed. Does a layer compute something else in a graph, or is a weight NaN?"
        )


def _count_bytes(folder: str) -> int:
    return sum(
        os.path.getsize(os.path.join(root, name))
        for root, _, files in os.walk(folder)
        for name in files
    )
