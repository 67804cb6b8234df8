"""A trained model or an export as a function from examples to what its heads say."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tf_finetune import (
    findings,
    head_kinds,
    head_metrics,
    model_calls,
    model_meaning,
    prediction_columns,
    prediction_mixed,
    specs,
)
from tf_finetune.data import columns, image_stores, input_stores, mixed_spec, text_store
from tf_finetune.models import admission

SERVE_BYTES = "serve_bytes"
SERVE_TEXT = "serving_default"
_IMAGE_FILE = "image.json"
# Of class numbers: batch, height, width; of words it is 2.
_MASK_RANK = 3


class BadInputError(ValueError):
    """At least one image of a batch cannot be decoded, or text be made tokens of."""


@dataclasses.dataclass(frozen=True)
class HeadOutput:
    """What a model says about a batch.

    Attributes:
      probabilities: float32 [n, num_classes], 0 to 1; binary columns are (negative, positive).
        Regression: float32 [n, 1], the predicted numbers. Segmentation: means of the pixels.
      answers: bool [n, num_classes], the predicted classes: exactly one, or any number for
        multilabel; none for regression and segmentation.
      class_ids: segmentation: uint8 [n, height, width], the class of each pixel of the model's
        input; token_classification: int [n, most words], of each word, anything behind the last;
        None of other heads.
    """

    probabilities: np.ndarray
    answers: np.ndarray
    class_ids: np.ndarray | None = None


# Of encoded images, of texts in UTF-8, or of rows as `prediction_columns` and `prediction_mixed`
# give them.
PredictBatch = Callable[[Sequence[Any]], dict[str, HeadOutput]]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained model or an export, ready to predict.

    Attributes:
      predict_batch: a function as `model_predictor` returns it.
      heads: the heads to tell; of an export sorted by name.
      input_kind: "image", "text", "columns" or "mixed".
      columns: what feeds the inputs of a model of columns, or a MixedSpec.
      geometry: the PreprocessingSpec of a run on images, and of an export with a head about pixels;
        None of others.
    """

    predict_batch: PredictBatch
    heads: tuple[head_kinds.HeadInfo, ...]
    input_kind: str
    columns: Any = None
    geometry: Any = None


def model_predictor(
    model: Any, heads: tuple[head_kinds.HeadInfo, ...], preprocessing: Any
) -> PredictBatch:
    """A trained model as a function of encoded images, of texts in UTF-8 or of rows of columns.

    Args:
      model: keras.Model, input {"image": float32 [batch, height, width, channels], values 0 to
        255} or {"text": string [batch]}, outputs {HEAD: logits [batch, num_logits]}.
      heads: the model's heads.
      preprocessing: data.preprocessing.PreprocessingSpec, how an encoded image becomes the input;
        or a TextSpec, ColumnsSpec or MixedSpec.

    Returns:
      A function from encoded images, texts or rows, at least one, to {HEAD: output}. It raises
      BadInputError when one of them cannot be decoded.
    """
    if isinstance(preprocessing, text_store.TextSpec):
        return _text_predictor(model, heads)
    if isinstance(preprocessing, columns.ColumnsSpec):
        return _rows_predictor(prediction_columns.model_caller(model), heads)
    if isinstance(preprocessing, mixed_spec.MixedSpec):
        return _rows_predictor(prediction_mixed.model_caller(model, preprocessing), heads)
    import tensorflow as tf

    from tf_finetune.data import preprocessing as preprocessing_module

    shape = (preprocessing.height, preprocessing.width, preprocessing.channels)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(contents: Any) -> Any:
        return preprocessing_module.decode_images(contents, preprocessing)

    compute = model_calls.compile_model(
        model, {image_stores.INPUT: tf.TensorSpec([None, *shape], tf.float32)}
    )

    def predict_batch(contents: Sequence[bytes]) -> dict[str, HeadOutput]:
        try:
            images = decode(tf.constant(list(contents), tf.string))
        except tf.errors.InvalidArgumentError as error:
            raise BadInputError(error.message) from error
        logits = compute({image_stores.INPUT: images})
        return {head.name: _to_output(logits[head.name].numpy(), head) for head in heads}

    return predict_batch


def _text_predictor(model: Any, heads: tuple[head_kinds.HeadInfo, ...]) -> PredictBatch:
    import tensorflow as tf

    compute = model_calls.compile_model(model, {text_store.INPUT: tf.TensorSpec([None], tf.string)})

    def predict_batch(contents: Sequence[bytes]) -> dict[str, HeadOutput]:
        try:
            logits = compute({text_store.INPUT: tf.constant(list(contents), tf.string)})
        except tf.errors.InvalidArgumentError as error:
            raise BadInputError(error.message) from error
        return {head.name: _to_output(logits[head.name].numpy(), head) for head in heads}

    return predict_batch


def _rows_predictor(
    compute_logits: Callable[[Sequence[Any]], dict[str, Any]],
    heads: tuple[head_kinds.HeadInfo, ...],
) -> PredictBatch:
    def predict_batch(rows: Sequence[Any]) -> dict[str, HeadOutput]:
        import tensorflow as tf

        try:
            logits = compute_logits(rows)
        except tf.errors.InvalidArgumentError as error:
            # Such as an id that a layer has no row for; its last line says so.
            raise BadInputError(error.message.strip().splitlines()[-1]) from error
        return {head.name: _to_output(logits[head.name].numpy(), head) for head in heads}

    return predict_batch


def run_predictor(
    model: Any, heads: tuple[head_kinds.HeadInfo, ...], preprocessing: Any
) -> Predictor:
    """A trained model with its heads.

    Args:
      model: see `model_predictor`.
      heads: see `model_predictor`.
      preprocessing: see `model_predictor`.

    Returns:
      The predictor.
    """
    predict_batch = model_predictor(model, heads, preprocessing)
    if isinstance(preprocessing, columns.ColumnsSpec):
        return Predictor(predict_batch, heads, input_stores.COLUMNS, preprocessing)
    if isinstance(preprocessing, mixed_spec.MixedSpec):
        return Predictor(predict_batch, heads, input_stores.MIXED, preprocessing)
    if isinstance(preprocessing, text_store.TextSpec):
        return Predictor(predict_batch, heads, input_stores.TEXT)
    return Predictor(predict_batch, heads, input_stores.IMAGE, geometry=preprocessing)


def export_predictor(path: str, *, trust_model: bool = False) -> Predictor:
    """An exported version as a function of encoded images, through its `serve_bytes` signature.

    One without it that takes texts or columns is a function of those, through `serving_default`.

    An export holds class names and answers, not kinds: a head without class names is regression,
    one whose `classes` output has several places in a row is multilabel, any other is called
    multiclass. The answers are the export's.

    Args:
      path: EXPORT_DIR/VERSION.
      trust_model: runs operations that reach outside the graph.

    Returns:
      The function and what it is about.

    Raises:
      trust.UntrustedModelError: the SavedModel must not be opened.
      RefusedError: the folder is no SavedModel, or not one of ours: it has no `serve_bytes` and
        takes no text, has no class names, or other outputs.
    """
    import tensorflow as tf

    _check_version_folder(path)
    admission.check(path, trust_model=trust_model)
    try:
        loaded = tf.saved_model.load(path)
    except (OSError, ValueError, tf.errors.OpError) as error:
        reason = findings.one_line(str(error).partition("\n")[0])
        raise _refuse(path, f"cannot be loaded as a SavedModel: {reason}") from error
    fed_by = prediction_columns.read_export_spec(path)
    name, argument = _find_signature(loaded.signatures, path, fed_by)
    signature = loaded.signatures[name]
    heads = _read_heads(path, signature.structured_outputs)

    def predict_batch(contents: Sequence[Any]) -> dict[str, HeadOutput]:
        # `loaded` must live as long as this function: a signature holds its variables weakly.
        call = loaded.signatures[name]
        try:
            if isinstance(fed_by, mixed_spec.MixedSpec):
                outputs = call(**prediction_mixed.make_arguments(contents, fed_by))
            elif fed_by is not None:
                outputs = call(**prediction_columns.make_arguments(contents, fed_by))
            else:
                outputs = call(**{argument: tf.constant(list(contents), tf.string)})
        except tf.errors.InvalidArgumentError as error:
            raise BadInputError(error.message) from error
        return {
            head.name: _read_output(outputs, head, prefix=_prefix(head.name, len(heads)))
            for head in heads
        }

    kind = input_stores.IMAGE if name == SERVE_BYTES else input_stores.TEXT
    if fed_by is not None:
        is_mixed = isinstance(fed_by, mixed_spec.MixedSpec)
        kind = input_stores.MIXED if is_mixed else input_stores.COLUMNS
    has_masks = any(head_kinds.HEAD_KINDS[head.kind].positions == "pixels" for head in heads)
    geometry = _read_geometry(path) if has_masks else None
    return Predictor(predict_batch, heads, kind, fed_by, geometry)


def _read_output(outputs: dict[str, Any], head: head_kinds.HeadInfo, *, prefix: str) -> HeadOutput:
    """What a signature says of one head."""
    row = head_kinds.HEAD_KINDS[head.kind]
    probabilities = outputs[f"{prefix}{row.output}"].numpy()
    count = len(probabilities)
    if row.positions:
        ids = outputs[f"{prefix}{head_kinds.CLASS_IDS}"].numpy()
        return _summarize_positions(probabilities, ids)
    probabilities = probabilities.reshape(count, -1)
    if not row.has_classes:
        return HeadOutput(probabilities, np.zeros((count, 0), bool))
    names = outputs[f"{prefix}classes"].numpy().reshape(count, -1)
    answers = [[name.encode() in given for name in head.classes] for given in map(set, names)]
    return HeadOutput(probabilities, np.array(answers))


def _find_signature(signatures: Any, path: str, fed_by: Any) -> tuple[str, str]:
    """(the signature that takes what --input names, its argument of images or texts alone)."""
    from tf_finetune.data import preprocessing

    name, argument = SERVE_BYTES, image_stores.ENCODED_INPUT
    if fed_by is not None:
        of_images = preprocessing.find_kind(fed_by) == input_stores.IMAGE
        name = SERVE_BYTES if of_images else SERVE_TEXT
    elif SERVE_BYTES not in signatures and _takes_text(signatures):
        name, argument = SERVE_TEXT, text_store.INPUT
    if name not in signatures:
        names = findings.list_first(sorted(signatures))
        raise _refuse(path, f"has no signature '{name}'. It has {names or 'none'}.")
    return name, argument


def _takes_text(signatures: Any) -> bool:
    if SERVE_TEXT not in signatures:
        return False
    _, arguments = signatures[SERVE_TEXT].structured_input_signature
    return list(arguments) == [text_store.INPUT]


def _summarize_positions(probabilities: np.ndarray, ids: np.ndarray) -> HeadOutput:
    # A text without words has no mean.
    flat = probabilities.reshape(len(ids), ids[0].size, probabilities.shape[-1])
    means = flat.sum(axis=1) / max(flat.shape[1], 1)
    if ids.ndim == _MASK_RANK:
        ids = ids.astype(np.uint8)
    return HeadOutput(means, np.zeros((len(ids), 0), bool), ids)


def _read_geometry(path: str) -> Any:
    """The PreprocessingSpec of an export with a head about pixels."""
    from tf_finetune.data import preprocessing

    file_path, again = os.path.join(path, "assets", _IMAGE_FILE), "Export the model again."
    if not os.path.isfile(file_path):
        raise _refuse(path, f"has masks and no assets/{_IMAGE_FILE}. {again}")
    try:
        with open(file_path, encoding="utf-8") as file:
            spec = model_meaning.read_inputs(json.load(file))
    except (OSError, ValueError) as error:
        reason = findings.one_line(str(error))[:100]
        message = f"has a damaged assets/{_IMAGE_FILE}: {reason}. {again}"
        raise _refuse(path, message) from error
    if not isinstance(spec, preprocessing.PreprocessingSpec):
        raise _refuse(path, f"has an assets/{_IMAGE_FILE} that is not of images. {again}")
    return spec


def _to_output(logits: np.ndarray, head: head_kinds.HeadInfo) -> HeadOutput:
    if head_kinds.HEAD_KINDS[head.kind].positions:
        ids = logits.argmax(axis=-1)
        return _summarize_positions(head_kinds.probabilities(logits, head.kind), ids)
    if not head_kinds.HEAD_KINDS[head.kind].has_classes:
        return HeadOutput(logits, np.zeros((len(logits), 0), bool))
    answers = head_metrics.predict_classes(logits, head)
    if answers.ndim == 1:
        answers = answers[:, np.newaxis] == np.arange(len(head.classes))
    return HeadOutput(head_kinds.probabilities(logits, head.kind), answers)


def _refuse(path: str, message: str) -> findings.RefusedError:
    shown = f"--model={findings.one_line(path)}"
    return findings.RefusedError(findings.Problem(f"{shown} {message}", path=path, flag="--model"))


def _check_version_folder(path: str) -> None:
    if not os.path.isdir(path):
        raise _refuse(path, "is no folder. Expected EXPORT_DIR/VERSION of an earlier export.")
    if os.path.isfile(os.path.join(path, "saved_model.pb")):
        return
    versions = sorted((name for name in os.listdir(path) if name.isdecimal()), key=int)
    hint = "Expected EXPORT_DIR/VERSION of an earlier export."
    if versions:
        newest = findings.one_line(os.path.join(path, versions[-1]))
        hint = f"Give one of its versions, such as --model={newest}."
    raise _refuse(path, f"holds no saved_model.pb. {hint}")


def _read_labels(path: str) -> dict[str, tuple[str, ...]]:
    """Class names by head, from assets/labels_HEAD.txt."""
    folder = os.path.join(path, "assets")
    labels = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if not (name.startswith("labels_") and name.endswith(".txt")):
            continue
        try:
            with open(os.path.join(folder, name), encoding="utf-8", newline="\n") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = "that are not UTF-8"
            if isinstance(error, OSError):
                reason = f"that cannot be read: {error.strerror}"
            raise _refuse(path, f"has class names {reason}.") from error
        head = name.removeprefix("labels_").removesuffix(".txt")
        labels[head] = tuple(text.removesuffix("\n").split("\n"))
    if not labels:
        raise _refuse(path, "has no assets/labels_HEAD.txt with class names. Is it our export?")
    return labels


def _read_heads(path: str, outputs: dict[str, Any]) -> tuple[head_kinds.HeadInfo, ...]:
    """The heads of an export, by name."""
    suffix = head_kinds.HEAD_KINDS["regression"].output
    # The only head of an export has no name there; "label" is what a run calls its only head.
    numbers = {
        name.removesuffix(suffix).removesuffix("_") or specs.HeadSpec().name
        for name in outputs
        if name == suffix or name.endswith(f"_{suffix}")
    }
    labels = _read_labels(path) if not numbers or len(outputs) > len(numbers) else {}
    num_heads = len(numbers) + len(labels)
    found = [head_kinds.HeadInfo(name, "regression", ()) for name in numbers]
    found += [
        _read_head(path, outputs, name=name, classes=classes, num_heads=num_heads)
        for name, classes in labels.items()
    ]
    return tuple(sorted(found, key=lambda head: head.name))


def _prefix(name: str, num_heads: int) -> str:
    return f"{name}_" if num_heads > 1 else ""


def _read_head(
    path: str,
    outputs: dict[str, Any],
    *,
    name: str,
    classes: tuple[str, ...],
    num_heads: int,
) -> head_kinds.HeadInfo:
    prefix = _prefix(name, num_heads)
    of_positions = f"{prefix}{head_kinds.CLASS_IDS}" in outputs
    answers = head_kinds.CLASS_IDS if of_positions else "classes"
    expected = (f"{prefix}probabilities", f"{prefix}{answers}")
    received = findings.list_first(sorted(outputs))
    if not set(expected) <= set(outputs):
        raise _refuse(
            path,
            f"has class names of head '{findings.one_line(name)}', but no outputs "
            f"{findings.list_first(list(expected))}. It has {received}.",
        )
    num_columns = outputs[expected[0]].shape[-1]
    if num_columns != len(classes):
        raise _refuse(
            path,
            f"has {len(classes)} class names for the {num_columns} probabilities of head "
            f"'{findings.one_line(name)}'.",
        )
    if of_positions:
        is_mask = outputs[expected[1]].shape.rank == _MASK_RANK
        return head_kinds.HeadInfo(
            name, "segmentation" if is_mask else "token_classification", classes
        )
    is_exclusive = outputs[expected[1]].shape.rank == 1
    return head_kinds.HeadInfo(name, "multiclass" if is_exclusive else "multilabel", classes)
