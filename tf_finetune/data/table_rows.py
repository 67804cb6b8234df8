"""A table of any kind as names of columns and rows of cells, whole or one row after another."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tf_finetune import findings, specs
from tf_finetune.data import csv_rows, encodings, examples, json_rows

ENDINGS = (".csv", *csv_rows.TAB_ENDINGS, *json_rows.ENDINGS)
# Of JSONL, keys that come up later than in these objects are no columns.
_FIRST_OBJECTS = 1000

# (1-based line, cells): text, or a `json_rows.Cell`; or a `json_rows.BadRow`.
Row = tuple[int, list[Any]]
# (1-based line, None where they stand on none; names of the columns).
Header = tuple[int | None, list[str]]


class Places:
    """Where the rows of a table are, as its user looks for them: on the lines of its file.

    Args:
      path: the file.

    Attributes:
      path: the file.
    """

    def __init__(self, path: str):
        self.path = path

    def describe(
        self, message: str, line: int | None = None, *, severity: str = findings.ERROR
    ) -> findings.Problem:
        """A problem of a row, or of the table.

        Args:
          message: what is wrong, without the place.
          line: of the row, as `Row` has it; None: the table.
          severity: "error" or "warning".

        Returns:
          The problem, with its place in front.
        """
        shown = findings.one_line(self.path) + ("" if line is None else f", line {line}")
        return findings.Problem(f"{shown}: {message}", severity, path=self.path, line=line)

    def name_rows(self, first: Sequence[int], count: int) -> str:
        """Some rows for a message.

        Args:
          first: lines of the first of them, as `Row` has them.
          count: of all of them.

        Returns:
          For example "lines 3, 7 and 2 more".
        """
        return "lines " + findings.list_values(first, total=count)


def find_header_line(path: str, lines: Sequence[int]) -> int | None:
    """The line that names the columns.

    Args:
      path: the file.
      lines: of `read_table`.

    Returns:
      The first; None of JSONL, where every line has its keys.
    """
    return None if is_json(path) else lines[0]


def is_json(path: str) -> bool:
    """Whether a table is JSONL.

    Args:
      path: the file.

    Returns:
      Whether its name ends so.
    """
    return path.lower().endswith(json_rows.ENDINGS)


def has_lists(path: str) -> bool:
    """Whether a cell of a table can be a list.

    Args:
      path: the file.

    Returns:
      True of JSONL, and of what is read as a table without being one; not of a CSV or TSV.
    """
    return not path.lower().endswith((".csv", *csv_rows.TAB_ENDINGS))


def label_delimiter(path: str, spec: specs.DataSpec) -> str | None:
    """What joins several names in a label cell of a table.

    Args:
      path: the file.
      spec: the data options: `label_delimiter`.

    Returns:
      The delimiter; None of JSONL, which has lists.
    """
    return None if has_lists(path) else spec.label_delimiter


def number_columns(count: int) -> list[str]:
    """Names of columns that have none.

    Args:
      count: of columns.

    Returns:
      "1", "2", and so on.
    """
    return [str(number) for number in range(1, count + 1)]


def read_first(path: str, spec: specs.DataSpec, *, expected: str) -> Row | None:
    """The first row of `read_table`, without the others.

    Args:
      path: a file with one of ENDINGS.
      spec: the data options: `encoding`, `header`.
      expected: what a row should look like, for messages.

    Returns:
      Its line and cells; None of JSONL, where any object may have another key.

    Raises:
      findings.RefusedError: the table is empty, or its first row cannot be read.
    """
    if is_json(path):
        return None
    first = next(csv_rows.iterate_rows(path, encoding=spec.encoding), None)
    if first is None:
        raise encodings.refusal(path, f"the file is empty. Expected rows {expected}.")
    return (1, number_columns(len(first[1]))) if spec.header == "none" else first


def open_rows(path: str, spec: specs.DataSpec, *, expected: str) -> tuple[list[str], Iterator[Row]]:
    """Reads a table one row after another; memory does not grow with the file.

    Args:
      path: a file with one of ENDINGS.
      spec: the data options: `encoding`, `header`.
      expected: what a row should look like, for messages.

    Returns:
      (names of the columns, (1-based line, cells) of each row below them). A row of a CSV may have
      another number of cells. Of JSONL the columns are the keys of the first 1,000 objects; a key
      that an object lacks is "", one that comes up later is an error, and a line that cannot be
      read is a `json_rows.BadRow`.

    Raises:
      findings.RefusedError: the table is empty or has no good names, or none of the first 1,000
        lines of JSONL is an object; or, while rows are read, what `csv_rows.iterate_rows` and
        `json_rows.iterate_objects` refuse.
    """
    if is_json(path):
        return _open_objects(path, spec, expected=expected)
    rows = csv_rows.iterate_rows(path, encoding=spec.encoding)
    first = next(rows, None)
    if first is None:
        raise encodings.refusal(path, f"the file is empty. Expected rows {expected}.")
    if spec.header == "none":
        return number_columns(len(first[1])), itertools.chain([first], rows)
    return csv_rows.read_names(path, first[1], line=first[0]), rows


def _open_objects(
    path: str, spec: specs.DataSpec, *, expected: str
) -> tuple[list[str], Iterator[Row]]:
    objects = json_rows.iterate_objects(path, encoding=spec.encoding)
    first = list(itertools.islice(objects, _FIRST_OBJECTS))
    if not first:
        raise encodings.refusal(path, f"the file is empty. Expected on each line {expected}.")
    columns = list(dict.fromkeys(key for _, values in first for key in values))
    if not columns:
        check_rows(path, first)
    known = frozenset(columns)

    def make_rows() -> Iterator[Row]:
        for line, values in itertools.chain(first, objects):
            if isinstance(values, json_rows.BadRow):
                yield line, values
                continue
            if not values.keys() <= known:
                new = findings.list_first(sorted(values.keys() - known))
                message = (
                    f"the key {new} is in none of the first {_FIRST_OBJECTS:,} objects, which tell "
                    "the columns. Put an object that has it among them."
                )
                raise encodings.refusal(path, message, line=line)
            yield line, [values.get(name, "") for name in columns]

    return columns, make_rows()


def read_table(
    path: str, spec: specs.DataSpec, *, expected: str
) -> tuple[list[list[Any]], list[int]]:
    """Reads a whole table, the names of its columns as the first row where it has any.

    Args:
      path: a file with one of ENDINGS.
      spec: the data options: `encoding`, `header`.
      expected: what a row should look like, for messages.

    Returns:
      (cells of each row, 1-based line of each), at least one row. The keys of JSONL are a first
      row like the header of a CSV; so are the numbers that --header=none gives as names. A line of
      JSONL that cannot be read is a `json_rows.BadRow`.

    Raises:
      findings.RefusedError: see `csv_rows.read_rows` and `json_rows.read_rows`; or no line of JSONL
        is an object.
    """
    if is_json(path):
        columns, objects, lines = json_rows.read_rows(
            path, expected=expected, encoding=spec.encoding
        )
        if not columns:
            check_rows(path, zip(lines, objects, strict=True))
        return [list(columns), *objects], [1, *lines]
    rows, lines = csv_rows.read_rows(path, expected=expected, encoding=spec.encoding)
    if spec.header == "none":
        return [list(number_columns(len(rows[0]))), *rows], [1, *lines]
    return [list(row) for row in rows], lines


def check_rows(path: str, rows: Iterable[tuple[int, Any]]) -> None:
    """Refuses rows that cannot be read, where nothing can be done without them.

    Args:
      path: the file.
      rows: (1-based line, cells).

    Raises:
      findings.RefusedError: some are a `json_rows.BadRow`; the first five are named.
    """
    places = Places(path)
    problems = [
        places.describe(row.fault, line) for line, row in rows if isinstance(row, json_rows.BadRow)
    ]
    if problems:
        raise findings.RefusedError(*examples.cut_problems(problems))
