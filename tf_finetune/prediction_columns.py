"""The rows of tables that --input names in --mode=predict, for a model of columns.

One idea: a table may be larger than the memory, so rows are read as they are predicted; what can be
known of a table before, such as a column that it lacks, is said before anything is written.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tf_finetune import findings, model_calls, specs
from tf_finetune.data import (
    column_names,
    column_tables,
    columns,
    examples,
    feature_cells,
    json_rows,
    mixed_spec,
    table_rows,
    vector_columns,
)

_ENDINGS = " or ".join((", ".join(table_rows.ENDINGS[:-1]), table_rows.ENDINGS[-1]))
_CHUNK_ROWS = 1024
_COLUMNS_FILE = "columns.json"

# {input of the model: [1, *shape]} of a row.
Values = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ColumnInput:
    """A row to predict.

    Attributes:
      path: the table, as the user wrote it.
      line: 1-based line of it on which the row starts.
      values: {input of the model: [1, *shape]}, or a `prediction_mixed.MixedRow`; empty where there
        is an error.
      error: why the row cannot be predicted, or "".
      beside: the cell of the image or text in the row, which in a JSONL may be a list; "" where the
        model takes columns alone.
    """

    path: str
    line: int
    values: Any
    error: str = ""
    beside: json_rows.Cell = ""


def check_inputs(
    inputs: tuple[str, ...], spec: columns.ColumnsSpec, *, data: specs.DataSpec, beside: str = ""
) -> None:
    """Refuses tables that lack a column, before anything is predicted.

    Args:
      inputs: paths of tables, at least one.
      spec: the inputs of the model.
      data: how tables are read: `encoding`, `header`.
      beside: column of images or texts that the model takes too; "": none.

    Raises:
      findings.RefusedError: with every input that does not exist, is no table or lacks columns.
    """
    problems: list[findings.Problem] = []
    if not inputs:
        problems.append(
            findings.Problem(f"--input is needed: a {_ENDINGS} with columns.", flag="--input")
        )
    for path in inputs:
        try:
            _open(path, spec, data, beside=beside)
        except findings.RefusedError as error:
            problems += error.problems
    if problems:
        raise findings.RefusedError(*problems)


def iterate_rows(
    inputs: tuple[str, ...], spec: columns.ColumnsSpec, *, data: specs.DataSpec, beside: str = ""
) -> Iterator[ColumnInput]:
    """The rows of the tables that --input names.

    Args:
      inputs: paths of tables, as `check_inputs` has seen them.
      spec: the inputs of the model.
      data: how tables are read: `encoding`, `header`.
      beside: column of images or texts that the model takes too; "": none.

    Yields:
      The rows in their order; one with a cell that is no number has an error.

    Raises:
      findings.RefusedError: a table cannot be read any further.
    """
    for path in inputs:
        names, rows = _open(path, spec, data, beside=beside)
        parser = feature_cells.FeatureParser(names, spec.kinds)
        place = names.index(beside) if beside else None
        while chunk := list(itertools.islice(rows, _CHUNK_ROWS)):
            yield from _parse(path, chunk, names, parser=parser, spec=spec, place=place)


def _parse(
    path: str,
    chunk: list[table_rows.Row],
    names: list[str],
    *,
    parser: feature_cells.FeatureParser,
    spec: columns.ColumnsSpec,
    place: int | None,
) -> Iterator[ColumnInput]:
    whole = [(line, cells) for line, cells in chunk if len(cells) == len(names)]
    numbers, strings, wrong = parser.parse([cells for _, cells in whole])
    row = 0
    for line, cells in chunk:
        if len(cells) != len(names):
            message = f"expected {len(names)} columns. Received {len(cells)}"
            if isinstance(cells, json_rows.BadRow):
                message = cells.fault.removesuffix(".")
            yield ColumnInput(path, line, {}, message)
            continue
        by_name = dict(zip(parser.number_names, numbers[row : row + 1].T, strict=True))
        texts = {name: [cell] for name, cell in zip(parser.string_names, strings[row], strict=True)}
        error = wrong[row].message if row in wrong else _find_fraction(spec, by_name)
        row += 1
        cell = "" if place is None else cells[place]
        values = {} if error else columns.gather(spec, by_name, texts)
        yield ColumnInput(path, line, values, error, cell)


def _find_fraction(spec: columns.ColumnsSpec, numbers: dict[str, np.ndarray]) -> str:
    for part in spec.inputs:
        if part.dtype.startswith("int"):
            for name in part.columns:
                value = float(numbers[name][0])
                if value != np.floor(value) or abs(value) > np.iinfo(part.dtype).max:
                    shown = findings.one_line(name)
                    return f"column '{shown}': expected a whole number. Received {value:g}"
    return ""


def _open(
    path: str, spec: columns.ColumnsSpec, data: specs.DataSpec, *, beside: str
) -> tuple[list[str], Iterator[table_rows.Row]]:
    shown = f"--input={findings.one_line(path)}"
    message = ""
    if not os.path.exists(path):
        message = f"{shown} does not exist. The model takes columns: expected a {_ENDINGS}."
    elif not os.path.isfile(path) or not path.lower().endswith(table_rows.ENDINGS):
        message = f"{shown}: the model takes columns. Expected a {_ENDINGS}."
    if message:
        raise findings.RefusedError(findings.Problem(message, path=path, flag="--input"))
    names, rows = table_rows.open_rows(path, data, expected=column_tables.EXPECTED)
    names, rows = _take_vectors(path, spec, names=names, rows=rows)
    wanted = (beside, *spec.columns) if beside else spec.columns
    absent = [name for name in wanted if name not in names]
    if absent:
        hint = examples.nearest_name(absent[0], names) if len(absent) == 1 else ""
        if column_names.all_numbers(names):
            hint = (
                " Its first row holds numbers: --header=none names its columns 1, 2, 3 and so on."
            )
        message = (
            f"{findings.one_line(path)} lacks {findings.list_first(absent)} of the columns that "
            f"the model takes.{hint} It has {findings.list_first(names, limit=20)}."
        )
        raise findings.RefusedError(findings.Problem(message, path=path, flag="--input"))
    return names, rows


def _take_vectors(
    path: str, spec: columns.ColumnsSpec, *, names: list[str], rows: Iterator[table_rows.Row]
) -> tuple[list[str], Iterator[table_rows.Row]]:
    """Takes the vectors apart that the model takes; a row of another length has an error."""
    taken = vector_columns.find_vectors(spec.columns)
    if not table_rows.has_lists(path) or not taken:
        return names, rows
    found, rows = vector_columns.find_lengths(names, rows)
    for name in set(taken) & set(found):
        if taken[name] != found[name]:
            message = (
                f"{findings.one_line(path)} has {found[name]} numbers in the first cell of "
                f"'{findings.one_line(name)}'. The model takes {taken[name]}."
            )
            raise findings.RefusedError(findings.Problem(message, path=path, flag="--input"))
    lengths = {name: length for name, length in taken.items() if name in found}
    return vector_columns.take_apart(names, rows, lengths)


def stack_values(rows: Sequence[Values]) -> Values:
    """Rows as one batch.

    Args:
      rows: {input: [1, *shape]} of each, at least one.

    Returns:
      {input: [n, *shape]}.
    """
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def read_export_spec(path: str) -> columns.ColumnsSpec | mixed_spec.MixedSpec | None:
    """What feeds the arguments of an exported model of columns, or of columns and an image or text.

    Args:
      path: EXPORT_DIR/VERSION.

    Returns:
      What the model takes; None of an export that takes no columns.

    Raises:
      findings.RefusedError: its assets/columns.json is damaged.
    """
    file_path = os.path.join(path, "assets", _COLUMNS_FILE)
    if not os.path.isfile(file_path):
        return None
    from tf_finetune.data import preprocessing

    try:
        with open(file_path, encoding="utf-8") as file:
            found = preprocessing.read_input_spec(json.load(file))
        if not isinstance(found, columns.ColumnsSpec | mixed_spec.MixedSpec):
            raise TypeError("it is of no columns")
        return found
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        shown = findings.one_line(path)
        message = (
            f"--model={shown} has an assets/{_COLUMNS_FILE} that is damaged "
            f"({findings.one_line(str(error))[:100]}). Export the model again."
        )
        raise findings.RefusedError(findings.Problem(message, path=path, flag="--model")) from error


def model_caller(model: Any) -> Callable[[Sequence[Values]], dict[str, Any]]:
    """A trained model as a function of rows.

    Args:
      model: keras.Model whose inputs are those of a ColumnsSpec.

    Returns:
      A function from rows, at least one, to {HEAD: float32 tensor [n, units]}.
    """
    import tensorflow as tf

    compute = model_calls.compile_model(model)
    return lambda rows: compute(
        {name: tf.constant(value) for name, value in stack_values(rows).items()}
    )


def make_arguments(rows: Sequence[Values], spec: columns.ColumnsSpec) -> dict[str, Any]:
    """Rows as the arguments of an export's signature.

    Args:
      rows: at least one.
      spec: the inputs of the model.

    Returns:
      {argument: tensor [n, ...]}.
    """
    import tensorflow as tf

    from tf_finetune.data import column_serving

    request = column_serving.make_request(spec, stack_values(rows))
    return {name: tf.constant(value) for name, value in request.items()}
