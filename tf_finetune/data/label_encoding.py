"""From label columns to heads: which column, which kind, which classes; every mistake at once.

One idea: the classes of a head are settled once, over all splits of --data, and every other
source must fit them. So an index means the same class in training, validation and test.
"""

import collections
import csv
import dataclasses
import unicodedata

import numpy as np

from tf_finetune import findings, head_kinds, regular_files, specs
from tf_finetune.data import csv_rows, examples

# Fewer cannot be in training, validation and test.
MIN_EXAMPLES = 3
_MISSING_WORDS = ("nan", "null", "none", "n/a", "na")
_MULTILABEL_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class HeadLabels:
    """The labels of one head.

    Attributes:
      info: name, kind, classes.
      column: the label column of the first source.
      labels: for each source object [n]: str, or tuples of str for multilabel.
    """

    info: head_kinds.HeadInfo
    column: str
    labels: tuple[np.ndarray, ...]


def read_heads(
    parts: list[examples.Examples],
    spec: specs.DataSpec,
    *,
    heads: tuple[specs.HeadSpec, ...],
    odd_names: str = findings.ERROR,
) -> tuple[list[HeadLabels], list[findings.Problem]]:
    """Settles column, kind and classes of every head.

    Args:
      parts: the sources; --data first, then --validation_data and --test_data where given.
      spec: the data options: `label_column`, `classes`.
      heads: the tasks, at least one.
      odd_names: severity of class names that no run can write, such as one with a comma.

    Returns:
      (the heads, problems). A head whose errors leave no classes is missing from the first.
    """
    problems: list[findings.Problem] = []
    try:
        wanted = read_classes(spec.classes)
    except findings.RefusedError as error:
        problems += error.problems
        wanted = None
    if wanted is not None and len(heads) > 1:
        message = (
            f"--classes names the classes of one head. Received {len(heads)} heads. Leave it out."
        )
        problems.append(findings.Problem(message, flag="--classes"))
        wanted = None
    found = []
    for head in heads:
        columns, column_problems = _find_columns(parts, spec, head=head, single=len(heads) == 1)
        problems += column_problems
        if columns:
            labels, head_problems = _read_head(
                parts, head, columns=columns, wanted=wanted, odd_names=odd_names
            )
            problems += head_problems
            found += [] if labels is None else [labels]
    return found, list(dict.fromkeys(problems))


def read_classes(text: str | None) -> tuple[str, ...] | None:
    """Parses --classes.

    Args:
      text: a,b,c quoted as in CSV, or @FILE with a class on each line, UTF-8; None: not given.

    Returns:
      The names in their order, or None.

    Raises:
      findings.RefusedError: the file cannot be read, a name is there twice, or there are fewer than
        two names.
    """
    if text is None:
        return None
    if text.startswith("@"):
        try:
            with regular_files.open_regular(text[1:]) as file:
                names = [line.strip() for line in file.read().decode("utf-8-sig").split("\n")]
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            shown = findings.one_line(text)
            raise _refusal(f"--classes={shown} cannot be read: {reason}.") from error
    else:
        try:
            cells = next(csv.reader([text], skipinitialspace=True), [])
        except csv.Error as error:
            raise _refusal(f"--classes expects names joined by commas: {error}.") from error
        names = [name.strip() for name in cells]
    names = [name for name in names if name]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise _refusal(f"--classes names {findings.list_first(repeated)} twice.")
    if len(names) < 2:
        raise _refusal(f"--classes expects at least two names. Received {len(names)}.")
    return tuple(names)


def _refusal(message: str) -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(message, flag="--classes"))


def _find_columns(
    parts: list[examples.Examples], spec: specs.DataSpec, *, head: specs.HeadSpec, single: bool
) -> tuple[tuple[str, ...], list[findings.Problem]]:
    """The label column of a head in each source; () where one cannot be told."""
    available = list(parts[0].labels)
    asked = head.label or spec.label_column
    flag = "--head" if head.label else "--label_column"
    problems = []
    if asked is None and len(available) > 1 and head.name not in available and not single:
        message = (
            f"--head=name={head.name} needs label=COLUMN: one of "
            f"{findings.list_first(available, limit=20)}."
        )
        return (), [findings.Problem(message, flag="--head")]
    first = asked or (head.name if head.name in available else available[0])
    columns = []
    for part in parts:
        # A folder's only column is named "label", whatever the table beside it calls its own.
        implied = len(part.labels) == 1 and (asked is None or part is not parts[0])
        if first not in part.labels and not implied:
            names = list(part.labels)
            message = (
                f"{findings.one_line(part.source)} has no label column "
                f"'{findings.one_line(first)}'.{examples.nearest_name(first, names)} It has "
                f"{findings.list_first(names, limit=20)}."
            )
            problems.append(findings.Problem(message, path=part.source, flag=flag))
            continue
        columns.append(first if first in part.labels else next(iter(part.labels)))
    if problems:
        return (), problems
    unused = [name for name in available if name != columns[0]]
    if unused and asked is None and single:
        message = (
            f"{findings.one_line(parts[0].source)}: the label is column "
            f"'{findings.one_line(columns[0])}'; {findings.list_first(unused)} not used. "
            "--label_column chooses another."
        )
        problems.append(findings.Problem(message, severity=findings.WARNING, flag=flag))
    return tuple(columns), problems


def _read_head(
    parts: list[examples.Examples],
    head: specs.HeadSpec,
    *,
    columns: tuple[str, ...],
    wanted: tuple[str, ...] | None,
    odd_names: str,
) -> tuple[HeadLabels | None, list[findings.Problem]]:
    raw = [part.labels[column] for part, column in zip(parts, columns, strict=True)]
    kind = head.kind or ("multilabel" if _is_multiple(raw[0]) else "multiclass")
    labels, problems = [], []
    for part, cells, column in zip(parts, raw, columns, strict=True):
        converted, cell_problems = _convert_cells(part, cells, head=head.name, kind=kind)
        labels.append(converted)
        problems += cell_problems
        if head_kinds.HEAD_KINDS[kind].exclusive:
            problems += _find_missing_labels(part, converted, column=column)
    counts = count_classes(labels[0])
    classes = wanted or tuple(sorted(counts))
    for part, converted in zip(parts, labels, strict=True):
        problems += _find_unknown_labels(part, converted, classes, wanted=wanted, first=parts[0])
    problems += _find_odd_names(parts[0], classes, severity=odd_names)
    problems += _find_class_problems(parts[0], counts, classes=classes, wanted=wanted)
    problems += _find_number_problems(head, kind, classes)
    if any(problem.severity == findings.ERROR for problem in problems):
        return None, problems
    thresholds = {"multiclass": 0, "binary": 1, "multilabel": len(classes)}[kind]
    info = head_kinds.HeadInfo(
        head.name, kind, classes, thresholds=(_MULTILABEL_THRESHOLD,) * thresholds
    )
    return HeadLabels(info, columns[0], tuple(labels)), problems


def _is_multiple(cells: np.ndarray) -> bool:
    return len(cells) > 0 and isinstance(cells[0], tuple)


def _convert_cells(
    part: examples.Examples, cells: np.ndarray, *, head: str, kind: str
) -> tuple[np.ndarray, list[findings.Problem]]:
    """Cells in the form that the kind of head takes."""
    exclusive = head_kinds.HEAD_KINDS[kind].exclusive
    if not exclusive and not _is_multiple(cells):
        return examples.object_array([(cell,) if cell else () for cell in cells]), []
    if not exclusive or not _is_multiple(cells):
        return cells, []
    problems = [
        part.problem(
            row,
            f"'{findings.one_line(csv_rows.SEPARATOR.join(cell))}' names {len(cell)} classes, and "
            f"head '{head}' is {kind}: it takes one. --head=name={head},kind=multilabel takes "
            "several.",
            flag="--head",
        )
        for row, cell in enumerate(cells)
        if len(cell) > 1
    ]
    return examples.object_array([cell[0] if cell else "" for cell in cells]), problems


def count_classes(labels: np.ndarray) -> dict[str, int]:
    """Examples of each class.

    Args:
      labels: object [n] of str, or of tuples of str; "" is no label.

    Returns:
      {class: number of examples}, an example with several classes counting for each.
    """
    if _is_multiple(labels):
        counts = collections.Counter(name for names in labels for name in names)
    else:
        counts = collections.Counter(labels)
    counts.pop("", None)
    return dict(counts)


def _find_missing_labels(
    part: examples.Examples, labels: np.ndarray, *, column: str
) -> list[findings.Problem]:
    return [
        part.problem(int(row), f"no label in column '{findings.one_line(column)}'.")
        for row in np.flatnonzero(labels == "")
    ]


def _find_unknown_labels(
    part: examples.Examples,
    labels: np.ndarray,
    classes: tuple[str, ...],
    *,
    wanted: tuple[str, ...] | None,
    first: examples.Examples,
) -> list[findings.Problem]:
    """One error per unknown label, at its first example."""
    known = {*classes, ""}
    rows: dict[str, int] = {}
    counts = count_classes(labels)
    for row, cell in enumerate(labels):
        for name in cell if isinstance(cell, tuple) else (cell,):
            if name not in known:
                rows.setdefault(name, row)
    expected = "--classes" if wanted else findings.one_line(first.source)
    problems = []
    for name, row in rows.items():
        number = f" ({counts[name]} examples)" if counts[name] > 1 else ""
        message = (
            f"label '{findings.one_line(name)}'{number} is not a class of {expected}: "
            f"{findings.list_first(list(classes))}.{examples.nearest_name(name, list(classes))}"
        )
        problems.append(part.problem(row, message, flag="--classes"))
    return problems


def _find_class_problems(
    first: examples.Examples,
    counts: dict[str, int],
    *,
    classes: tuple[str, ...],
    wanted: tuple[str, ...] | None,
) -> list[findings.Problem]:
    source = findings.one_line(first.source)
    flag = "--classes" if wanted else ""
    errors, warnings = [], []
    empty = [name for name in classes if name not in counts]
    if empty and wanted:
        errors.append(f"--classes names {findings.list_first(empty)}, with no example in {source}.")
    if len(classes) == 1:
        errors.append(
            f"{source} has only one class, {findings.list_first(list(classes))}. Expected two or "
            "more."
        )
    # Of a table with nothing but bad rows, the rows are the mistake.
    if not classes and len(first):
        errors.append(f"{source} has no label at all. Expected two or more classes.")
    few = [name for name in classes if 0 < counts.get(name, 0) < MIN_EXAMPLES]
    if few:
        warnings.append(
            f"{source}: {len(few)} of {len(classes)} classes have fewer than {MIN_EXAMPLES} "
            f"examples, too few for training, validation and test: {findings.list_first(few)}."
        )
    odd = [name for name in classes if name.casefold() in _MISSING_WORDS]
    if odd:
        warnings.append(
            f"{source}: {findings.list_first(odd)} are classes here. Are they missing values?"
        )
    return [findings.Problem(text, path=first.source, flag=flag) for text in errors] + [
        findings.Problem(text, severity=findings.WARNING, path=first.source) for text in warnings
    ]


def _find_odd_names(
    first: examples.Examples, classes: tuple[str, ...], *, severity: str
) -> list[findings.Problem]:
    return [
        findings.Problem(
            f"{findings.one_line(first.source)}: class name '{findings.one_line(name)}' {reason}. "
            f"{'Training refuses it. ' if severity == findings.WARNING else ''}Rename the class.",
            severity=severity,
            path=first.source,
        )
        for name in classes
        if (reason := _find_name_fault(name))
    ]


def _find_name_fault(name: str) -> str:
    # Classes are joined by commas in --classes and in reports, and are lines of labels files.
    if "," in name:
        return "has a comma"
    kinds = {unicodedata.category(character) for character in name}
    if "Cs" in kinds:
        return "is not UTF-8"
    return "has a line end or control character" if kinds & {"Cc", "Zl", "Zp"} else ""


def _find_number_problems(
    head: specs.HeadSpec, kind: str, classes: tuple[str, ...]
) -> list[findings.Problem]:
    expected = head.num_classes or (2 if kind == "binary" else None)
    if expected is None or expected == len(classes):
        return []
    asked = f"num_classes={expected}" if head.num_classes else "kind=binary, which has 2 classes"
    message = (
        f"--head=name={head.name} has {asked}. The data has {len(classes)}: "
        f"{findings.list_first(list(classes))}."
    )
    return [findings.Problem(message, flag="--head")]
