"""TFRecord files whose examples are texts, numbers and vectors: read as a table of such cells.

One idea: a record is a row. So what is said of rows, of their keys apart, is said by the readers of
tables, and a list of numbers is a vector as in JSONL.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import (
    column_tables,
    examples,
    json_rows,
    known_names,
    record_faults,
    record_features,
    record_framing,
    record_schema,
    store_selection,
    table_rows,
    text_tables,
)
from tf_finetune.trust import refusals

# Of these the columns are told, as of JSONL.
_FIRST_RECORDS = 1000
_MAX_COLUMNS = 100_000


def holds_texts(spec: specs.DataSpec, files: list[str]) -> bool:
    """Whether TFRecord files hold texts, as far as their first record tells.

    Args:
      spec: the data options.
      files: paths.

    Returns:
      True where --text_column is given, or the first record has a feature of
      `text_tables.TEXT_COLUMNS` and none of images.
    """
    if spec.text_column is not None or spec.image_column is not None:
        return spec.text_column is not None
    try:
        record = next(record_framing.read_records(os.fsencode(files[0])), None)
        if record is None or record.fault:
            return False
        features = record_features.ExampleReader().read_features(record.data)
    except (OSError, refusals.BrokenFileError):
        return False  # the listing says so
    names = {name.partition("/")[0] for name in features}
    return "image" not in names and text_tables.find_text_column(list(features), spec) is not None


def load(spec: specs.DataSpec, text: str, files: list[str]) -> examples.Examples:
    """Lists the texts or the feature columns of records.

    Args:
      spec: the data options: `text_column` or `feature_columns`, `record_schema`, `classes`,
        `on_bad_example`.
      text: value of --data, for messages.
      files: paths, in order.

    Returns:
      The examples; keys are the file and the record's number, every other feature is a label
      column, in which numbers are class names or places in --classes.

    Raises:
      findings.RefusedError: no record can be used, a feature does not exist; see
        `column_tables.load` and `text_tables.load_rows`.
    """
    records = _Records(spec, text, files)
    try:
        return records.finish(_load_rows(spec, text, records))
    except findings.RefusedError as error:
        # Of no good record a reader of tables only knows that there is no row.
        if records.num_good or not records.found.problems:
            raise
        raise records.refuse_all() from error


def _load_rows(spec: specs.DataSpec, text: str, records: "_Records") -> examples.Examples:
    if spec.feature_columns is not None:
        return column_tables.load(spec, text, open_rows=records.open, places=records)
    names, rows = records.open()
    first = next(rows, None)
    if first is None:
        raise records.refuse_all()
    rows = itertools.chain([first], rows)
    return text_tables.load_rows(spec, text, header=(None, names), rows=rows, places=records)


class _Records(table_rows.Places):
    """The pass over records, whose rows are numbered from 1 over all files."""

    def __init__(self, spec: specs.DataSpec, text: str, files: list[str]):
        super().__init__(text)
        self._spec, self._files = spec, files
        self._schema = record_schema.read_schema(spec.record_schema)
        self._begin()

    def _begin(self) -> None:
        self.found = record_faults.RecordPass(self._spec, self._files)
        self.num_good = 0

    def open(self) -> tuple[list[str], Iterator[table_rows.Row]]:
        """The names of the columns, and rows: (number of the record over all files, cells)."""
        self._begin()
        cells = self._read()
        first = list(itertools.islice(cells, _FIRST_RECORDS))
        names = list(self._schema) or sorted({name for _, found in first for name in found})
        if not names and not first:
            raise self.refuse_all()
        return names, self._make_rows(names, first, cells)

    def _make_rows(
        self,
        names: list[str],
        first: list[tuple[int, dict[str, json_rows.Cell]]],
        others: Iterator[tuple[int, dict[str, json_rows.Cell]]],
    ) -> Iterator[table_rows.Row]:
        known = frozenset(names)
        told: set[str] = set()
        for part in (first, others):
            for number, cells in part:
                new = sorted(cells.keys() - known - told)
                if new:
                    told.update(new)
                    message = (
                        f"{findings.list_first(new)} is in none of the first {_FIRST_RECORDS:,} "
                        "records, and is not used. --record_schema names the features that are."
                    )
                    self.found.problems.append(
                        self.describe(message, number, severity=findings.WARNING)
                    )
                yield number, [cells.get(name, "") for name in names]

    def _read(self) -> Iterator[tuple[int, dict[str, json_rows.Cell]]]:
        for file, record in self.found.read():
            cells, fault = self._parse(record)
            if fault:
                self.found.report(file, record.number, fault)
            else:
                self.num_good += 1
                yield self.found.num_records, cells

    def _parse(self, record: record_framing.Record) -> tuple[dict[str, json_rows.Cell], str]:
        reader = record_features.ExampleReader()
        try:
            features = reader.read_features(record.data)
            fault = record_schema.find_fault(self._schema, features, reader)
            if fault or len(features) > _MAX_COLUMNS:
                return {}, fault or f"has more than {_MAX_COLUMNS:,} features"
            if self._schema:
                features = {name: features[name] for name in self._schema if name in features}
            cells = {name: reader.read_cell(feature) for name, feature in features.items()}
        except refusals.BrokenFileError:
            return {}, "is not a valid tf.train.Example"
        wanted = text_tables.find_text_column(list(cells), self._spec)
        is_text = self._spec.feature_columns is None and wanted is not None
        if is_text and wanted in cells and cells[wanted] is None:
            return (
                {},
                f"is not usable: its feature '{findings.one_line(wanted)}' is no text in UTF-8",
            )
        return {name: cell for name, cell in cells.items() if cell is not None}, ""

    def describe(
        self, message: str, line: int | None = None, *, severity: str = findings.ERROR
    ) -> findings.Problem:
        """A problem of a record, see `table_rows.Places.describe`."""
        if line is None:
            return super().describe(message, severity=severity)
        file, record = self.found.find(line)
        return findings.Problem(
            f"{file.locate(record)}: {message}",
            severity,
            path=findings.one_line(file.path),
            line=record,
        )

    def name_rows(self, first: Sequence[int], count: int) -> str:
        """Some records, see `table_rows.Places.name_rows`."""
        places = [self.found.find(number) for number in first]
        if len(self._files) > 1:
            shown = [findings.one_line(file.make_key(record)) for file, record in places]
        else:
            shown = [str(record) for _, record in places]
        return "records " + findings.list_values(shown, total=count)

    def refuse_all(self) -> findings.RefusedError:
        """Where no record can be used."""
        problems = [
            dataclasses.replace(problem, severity=findings.ERROR) for problem in self.found.problems
        ]
        if not problems:
            message = (
                f"{findings.one_line(self.path)} holds no record. Expected tf.train.Example "
                "records."
            )
            problems = [findings.Problem(message, path=self.path)]
        return findings.RefusedError(*examples.cut_problems(problems))

    def finish(self, part: examples.Examples) -> examples.Examples:
        """What a reader of tables made of the rows, as examples of records."""
        if part.lines is None:
            raise ValueError("expected rows that have lines.")
        places = map(self.found.find, part.lines.tolist())
        keys = [file.make_key(record) for file, record in places]
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
        part = store_selection.select_examples(part, order)
        classes = known_names.read_names(self._spec)
        return dataclasses.replace(
            part,
            keys=examples.object_array([keys[row] for row in order]),
            lines=None,
            no_default=record_features.describe_labels(
                findings.one_line(self.path), list(part.labels)
            ),
            labels={
                name: known_names.name_numbers(cells, classes)
                for name, cells in part.labels.items()
            },
            identity=self.found.identity,
            problems=(*self.found.problems, *part.problems),
        )
