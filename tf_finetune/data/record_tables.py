"""TFRecord files whose examples are texts, numbers and vectors: read as a table of such cells.

One idea: a record is a row. So what is said of rows, of their keys apart, is said by the readers of
tables, and a list of numbers is a vector as in JSONL.
"""

import dataclasses
import itertools
import os
import unicodedata
from collections.abc import Iterator

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import (
    column_tables,
    examples,
    json_rows,
    known_names,
    record_features,
    record_framing,
    record_schema,
    store_selection,
    table_rows,
    text_tables,
)
from tf_finetune.trust import refusals

_MAX_FAULTS = 100
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


def load(spec: specs.DataSpec, text: str, files: list[str], *, flag: str) -> examples.Examples:
    """Lists the texts or the feature columns of records.

    Args:
      spec: the data options: `text_column` or `feature_columns`, `record_schema`, `classes`,
        `on_bad_example`.
      text: value of --data, for messages.
      files: paths, in order.
      flag: name of the flag that `text` stands in, for messages.

    Returns:
      The examples; keys are the file and the record's number, every other feature is a label
      column, in which numbers are class names or places in --classes.

    Raises:
      findings.RefusedError: no record can be used, a feature does not exist; see
        `column_tables.load` and `text_tables.load_rows`.
    """
    records = _Records(spec, text, files)
    try:
        return records.finish(_load_rows(spec, text, records, flag=flag))
    except findings.RefusedError as error:
        # Of no good record a reader of tables only knows that there is no row.
        if records.num_good or not records.problems:
            raise
        raise records.refuse_all() from error


def _load_rows(
    spec: specs.DataSpec, text: str, records: "_Records", *, flag: str
) -> examples.Examples:
    if spec.feature_columns is not None:
        return column_tables.load(spec, text, flag=flag, open_rows=records.open)
    names, rows = records.open()
    first = next(rows, None)
    if first is None:
        raise records.refuse_all()
    return text_tables.load_rows(spec, text, header=(0, names), rows=itertools.chain([first], rows))


class _Records:
    """The pass over records."""

    def __init__(self, spec: specs.DataSpec, text: str, files: list[str]):
        self._spec, self._text, self._files = spec, text, files
        self._schema = record_schema.read_schema(spec.record_schema)
        self._folder = os.path.commonpath([os.path.dirname(path) for path in files]) or "."
        self._clear()

    def _clear(self) -> None:
        self.problems: list[findings.Problem] = []
        self._stamps: list[str] = []
        self._starts: list[int] = []
        self._num_rows = self.num_good = 0

    def open(self) -> tuple[list[str], Iterator[table_rows.Row]]:
        """The names of the columns, and rows: (number of the record over all files, cells)."""
        self._clear()
        cells = self._read()
        first = [row for row, _ in zip(cells, range(_FIRST_RECORDS), strict=False)]
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
                        f"{self._locate(number)}: {findings.list_first(new)} is in none of the "
                        f"first {_FIRST_RECORDS:,} records, and is not used. --record_schema names "
                        "the features that are."
                    )
                    self.problems.append(findings.Problem(message, severity=findings.WARNING))
                yield number, [cells.get(name, "") for name in names]

    def _read(self) -> Iterator[tuple[int, dict[str, json_rows.Cell]]]:
        for path in self._files:
            self._starts.append(self._num_rows)
            shown = findings.one_line(path)
            num_before = len(self.problems)
            try:
                status = os.stat(path)
                self._stamps.append(f"{path} {status.st_size} {status.st_mtime_ns}")
                for record in record_framing.read_records(os.fsencode(path)):
                    self._num_rows += 1
                    cells, fault = ({}, record.fault) if record.fault else self._parse(record)
                    if not fault:
                        self.num_good += 1
                        yield self._num_rows, cells
                        continue
                    self._report(fault, shown, record=record.number)
                    if len(self.problems) - num_before >= _MAX_FAULTS:
                        text = f"{shown}: after {_MAX_FAULTS} bad records the rest is not read."
                        self.problems.append(findings.Problem(text, path=shown))
                        break
            except OSError as error:
                text = f"{shown} cannot be read: {error.strerror}."
                self.problems.append(findings.Problem(text, path=shown))

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

    def _report(self, fault: str, path: str, *, record: int) -> None:
        skip = self._spec.on_bad_example == "skip"
        advice = (
            "Skipped."
            if skip
            else ("Repair the file; --on_bad_example=skip leaves the record out.")
        )
        severity = findings.WARNING if skip else findings.ERROR
        message = f"{path}, record {record} {fault}. {advice}"
        flag = "--on_bad_example=skip"
        self.problems.append(findings.Problem(message, severity, path, line=record, flag=flag))

    def _place(self, number: int) -> tuple[str, int]:
        """(file, number of the record in it from 1)."""
        file = int(np.searchsorted(self._starts, number, side="left")) - 1
        return self._files[file], number - self._starts[file]

    def _locate(self, number: int) -> str:
        path, record = self._place(number)
        return f"{findings.one_line(path)}, record {record}"

    def refuse_all(self) -> findings.RefusedError:
        """Where no record can be used."""
        problems = [
            dataclasses.replace(problem, severity=findings.ERROR) for problem in self.problems
        ]
        if not problems:
            message = (
                f"{findings.one_line(self._text)} holds no record. Expected tf.train.Example "
                "records."
            )
            problems = [findings.Problem(message, path=self._text)]
        return findings.RefusedError(*examples.cut_problems(problems))

    def finish(self, part: examples.Examples) -> examples.Examples:
        """What a reader of tables made of the rows, as examples of records."""
        numbers = np.zeros(len(part), np.int64) if part.lines is None else part.lines
        keys = []
        for number in numbers.tolist():
            path, record = self._place(number)
            name = os.fsencode(os.path.relpath(path, self._folder))
            text = f"{name.decode('utf-8', 'backslashreplace')}/{record:08d}"
            keys.append(unicodedata.normalize("NFC", text))
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
        part = store_selection.select_examples(part, order)
        classes = known_names.read_names(self._spec)
        return dataclasses.replace(
            part,
            keys=examples.object_array([keys[row] for row in order]),
            lines=None,
            no_default=record_features.describe_labels(
                findings.one_line(self._text), list(part.labels)
            ),
            labels={
                name: known_names.name_numbers(cells, classes)
                for name, cells in part.labels.items()
            },
            identity="\n".join(self._stamps),
            problems=(*self.problems, *map(self._rename, part.problems)),
        )

    def _rename(self, problem: findings.Problem) -> findings.Problem:
        """Readers of tables speak of lines."""
        if problem.line is None:
            message = problem.message.replace(" left out, lines ", " left out, records ")
            return dataclasses.replace(problem, message=message)
        head, message = f"{findings.one_line(self._text)}, line {problem.line}", problem.message
        path, record = self._place(problem.line)
        return dataclasses.replace(
            problem,
            message=self._locate(problem.line) + message.removeprefix(head),
            path=findings.one_line(path),
            line=record,
        )
