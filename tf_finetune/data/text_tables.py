"""A table with a header and a column of texts.

One idea: a row is known by what it says. Its key is a hash of the text and, where several rows say
the same, a number that follows from their labels, so that neither sorting nor adding rows moves an
example to another split; and rows that say the same are in one split.
"""

import dataclasses
import hashlib

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import csv_rows, examples, table_rows, text_store

# Names by which a header tells that a table holds texts, or paths of images; in lower case.
TEXT_COLUMNS = ("text", "sentence", "review")
IMAGE_COLUMNS = ("path", "image", "file", "filename")
_EXPECTED = "text,label"
_KEY_DIGITS = 16


def find_text_column(columns: list[str], spec: specs.DataSpec) -> str | None:
    """The column that holds texts.

    Args:
      columns: cells of a table's first row.
      spec: the data options: `text_column`, `image_column`.

    Returns:
      --text_column where it is given, whether it exists or not; else the first of TEXT_COLUMNS
      that is there, None where none is or where a column holds paths of images.
    """
    if spec.text_column is not None:
        return spec.text_column
    names = {column.strip().lower(): column.strip() for column in reversed(columns)}
    if spec.image_column is not None or names.keys() & set(IMAGE_COLUMNS):
        return None
    return next((names[name] for name in TEXT_COLUMNS if name in names), None)


def holds_texts(first: list[str], spec: specs.DataSpec) -> bool:
    """Whether a table is one of texts.

    Args:
      first: cells of its first row.
      spec: the data options.

    Returns:
      True where --text_column is given, or the header names a column of texts and none of images.
    """
    return find_text_column(first, spec) is not None


def load_rows(
    spec: specs.DataSpec, path: str, *, rows: list[list[str]], lines: list[int]
) -> examples.Examples:
    """Lists the texts of a table.

    Args:
      spec: the data options: `text_column`, `on_bad_example`.
      path: the file.
      rows: its rows, the header first.
      lines: 1-based line on which each row starts.

    Returns:
      The examples, sorted by key. Every other column is a label column. Their problems are rows of
      another length and empty texts; and how many rows repeat the text of another (a warning).

    Raises:
      findings.RefusedError: a single column, a bad header, no row; --text_column names no column,
        or --image_column is given too.
    """
    if spec.text_column is not None and spec.image_column is not None:
        message = "--text_column and --image_column exclude each other. Leave one of them out."
        raise findings.RefusedError(findings.Problem(message, flag="--text_column"))
    csv_rows.check_separator(path, rows[0], line=lines[0], expected=_EXPECTED)
    table = csv_rows.make_table(path, rows, lines)
    column = find_text_column(rows[0], spec)
    place = csv_rows.find_column(table, column, flag="text_column")
    if not table.rows:
        raise csv_rows.refusal(
            path, "no row below the header. Expected a row text,label for each text."
        )
    good, problems = _check_rows(table, place, skip=spec.on_bad_example == "skip")
    if not good and all(found.severity == findings.WARNING for found in problems):
        raise csv_rows.refusal(
            path, f"no row has a text in the column '{findings.one_line(column)}'."
        )
    texts = [table.rows[number][place] for number in good]
    names = [name for number, name in enumerate(table.columns) if number != place]
    cells = [table.rows[number][:place] + table.rows[number][place + 1 :] for number in good]
    keys, repeats = _make_keys(texts, cells)
    order = sorted(range(len(good)), key=keys.__getitem__)
    new_place = {row: number for number, row in enumerate(order)}
    problems += _count_repeats(table, repeats)
    return examples.Examples(
        source=path,
        keys=examples.object_array([keys[row] for row in order]),
        inputs=text_store.Texts(
            examples.object_array([texts[row] for row in order]), table.columns[place]
        ),
        labels={
            name: csv_rows.to_labels(
                [cells[row][number] for row in order], table_rows.label_delimiter(path, spec)
            )
            for number, name in enumerate(names)
        },
        lines=np.array([table.lines[good[row]] for row in order], np.int64),
        repeats=np.array([new_place[repeats[row]] for row in order], np.int64),
        problems=tuple(problems),
    )


def _check_rows(
    table: csv_rows.Table, place: int, *, skip: bool
) -> tuple[list[int], list[findings.Problem]]:
    """(numbers of the rows with a text, what is wrong with the others)."""
    good, problems, empty = [], [], []
    shown = findings.one_line(", ".join(table.columns))
    for number, (row, line) in enumerate(zip(table.rows, table.lines, strict=True)):
        if len(row) != len(table.columns):
            message = f"expected {len(table.columns)} columns ({shown}). Received {len(row)}."
            problems.append(_problem(table, message, line=line))
        elif isinstance(row[place], tuple):
            problems.append(_problem(table, "expected a text. Received a list.", line=line))
        elif not row[place].strip():
            empty.append(line)
        else:
            good.append(number)
    if skip and empty:
        text = f"{len(empty)} rows without a text are left out, lines {_list_lines(empty)}."
        warning = _problem(table, text)
        problems.append(dataclasses.replace(warning, severity=findings.WARNING))
    elif empty:
        message = "the text is empty. --on_bad_example=skip leaves such rows out."
        problems += [_problem(table, message, line=line) for line in empty]
    return good, problems


def _problem(table: csv_rows.Table, message: str, *, line: int | None = None) -> findings.Problem:
    place = findings.one_line(table.path) + ("" if line is None else f", line {line}")
    return findings.Problem(f"{place}: {message}", path=table.path, line=line)


def _list_lines(lines: list[int]) -> str:
    more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
    return ", ".join(map(str, lines[:5])) + more


def _make_keys(texts: list[str], cells: list[list[str]]) -> tuple[list[str], list[int]]:
    """(key, first row with the same text) of each row."""
    keys, repeats = [""] * len(texts), [0] * len(texts)
    first: dict[str, int] = {}
    counts: dict[str, int] = {}
    # Not in the order of the file, which may change: equal texts differ in their labels at most.
    for row in sorted(range(len(texts)), key=lambda row: (texts[row], list(map(str, cells[row])))):
        digest = hashlib.sha256(texts[row].encode()).hexdigest()[:_KEY_DIGITS]
        counts[digest] = counts.get(digest, 0) + 1
        keys[row] = f"{digest}-{counts[digest]}"
        repeats[row] = first.setdefault(texts[row], row)
    return keys, repeats


def _count_repeats(table: csv_rows.Table, repeats: list[int]) -> list[findings.Problem]:
    count = sum(row != other for row, other in enumerate(repeats))
    if not count:
        return []
    message = f"{count} of {len(repeats)} rows repeat the text of another, and are in its split."
    return [dataclasses.replace(_problem(table, message), severity=findings.WARNING)]
