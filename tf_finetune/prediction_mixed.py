"""The rows of tables that --input names, for a model of an image or a text and columns.

One idea: the columns of a row are read as for a model of columns, and its image or text as for a
model of those; what is wrong with either costs the row.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tf_finetune import findings, model_calls, prediction_columns, prediction_images, specs
from tf_finetune.data import columns, image_sizes, mixed_spec, text_store, text_tables


@dataclasses.dataclass(frozen=True)
class MixedRow:
    """What a model gets of a row.

    Attributes:
      content: an encoded image, or a text in UTF-8.
      values: {input of the model: [1, *shape]} of the columns.
    """

    content: bytes
    values: prediction_columns.Values


def open_rows(
    inputs: tuple[str, ...],
    spec: columns.ColumnsSpec | mixed_spec.MixedSpec,
    *,
    data: specs.DataSpec,
    text_column: str | None = None,
    max_pixels: int = image_sizes.MAX_PIXELS,
) -> Iterator[prediction_columns.ColumnInput]:
    """The rows of tables for a model of columns, with or without an image or a text in each.

    Args:
      inputs: paths of tables, at least one.
      spec: what the model takes.
      data: how tables are read: `encoding`, `header`.
      text_column: of texts; default: the one that the model was trained on.
      max_pixels: see `iterate_rows`.

    Returns:
      The rows in their order, read as they are asked for.

    Raises:
      findings.RefusedError: with every input that does not exist, is no table or lacks columns.
    """
    if isinstance(spec, columns.ColumnsSpec):
        prediction_columns.check_inputs(inputs, spec, data=data)
        return prediction_columns.iterate_rows(inputs, spec, data=data)
    if text_column is not None and isinstance(spec.main, text_store.TextSpec):
        spec = dataclasses.replace(spec, column=text_column)
    prediction_columns.check_inputs(inputs, spec.columns, data=data, beside=spec.column)
    return iterate_rows(inputs, spec, data=data, max_pixels=max_pixels)


def iterate_rows(
    inputs: tuple[str, ...],
    spec: mixed_spec.MixedSpec,
    *,
    data: specs.DataSpec,
    max_pixels: int = image_sizes.MAX_PIXELS,
) -> Iterator[prediction_columns.ColumnInput]:
    """The rows of the tables that --input names, one image at a time.

    Args:
      inputs: paths of tables, as `prediction_columns.check_inputs` has seen them. Images are
        relative to the folder of their table.
      spec: what the model takes.
      data: how tables are read: `encoding`, `header`.
      max_pixels: an image whose header promises more gives a row with an error.

    Yields:
      The rows in their order, their values a MixedRow; one with a bad cell or image has an error.

    Raises:
      findings.RefusedError: a table cannot be read any further.
    """
    is_text = isinstance(spec.main, text_store.TextSpec)
    rows = prediction_columns.iterate_rows(inputs, spec.columns, data=data, beside=spec.column)
    for row in rows:
        if row.error:
            yield row
            continue
        if is_text:
            text = text_tables.join_words(row.beside)
            content, error = text.encode(), text_tables.find_fault(row.beside)
        else:
            content, error = _read_image(row, spec.column, max_pixels=max_pixels)
        yield dataclasses.replace(row, values=MixedRow(content, row.values), error=error)


def _read_image(
    row: prediction_columns.ColumnInput, column: str, *, max_pixels: int
) -> tuple[bytes, str]:
    if not isinstance(row.beside, str):
        return b"", f"column '{findings.one_line(column)}': expected a path. Received a list"
    path, error = prediction_images.find_image(row.beside, os.path.dirname(row.path))
    if not error:
        content, reason = prediction_images.read_image(os.fsencode(path), max_pixels=max_pixels)
        if not reason:
            return content, ""
        error = f"'{row.beside}' {reason}"
    return b"", error.removesuffix(".")


def _stack(rows: Sequence[MixedRow]) -> tuple[np.ndarray, prediction_columns.Values]:
    contents = np.empty(len(rows), object)
    contents[:] = [row.content for row in rows]
    return contents, prediction_columns.stack_values([row.values for row in rows])


def model_caller(
    model: Any, spec: mixed_spec.MixedSpec
) -> Callable[[Sequence[MixedRow]], dict[str, Any]]:
    """A trained model as a function of rows.

    Args:
      model: keras.Model whose inputs are those of the spec.
      spec: what it takes.

    Returns:
      A function from rows, at least one, to {HEAD: float32 tensor [n, units]}.
    """
    import tensorflow as tf

    from tf_finetune.data import mixed_serving, preprocessing

    compute, main = model_calls.compile_model(model), spec.main

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def read(contents: Any) -> Any:
        if isinstance(main, text_store.TextSpec):
            return contents
        return preprocessing.decode_images(contents, main)

    name = mixed_serving.find_main_name(spec, encoded=False)

    def call(rows: Sequence[MixedRow]) -> dict[str, Any]:
        contents, values = _stack(rows)
        inputs = {name: tf.constant(value) for name, value in values.items()}
        return compute({name: read(tf.constant(contents)), **inputs})

    return call


def make_arguments(rows: Sequence[MixedRow], spec: mixed_spec.MixedSpec) -> dict[str, Any]:
    """Rows as the arguments of an export's signature.

    Args:
      rows: at least one.
      spec: what the model takes.

    Returns:
      {argument: tensor [n, ...]} of `serve_bytes`, of a text of `serving_default`.
    """
    import tensorflow as tf

    from tf_finetune.data import mixed_serving

    contents, values = _stack(rows)
    request = mixed_serving.make_request(spec, contents, values, encoded=True)
    return {name: tf.constant(value) for name, value in request.items()}
