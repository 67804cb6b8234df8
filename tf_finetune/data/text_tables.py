"""A table with a header and a column of texts.

One idea: a row is known by what it says. Its key is a hash of the text and, where several rows say
the same, a number that follows from their labels, so that neither sorting nor adding rows moves an
example to another split; and rows that say the same are in one split.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import (
    csv_rows,
    examples,
    growing_array,
    json_rows,
    table_rows,
    text_store,
)
from tf_finetune.text import spaces

# Names by which a header tells that a table holds texts, or paths of images; in lower case.
TEXT_COLUMNS = ("text", "sentence", "review")
NO_WORDS = "expected a text, or a list of words without spaces in them"
IMAGE_COLUMNS = ("path", "image", "file", "filename")
_EXPECTED = "text,label"
_KEY_DIGITS = 16
_MAX_SHARED = 2**16


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
    spec: specs.DataSpec,
    path: str,
    *,
    header: table_rows.Header,
    rows: Iterable[table_rows.Row],
    places: table_rows.Places | None = None,
) -> examples.Examples:
    """Lists the texts of a table.

    Args:
      spec: the data options: `text_column`, `on_bad_example`.
      path: the file.
      header: the line of the names of its columns, None where they are on none, and the names.
      rows: (1-based line, cells) of each row below the header; read once.
      places: where the rows are; None: on the lines of the file.

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
    line, names = header
    csv_rows.check_separator(path, names, line=line, expected=_EXPECTED)
    table = csv_rows.Table(path, csv_rows.read_names(path, names, line=line), [], [])
    column = find_text_column(names, spec)
    place = csv_rows.find_column(table, column, flag="text_column")
    if places is None:
        places = table_rows.Places(path)
    found = _Rows(table.columns, place)
    problems = found.read(rows, places, skip=spec.on_bad_example == "skip")
    if not found.num_rows:
        raise csv_rows.refusal(
            path, "no row below the header. Expected a row text,label for each text."
        )
    if not found.texts and all(each.severity == findings.WARNING for each in problems):
        raise csv_rows.refusal(
            path, f"no row has a text in the column '{findings.one_line(column)}'."
        )
    texts, cells = examples.object_array(found.texts), found.cells
    keys, order, repeats = _make_keys(texts, list(cells.values()))
    problems += _count_repeats(places, repeats)
    delimiter = table_rows.label_delimiter(path, spec)
    return examples.Examples(
        source=path,
        keys=keys,
        inputs=text_store.Texts(texts[order], table.columns[place]),
        labels={
            name: csv_rows.to_labels(column, delimiter)[order] for name, column in cells.items()
        },
        lines=found.lines.finish()[order],
        repeats=repeats,
        problems=tuple(problems),
    )


class _Rows:
    """The pass over a table's rows; what is kept of one is its text, its line and shared cells."""

    def __init__(self, columns: list[str], place: int) -> None:
        self._columns = columns
        self._place = place
        self._shared: dict[json_rows.Cell, json_rows.Cell] = {}
        self.num_rows = 0
        self.texts: list[str] = []
        self.lines = growing_array.GrowingArray(np.int64)
        self.cells: dict[str, list[json_rows.Cell]] = {
            name: [] for number, name in enumerate(columns) if number != place
        }

    def read(
        self, rows: Iterable[table_rows.Row], places: table_rows.Places, *, skip: bool
    ) -> list[findings.Problem]:
        """Takes the rows that have a text; says what is wrong with the others."""
        problems, empty = [], []
        shown = findings.one_line(", ".join(self._columns))
        for line, row in rows:
            self.num_rows += 1
            if isinstance(row, json_rows.BadRow):
                problems.append(places.describe(row.fault, line))
            elif len(row) != len(self._columns):
                message = f"expected {len(self._columns)} columns ({shown}). Received {len(row)}."
                problems.append(places.describe(message, line))
            elif _has_spaces(row[self._place]):
                problems.append(places.describe(f"{NO_WORDS}.", line))
            elif not join_words(row[self._place]).strip():
                empty.append(line)
            else:
                self._add(line, row)
        if skip and empty:
            shown = places.name_rows(empty[: findings.MAX_LISTED], len(empty))
            text = f"{len(empty)} rows without a text are left out, {shown}."
            problems.append(places.describe(text, severity=findings.WARNING))
        elif empty:
            message = "the text is empty. --on_bad_example=skip leaves such rows out."
            problems += [places.describe(message, line) for line in empty]
        return problems

    def _add(self, line: int, row: list[Any]) -> None:
        self.texts.append(join_words(row.pop(self._place)))
        self.lines.extend(np.array([line]))
        for cell, kept in zip(row, self.cells.values(), strict=True):
            # Labels repeat: one text for all of them, but where each row has its own.
            if cell not in self._shared and len(self._shared) < _MAX_SHARED:
                self._shared[cell] = cell
            kept.append(self._shared.get(cell, cell))


def join_words(cell: json_rows.Cell) -> str:
    """The text in a cell, which JSONL and records may give as its words.

    Args:
      cell: a text, or a list of words.

    Returns:
      The text; the words with a space between two of them.
    """
    return cell if isinstance(cell, str) else " ".join(json_rows.read_elements(cell))


def find_fault(cell: json_rows.Cell) -> str:
    """What keeps a cell from being a text.

    Args:
      cell: a text, or a list of words.

    Returns:
      What is wrong, as a sentence without its full stop; "" where nothing is.
    """
    if _has_spaces(cell):
        return NO_WORDS
    return "" if join_words(cell).strip() else "the text is empty"


def _has_spaces(cell: json_rows.Cell) -> bool:
    """Whether a list holds what is not one word."""
    words = () if isinstance(cell, str) else json_rows.read_elements(cell)
    return any(spaces.split_words(word) != [word] for word in words)


def _make_keys(
    texts: np.ndarray, columns: list[list[json_rows.Cell]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys of rows: a hash of the text, and which it is of those with this hash.

    Args:
      texts: object [n] of str.
      columns: the other cells.

    Returns:
      (object [n], the keys, sorted; int64 [n], the row that has each; `Examples.repeats` of them).
    """
    digests = np.fromiter(map(_hash_text, texts), np.uint64, len(texts))
    keys = np.empty(len(texts), object)
    first = np.arange(len(texts))
    by_digest = np.argsort(digests, kind="stable")
    starts = np.flatnonzero(np.diff(digests[by_digest], prepend=~digests[by_digest[:1]])).tolist()
    for start, end in zip(starts, [*starts[1:], len(texts)], strict=True):
        rows = by_digest[start:end].tolist()
        if len(rows) > 1:
            # Not in the order of the file, which may change: equal texts differ in labels at most.
            rows.sort(key=lambda row: (texts[row], [str(column[row]) for column in columns]))
        firsts: dict[str, int] = {}
        for count, row in enumerate(rows, start=1):
            keys[row] = f"{digests[row]:0{_KEY_DIGITS}x}-{count}"
            first[row] = firsts.setdefault(texts[row], row)
    order = np.argsort(keys, kind="stable")
    places = np.empty(len(texts), np.int64)
    places[order] = np.arange(len(texts))
    return keys[order], order, places[first[order]]


def _hash_text(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS], 16)


def _count_repeats(places: table_rows.Places, repeats: np.ndarray) -> list[findings.Problem]:
    count = int((repeats != np.arange(len(repeats))).sum())
    if not count:
        return []
    message = f"{count} of {len(repeats)} rows repeat the text of another, and are in its split."
    return [places.describe(message, severity=findings.WARNING)]
