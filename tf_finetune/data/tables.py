"""A CSV of image paths and labels.

One idea: every mistake has a line. A row is checked by itself and the pass goes on, so that a
table of a million rows shows all its mistakes at once.

Reference: Y. Shafranovich, RFC 4180, Common Format and MIME Type for CSV Files, 2005,
https://www.rfc-editor.org/rfc/rfc4180.
"""

import csv
import dataclasses
import io
import os
import stat
import typing
import unicodedata

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import examples, image_folder, image_stores

IMAGE_COLUMN = "image"
SEPARATOR = "|"


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV file as text.

    Attributes:
      path: the file, as the user wrote it.
      columns: names of the columns.
      rows: cells of each row.
      lines: 1-based line on which each row starts.
      has_header: whether the file names its columns.
    """

    path: str
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]
    has_header: bool


def load(spec: specs.DataSpec, text: str, *, flag: str) -> examples.Examples:
    """Lists the images that a CSV names.

    Args:
      spec: the data options: `image_column`, `label_column`, `on_bad_example`.
      text: path of the .csv file. Its image paths are relative to its folder.
      flag: name of the flag that `text` stands in, for messages.

    Returns:
      The examples; keys are the NFC image paths with "/". Every other column is a label column; a
      column in which some cell holds "|" has tuples. Their problems are the rows that cannot be
      used.

    Raises:
      findings.RefusedError: the file is empty, not UTF-8 or no CSV; it has a single column or
        no row; --image_column names no column.
    """
    table = read_table(spec, text)
    place = _find_image_column(table, spec.image_column)
    names = [name for number, name in enumerate(table.columns) if number != place]
    rows = _Rows(table=table, place=place, skip_bad=spec.on_bad_example == "skip")
    rows.read()
    if not rows.keys and not rows.problems:
        _refuse(text, "no row below the header. Expected a row path,label for each image.")
    order = sorted(range(len(rows.keys)), key=rows.keys.__getitem__)
    order = _drop_repeated(rows, order)
    cells = {
        name: to_labels([rows.cells[row][number] for row in order])
        for number, name in enumerate(names)
    }
    return examples.Examples(
        source=text,
        keys=examples.object_array([rows.keys[row] for row in order]),
        images=image_stores.PathImages(examples.object_array([rows.paths[row] for row in order])),
        labels=cells,
        stamps=np.array(rows.stamps, np.int64).reshape(-1, 2)[order],
        lines=np.array(rows.lines, np.int64)[order],
        problems=tuple(rows.problems),
    )


def read_table(spec: specs.DataSpec, path: str) -> Table:
    """Reads a CSV file, with or without a header.

    There is a header when a column is asked for by name, or when the first row's first cell is no
    image: neither an existing file nor a name with an image's ending.

    Args:
      spec: the data options: `image_column`, `label_column`.
      path: the file.

    Returns:
      The table. Without a header the columns are "image" and "label".

    Raises:
      findings.RefusedError: see `load`.
    """
    rows, lines = _read_rows(path)
    first = rows[0]
    if len(first) < 2:
        separator = next((mark for mark in ";\t" if mark in first[0]), "")
        hint = f" Is it separated by {separator!r}? Use commas." if separator else ""
        _refuse(path, f"expected at least 2 columns (path,label). Received 1.{hint}", line=lines[0])
    named = spec.image_column is not None or spec.label_column is not None
    if named or not _is_image_cell(path, first[0]):
        columns = [cell.strip() for cell in first]
        if "" in columns or len(set(columns)) < len(columns):
            shown = findings.one_line(",".join(first))
            _refuse(
                path,
                f"expected a name of its own for each column. Received {shown}.",
                line=lines[0],
            )
        return Table(path, columns, rows[1:], lines[1:], has_header=True)
    if len(first) > 2:
        _refuse(
            path,
            f"expected 2 columns (path,label) without a header. Received {len(first)}. Add a line "
            "with the names of the columns.",
            line=lines[0],
        )
    return Table(path, [IMAGE_COLUMN, examples.LABEL_COLUMN], rows, lines, has_header=False)


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


def _refuse(path: str, message: str, *, line: int | None = None) -> typing.NoReturn:
    place = findings.one_line(path) + ("" if line is None else f", line {line}")
    raise findings.RefusedError(findings.Problem(f"{place}: {message}", path=path, line=line))


def _read_rows(path: str) -> tuple[list[list[str]], list[int]]:
    with open(path, "rb") as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        _refuse(
            path,
            f"byte 0x{content[error.start]:02x} is not UTF-8. Save the file as UTF-8.",
            line=line,
        )
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, lines, start = [], [], 1
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        _refuse(path, f"no valid CSV: {error}. Is a quotation mark missing?", line=start)
    if not rows:
        _refuse(path, "the file is empty. Expected rows path,label.")
    return rows, lines


def _is_image_cell(path: str, cell: str) -> bool:
    if cell.lower().endswith(image_folder.IMAGE_ENDINGS):
        return True
    return "\0" not in cell and os.path.isfile(os.path.join(os.path.dirname(path), cell))


def _find_image_column(table: Table, name: str | None) -> int:
    if name is None:
        return 0
    if name not in table.columns:
        raise findings.RefusedError(
            findings.Problem(
                f"--image_column={findings.one_line(name)}: {findings.one_line(table.path)} has no "
                f"such column.{examples.nearest_name(name, table.columns)} It has "
                f"{findings.list_first(table.columns, limit=20)}.",
                path=table.path,
                flag="--image_column",
            )
        )
    return table.columns.index(name)


@dataclasses.dataclass
class _Rows:
    """The pass over a table's rows."""

    table: Table
    place: int
    skip_bad: bool
    keys: list[str] = dataclasses.field(default_factory=list)
    paths: list[bytes] = dataclasses.field(default_factory=list)
    cells: list[list[str]] = dataclasses.field(default_factory=list)
    lines: list[int] = dataclasses.field(default_factory=list)
    stamps: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    problems: list[findings.Problem] = dataclasses.field(default_factory=list)

    def read(self) -> None:
        columns = self.table.columns
        shown = findings.one_line(", ".join(columns))
        folder = os.path.dirname(os.path.abspath(self.table.path))
        for row, line in zip(self.table.rows, self.table.lines, strict=True):
            if len(row) != len(columns):
                self._report(
                    f"expected {len(columns)} columns ({shown}). Received {len(row)}.",
                    line,
                    skip=False,
                )
                continue
            cell = row[self.place]
            key, complaint = resolve_cell(cell, folder)
            if complaint:
                self._report(complaint, line, skip=False)
                continue
            path, status, complaint = find_file(folder, key)
            if status is None:
                self._report(complaint, line, skip=self.skip_bad)
                continue
            self.keys.append(unicodedata.normalize("NFC", key))
            self.paths.append(path)
            self.cells.append(row[: self.place] + row[self.place + 1 :])
            self.lines.append(line)
            self.stamps.append((status.st_size, status.st_mtime_ns))

    def _report(self, message: str, line: int, *, skip: bool) -> None:
        path = self.table.path
        text = f"{findings.one_line(path)}, line {line}: {message}{' Skipped.' if skip else ''}"
        severity = findings.WARNING if skip else findings.ERROR
        self.problems.append(findings.Problem(text, severity=severity, path=path, line=line))


def resolve_cell(cell: str, folder: str) -> tuple[str, str]:
    """An image cell as a path below the table's folder.

    Args:
      cell: the cell as written.
      folder: absolute path of the table's folder.

    Returns:
      (path relative to `folder`, ""), or ("", what is wrong) for an empty cell, a URL or a path
      that leaves the folder.
    """
    shown = f"'{findings.one_line(cell)}'"
    if not cell.strip():
        return "", "the image path is empty."
    if "://" in cell:
        return "", f"{shown} is a URL. Expected the path of a file below the table's folder."
    if "\0" in cell:
        return "", f"{shown} is no path."
    # Normalised by name, and opened by that name: a link cannot turn ".." into another folder.
    relative = os.path.relpath(os.path.join(folder, cell), folder)
    if relative == ".." or relative.startswith("../"):
        return "", f"{shown} leaves the table's folder. Expected a path of a file below it."
    return relative, ""


def find_file(folder: str, relative: str) -> tuple[bytes, os.stat_result | None, str]:
    """Looks for an image of a table, in either Unicode form of its name.

    Args:
      folder: absolute path of the table's folder.
      relative: path below it.

    Returns:
      (path, status, "") of a regular file, or (b"", None, what is wrong).
    """
    shown = f"'{findings.one_line(relative)}'"
    # Archives made on a Mac hold decomposed names, spreadsheets composed ones.
    forms = (relative, *(unicodedata.normalize(form, relative) for form in ("NFC", "NFD")))
    for form in dict.fromkeys(forms):
        path = os.fsencode(os.path.join(folder, form))
        try:
            status = os.stat(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            return b"", None, f"{shown} cannot be opened: {error.strerror}."
        if not stat.S_ISREG(status.st_mode):
            return b"", None, f"{shown} is no regular file."
        if os.path.islink(path) and not image_folder.leads_to_image(path):
            return b"", None, f"{shown} is a link to a file that is no image."
        return path, status, ""
    return b"", None, f"{shown} does not exist. Paths are relative to the table's folder."


def _drop_repeated(rows: _Rows, order: list[int]) -> list[int]:
    """Keeps one of equal rows; the same image with other labels is a mistake."""
    kept: list[int] = []
    num_equal = 0
    for row in order:
        if not kept or rows.keys[kept[-1]] != rows.keys[row]:
            kept.append(row)
            continue
        first = kept[-1]
        if rows.cells[first] == rows.cells[row]:
            num_equal += 1
            continue
        rows.problems.append(
            findings.Problem(
                f"{findings.one_line(rows.table.path)}, line {rows.lines[row]}: "
                f"'{findings.one_line(rows.keys[row])}' has other labels in line "
                f"{rows.lines[first]}. Expected one row for each image; several labels are joined "
                'by "|".',
                path=rows.table.path,
                line=rows.lines[row],
            )
        )
    if num_equal:
        message = f"{findings.one_line(rows.table.path)}: {num_equal} rows repeat another. Skipped."
        rows.problems.append(
            findings.Problem(message, severity=findings.WARNING, path=rows.table.path)
        )
    return kept
