"""A CSV or TSV file as rows with their lines: what tables of images, texts and numbers share.

Reference: Y. Shafranovich, RFC 4180, Common Format and MIME Type for CSV Files, 2005,
https://www.rfc-editor.org/rfc/rfc4180.
"""

import csv
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from tf_finetune import findings
from tf_finetune.data import encodings, examples

SEPARATOR = "|"
TAB_ENDINGS: tuple[str, ...] = (".tsv", ".tab")


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV, TSV or JSONL file as text.

    Attributes:
      path: the file, as the user wrote it.
      columns: names of the columns.
      rows: cells of each row; of JSONL a list of names is a tuple, and null an empty string.
      lines: 1-based line on which each row starts.
    """

    path: str
    columns: list[str]
    rows: list[list[Any]]
    lines: list[int]


def read_rows(
    path: str, *, expected: str, encoding: str = encodings.DEFAULT
) -> tuple[list[list[str]], list[int]]:
    """Reads every row that is not empty.

    Args:
      path: the file; .tsv and .tab are separated by tabs, all others by commas.
      expected: what a row should look like, for messages.
      encoding: value of --encoding.

    Returns:
      (cells of each row, 1-based line on which each starts), at least one row.

    Raises:
      findings.RefusedError: the file is empty, not in the encoding, no CSV, or has a cell of more
        than 131,072 characters or a row of more than 4,194,304.
    """
    rows: list[list[str]] = []
    lines: list[int] = []
    for line, row in iterate_rows(path, encoding=encoding):
        rows.append(row)
        lines.append(line)
    if not rows:
        raise refusal(path, f"the file is empty. Expected rows {expected}.")
    return rows, lines


def iterate_rows(
    path: str, *, encoding: str = encodings.DEFAULT
) -> Iterator[tuple[int, list[str]]]:
    """Reads one row after another; memory does not grow with the file.

    Args:
      path: the file; .tsv and .tab are separated by tabs, all others by commas.
      encoding: value of --encoding.

    Yields:
      (1-based line on which the row starts, its cells) of every row that is not empty.

    Raises:
      findings.RefusedError: as for `read_rows`, when the place is reached.
    """
    start = 1
    delimiter = "\t" if path.lower().endswith(TAB_ENDINGS) else ","
    try:
        with encodings.open_text(path, encoding) as file:
            text = encodings.BoundedLines(file, "a row", error=csv.Error)
            reader = csv.reader(text, strict=True, delimiter=delimiter)
            for row in reader:
                text.num_characters = 0
                if row:
                    yield start, row
                start = reader.line_num + 1
    except UnicodeError as error:
        raise encodings.refuse_bytes(path, encoding) from error
    except csv.Error as error:
        raise refusal(
            path, f"no valid CSV: {error}. Is a quotation mark missing?", line=start
        ) from error
    except OSError as error:
        raise refusal(path, f"it cannot be read: {error.strerror}.") from error


def check_separator(path: str, first: list[str], *, line: int | None, expected: str) -> None:
    """Refuses a table of a single column.

    Args:
      path: the file.
      first: cells of its first row.
      line: of that row; None: it is on none.
      expected: what a row should look like, for messages.

    Raises:
      findings.RefusedError: the row has one cell.
    """
    if len(first) < 2:
        separator = next((mark for mark in ";\t" if mark in first[0]), "")
        hint = f" Is it separated by {separator!r}? Use commas." if separator else ""
        message = f"expected at least 2 columns ({expected}). Received 1.{hint}"
        raise refusal(path, message, line=line)


def make_table(path: str, rows: list[list[str]], lines: list[int], *, header: int | None) -> Table:
    """Takes the first row as the names of the columns.

    Args:
      path: the file.
      rows: of `read_rows`.
      lines: of `read_rows`.
      header: line of the names; None: they are on none.

    Returns:
      The table of the rows below.

    Raises:
      findings.RefusedError: a name is empty or there twice.
    """
    return Table(path, read_names(path, rows[0], line=header), rows[1:], lines[1:])


def read_names(path: str, first: list[str], *, line: int | None) -> list[str]:
    """The names of a table's columns.

    Args:
      path: the file.
      first: cells of its first row.
      line: of that row; None: it is on none.

    Returns:
      The names, without surrounding spaces.

    Raises:
      findings.RefusedError: one is empty or there twice.
    """
    columns = [cell.strip() for cell in first]
    if "" in columns or len(set(columns)) < len(columns):
        shown = findings.one_line(",".join(first))
        message = f"expected a name of its own for each column. Received {shown}."
        raise refusal(path, message, line=line)
    return columns


def find_column(table: Table, name: str | None, *, flag: str) -> int:
    """The place of a column.

    Args:
      table: the table.
      name: value of the flag; None: the first column.
      flag: name of the flag, for messages.

    Returns:
      0 for the first column.

    Raises:
      findings.RefusedError: the table has no such column; the nearest is named.
    """
    if name is None:
        return 0
    if name not in table.columns:
        raise findings.RefusedError(
            findings.Problem(
                f"--{flag}={findings.one_line(name)}: {findings.one_line(table.path)} has no "
                f"such column.{examples.nearest_name(name, table.columns)} It has "
                f"{findings.list_first(table.columns, limit=20)}.",
                path=table.path,
                flag=f"--{flag}",
            )
        )
    return table.columns.index(name)


def to_labels(cells: list[Any], delimiter: str | None = SEPARATOR) -> np.ndarray:
    """Label cells as labels: several names in a cell are joined by the delimiter.

    Args:
      cells: the cells of a column.
      delimiter: value of --label_delimiter; None: cells of JSONL, where a list says it.

    Returns:
      object [n]: str, stripped; or, where some cell holds the delimiter, tuples of the names in it.
    """
    if delimiter is None:
        return examples.object_array(
            [cell.strip() if isinstance(cell, str) else cell for cell in cells]
        )
    shared: dict[str, str] = {}
    stripped = [shared.setdefault(cell, cell) for cell in (cell.strip() for cell in cells)]
    if not any(delimiter in cell for cell in shared):
        return examples.object_array(list(stripped))
    tuples = {cell: split_cell(cell, delimiter) for cell in shared}
    return examples.object_array([tuples[cell] for cell in stripped])


def split_cell(cell: str, delimiter: str = SEPARATOR) -> tuple[str, ...]:
    """The names in a cell.

    Args:
      cell: for example "cat|dog"; empty for none.
      delimiter: what stands between two names.

    Returns:
      The names without surrounding spaces, each once, in the cell's order.
    """
    names = (name.strip() for name in cell.split(delimiter))
    return tuple(dict.fromkeys(name for name in names if name))


def refusal(path: str, message: str, *, line: int | None = None) -> findings.RefusedError:
    """An error about a table, see `encodings.refusal`.

    Args:
      path: the file.
      message: what is wrong, without the place.
      line: 1-based, or None.

    Returns:
      The error to raise.
    """
    return encodings.refusal(path, message, line=line)
