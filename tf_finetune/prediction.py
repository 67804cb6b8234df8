"""A trained model or an export on new images or texts, a row for each.

One idea: a bad example costs its own row, not the run. A batch that fails is cut in two until the
one at fault is alone; its row tells the error and the others their classes.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tf_finetune import (
    findings,
    head_kinds,
    head_metrics,
    prediction_files,
    prediction_images,
    prediction_texts,
    progress,
)
from tf_finetune.data import image_formats, image_sizes, input_stores, text_store
from tf_finetune.models import admission

SERVE_BYTES = "serve_bytes"
SERVE_TEXT = "serving_default"

_BAD_TEXT = "cannot be made tokens of"


class BadInputError(ValueError):
    """At least one image of a batch cannot be decoded, or text be made tokens of."""


@dataclasses.dataclass(frozen=True)
class HeadOutput:
    """What a model says about a batch.

    Attributes:
      probabilities: float32 [n, num_classes], 0 to 1; binary columns are (negative, positive).
      answers: bool [n, num_classes], the predicted classes: exactly one, or any number for
        multilabel.
    """

    probabilities: np.ndarray
    answers: np.ndarray


PredictBatch = Callable[[Sequence[bytes]], dict[str, HeadOutput]]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained model or an export, ready to predict.

    Attributes:
      predict_batch: a function as `model_predictor` returns it.
      heads: the heads to tell; of an export sorted by name.
      input_kind: "image" or "text".
    """

    predict_batch: PredictBatch
    heads: tuple[head_kinds.HeadInfo, ...]
    input_kind: str


def model_predictor(
    model: Any, heads: tuple[head_kinds.HeadInfo, ...], preprocessing: Any
) -> PredictBatch:
    """A trained model as a function of encoded images, or of texts in UTF-8.

    Args:
      model: keras.Model, input {"image": float32 [batch, height, width, channels], values 0 to
        255} or {"text": string [batch]}, outputs {HEAD: logits [batch, num_logits]}.
      heads: the model's heads.
      preprocessing: data.preprocessing.PreprocessingSpec, how an encoded image becomes the input;
        or a TextSpec.

    Returns:
      A function from encoded images or texts, at least one, to {HEAD: output}. It raises
      BadInputError when one of them cannot be decoded.
    """
    if isinstance(preprocessing, text_store.TextSpec):
        return _text_predictor(model, heads)
    import tensorflow as tf

    from tf_finetune.data import preprocessing as preprocessing_module

    shape = (preprocessing.height, preprocessing.width, preprocessing.channels)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(contents: Any) -> Any:
        return tf.map_fn(
            lambda content: preprocessing_module.decode_image(content, preprocessing),
            contents,
            fn_output_signature=tf.TensorSpec(shape, tf.float32),
        )

    @tf.function(input_signature=[tf.TensorSpec([None, *shape], tf.float32)])
    def compute_logits(images: Any) -> dict[str, Any]:
        outputs = model({"image": images}, training=False)
        return {head.name: tf.cast(outputs[head.name], tf.float32) for head in heads}

    def predict_batch(contents: Sequence[bytes]) -> dict[str, HeadOutput]:
        try:
            images = decode(tf.constant(list(contents), tf.string))
        except tf.errors.InvalidArgumentError as error:
            raise BadInputError(error.message) from error
        logits = compute_logits(images)
        return {head.name: _to_output(logits[head.name].numpy(), head) for head in heads}

    return predict_batch


def _text_predictor(model: Any, heads: tuple[head_kinds.HeadInfo, ...]) -> PredictBatch:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def compute_logits(texts: Any) -> dict[str, Any]:
        outputs = model({text_store.INPUT: texts}, training=False)
        return {head.name: tf.cast(outputs[head.name], tf.float32) for head in heads}

    def predict_batch(contents: Sequence[bytes]) -> dict[str, HeadOutput]:
        try:
            logits = compute_logits(tf.constant(list(contents), tf.string))
        except tf.errors.InvalidArgumentError as error:
            raise BadInputError(error.message) from error
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
    is_text = isinstance(preprocessing, text_store.TextSpec)
    kind = input_stores.TEXT if is_text else input_stores.IMAGE
    return Predictor(model_predictor(model, heads, preprocessing), heads, kind)


def export_predictor(path: str, *, trust_model: bool = False) -> Predictor:
    """An exported version as a function of encoded images, through its `serve_bytes` signature.

    One without it that takes texts is a function of texts, through `serving_default`.

    An export holds class names and answers, not kinds: a head whose `classes` output has several
    places in a row is multilabel, any other is called multiclass. The answers are the export's.

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
    name, argument = SERVE_BYTES, "image_bytes"
    if SERVE_BYTES not in loaded.signatures and _takes_text(loaded.signatures):
        name, argument = SERVE_TEXT, text_store.INPUT
    if name not in loaded.signatures:
        names = findings.list_first(sorted(loaded.signatures))
        raise _refuse(path, f"has no signature '{SERVE_BYTES}'. It has {names or 'none'}.")
    signature = loaded.signatures[name]
    labels = _read_labels(path)
    heads = tuple(
        _read_head(
            path, signature.structured_outputs, name=head, classes=labels[head], labels=labels
        )
        for head in sorted(labels)
    )

    def predict_batch(contents: Sequence[bytes]) -> dict[str, HeadOutput]:
        # `loaded` must live as long as this function: a signature holds its variables weakly.
        call = loaded.signatures[name]
        try:
            outputs = call(**{argument: tf.constant(list(contents), tf.string)})
        except tf.errors.InvalidArgumentError as error:
            raise BadInputError(error.message) from error
        results = {}
        for head in heads:
            prefix = _prefix(head.name, len(heads))
            names = outputs[f"{prefix}classes"].numpy().reshape(len(contents), -1)
            answers = [[name.encode() in row for name in head.classes] for row in map(set, names)]
            probabilities = outputs[f"{prefix}probabilities"].numpy()
            results[head.name] = HeadOutput(probabilities, np.array(answers))
        return results

    kind = input_stores.IMAGE if name == SERVE_BYTES else input_stores.TEXT
    return Predictor(predict_batch, heads, kind)


def _takes_text(signatures: Any) -> bool:
    if SERVE_TEXT not in signatures:
        return False
    _, arguments = signatures[SERVE_TEXT].structured_input_signature
    return list(arguments) == [text_store.INPUT]


def predict_files(
    paths: Sequence[str],
    *,
    predictor: Predictor,
    batch_size: int,
    top_k: int,
    max_image_pixels: int = image_sizes.MAX_PIXELS,
) -> Iterator[prediction_files.Prediction]:
    """Predicts images one batch at a time, with a progress bar.

    A file that cannot be opened or decoded gives a row with an error.

    Args:
      paths: image files.
      predictor: of `run_predictor` or `export_predictor`.
      batch_size: images in a batch, at least 1.
      top_k: classes in a row, at least 1; a head with fewer classes has fewer.
      max_image_pixels: an image whose header promises more is not decoded.

    Yields:
      A row for each path, in their order.
    """
    with progress.ProgressBar("Predicting", len(paths)) as bar:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            rows, contents = [], {}
            for number, path in enumerate(batch):
                content, reason = prediction_images.read_image(
                    os.fsencode(path), max_pixels=max_image_pixels
                )
                rows.append(prediction_files.Prediction(path, {}, reason))
                contents[number] = content
            yield from _predict_some(rows, contents, predictor, top_k=top_k)
            bar.update(start + len(batch))


def predict_texts(
    texts: Sequence[prediction_texts.TextInput],
    *,
    predictor: Predictor,
    batch_size: int,
    top_k: int,
) -> Iterator[prediction_files.Prediction]:
    """Predicts texts one batch at a time, with a progress bar.

    An empty text gives a row with an error, as in training it would be none.

    Args:
      texts: of `prediction_texts.iterate_texts`.
      predictor: of `run_predictor` or `export_predictor`.
      batch_size: texts in a batch, at least 1.
      top_k: classes in a row, at least 1; a head with fewer classes has fewer.

    Yields:
      A row for each text, in their order.
    """
    with progress.ProgressBar("Predicting", len(texts)) as bar:
        for start in range(0, len(texts), batch_size):
            batch = texts[start : start + batch_size]
            rows = [
                prediction_files.Prediction(
                    "",
                    {},
                    "" if given.text.strip() else "the text is empty",
                    text=given.text,
                    line=given.line,
                )
                for given in batch
            ]
            contents = {number: given.text.encode() for number, given in enumerate(batch)}
            yield from _predict_some(rows, contents, predictor, top_k=top_k)
            bar.update(start + len(batch))


def _to_output(logits: np.ndarray, head: head_kinds.HeadInfo) -> HeadOutput:
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


def _prefix(name: str, num_heads: int) -> str:
    return f"{name}_" if num_heads > 1 else ""


def _read_head(
    path: str,
    outputs: dict[str, Any],
    *,
    name: str,
    classes: tuple[str, ...],
    labels: dict[str, tuple[str, ...]],
) -> head_kinds.HeadInfo:
    prefix = _prefix(name, len(labels))
    expected = (f"{prefix}probabilities", f"{prefix}classes")
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
    is_exclusive = outputs[expected[1]].shape.rank == 1
    return head_kinds.HeadInfo(name, "multiclass" if is_exclusive else "multilabel", classes)


def _predict_some(
    rows: list[prediction_files.Prediction],
    contents: dict[int, bytes],
    predictor: Predictor,
    *,
    top_k: int,
) -> Iterator[prediction_files.Prediction]:
    """The rows with predictions, or with the errors that they had before or got now."""
    errors: dict[int, str] = {}
    numbers = [number for number, row in enumerate(rows) if not row.error]
    outputs = _isolate_bad(numbers, contents, predictor.predict_batch, errors=errors)
    for number, row in enumerate(rows):
        if number in errors:
            reason = _BAD_TEXT
            if row.text is None:
                head = contents[number][: image_formats.HEAD_BYTES]
                reason = image_formats.describe_bad_image(head)
            yield dataclasses.replace(row, error=reason)
        elif row.error:
            yield row
        else:
            yield _fill_row(row, outputs[number], heads=predictor.heads, top_k=top_k)


def _isolate_bad(
    numbers: list[int],
    contents: dict[int, bytes],
    predict_batch: PredictBatch,
    *,
    errors: dict[int, str],
) -> dict[int, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """{number: {HEAD: (probabilities, answers)}}; what is at fault goes to `errors` instead."""
    if not numbers:
        return {}
    try:
        outputs = predict_batch([contents[number] for number in numbers])
    except BadInputError as error:
        if len(numbers) == 1:
            errors[numbers[0]] = str(error)
            return {}
        middle = len(numbers) // 2
        halves = (numbers[:middle], numbers[middle:])
        parts = [_isolate_bad(half, contents, predict_batch, errors=errors) for half in halves]
        return parts[0] | parts[1]
    return {
        number: {
            name: (output.probabilities[row], output.answers[row])
            for name, output in outputs.items()
        }
        for row, number in enumerate(numbers)
    }


def _fill_row(
    row: prediction_files.Prediction,
    outputs: dict[str, tuple[np.ndarray, np.ndarray]],
    *,
    heads: tuple[head_kinds.HeadInfo, ...],
    top_k: int,
) -> prediction_files.Prediction:
    results = {}
    for head in heads:
        probabilities, answers = outputs[head.name]
        if not np.isfinite(probabilities).all():
            message = f"gets no number from head '{head.name}', whose weights are damaged"
            if row.text is not None:
                message += ", or the model finds no token in it"
            return dataclasses.replace(row, error=message)
        order = np.argsort(-probabilities, kind="stable")
        predicted = [index for index in order if answers[index]]
        if head_kinds.HEAD_KINDS[head.kind].exclusive:
            # A threshold can make the less probable of two classes the answer.
            order = np.array(predicted + [index for index in order if not answers[index]])
        order = order[:top_k]
        results[head.name] = prediction_files.HeadPrediction(
            predicted=tuple(head.classes[index] for index in predicted),
            classes=tuple(head.classes[index] for index in order),
            probabilities=tuple(float(probabilities[index]) for index in order),
        )
    return dataclasses.replace(row, heads=results)
