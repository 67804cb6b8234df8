"""A table of image paths and labels: CSV, TSV or JSONL.

One with a column of texts goes on to `text_tables`, one with feature columns to `column_tables`,
and one with both to `mixed_tables`.

One idea: every mistake has a line. A row is checked by itself and the pass goes on, so that a
table of a million rows shows all its mistakes at once.
"""

import dataclasses
import os
import stat
import unicodedata

import numpy as np

from tf_finetune import findings, regular_files, specs
from tf_finetune.data import (
    column_tables,
    csv_rows,
    examples,
    image_folder,
    image_stores,
    json_rows,
    mixed_tables,
    table_rows,
    text_store,
    text_tables,
)

IMAGE_COLUMN = "image"
_EXPECTED = "path,label"


def load(spec: specs.DataSpec, text: str, *, flag: str) -> examples.Examples:
    """Lists the images that a table names, or the texts or feature columns that it holds.

    Args:
      spec: the data options: `image_column`, `text_column`, `feature_columns`, `label_column`,
        `header`, `encoding`, `on_bad_example`.
      text: path of the .csv, .tsv or .jsonl file. Its image paths are relative to its folder.
      flag: name of the flag that `text` stands in, as for every loader; messages name the file.

    Returns:
      The examples; keys of images are the NFC paths with "/". Every other column is a label column;
      a column in which some cell holds "|" has tuples. Their problems are the rows that cannot be
      used.

    Raises:
      findings.RefusedError: the file is empty, not in its encoding or no such table; it has a
        single column or no row; --image_column or --text_column names no column; see also
        `column_tables.load`.
    """
    if mixed_tables.is_mixed(spec):
        part, column = _load_alone(spec, text)
        return mixed_tables.join_columns(part, spec, column=column)
    if spec.feature_columns is not None:
        return column_tables.load(spec, text)
    return _load_alone(spec, text)[0]


def _load_alone(spec: specs.DataSpec, text: str) -> tuple[examples.Examples, str]:
    """(the images or texts of a table, the name of their column)."""
    first = table_rows.read_first(text, spec, expected=_EXPECTED)
    if first is not None and _holds_texts(spec, text, first[1]):
        _, below = table_rows.open_rows(text, spec, expected=_EXPECTED)
        return _name_column(text_tables.load_rows(spec, text, header=first, rows=below))
    rows, lines = table_rows.read_table(text, spec, expected=_EXPECTED)
    if first is None and _holds_texts(spec, text, rows[0]):
        below = zip(lines[1:], rows[1:], strict=True)
        header = (table_rows.find_header_line(text, lines), rows[0])
        return _name_column(text_tables.load_rows(spec, text, header=header, rows=below))
    return _load_images(spec, _make_table(spec, text, rows=rows, lines=lines))


def _name_column(part: examples.Examples) -> tuple[examples.Examples, str]:
    return part, part.inputs.column if isinstance(part.inputs, text_store.Texts) else ""


def _holds_texts(spec: specs.DataSpec, path: str, first: list[str]) -> bool:
    # A first row that is an image has no header above it, whatever its label is called.
    headless = spec.text_column is None and not _has_names(spec, path)
    headless = headless and _is_image_cell(path, first[0])
    return not headless and text_tables.holds_texts(first, spec)


def _load_images(spec: specs.DataSpec, table: csv_rows.Table) -> tuple[examples.Examples, str]:
    column = spec.image_column
    if column is None and table_rows.is_json(table.path):
        # Keys have no order that anybody chose.
        column = next((name for name in text_tables.IMAGE_COLUMNS if name in table.columns), None)
    place = csv_rows.find_column(table, column, flag="image_column")
    names = [name for number, name in enumerate(table.columns) if number != place]
    rows = _Rows(
        table, place, skip_bad=spec.on_bad_example == "skip", follow_links=spec.follow_links
    )
    rows.read()
    if not rows.keys and not rows.problems:
        raise csv_rows.refusal(
            table.path, "no row below the header. Expected a row path,label for each image."
        )
    if rows.num_absent and not rows.keys:
        rows.problems.append(_guess_texts(table, place))
    repeats = None
    if mixed_tables.is_mixed(spec):
        order, keys, repeats, equal = mixed_tables.number_repeated(rows.keys, rows.cells)
        _warn_equal(rows, [rows.lines[row] for row in equal])
    else:
        order = sorted(range(len(rows.keys)), key=rows.keys.__getitem__)
        order = _drop_repeated(rows, order)
        keys = [rows.keys[row] for row in order]
    cells = {
        name: csv_rows.to_labels(
            [rows.cells[row][number] for row in order],
            table_rows.label_delimiter(table.path, spec),
        )
        for number, name in enumerate(names)
    }
    part = examples.Examples(
        source=table.path,
        keys=examples.object_array(keys),
        inputs=image_stores.PathImages(examples.object_array([rows.paths[row] for row in order])),
        labels=cells,
        stamps=np.array(rows.stamps, np.int64).reshape(-1, 2)[order],
        lines=np.array(rows.lines, np.int64)[order],
        repeats=repeats,
        problems=tuple(rows.problems),
    )
    return part, table.columns[place]


def _guess_texts(table: csv_rows.Table, place: int) -> findings.Problem:
    column = findings.one_line(table.columns[place])
    return findings.Problem(
        f"{findings.one_line(table.path)}: no cell of the column '{column}' names a file. If a "
        "column holds texts, name it with --text_column.",
        path=table.path,
        flag="--text_column",
    )


# There is a header when a column is asked for by name, or when the first row's first cell is no
# image: neither an existing file nor a name with an image's ending.
def _make_table(
    spec: specs.DataSpec, path: str, *, rows: list[list[str]], lines: list[int]
) -> csv_rows.Table:
    first = rows[0]
    header = table_rows.find_header_line(path, lines)
    csv_rows.check_separator(path, first, line=header, expected=_EXPECTED)
    named = spec.image_column is not None or spec.label_column is not None
    if named or _has_names(spec, path) or not _is_image_cell(path, first[0]):
        return csv_rows.make_table(path, rows, lines, header=header)
    if len(first) > 2:
        raise csv_rows.refusal(
            path,
            f"expected 2 columns (path,label) without a header. Received {len(first)}. Add a line "
            "with the names of the columns.",
            line=lines[0],
        )
    return csv_rows.Table(path, [IMAGE_COLUMN, examples.LABEL_COLUMN], rows, lines)


def _has_names(spec: specs.DataSpec, path: str) -> bool:
    """Whether the first row is known to be names."""
    return table_rows.is_json(path) or spec.header == "none"


def _is_image_cell(path: str, cell: str) -> bool:
    if cell.lower().endswith(image_folder.IMAGE_ENDINGS):
        return True
    return "\0" not in cell and os.path.isfile(os.path.join(os.path.dirname(path), cell))


@dataclasses.dataclass
class _Rows:
    """The pass over a table's rows."""

    table: csv_rows.Table
    place: int
    skip_bad: bool
    follow_links: bool
    keys: list[str] = dataclasses.field(default_factory=list)
    paths: list[bytes] = dataclasses.field(default_factory=list)
    cells: list[list[str]] = dataclasses.field(default_factory=list)
    lines: list[int] = dataclasses.field(default_factory=list)
    stamps: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    problems: list[findings.Problem] = dataclasses.field(default_factory=list)
    num_absent: int = 0
    # Whether a folder lies outside of the table's, by a link.
    leaving: dict[bytes, bool] = dataclasses.field(default_factory=dict)

    def read(self) -> None:
        columns = self.table.columns
        shown = findings.one_line(", ".join(columns))
        folder = os.path.dirname(os.path.abspath(self.table.path))
        root = os.path.realpath(os.fsencode(folder))
        for row, line in zip(self.table.rows, self.table.lines, strict=True):
            if isinstance(row, json_rows.BadRow):
                self._report(row.fault, line)
                continue
            if len(row) != len(columns):
                self._report(
                    f"expected {len(columns)} columns ({shown}). Received {len(row)}.",
                    line,
                    skip=False,
                )
                continue
            cell = row[self.place]
            if isinstance(cell, tuple):
                self._report("expected a path. Received a list.", line)
                continue
            key, complaint = resolve_cell(cell, folder)
            if complaint:
                self._report(complaint, line)
                continue
            path, status, complaint = find_file(folder, key)
            if status is None:
                self.num_absent += 1
                self._report(complaint, line, skip=self.skip_bad)
                continue
            if not self.follow_links and self._leads_out(path, root):
                place = f"'{findings.one_line(key)}'"
                self._report(f"{place} is, or lies behind, {regular_files.LINK_OUT}.", line)
                continue
            self.keys.append(unicodedata.normalize("NFC", key))
            self.paths.append(path)
            self.cells.append(row[: self.place] + row[self.place + 1 :])
            self.lines.append(line)
            self.stamps.append((status.st_size, status.st_mtime_ns))

    def _leads_out(self, path: bytes, root: bytes) -> bool:
        folder = os.path.dirname(path)
        if folder not in self.leaving:
            self.leaving[folder] = regular_files.leads_outside(folder, root)
        if self.leaving[folder]:
            return True
        return os.path.islink(path) and regular_files.leads_outside(path, root)

    def _report(self, message: str, line: int, *, skip: bool = False) -> None:
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
    complaint = find_cell_fault(cell, where=" below the table's folder")
    if complaint:
        return "", complaint
    # Normalised by name, and opened by that name: a link cannot turn ".." into another folder.
    relative = os.path.relpath(os.path.join(folder, cell), folder)
    if relative == ".." or relative.startswith("../"):
        shown = findings.one_line(cell)
        return "", f"'{shown}' leaves the table's folder. Expected a path of a file below it."
    return relative, ""


def find_cell_fault(cell: str, *, where: str = "") -> str:
    """Why a cell cannot be the path of a file, wherever that is.

    Args:
      cell: the cell as written.
      where: follows "Expected the path of a file".

    Returns:
      What is wrong, or "".
    """
    if not cell.strip():
        return "the path is empty."
    if "://" in cell:
        return f"'{findings.one_line(cell)}' is a URL. Expected the path of a file{where}."
    return f"'{findings.one_line(cell)}' is no path." if "\0" in cell else ""


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
    equal = []
    for row in order:
        if not kept or rows.keys[kept[-1]] != rows.keys[row]:
            kept.append(row)
            continue
        first = kept[-1]
        if rows.cells[first] == rows.cells[row]:
            equal.append(rows.lines[row])
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
    _warn_equal(rows, equal)
    return kept


def _warn_equal(rows: _Rows, equal: list[int]) -> None:
    """Tells the lines of rows that are left out because another says the same."""
    if equal:
        equal.sort()
        message = (
            f"{findings.one_line(rows.table.path)}: {len(equal)} rows repeat another: lines "
            f"{findings.list_values(equal)}. Skipped."
        )
        rows.problems.append(
            findings.Problem(
                message, severity=findings.WARNING, path=rows.table.path, line=equal[0]
            )
        )
