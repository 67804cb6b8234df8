"""A CSV file as rows with their lines: what tables of images and of texts share.

Reference: Y. Shafranovich, RFC 4180, Common Format and MIME Type for CSV Files, 2005,
https://www.rfc-editor.org/rfc/rfc4180.
"""

import codecs
import csv
import dataclasses
import io
from collections.abc import Iterator

import numpy as np

from tf_finetune import findings, regular_files
from tf_finetune.data import examples

SEPARATOR = "|"
# Several times what `csv` takes as one cell, 131,072.
_MAX_ROW_CHARACTERS = 2**22
_CHUNK_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV file as text.

    Attributes:
      path: the file, as the user wrote it.
      columns: names of the columns.
      rows: cells of each row.
      lines: 1-based line on which each row starts.
    """

    path: str
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]


def read_rows(path: str, *, expected: str) -> tuple[list[list[str]], list[int]]:
    """Reads every row that is not empty.

    Args:
      path: the file.
      expected: what a row should look like, for messages.

    Returns:
      (cells of each row, 1-based line on which each starts), at least one row.

    Raises:
      findings.RefusedError: the file is empty, not UTF-8, no CSV, or has a cell of more than
        131,072 characters or a row of more than 4,194,304.
    """
    rows: list[list[str]] = []
    lines, start = [], 1
    try:
        with regular_files.open_regular(path) as binary:
            text = _BoundedLines(io.TextIOWrapper(binary, "utf-8-sig", newline=""))
            reader = csv.reader(text, strict=True)
            for row in reader:
                text.num_characters = 0
                if row:
                    rows.append(row)
                    lines.append(start)
                start = reader.line_num + 1
    except UnicodeDecodeError as error:
        byte, line = _find_bad_byte(path)
        message = f"byte 0x{byte:02x} is not UTF-8. Save the file as UTF-8."
        raise refusal(path, message, line=line) from error
    except csv.Error as error:
        raise refusal(
            path, f"no valid CSV: {error}. Is a quotation mark missing?", line=start
        ) from error
    except OSError as error:
        raise refusal(path, f"it cannot be read: {error.strerror}.") from error
    if not rows:
        raise refusal(path, f"the file is empty. Expected rows {expected}.")
    return rows, lines


class _BoundedLines:
    """The lines of a file, as long as no row of them is made to fill the memory.

    Attributes:
      num_characters: of the row so far; set to 0 where one ends.
    """

    def __init__(self, file: io.TextIOWrapper):
        self._file = file
        self.num_characters = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(_MAX_ROW_CHARACTERS + 1):
            self.num_characters += len(line)
            if self.num_characters > _MAX_ROW_CHARACTERS:
                raise csv.Error(f"a row is longer than {_MAX_ROW_CHARACTERS:,} characters")
            yield line


def _find_bad_byte(path: str) -> tuple[int, int]:
    """(the first byte that is not UTF-8, its line)."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with regular_files.open_regular(path) as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return error.object[error.start], line + error.object.count(b"\n", 0, error.start)
            if not chunk:
                return 0, line  # the file has changed meanwhile
            line += chunk.count(b"\n")


def check_separator(path: str, first: list[str], *, line: int, expected: str) -> None:
    """Refuses a table of a single column.

    Args:
      path: the file.
      first: cells of its first row.
      line: of that row.
      expected: what a row should look like, for messages.

    Raises:
      findings.RefusedError: the row has one cell.
    """
    if len(first) < 2:
        separator = next((mark for mark in ";\t" if mark in first[0]), "")
        hint = f" Is it separated by {separator!r}? Use commas." if separator else ""
        message = f"expected at least 2 columns ({expected}). Received 1.{hint}"
        raise refusal(path, message, line=line)


def make_table(path: str, rows: list[list[str]], lines: list[int]) -> Table:
    """Takes the first row as the names of the columns.

    Args:
      path: the file.
      rows: of `read_rows`.
      lines: of `read_rows`.

    Returns:
      The table of the rows below.

    Raises:
      findings.RefusedError: a name is empty or there twice.
    """
    columns = [cell.strip() for cell in rows[0]]
    if "" in columns or len(set(columns)) < len(columns):
        shown = findings.one_line(",".join(rows[0]))
        message = f"expected a name of its own for each column. Received {shown}."
        raise refusal(path, message, line=lines[0])
    return Table(path, columns, rows[1:], lines[1:])


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


def to_labels(cells: list[str]) -> np.ndarray:
    """Label cells as labels: several names in a cell are joined by "|".

    Args:
      cells: the cells of a column.

    Returns:
      object [n]: str, stripped; or, where some cell holds "|", tuples of the names in it.
    """
    shared: dict[str, str] = {}
    stripped = [shared.setdefault(cell, cell) for cell in (cell.strip() for cell in cells)]
    if not any(SEPARATOR in cell for cell in shared):
        return examples.object_array(list(stripped))
    tuples = {cell: split_cell(cell) for cell in shared}
    return examples.object_array([tuples[cell] for cell in stripped])


def split_cell(cell: str) -> tuple[str, ...]:
    """The names in a cell.

    Args:
      cell: for example "cat|dog"; empty for none.

    Returns:
      The names without surrounding spaces, each once, in the cell's order.
    """
    names = (name.strip() for name in cell.split(SEPARATOR))
    return tuple(dict.fromkeys(name for name in names if name))


def refusal(path: str, message: str, *, line: int | None = None) -> findings.RefusedError:
    """An error about a table, with its place in front.

    Args:
      path: the file.
      message: what is wrong, without the place.
      line: 1-based, or None.

    Returns:
      The error to raise.
    """
    place = findings.one_line(path) + ("" if line is None else f", line {line}")
    return findings.RefusedError(findings.Problem(f"{place}: {message}", path=path, line=line))
