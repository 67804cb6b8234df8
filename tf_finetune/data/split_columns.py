"""Columns that tell how to split: --split_by names groups, --split_column names the split itself.

One idea: such a column is no label. It is taken out right after a source is listed, so that
everything behind sees examples that have groups, or a split of their own, wherever they are from.
"""

import dataclasses
import os

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import examples, image_stores, json_rows, splits, store_selection

_CODES = {
    "": splits.LEFT_OUT,
    "train": splits.TRAIN,
    "training": splits.TRAIN,
    "validation": splits.VALIDATION,
    "valid": splits.VALIDATION,
    "val": splits.VALIDATION,
    "dev": splits.VALIDATION,
    "test": splits.TEST,
    "testing": splits.TEST,
}


def apply(
    part: examples.Examples, spec: specs.DataSpec, *, flag: str
) -> tuple[examples.Examples, list[findings.Problem]]:
    """Reads --split_by and --split_column of a source.

    Args:
      part: the source, as it was listed.
      spec: the data options.
      flag: name of the flag that the source stands in. Sources beside --data may lack the columns:
        without a column of splits all their examples are of the flag's split.

    Returns:
      (the source with `groups` and `splits`, without these columns, and without the examples that
      have no split; errors and warnings). With an error only the columns are gone.
    """
    problems = [
        problem
        for name in ("split_by", "split_column")
        if (problem := _find_absence(part, spec, name=name, flag=flag))
    ]
    by, column = (
        name if name in part.labels else None for name in (spec.split_by, spec.split_column)
    )
    codes, groups = np.zeros(len(part), np.int8), None
    if column is not None:
        codes, found = _read_splits(part, column, is_base=flag == "data")
        problems += found
    if by is not None:
        groups = _to_texts(part.labels[by])
        problems += _find_ungrouped(part, groups, codes, column=by, spec=spec)
        codes = np.where(groups == "", splits.LEFT_OUT, codes).astype(np.int8)
    labels = {name: cells for name, cells in part.labels.items() if name not in (by, column)}
    rows = np.flatnonzero(codes != splits.LEFT_OUT)
    if not labels:
        problems.append(_problem(part, "no column is left for labels. Expected one more."))
    elif len(rows) < len(part) and isinstance(part.inputs, image_stores.StreamImages):
        message = "its examples can only be read one after another, and none can be left out."
        problems.append(_problem(part, message))
    if any(problem.severity == findings.ERROR for problem in problems):
        # Without the columns, so that the mistakes of labels that are found next are real ones.
        return dataclasses.replace(part, labels=labels or part.labels), problems
    part = dataclasses.replace(
        part, labels=labels, groups=groups, splits=part.splits if column is None else codes
    )
    return (
        part if len(rows) == len(part) else store_selection.select_examples(part, rows)
    ), problems


def _find_absence(
    part: examples.Examples, spec: specs.DataSpec, *, name: str, flag: str
) -> findings.Problem | None:
    column = getattr(spec, name)
    if column is None or column in part.labels or (name == "split_column" and flag != "data"):
        return None
    shown, source = f"--{name}={findings.one_line(column)}", findings.one_line(part.source)
    if flag != "data":
        message = (
            f"{shown}: {part.name_source(flag)} has no such column, so that nobody can tell "
            "whether its groups are in training too."
        )
        return findings.Problem(message, severity=findings.WARNING, flag=f"--{name}")
    if not part.in_memory and os.path.isdir(part.source):
        message = (
            f"{shown} needs a table or records with that column. Received the folder {source}."
        )
    else:
        names = list(part.labels)
        message = (
            f"{shown}: {source} has no such column.{examples.nearest_name(column, names)} It has "
            f"{findings.list_first(names, limit=20)}."
        )
    return findings.Problem(message, path=part.source, flag=f"--{name}")


def _read_splits(
    part: examples.Examples, column: str, *, is_base: bool
) -> tuple[np.ndarray, list[findings.Problem]]:
    flag = "--split_column"
    shown = f"{flag}={findings.one_line(column)}"
    if part.splits is not None:
        message = f"it is split itself, which {shown} contradicts. Leave the flag out."
        return np.zeros(len(part), np.int8), [_problem(part, message, flag=flag)]
    cells = _to_texts(part.labels[column])
    unknown = splits.LEFT_OUT - 1
    codes = np.array([_CODES.get(cell.casefold(), unknown) for cell in cells], np.int8)
    wrong = np.flatnonzero(codes == unknown)
    messages = [
        f"expected train, validation (valid, val, dev), test or nothing in column "
        f"'{findings.one_line(column)}'. Received '{findings.one_line(cells[row])}'."
        for row in wrong
    ]
    if len(wrong):
        return codes, _list_rows(part, wrong, messages, flag=flag)
    num_empty = int((codes == splits.LEFT_OUT).sum())
    if is_base and not (codes == splits.TRAIN).any():
        return codes, [_problem(part, f"no example has 'train' in {shown}.", flag=flag)]
    if num_empty:
        text = f"{num_empty} of {len(part)} examples have nothing in {shown}, and are left out."
        return codes, [_problem(part, text, flag=flag, severity=findings.WARNING)]
    return codes, []


def _find_ungrouped(
    part: examples.Examples,
    groups: np.ndarray,
    codes: np.ndarray,
    *,
    column: str,
    spec: specs.DataSpec,
) -> list[findings.Problem]:
    """Examples of which nobody can tell what they must stay together with."""
    flag = "--split_by"
    rows = np.flatnonzero((groups == "") & (codes != splits.LEFT_OUT))
    if not len(rows):
        return []
    if spec.on_bad_example == "skip":
        text = (
            f"{len(rows)} of {len(part)} examples have nothing in {flag}="
            f"{findings.one_line(column)}, and are left out."
        )
        return [_problem(part, text, flag=flag, severity=findings.WARNING)]
    message = (
        f"nothing in column '{findings.one_line(column)}' of {flag}. Fill it in (a value of its "
        "own for an example that is of no group); --on_bad_example=skip leaves such examples out."
    )
    return _list_rows(part, rows, [message] * len(rows), flag=flag)


def _list_rows(
    part: examples.Examples, rows: np.ndarray, messages: list[str], *, flag: str
) -> list[findings.Problem]:
    # Of lines, `examples.cut_problems` shows the first.
    shown = len(rows) if part.lines is not None else findings.MAX_LISTED
    order = np.argsort(rows if part.lines is None else part.lines[rows], kind="stable")[:shown]
    problems = [part.problem(int(rows[at]), messages[at], flag=flag) for at in order]
    if len(rows) > shown:
        problems.append(_problem(part, f"and {len(rows) - shown} more.", flag=flag))
    return problems


def _to_texts(cells: np.ndarray) -> np.ndarray:
    """Cells of a label column as they stood there; names are joined again."""
    texts = [
        "|".join(json_rows.read_elements(cell)) if isinstance(cell, tuple) else cell
        for cell in cells
    ]
    return examples.object_array(texts)


def _problem(
    part: examples.Examples, message: str, *, flag: str = "", severity: str = findings.ERROR
) -> findings.Problem:
    text = f"{findings.one_line(part.source)}: {message}"
    return findings.Problem(text, severity=severity, path=part.source, flag=flag)
