"""The texts that --input names in --mode=predict.

One idea: every row of the output finds its way back to the line that it is about, so a text keeps
its line, and an empty one its row.
"""

import dataclasses
import os
from typing import Any

from tf_finetune import findings, specs
from tf_finetune.data import csv_rows, encodings, json_rows, table_rows, text_tables

_EXPECTED = "a .csv, .tsv or .jsonl with a column of texts, or a .txt with a text on each line"


@dataclasses.dataclass(frozen=True)
class TextInput:
    """A text to predict.

    Attributes:
      text: as it stands in the file; may be empty.
      line: 1-based line of the file on which it starts.
      error: why it cannot be predicted, or "".
    """

    text: str
    line: int
    error: str = ""


def iterate_texts(
    inputs: tuple[str, ...],
    *,
    trained_column: str | None,
    text_column: str | None,
    data: specs.DataSpec | None = None,
) -> list[TextInput]:
    """The texts that --input names.

    A .txt has a text on each line. In a table, texts are in the column that --text_column names;
    else in the one that the model was trained on, or in one whose name tells.

    Args:
      inputs: paths of .csv, .tsv, .jsonl and .txt files, at least one.
      trained_column: name of the column in the run's own data; None: not known.
      text_column: value of --text_column, or None.
      data: how files are read: `encoding`; default: UTF-8.

    Returns:
      Texts, in the order of `inputs`; one that is empty, or a line that is no JSON, has an error.

    Raises:
      RefusedError: with every input that does not exist, cannot be read, holds nothing, or is a
        .csv without such a column.
    """
    if not inputs:
        raise findings.RefusedError(
            findings.Problem(f"--input is needed: {_EXPECTED}.", flag="--input")
        )
    texts: list[TextInput] = []
    problems: list[findings.Problem] = []
    for path in inputs:
        try:
            texts += _list_input(path, trained_column, text_column, data or specs.DataSpec())
        except findings.RefusedError as error:
            problems += error.problems
    if problems:
        raise findings.RefusedError(*problems)
    return texts


def _list_input(
    path: str, trained_column: str | None, text_column: str | None, data: specs.DataSpec
) -> list[TextInput]:
    shown = f"--input={findings.one_line(path)}"
    if not os.path.exists(path):
        raise _refuse(f"{shown} does not exist. The model takes texts: expected {_EXPECTED}.", path)
    ending = os.path.splitext(path)[1].lower()
    if not os.path.isfile(path) or ending not in (".txt", *table_rows.ENDINGS):
        raise _refuse(f"{shown}: the model takes texts. Expected {_EXPECTED}.", path)
    try:
        if ending == ".txt":
            return _read_lines(path, data)
        return _read_column(path, trained_column, text_column, data)
    except OSError as error:
        raise _refuse(f"{shown} cannot be opened: {error.strerror}.", path) from error


def _refuse(message: str, path: str, *, flag: str = "--input") -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(message, path=path, flag=flag))


def _read_lines(path: str, data: specs.DataSpec) -> list[TextInput]:
    # Only \n, \r\n and \r end a line: str.splitlines would also cut at U+2028 inside a text.
    try:
        with encodings.open_text(path, data.encoding) as file:
            file.reconfigure(newline=None)
            lines = [line.removesuffix("\n") for line in file]
    except UnicodeError as error:
        raise encodings.refuse_bytes(path, data.encoding) from error
    if not lines:
        raise _refuse(f"{findings.one_line(path)} is empty. Expected a text on each line.", path)
    return [
        TextInput(text, number, text_tables.find_fault(text))
        for number, text in enumerate(lines, start=1)
    ]


def _read_column(
    path: str, trained_column: str | None, text_column: str | None, data: specs.DataSpec
) -> list[TextInput]:
    rows, lines = table_rows.read_table(path, data, expected="with a column of texts")
    header = table_rows.find_header_line(path, lines)
    table = csv_rows.make_table(path, rows, lines, header=header)
    column = text_column
    if column is None and trained_column in table.columns:
        column = trained_column
    if column is None:
        column = text_tables.find_text_column(table.columns, specs.DataSpec())
    if column is None:
        wanted = f" '{findings.one_line(trained_column)}', as in training" if trained_column else ""
        raise _refuse(
            f"{findings.one_line(path)}: expected a column of texts{wanted}. It has "
            f"{findings.list_first(table.columns, limit=20)}. Name one with --text_column.",
            path,
            flag="--text_column",
        )
    place = csv_rows.find_column(table, column, flag="text_column")
    if not table.rows:
        raise _refuse(f"{findings.one_line(path)}: no row below the header.", path)
    return [
        _read_row(row, line, place=place) for row, line in zip(table.rows, table.lines, strict=True)
    ]


def _read_row(row: list[Any], line: int, *, place: int) -> TextInput:
    if isinstance(row, json_rows.BadRow):
        return TextInput("", line, row.fault.removesuffix("."))
    cell = row[place] if place < len(row) else ""
    return TextInput(text_tables.join_words(cell), line, text_tables.find_fault(cell))
