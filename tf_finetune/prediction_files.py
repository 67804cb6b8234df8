"""The files of --mode=predict: the images that --input names, and the rows of --output.

Texts that --input names are read by `prediction_texts`.

One idea: what a user reads in a table was not always written by a friend. Names are printed
without control characters, and no cell of a CSV starts like a formula.

Reference: OWASP, "CSV Injection", https://owasp.org/www-community/attacks/CSV_Injection.
"""

import csv
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

import numpy as np

from tf_finetune import (
    disk_room,
    findings,
    head_kinds,
    prediction_images,
    prediction_masks,
    specs,
    workdir,
)
from tf_finetune.data import csv_rows, image_folder, json_rows, table_rows

OUTPUT_ENDINGS = (".csv", ".jsonl")
PATH_COLUMN = "path"
TEXT_COLUMNS = ("line", "text")
ROW_COLUMNS = ("path", "line")
ERROR_COLUMN = "error"
NUMBER_COLUMN = "prediction"
TAGS_COLUMN = "tags"

_CLUTTER = (b"__MACOSX", b"Thumbs.db", b"desktop.ini")
_ENDINGS = tuple(ending.encode() for ending in image_folder.IMAGE_ENDINGS)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
# The column of a table that holds paths, where it is not the first.
_PATH_NAMES = (PATH_COLUMN, "image", "file", "filename")


@dataclasses.dataclass(frozen=True)
class HeadPrediction:
    """What one head says about one example.

    Attributes:
      predicted: the answer: one class; multilabel: the classes at or above their thresholds,
        possibly none.
      classes: the top k classes, most probable first; binary: the answer first.
      probabilities: of `classes`, 0 to 1.
      number: what a regression head predicts; it has no classes. None of other heads.
      mask: uint8 [height, width], the class of each pixel of the image, 255 where the model does
        not see it; `classes` are then all, and `probabilities` their parts of the pixels. None of
        other heads.
      words: of a token_classification head, as many as `predicted` has tags. None of other heads.
    """

    predicted: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    number: float | None = None
    mask: np.ndarray | None = None
    words: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A row of the output.

    Attributes:
      path: the image as it was found, relative to the current folder where the input was, or the
        table of a row; "" of a text.
      heads: by head name; empty when there is an error.
      error: why there is no prediction, in words that follow the path, or "".
      text: the text, or None of an image.
      line: 1-based line of a text or row in its file.
    """

    path: str
    heads: dict[str, HeadPrediction]
    error: str = ""
    text: str | None = None
    line: int = 0


@dataclasses.dataclass(frozen=True)
class WrittenPredictions:
    """How many rows were written: `num_predicted` with classes, `num_errors` with an error."""

    num_predicted: int
    num_errors: int


def iterate_inputs(inputs: tuple[str, ...], *, data: specs.DataSpec | None = None) -> list[str]:
    """The images that --input names.

    A folder is searched to any depth, in the order of names, for files that end as images do;
    hidden files, and links to something that is no image, are passed over. In a table, images are
    in the column `path`, or in the first, and are relative to the table's folder. Any other file is
    taken as an image, whatever its ending.

    Args:
      inputs: paths of images, folders and tables (.csv, .tsv, .jsonl), at least one.
      data: how tables are read: `encoding`; default: UTF-8.

    Returns:
      Paths, in the order of `inputs`; names that are not UTF-8 hold lone surrogates, which
      `os.fsencode` turns back.

    Raises:
      RefusedError: with every input that does not exist, every folder without an image and every
        row of a CSV that names no file.
    """
    if not inputs:
        raise findings.RefusedError(
            findings.Problem("--input is needed: an image, a folder or a .csv.", flag="--input")
        )
    paths: list[str] = []
    problems: list[findings.Problem] = []
    for text in inputs:
        try:
            paths += _list_input(text, data or specs.DataSpec())
        except findings.RefusedError as error:
            problems += error.problems
    if problems:
        raise findings.RefusedError(*problems)
    return paths


def check_output(path: str, *, inputs: tuple[str, ...] = ()) -> None:
    """Refuses an --output that could not be written, before anything is predicted.

    Args:
      path: the file to write.
      inputs: what is read; writing over it is refused.

    Raises:
      RefusedError: the ending is neither .csv nor .jsonl, the path is a folder, the folder cannot
        be written, or the file is one of the inputs.
    """
    shown = f"--output={findings.one_line(path)}"
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not path.lower().endswith(OUTPUT_ENDINGS):
        message = f"{shown} must end in .csv or .jsonl."
    elif os.path.isdir(path):
        message = f"{shown} is a folder. Expected the name of a file."
    elif os.path.realpath(path) in [os.path.realpath(text) for text in inputs]:
        message = f"{shown} is also an --input, which would be lost. Choose another name."
    elif not os.path.isdir(folder):
        message = f"{shown} cannot be written: {findings.one_line(folder)} is not a folder."
    elif not os.access(folder, os.W_OK | os.X_OK):
        message = f"{shown} cannot be written: no permission in {findings.one_line(folder)}."
    else:
        return
    raise findings.RefusedError(findings.Problem(message, path=path, flag="--output"))


def write_predictions(
    rows: Iterable[Prediction],
    path: str,
    *,
    heads: tuple[head_kinds.HeadInfo, ...],
    top_k: int,
    of_texts: bool = False,
    of_rows: bool = False,
) -> WrittenPredictions:
    """Writes rows as they come, and gives the file its name when the last one is there.

    CSV columns: path (of texts: line, text; of rows of tables: path, line), then per head `class`
    and `probability` (top_k 1) or `class_1`, `probability_1`, `class_2`, ...; then error. With
    several heads the names begin with HEAD_. A multilabel head has `classes` before them: its
    answer, joined by "|"; a regression head has `prediction` only; a segmentation head `mask`, the
    PNG that is written beside the table (see `prediction_masks`), and `fraction_CLASS` of each
    class; a token_classification head `tags`, one for each word, with spaces between. JSONL has a
    line {"path", "predictions": {HEAD: {"predicted", "classes", "probabilities"}}}, of a regression
    head {HEAD: {"prediction"}}, of a segmentation head {HEAD: {"mask", "fractions": {CLASS:
    part}}}, of a token_classification head {HEAD: {"words", "tags"}}, or {"path", "error"}; of
    texts with "line" and "text" for "path", of rows with both. In both, probabilities have 7
    digits; in CSV a text that begins like a formula gets an apostrophe in front.

    Args:
      rows: predictions, taken one at a time.
      path: a name that ends in .csv or .jsonl; missing folders are made, a former file is
        replaced.
      heads: the heads that the rows are about.
      top_k: classes in a row, at least 1; a head with fewer classes has fewer.
      of_texts: the rows are about texts.
      of_rows: the rows are about rows of tables.

    Returns:
      The counts.

    Raises:
      RefusedError: see `check_output`; or the disk is full, and a former file is as it was; as
        after an interruption, no mask is left without its table.
    """
    check_output(path)
    leading = ROW_COLUMNS if of_rows else (PATH_COLUMN,)
    leading = TEXT_COLUMNS if of_texts else leading
    counts = {"predicted": 0, "errors": 0}

    def count(row: Prediction) -> Prediction:
        counts["errors" if row.error else "predicted"] += 1
        return row

    try:
        with (
            prediction_masks.MaskWriter(path) as masks,
            workdir.replace_file(path) as temporary,
        ):
            with open(temporary, "x", encoding="utf-8", newline="") as file:
                if path.lower().endswith(".csv"):
                    _write_csv(
                        file,
                        map(count, rows),
                        heads=heads,
                        top_k=top_k,
                        leading=leading,
                        masks=masks,
                    )
                else:
                    _write_jsonl(file, map(count, rows), heads, masks=masks)
            masks.publish()
    except OSError as error:
        message = f"--output={findings.one_line(path)} cannot be written: {error.strerror}."
        if isinstance(error, disk_room.FullDiskError):
            message += (
                " A former file is as it was: make room there, and run the same command again."
            )
        raise findings.RefusedError(
            findings.Problem(message, path=path, flag="--output")
        ) from error
    return WrittenPredictions(counts["predicted"], counts["errors"])


def _refuse(message: str, path: str, *, line: int | None = None) -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(message, path=path, line=line, flag="--input"))


def _list_input(text: str, data: specs.DataSpec) -> list[str]:
    shown = f"--input={findings.one_line(text)}"
    if os.path.isdir(text):
        paths = [os.fsdecode(path) for path in _walk_images(os.fsencode(text))]
        if not paths:
            endings = ", ".join(image_folder.IMAGE_ENDINGS)
            raise _refuse(f"{shown} holds no image. Expected files that end in {endings}.", text)
        return paths
    if not os.path.exists(text):
        raise _refuse(f"{shown} does not exist. Expected an image, a folder or a .csv.", text)
    if not os.path.isfile(text):
        raise _refuse(f"{shown} is no regular file but a FIFO, socket or device.", text)
    return _list_table(text, data) if text.lower().endswith(table_rows.ENDINGS) else [text]


def _walk_images(root: bytes) -> Iterator[bytes]:
    """Images below a folder, sorted; a folder that a link leads back to is listed once."""
    visited = set()
    pending = [(root, True)]
    while pending:
        path, is_folder = pending.pop()
        if not is_folder:
            yield path
            continue
        status = os.stat(path)
        if (status.st_dev, status.st_ino) not in visited:
            visited.add((status.st_dev, status.st_ino))
            pending += sorted(_scan(path), reverse=True)


def _scan(folder: bytes) -> list[tuple[bytes, bool]]:
    """(path, whether it is a folder) of the folders and images directly in a folder."""
    kept = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(b".") or entry.name in _CLUTTER:
                    continue
                if entry.is_dir():
                    kept.append((entry.path, True))
                elif entry.name.lower().endswith(_ENDINGS) and (
                    not entry.is_symlink() or image_folder.leads_to_image(entry.path)
                ):
                    kept.append((entry.path, False))
    except OSError as error:
        shown = findings.one_line(os.fsdecode(folder))
        raise _refuse(f"--input: {shown} cannot be listed: {error.strerror}.", shown) from error
    return kept


def _list_table(path: str, data: specs.DataSpec) -> list[str]:
    try:
        cells, lines = table_rows.read_table(path, data, expected="with a path for each image")
    except findings.RefusedError as error:
        problems = [dataclasses.replace(found, flag="--input") for found in error.problems]
        raise findings.RefusedError(*problems) from error
    rows = list(zip(lines, cells, strict=True))
    folder = os.path.dirname(path)
    first = [str(cell) for cell in cells[0]]
    column = 0
    if table_rows.is_json(path) or not _is_image_cell(first[0], folder):
        names = [cell.strip().lower() for cell in first]
        column = next((names.index(name) for name in _PATH_NAMES if name in names), 0)
        del rows[0]
    if not rows:
        message = f"{findings.one_line(path)}: no row below the header. Expected a path in each."
        raise _refuse(message, path)
    images, problems = [], []
    for line, row in rows:
        cell = row[column] if column < len(row) else ""
        image, complaint = "", "expected a path. Received a list."
        if isinstance(row, json_rows.BadRow):
            complaint = row.fault
        elif isinstance(cell, str):
            image, complaint = prediction_images.find_image(cell, folder)
        if complaint:
            message = f"{findings.one_line(path)}, line {line}: {complaint}"
            problems.append(findings.Problem(message, path=path, line=line, flag="--input"))
        images.append(image)
    if len(problems) > findings.MAX_LISTED:
        more = len(problems) - findings.MAX_LISTED
        message = f"{findings.one_line(path)}: and {more} more."
        problems[findings.MAX_LISTED :] = [findings.Problem(message, path=path, flag="--input")]
    if problems:
        raise findings.RefusedError(*problems)
    return images


def _is_image_cell(cell: str, folder: str) -> bool:
    if cell.lower().endswith(image_folder.IMAGE_ENDINGS):
        return True
    return "\0" not in cell and os.path.isfile(os.path.join(folder, cell))


def _write_csv(
    file: TextIO,
    rows: Iterator[Prediction],
    *,
    heads: tuple[head_kinds.HeadInfo, ...],
    top_k: int,
    leading: tuple[str, ...],
    masks: prediction_masks.MaskWriter,
) -> None:
    columns = list(leading)
    for head in heads:
        prefix = f"{head.name}_" if len(heads) > 1 else ""
        columns += [f"{prefix}{name}" for name in _name_columns(head, top_k=top_k)]
    columns = [_safe_cell(name) for name in columns]
    columns.append(ERROR_COLUMN)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = [_safe_cell(row.path)]
        if leading == ROW_COLUMNS:
            cells.append(str(row.line))
        if row.text is not None:
            cells = [str(row.line), _safe_cell(row.text)]
        for head in heads if not row.error else ():
            prediction = row.heads[head.name]
            if prediction.number is not None:
                cells.append(f"{prediction.number:.7g}")
            if prediction.words is not None:
                cells.append(_safe_cell(" ".join(prediction.predicted)))
                continue
            if prediction.mask is not None:
                cells.append(_write_mask(masks, row, head.name, num_heads=len(heads)))
                cells += [f"{value:.7g}" for value in prediction.probabilities]
                continue
            if not head_kinds.HEAD_KINDS[head.kind].exclusive:
                cells.append(_safe_cell(csv_rows.SEPARATOR.join(prediction.predicted)))
            for name, value in zip(prediction.classes, prediction.probabilities, strict=True):
                cells += [_safe_cell(name), f"{value:.7g}"]
        cells += [""] * (len(columns) - 1 - len(cells))
        writer.writerow([*cells, _safe_cell(row.error)])


def _name_columns(head: head_kinds.HeadInfo, *, top_k: int) -> list[str]:
    """What a CSV has of a head."""
    kind = head_kinds.HEAD_KINDS[head.kind]
    if kind.positions == "words":
        return [TAGS_COLUMN]
    if kind.positions:
        return [prediction_masks.MASK_COLUMN, *(f"fraction_{name}" for name in head.classes)]
    columns = [] if kind.exclusive else ["classes"]
    columns += [] if kind.has_classes else [NUMBER_COLUMN]
    for rank in range(1, min(top_k, len(head.classes)) + 1):
        suffix = f"_{rank}" if top_k > 1 else ""
        columns += [f"class{suffix}", f"probability{suffix}"]
    return columns


def _write_mask(
    masks: prediction_masks.MaskWriter, row: Prediction, head: str, *, num_heads: int
) -> str:
    mask = row.heads[head].mask
    if mask is None:
        raise ValueError(f"Head '{head}' has no mask.")
    return masks.write(mask, path=row.path, suffix=f"_{head}" if num_heads > 1 else "")


def _safe_cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula and no terminal for a command."""
    return ("'" if text.startswith(_FORMULA_STARTS) else "") + findings.one_line(text)


def _write_jsonl(
    file: TextIO,
    rows: Iterator[Prediction],
    heads: tuple[head_kinds.HeadInfo, ...],
    *,
    masks: prediction_masks.MaskWriter,
) -> None:
    for row in rows:
        value: dict[str, Any] = {PATH_COLUMN: _to_utf8(row.path)}
        if row.text is None and row.line:
            value = dict(zip(ROW_COLUMNS, (_to_utf8(row.path), row.line), strict=True))
        if row.text is not None:
            value = dict(zip(TEXT_COLUMNS, (row.line, row.text), strict=True))
        if row.error:
            value[ERROR_COLUMN] = row.error
        else:
            value["predictions"] = {head.name: _to_dict(row.heads[head.name]) for head in heads}
            for head in heads:
                if row.heads[head.name].mask is not None:
                    place = _write_mask(masks, row, head.name, num_heads=len(heads))
                    value["predictions"][head.name][prediction_masks.MASK_COLUMN] = place
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        # Some readers take U+2028 and its like for the end of a line.
        safe = (char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
        file.write("".join(safe) + "\n")


def _to_dict(prediction: HeadPrediction) -> dict[str, Any]:
    if prediction.number is not None:
        return {NUMBER_COLUMN: float(f"{prediction.number:.7g}")}
    if prediction.words is not None:
        return {
            "words": [_to_utf8(word) for word in prediction.words],
            TAGS_COLUMN: list(prediction.predicted),
        }
    if prediction.mask is not None:
        parts = zip(prediction.classes, prediction.probabilities, strict=True)
        fractions = {_to_utf8(name): float(f"{value:.7g}") for name, value in parts}
        return {prediction_masks.MASK_COLUMN: "", "fractions": fractions}
    return {
        "predicted": [_to_utf8(name) for name in prediction.predicted],
        "classes": [_to_utf8(name) for name in prediction.classes],
        "probabilities": [float(f"{value:.7g}") for value in prediction.probabilities],
    }


def _to_utf8(name: str) -> str:
    # Bytes of a name that is not UTF-8 are lone surrogates, which strict readers refuse.
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
