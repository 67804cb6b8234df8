"""A trained model or an export on new images or texts, a row for each.

One idea: a bad example costs its own row, not the run. A batch that fails is cut in two until the
one at fault is alone; its row tells the error and the others their classes.
"""

import dataclasses
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tf_finetune import (
    findings,
    head_kinds,
    prediction_columns,
    prediction_files,
    prediction_images,
    prediction_texts,
    predictors,
    progress,
)
from tf_finetune.data import image_formats, image_sizes, input_stores, text_store
from tf_finetune.text import spaces

# Where callers look for them: beside what uses them.
BadInputError = predictors.BadInputError
HeadOutput = predictors.HeadOutput
Predictor = predictors.Predictor
model_predictor = predictors.model_predictor
run_predictor = predictors.run_predictor
export_predictor = predictors.export_predictor

_BAD_TEXT = "cannot be made tokens of"


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
    """Predicts texts in batches of like length, with a progress bar.

    An empty text gives a row with an error, as in training it would be none.

    Args:
      texts: of `prediction_texts.iterate_texts`.
      predictor: of `run_predictor` or `export_predictor`.
      batch_size: texts in a batch, at least 1.
      top_k: classes in a row, at least 1; a head with fewer classes has fewer.

    Yields:
      A row for each text, in their order.
    """
    window_size = text_store.WINDOW_BATCHES * batch_size
    with progress.ProgressBar("Predicting", len(texts)) as bar:
        for start in range(0, len(texts), window_size):
            window = texts[start : start + window_size]
            order = text_store.sort_by_length(np.array([len(given.text) for given in window]))
            done: dict[int, prediction_files.Prediction] = {}
            for first in range(0, len(window), batch_size):
                numbers = order[first : first + batch_size].tolist()
                batch = [window[number] for number in numbers]
                rows = _predict_some_texts(batch, predictor, top_k=top_k)
                done.update(zip(numbers, rows, strict=True))
                bar.update(start + len(done))
            yield from (done[number] for number in range(len(window)))


def _predict_some_texts(
    batch: Sequence[prediction_texts.TextInput], predictor: Predictor, *, top_k: int
) -> Iterator[prediction_files.Prediction]:
    rows = [
        prediction_files.Prediction(
            "",
            {},
            given.error,
            text=given.text,
            line=given.line,
        )
        for given in batch
    ]
    contents = {number: given.text.encode() for number, given in enumerate(batch)}
    yield from _predict_some(rows, contents, predictor, top_k=top_k)


def predict_rows(
    rows: Iterator[prediction_columns.ColumnInput],
    *,
    predictor: Predictor,
    batch_size: int,
    top_k: int,
) -> Iterator[prediction_files.Prediction]:
    """Predicts rows of tables one batch at a time, with a progress bar.

    Args:
      rows: of `prediction_columns.iterate_rows`.
      predictor: of `run_predictor` or `export_predictor`.
      batch_size: rows in a batch, at least 1.
      top_k: classes in a row, at least 1; a head with fewer classes has fewer.

    Yields:
      A row for each row, in their order.
    """
    num_done = 0
    with progress.ProgressBar("Predicting", None) as bar:
        while batch := list(itertools.islice(rows, batch_size)):
            made = [
                prediction_files.Prediction(row.path, {}, row.error, line=row.line) for row in batch
            ]
            contents = {number: row.values for number, row in enumerate(batch)}
            yield from _predict_some(made, contents, predictor, top_k=top_k)
            num_done += len(batch)
            bar.update(num_done)


def _predict_some(
    rows: list[prediction_files.Prediction],
    contents: dict[int, Any],
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
            if predictor.input_kind in (input_stores.COLUMNS, input_stores.MIXED):
                reason = f"is refused by the model: {findings.one_line(errors[number])[:200]}"
            elif row.text is None:
                head = contents[number][: image_formats.HEAD_BYTES]
                reason = image_formats.describe_bad_image(head)
            yield dataclasses.replace(row, error=reason)
        elif row.error:
            yield row
        else:
            filled = _fill_row(row, outputs[number], heads=predictor.heads, top_k=top_k)
            if not filled.error:
                filled = _add_positions(filled, outputs[number], predictor, contents[number])
            yield filled


def _isolate_bad(
    numbers: list[int],
    contents: dict[int, Any],
    predict_batch: predictors.PredictBatch,
    *,
    errors: dict[int, str],
) -> dict[int, dict[str, HeadOutput]]:
    """{number: {HEAD: output of it alone}}; what is at fault goes to `errors` instead."""
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
            name: HeadOutput(
                output.probabilities[row],
                output.answers[row],
                None if output.class_ids is None else output.class_ids[row],
            )
            for name, output in outputs.items()
        }
        for row, number in enumerate(numbers)
    }


def _fill_row(
    row: prediction_files.Prediction,
    outputs: dict[str, HeadOutput],
    *,
    heads: tuple[head_kinds.HeadInfo, ...],
    top_k: int,
) -> prediction_files.Prediction:
    results = {}
    for head in heads:
        probabilities, answers = outputs[head.name].probabilities, outputs[head.name].answers
        kind = head_kinds.HEAD_KINDS[head.kind]
        if not np.isfinite(probabilities).all():
            message = f"gets no number from head '{head.name}', whose weights are damaged"
            if row.text is not None:
                message += ", or the model finds no token in it"
            return dataclasses.replace(row, error=message)
        if kind.positions:
            continue
        if not kind.has_classes:
            number = float(probabilities[0])
            results[head.name] = prediction_files.HeadPrediction((), (), (), number=number)
            continue
        order = np.argsort(-probabilities, kind="stable")
        predicted = [index for index in order if answers[index]]
        if kind.exclusive:
            # A threshold can make the less probable of two classes the answer.
            order = np.array(predicted + [index for index in order if not answers[index]])
        order = order[:top_k]
        results[head.name] = prediction_files.HeadPrediction(
            predicted=tuple(head.classes[index] for index in predicted),
            classes=tuple(head.classes[index] for index in order),
            probabilities=tuple(float(probabilities[index]) for index in order),
        )
    return dataclasses.replace(row, heads=results)


def _add_positions(
    row: prediction_files.Prediction,
    outputs: dict[str, HeadOutput],
    predictor: Predictor,
    content: Any,
) -> prediction_files.Prediction:
    """The row with masks of heads about pixels, of the image's size, and with tags of words."""
    from tf_finetune.data import mask_geometry, mask_reading

    results = dict(row.heads)
    for head in predictor.heads:
        mask = outputs[head.name].class_ids
        if mask is None:
            continue
        if row.text is not None:
            words = spaces.split_words(row.text)
            tags = tuple(head.classes[number] for number in mask[: len(words)])
            results[head.name] = prediction_files.HeadPrediction(
                predicted=tags, classes=(), probabilities=(), words=tuple(words)
            )
            continue
        size = mask_reading.find_upright_size(io.BytesIO(content))
        if size is None:
            raise ValueError(f"{row.path} was predicted, and its header has no size.")
        mask = mask_geometry.restore_mask(mask, predictor.geometry, height=size[0], width=size[1])
        # Of what the model saw: --resize=crop leaves borders without a class.
        counts = np.bincount(mask.ravel(), minlength=len(head.classes))[: len(head.classes)]
        fractions = counts / max(int(counts.sum()), 1)
        results[head.name] = prediction_files.HeadPrediction(
            predicted=(), classes=head.classes, probabilities=tuple(fractions.tolist()), mask=mask
        )
    return dataclasses.replace(row, heads=results)
