"""What is odd about classes and columns: few examples, many, names, numbers, gaps.

One idea: counted from the labels as they were listed, so that a single wrong label does not hide
what is wrong with the others.
"""

import collections

import numpy as np

from tf_finetune import findings, head_kinds
from tf_finetune.data import class_names, doctor_rows, label_cells, label_encoding

_SMALL_CLASS = 10
_IMBALANCE = 20
_MAX_GAPS = 10
# From this many examples on, and more classes than this part of them, a label is no class.
_MIN_ROWS_OF_IDS, _ID_PART = 20, 0.5
# Of the distance between the quartiles: a label beyond is one like -999 for "unknown".
_FAR_TIMES = 50


def count_classes(rows: doctor_rows.Rows) -> dict[str, dict[str, dict[str, int]]]:
    """Examples of each class.

    Args:
      rows: the examples.

    Returns:
      {head: {class: {split: number}}}; classes sorted, an example with several counts for each;
      heads without classes are left out. Splits are of `doctor_rows.NAMES`.
    """
    found: dict[str, dict[str, dict[str, int]]] = {}
    for head, cells in rows.labels.items():
        if not head_kinds.HEAD_KINDS[rows.kinds[head]].names_examples:
            continue
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        for cell, split in zip(cells, rows.names, strict=True):
            for name in doctor_rows.read_cell(cell):
                counts[name, split] += 1
        by_class: dict[str, dict[str, int]] = {}
        for (name, split), count in sorted(counts.items()):
            by_class.setdefault(name, {})[split] = count
        found[head] = by_class
    return found


def find_odd_classes(
    rows: doctor_rows.Rows, counts: dict[str, dict[str, dict[str, int]]]
) -> list[findings.Problem]:
    """Classes that are too small, too large, no classes, or named by accident.

    Args:
      rows: the examples.
      counts: of `count_classes`.

    Returns:
      Warnings, each at the first example of a class; of a head without classes, at the first number
      that is far from the others.
    """
    problems = []
    for head, kind in rows.kinds.items():
        if not head_kinds.HEAD_KINDS[kind].has_classes:
            problems += _find_far_numbers(rows, head)
            continue
        by_class = counts[head]
        totals = {name: sum(by_split.values()) for name, by_split in by_class.items()}
        if not totals:
            continue
        if _are_ids(rows, head, totals):
            problems.append(_describe_ids(rows, head, totals))
            continue
        problems += _find_sizes(rows, head, totals)
        problems += _find_gaps(rows, head, totals)
        for name in filter(class_names.is_junk, totals):
            row = _find_first(rows, head, name)
            text = f": class '{findings.one_line(name)}' has the name of a new folder. Rename it."
            problems.append(rows.warn(row, text, place=rows.locate_class(row)))
    return problems


def _find_first(rows: doctor_rows.Rows, head: str, name: str) -> int:
    cells = rows.labels[head]
    found = (row for row, cell in enumerate(cells) if name in doctor_rows.read_cell(cell))
    return rows.sort(found)[0]


def _find_sizes(
    rows: doctor_rows.Rows, head: str, totals: dict[str, int]
) -> list[findings.Problem]:
    problems = []
    # Fewer are said by label_encoding, for every run.
    small = [
        name
        for name, count in totals.items()
        if label_encoding.MIN_EXAMPLES <= count < _SMALL_CLASS
    ]
    if small:
        shown = findings.list_first([f"{name} ({totals[name]})" for name in small])
        text = (
            f": {len(small)} of {len(totals)} classes of head '{head}' have fewer than "
            f"{_SMALL_CLASS} examples: {shown}."
        )
        first = rows.sort(_find_first(rows, head, name) for name in small)[0]
        part, _ = rows.find_part(first)
        source = doctor_rows.Place(findings.one_line(part.source), part.source, None)
        place = source if part.lines is None else rows.locate(first)
        problems.append(rows.warn(first, text, place=place))
    least, most = (choose(totals, key=lambda name: totals[name]) for choose in (min, max))
    if totals[most] > _IMBALANCE * totals[least]:
        flag = f"--head=name={head},class_weight=balanced"
        text = (
            f": class '{findings.one_line(most)}' has {totals[most]} examples and "
            f"'{findings.one_line(least)}' {totals[least]}, more than {_IMBALANCE} to 1. {flag} "
            "weighs them alike; look at the recall of each class."
        )
        row = _find_first(rows, head, least)
        problems.append(rows.warn(row, text, flag=flag, place=rows.locate_class(row)))
    return problems


def _are_ids(rows: doctor_rows.Rows, head: str, totals: dict[str, int]) -> bool:
    num_labelled = sum(bool(doctor_rows.read_cell(cell)) for cell in rows.labels[head])
    return num_labelled >= _MIN_ROWS_OF_IDS and len(totals) > _ID_PART * num_labelled


def _describe_ids(rows: doctor_rows.Rows, head: str, totals: dict[str, int]) -> findings.Problem:
    column = findings.one_line(label_cells.COLUMN_JOINT.join(rows.columns[head]))
    text = f": column '{column}' has {len(totals)} different labels in {len(rows)} examples. "
    text += "Is it a number to predict, or a name of each example? Choose another --label_column."
    return rows.warn(0, text, flag="--label_column")


def _find_gaps(rows: doctor_rows.Rows, head: str, totals: dict[str, int]) -> list[findings.Problem]:
    """Whole numbers from 0 or 1 on with a few left out in between."""
    if not all(name.isascii() and name.isdigit() for name in totals):
        return []
    numbers = {int(name) for name in totals}
    gaps = sorted(set(range(min(numbers), max(numbers))) - numbers) if min(numbers) < 2 else []
    if not gaps or len(gaps) > min(_MAX_GAPS, len(numbers)):
        return []
    text = (
        f": the labels of head '{head}' are numbers from {min(numbers)} to {max(numbers)} without "
        f"{findings.list_first([str(gap) for gap in gaps])}. Is a class missing?"
    )
    after = next(number for number in sorted(numbers) if number > gaps[0])
    name = next(name for name in totals if int(name) == after)
    return [rows.warn(_find_first(rows, head, name), text, flag="--classes")]


def _find_far_numbers(rows: doctor_rows.Rows, head: str) -> list[findings.Problem]:
    numbers = np.array([_read_number(cell) for cell in rows.labels[head]])
    if not np.isfinite(numbers).any():
        return []
    low, middle, high = np.nanpercentile(numbers, (25, 50, 75))
    far = np.flatnonzero(np.abs(numbers - middle) > _FAR_TIMES * (high - low))
    if high == low or not len(far):
        return []
    text = (
        f": the label {rows.labels[head][far[0]]} of head '{head}' is far from the others, half of "
        f"which are between {low:g} and {high:g}; so are {len(far) - 1} more. Does it stand for a "
        "missing one? Leave such cells empty."
    )
    return [rows.warn(int(far[0]), text)]


def _read_number(cell: object) -> float:
    try:
        number = float(str(cell))
    except ValueError:
        return np.nan  # missing, or an error that is reported at its line
    return number if np.isfinite(number) else np.nan


def find_missing_cells(rows: doctor_rows.Rows) -> list[findings.Problem]:
    """Columns beside the labels that are empty in some rows and not in others.

    Args:
      rows: the examples.

    Returns:
      A warning for each, at its first empty cell; a missing label is reported elsewhere.
    """
    used = {name for names in rows.columns.values() for name in names}
    problems = []
    start = 0
    for part in rows.parts.values():
        for column, cells in part.labels.items():
            missing = np.flatnonzero([not cell for cell in cells])
            if column in used or not 0 < len(missing) < len(part):
                continue
            others = (
                f"and {len(missing) - 1} times more" if len(missing) > 1 else "and nowhere else"
            )
            text = f": column '{findings.one_line(column)}' is empty here {others}."
            problems.append(rows.warn(rows.sort(start + missing)[0], text))
        start += len(part)
    return problems
