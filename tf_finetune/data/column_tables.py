"""A table of feature columns and labels, read once from its beginning to its end.

One idea: what is kept of a row does not depend on how long it is: a key of 16 bytes, its line, a
hash, and label cells that are shared where they repeat. Its numbers go to a matrix that lies in a
file where it is large. So a table may be larger than the memory.

A row is known by its features. Its key is a hash of them and, where several rows have the same, a
number that follows from their other cells; rows with the same features are in one split.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tf_finetune import findings, progress, specs
from tf_finetune.data import (
    cell_columns,
    column_names,
    columns,
    csv_rows,
    encodings,
    examples,
    feature_cells,
    growing_array,
    json_rows,
    mixed_spec,
    row_keys,
    table_rows,
    vector_columns,
)

EXPECTED = "of numbers and a label"
_CHUNK_ROWS = 4096
_MAX_PROBLEMS = 1000
_BAR_BYTES = 50 * 2**20


class _WideNumbersError(Exception):
    """A whole number does not fit float32."""


Opener = Callable[[], tuple[list[str], Iterator[table_rows.Row]]]


def load(
    spec: specs.DataSpec,
    text: str,
    *,
    open_rows: Opener | None = None,
    places: table_rows.Places | None = None,
) -> examples.Examples:
    """Lists the rows of a table.

    Args:
      spec: the data options: `feature_columns`, `label_column`, `on_bad_example`, `encoding`.
      text: path of the table.
      open_rows: begins the table, see `table_rows.open_rows`, which is the default.
      places: where its rows are; None: on the lines of the file.

    Returns:
      The examples, sorted by key. Every column that is no feature is a label column. Their
      problems are rows of another length, missing numbers, and cells that are none; and how many
      rows repeat the features of another (a warning).

    Raises:
      findings.RefusedError: --feature_columns or the table's header cannot be used, or no row can.
    """
    if open_rows is None:
        open_rows = functools.partial(table_rows.open_rows, text, spec, expected=EXPECTED)
    if places is None:
        places = table_rows.Places(text)
    return _load(spec, places, open_rows=open_rows, beside=None)


def load_beside(spec: specs.DataSpec, text: str, *, column: str) -> examples.Examples:
    """Lists the rows of a table that has images or texts too.

    Args:
      spec: the data options, see `load`.
      text: path of the table.
      column: name of the column of images or texts.

    Returns:
      As `load`. Two things are not told: that rows repeat the features of others, which says
      nothing beside images or texts; and rows that are no rows of the table, or of another
      length, which is a problem of them too.

    Raises:
      findings.RefusedError: see `load`.
    """
    open_rows = functools.partial(table_rows.open_rows, text, spec, expected=EXPECTED)
    return _load(spec, table_rows.Places(text), open_rows=open_rows, beside=column)


def settle_kinds(spec: specs.DataSpec, part: examples.Examples) -> specs.DataSpec:
    """The data options under which another table is read as the first was.

    Args:
      spec: the data options.
      part: the examples of --data.

    Returns:
      A copy whose `feature_columns` says which columns hold numbers; of other examples the same.
    """
    store = part.inputs if part.features is None else part.features
    if not isinstance(store, columns.Columns):
        return spec
    settled = column_names.describe(store.found, store.kinds)
    return dataclasses.replace(spec, feature_columns=settled)


def keep_kinds(spec: specs.DataSpec, trained: Any) -> specs.DataSpec:
    """The data options under which another table is read as a run's own was.

    Args:
      spec: the run's data options.
      trained: a ColumnsSpec, or what has one beside images or texts; of any other the options stay.

    Returns:
      A copy whose `feature_columns` names the run's columns and says which hold numbers.
    """
    own = mixed_spec.find_columns(trained)
    if own is None:
        return spec
    found = columns.FeatureColumns(own.columns, {}, {})
    settled = column_names.describe(found, own.kinds)
    return dataclasses.replace(spec, feature_columns=settled)


def _load(
    spec: specs.DataSpec, places: table_rows.Places, *, open_rows: Opener, beside: str | None
) -> examples.Examples:
    try:
        return _read(spec, places, dtype=np.float32, open_rows=open_rows, beside=beside)
    except _WideNumbersError:
        return _read(spec, places, dtype=np.float64, open_rows=open_rows, beside=beside)
    except OSError as error:
        message = f"its numbers cannot be stored in a temporary file: {error.strerror or error}."
        raise encodings.refusal(places.path, message) from error


def _read(
    spec: specs.DataSpec,
    places: table_rows.Places,
    *,
    dtype: type,
    open_rows: Opener,
    beside: str | None,
) -> examples.Examples:
    path = places.path
    names, rows = open_rows()
    names, rows, found = _choose_columns(spec, path, names=names, rows=rows)
    if set(names) <= set(found.names):
        message = (
            f"{column_names.FLAG}={findings.one_line(spec.feature_columns)} takes every column of "
            f"{findings.one_line(path)}, and none is left for labels. Name it with --label_column, "
            "or leave it out as in *,-price."
        )
        problem = findings.Problem(message, path=path, flag=column_names.FLAG)
        raise findings.RefusedError(problem)
    reader = _Reader(spec, places, names=names, found=found, dtype=dtype, beside=beside)
    size = os.path.getsize(path) if os.path.isfile(path) else _BAR_BYTES
    if size < _BAR_BYTES:
        reader.read(rows, lambda num_rows: None)
    else:
        with progress.ProgressBar("Reading rows", None) as bar:
            reader.read(rows, bar.update)
    return reader.finish()


def _choose_columns(
    spec: specs.DataSpec, path: str, *, names: list[str], rows: Iterator[table_rows.Row]
) -> tuple[list[str], Iterator[table_rows.Row], columns.FeatureColumns]:
    """The feature columns, and the table with those that are vectors taken apart."""
    if not table_rows.has_lists(path):
        return names, rows, column_names.read_feature_columns(spec, names, path=path)
    lengths, rows = vector_columns.find_lengths(names, rows)
    found = column_names.read_feature_columns(spec, names, path=path, lengths=lengths)
    taken = vector_columns.find_vectors(found.names)
    chosen = {name: length for name, length in lengths.items() if taken.get(name) == length}
    names, rows = vector_columns.take_apart(names, rows, chosen)
    return names, rows, found


class _Reader:
    """The pass over a table's rows."""

    def __init__(
        self,
        spec: specs.DataSpec,
        places: table_rows.Places,
        *,
        names: list[str],
        found: columns.FeatureColumns,
        dtype: type,
        beside: str | None,
    ):
        self._spec, self._places, self._names, self._found = spec, places, names, found
        self._beside = beside
        self._skip = spec.on_bad_example == "skip"
        self._dtype = dtype
        self._problems: list[tuple[int, findings.Problem]] = []
        self._num_problems = self._num_untold = 0
        self._skipped: list[int] = []
        self._num_skipped = self._num_rows = 0
        self._lines = growing_array.GrowingArray(np.int64)
        self._digests = growing_array.GrowingArray(np.uint64)
        self._sums = growing_array.GrowingArray(np.uint32)
        features = set(found.names)
        others = [(place, name) for place, name in enumerate(names) if name not in features]
        self._other_places = [place for place, _ in others]
        self._others = {name: cell_columns.CellColumn(strip=True) for _, name in others}
        self._strings: dict[str, cell_columns.CellColumn] = {}
        self._examples_of: dict[str, str] = {}
        self._parser: feature_cells.FeatureParser | None = None

    def read(self, rows: Iterator[table_rows.Row], show: Callable[[int], None]) -> None:
        """Reads every row."""
        while chunk := list(itertools.islice(rows, _CHUNK_ROWS)):
            lines, cells = self._take_whole(chunk)
            if self._parser is None:
                self._parser = self._start(cells)
            self._add(lines, cells, self._parser)
            self._num_rows += len(chunk)
            show(self._num_rows)

    def _take_whole(self, chunk: list[table_rows.Row]) -> tuple[list[int], list[list[Any]]]:
        """The lines and cells of rows that have a cell for each column."""
        lines, kept = [], []
        width = len(self._names)
        for line, cells in chunk:
            if len(cells) == width:
                lines.append(line)
                kept.append(cells)
                continue
            if self._beside is not None and not isinstance(cells, vector_columns.BadVector):
                self._num_untold += 1
            elif isinstance(cells, json_rows.BadRow):
                self._report(cells.fault, line)
            else:
                names = findings.list_first(self._names, limit=10)
                self._report(f"expected {width} columns ({names}). Received {len(cells)}.", line)
        return lines, kept

    def _start(self, cells: list[list[Any]]) -> feature_cells.FeatureParser:
        """Settles which columns hold numbers: those whose first cells do."""
        kinds: dict[str, str] = {}
        for name in self._found.names:
            place = self._names.index(name)
            odd = next((row[place] for row in cells if feature_cells.is_odd(row[place])), None)
            kinds[name] = self._found.kinds.get(
                name, columns.NUMBER if odd is None else columns.STRING
            )
            if kinds[name] == columns.STRING:
                self._strings[name] = cell_columns.CellColumn(strip=False)
                self._examples_of[name] = str(odd) if odd is not None else ""
        parser = feature_cells.FeatureParser(self._names, kinds)
        self._writer = columns.MatrixWriter(len(parser.number_names), self._dtype)
        return parser

    def _add(
        self, lines: list[int], cells: list[list[Any]], parser: feature_cells.FeatureParser
    ) -> None:
        numbers, strings, wrong = parser.parse(cells)
        if wrong:
            for row, fault in sorted(wrong.items()):
                self._report_row(fault, lines[row])
            good = [row for row in range(len(cells)) if row not in wrong]
            numbers = numbers[good]
            lines = [lines[row] for row in good]
            cells = [cells[row] for row in good]
            strings = [strings[row] for row in good]
        if not cells:
            return
        if self._dtype is np.float32 and feature_cells.needs_float64(numbers):
            raise _WideNumbersError
        self._writer.write(numbers)
        for name, values in zip(self._strings, zip(*strings, strict=True), strict=True):
            self._strings[name].extend(values)
        others = [[row[place] for row in cells] for place in self._other_places]
        for column, other_cells in zip(self._others.values(), others, strict=True):
            column.extend(other_cells)
        self._lines.extend(np.array(lines, np.int64))
        self._digests.extend(row_keys.hash_features(numbers, strings))
        self._sums.extend(row_keys.sum_cells(others, len(cells)))

    def _report_row(self, fault: feature_cells.Fault, line: int) -> None:
        # What is no number at all is a mistake in the table, whatever is skipped.
        if self._skip and fault.is_missing:
            self._num_skipped += 1
            if len(self._skipped) < findings.MAX_LISTED:
                self._skipped.append(line)
            return
        advice = " --on_bad_example=skip leaves such rows out." if fault.is_missing else ""
        self._report(f"{fault.message}.{advice}", line)

    def _report(self, message: str, line: int) -> None:
        self._num_problems += 1
        if self._num_problems <= _MAX_PROBLEMS:
            self._problems.append((line, self._places.describe(message, line)))

    def finish(self) -> examples.Examples:
        """The examples, sorted by key."""
        if not self._num_rows:
            raise csv_rows.refusal(
                self._places.path, f"no row below the header. Expected rows {EXPECTED}."
            )
        if not len(self._digests) and not self._problems and not self._num_untold:
            raise csv_rows.refusal(self._places.path, "every row lacks a number.")
        self._problems.sort(key=lambda found: found[0])
        problems = [problem for _, problem in self._problems] + self._count_problems()
        delimiter = table_rows.label_delimiter(self._places.path, self._spec)
        digests = self._digests.finish()
        order, keys, repeats = row_keys.make_keys(digests, self._sums.finish())
        digests = digests[order]
        problems += self._count_repeats(repeats)
        store = columns.Columns(
            found=self._found,
            number_names=tuple(self._parser.number_names) if self._parser else (),
            matrix=self._writer.finish(order),
            strings={name: column.texts(order) for name, column in self._strings.items()},
            digests=digests,
            examples_of=self._examples_of,
            beside=self._beside or "",
        )
        return examples.Examples(
            source=self._places.path,
            keys=keys,
            inputs=store,
            labels={name: column.labels(delimiter, order) for name, column in self._others.items()},
            lines=self._lines.finish()[order],
            repeats=repeats,
            problems=tuple(problems),
        )

    def _count_problems(self) -> list[findings.Problem]:
        found = []
        if self._num_problems > _MAX_PROBLEMS:
            more = self._num_problems - _MAX_PROBLEMS
            found.append(self._places.describe(f"and {more:,} more bad rows."))
        if self._num_skipped:
            rows = self._places.name_rows(self._skipped, self._num_skipped)
            message = f"{self._num_skipped:,} rows that lack a number are left out, {rows}."
            found.append(self._places.describe(message, severity=findings.WARNING))
        return found

    def _count_repeats(self, repeats: np.ndarray | None) -> list[findings.Problem]:
        if repeats is None or self._beside is not None:
            return []
        count = int((repeats != np.arange(len(repeats))).sum())
        message = (
            f"{count:,} of {len(repeats):,} rows repeat the features of another, and are in its "
            "split."
        )
        return [self._places.describe(message, severity=findings.WARNING)]
