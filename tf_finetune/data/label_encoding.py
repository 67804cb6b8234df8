"""From label columns to heads: which column, which kind, which classes; every mistake at once.

One idea: the classes of a head are settled once, over all splits of --data, and every other
source must fit them. So an index means the same class in training, validation and test.
"""

import csv
import dataclasses

import numpy as np

from tf_finetune import findings, head_kinds, specs
from tf_finetune.data import class_checks, class_names, examples, label_cells, value_files

# Where callers look for it.
MIN_EXAMPLES = class_checks.MIN_EXAMPLES
_THRESHOLD = 0.5

count_classes = label_cells.count_names


@dataclasses.dataclass(frozen=True)
class HeadLabels:
    """The labels of one head.

    Attributes:
      info: name, kind, classes.
      column: the label column of the first source; several are joined by "+".
      labels: for each source object [n]: str, or tuples of str for multilabel; "" is missing.
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
    problems += _find_unused_option(spec, heads)
    found = []
    for head in heads:
        columns, column_problems = _find_columns(parts, spec, head=head, single=len(heads) == 1)
        problems += column_problems
        if columns:
            labels, head_problems = _read_head(
                parts,
                head,
                columns=columns,
                wanted=wanted,
                odd_names=odd_names,
                may_miss=len(heads) > 1,
                follow_links=spec.follow_links,
            )
            problems += head_problems
            found += [] if labels is None else [labels]
    if len(found) == len(heads):
        problems += _find_unlabelled(parts, found)
        if spec.examples_per_class is not None:
            problems += _find_nothing_to_limit(found[0].info)
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
    lines = value_files.read_lines(text, flag="--classes")
    if lines is None:
        try:
            lines = next(csv.reader([text], skipinitialspace=True), [])
        except csv.Error as error:
            raise _refusal(f"--classes expects names joined by commas: {error}.") from error
    names = [name.strip() for name in lines if name.strip()]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise _refusal(f"--classes names {findings.list_first(repeated)} twice.")
    if len(names) < 2:
        raise _refusal(f"--classes expects at least two names. Received {len(names)}.")
    return tuple(names)


def _refusal(message: str) -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(message, flag="--classes"))


def _find_unused_option(
    spec: specs.DataSpec, heads: tuple[specs.HeadSpec, ...]
) -> list[findings.Problem]:
    """A --label_column that no head reads, because each names another column itself."""
    named = {head.label for head in heads}
    if spec.label_column is None or None in named:
        return []
    if any(spec.label_column in (name, *str(name).split("+")) for name in named):
        return []
    message = (
        f"--label_column={findings.one_line(spec.label_column)} is read by no head: --head names "
        f"{findings.list_first(sorted(str(name) for name in named))}. Leave one of them out."
    )
    return [findings.Problem(message, flag="--label_column")]


def _find_columns(
    parts: list[examples.Examples], spec: specs.DataSpec, *, head: specs.HeadSpec, single: bool
) -> tuple[tuple[tuple[str, ...], ...], list[findings.Problem]]:
    """The label columns of a head in each source; () where one cannot be told."""
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
    if asked is None and head.name not in available and parts[0].no_default:
        problem = findings.Problem(parts[0].no_default, path=parts[0].source, flag="--label_column")
        return (), [problem]
    first = asked or (head.name if head.name in available else available[0])
    columns = []
    for part in parts:
        names = list(part.labels)
        wanted = label_cells.split_columns(first, names)
        absent = [name for name in wanted if name not in part.labels]
        # A folder's only column is named "label", whatever the table beside it calls its own.
        implied = len(names) == len(wanted) == 1 and (asked is None or part is not parts[0])
        if absent and not implied:
            message = (
                f"{findings.one_line(part.source)} has no label column "
                f"'{findings.one_line(absent[0])}'.{examples.nearest_name(absent[0], names)} It "
                f"has {findings.list_first(names, limit=20)}."
            )
            problems.append(findings.Problem(message, path=part.source, flag=flag))
            continue
        columns.append((names[0],) if absent else wanted)
    if problems:
        return (), problems
    unused = [name for name in available if name not in columns[0]]
    if unused and asked is None and single:
        message = (
            f"{findings.one_line(parts[0].source)}: the label is column "
            f"'{findings.one_line(columns[0][0])}'; {findings.list_first(unused)} not used. "
            "--label_column chooses another."
        )
        problems.append(findings.Problem(message, severity=findings.WARNING, flag=flag))
    return tuple(columns), problems


def _read_head(
    parts: list[examples.Examples],
    head: specs.HeadSpec,
    *,
    columns: tuple[tuple[str, ...], ...],
    wanted: tuple[str, ...] | None,
    odd_names: str,
    may_miss: bool,
    follow_links: bool,
) -> tuple[HeadLabels | None, list[findings.Problem]]:
    kind = head.kind or label_cells.find_kind(parts[0], columns[0])
    row = head_kinds.HEAD_KINDS[kind]
    problems = _find_option_problems(head, kind, columns[0], wanted=wanted)
    if problems:
        return None, problems
    labels = []
    for part, names in zip(parts, columns, strict=True):
        converted, cell_problems = label_cells.convert(
            part, names, head=head, kind=kind, follow_links=follow_links
        )
        labels.append(converted)
        problems += cell_problems
        shown = label_cells.COLUMN_JOINT.join(names)
        missing = [] if may_miss else _find_missing_labels(part, converted, column=shown)
        problems += missing or label_cells.describe_missing(
            part, converted, head=head.name, column=shown
        )
    classes, class_problems = _settle_classes(
        parts,
        labels,
        head=dataclasses.replace(head, kind=kind),
        named=columns[0] if len(columns[0]) > 1 else None,
        wanted=wanted,
        odd_names=odd_names,
        single=not may_miss,
    )
    problems += class_problems
    if any(problem.severity == findings.ERROR for problem in problems):
        return None, problems
    threshold = _THRESHOLD if head.threshold == "auto" else float(head.threshold)
    thresholds = (threshold,) * row.num_thresholds(len(classes))
    info = head_kinds.HeadInfo(head.name, kind, classes, thresholds=thresholds)
    column = label_cells.COLUMN_JOINT.join(columns[0])
    return HeadLabels(info, column, tuple(labels)), problems


def _settle_classes(
    parts: list[examples.Examples],
    labels: list[np.ndarray],
    *,
    head: specs.HeadSpec,
    named: tuple[str, ...] | None,
    wanted: tuple[str, ...] | None,
    odd_names: str,
    single: bool,
) -> tuple[tuple[str, ...], list[findings.Problem]]:
    kind = head.kind or ""
    row = head_kinds.HEAD_KINDS[kind]
    if row.positions == "pixels":
        return class_checks.name_positions(parts[0], head, wanted=wanted, odd_names=odd_names)
    if not row.has_classes:
        return (), _find_constant(parts[0], labels[0], head.name)
    classes = wanted or named or tuple(sorted(count_classes(labels[0])))
    problems = class_checks.find_problems(
        parts, labels, classes=classes, wanted=wanted, odd_names=odd_names
    )
    if classes != wanted and named is None:
        problems += class_names.find_twins(parts[0], classes, single=single)
    return classes, problems + class_checks.find_number_problems(head, kind, classes)


def _find_option_problems(
    head: specs.HeadSpec, kind: str, columns: tuple[str, ...], *, wanted: tuple[str, ...] | None
) -> list[findings.Problem]:
    """Options of a head that its kind, which the labels may have told, does not take."""
    row = head_kinds.HEAD_KINDS[kind]
    messages = []
    if len(columns) > 1 and row.exclusive:
        shown = findings.one_line(label_cells.COLUMN_JOINT.join(columns))
        messages.append(
            f"--head=name={head.name}: label={shown} names {len(columns)} columns, a class each, "
            f"which kind=multilabel takes. Received kind={kind}."
        )
    if head.threshold != "auto" and not row.has_thresholds:
        messages.append(
            f"--head=name={head.name} is {kind} and has no threshold: its answer is the most "
            "probable class. Leave threshold out."
        )
    if head.empty != "none" and row.exclusive:
        messages.append(
            f"--head=name={head.name} is {kind}, and empty={head.empty} is about kind=multilabel. "
            "Leave it out."
        )
    if wanted is not None and not row.has_classes:
        messages.append(
            f"--classes names classes, and --head=name={head.name} has kind={kind}, which has "
            "none. Leave it out."
        )
    return [findings.Problem(message, flag="--head") for message in messages]


def _find_constant(
    first: examples.Examples, labels: np.ndarray, head: str
) -> list[findings.Problem]:
    """Numbers of which there is nothing to learn."""
    values = {label for label in labels if label}
    if len(values) > 1 or not len(first):
        return []
    source = findings.one_line(first.source)
    message = f"{source} has no number at all for head '{head}'. Expected two or more."
    if values:
        message = (
            f"{source}: every label of head '{head}' is {findings.one_line(values.pop())}. "
            "Expected numbers that differ."
        )
    return [findings.Problem(message, path=first.source)]


def _find_nothing_to_limit(info: head_kinds.HeadInfo) -> list[findings.Problem]:
    row = head_kinds.HEAD_KINDS[info.kind]
    if row.names_examples:
        return []
    message = f"--examples_per_class needs classes. Head '{info.name}' has none: leave it out."
    if row.positions:
        message = (
            "--examples_per_class counts examples of a class, and classes of head "
            f"'{info.name}' are those of {row.positions}. Leave it out."
        )
    return [findings.Problem(message, flag="--examples_per_class")]


def _find_unlabelled(
    parts: list[examples.Examples], heads: list[HeadLabels]
) -> list[findings.Problem]:
    """Examples without a label of any of several heads: they teach nothing."""
    problems = []
    for number, part in enumerate(parts if len(heads) > 1 else []):
        missing = [is_missing(head.labels[number]) for head in heads]
        count = int(np.logical_and.reduce(missing).sum())
        if count:
            message = (
                f"{findings.one_line(part.source)}: {count} of {len(part)} examples have no label "
                "of any head, and nothing is learnt from them."
            )
            problems.append(findings.Problem(message, severity=findings.WARNING, path=part.source))
    return problems


def is_missing(labels: np.ndarray) -> np.ndarray:
    """Tells missing labels.

    Args:
      labels: object [n] of str, or of tuples of str.

    Returns:
      bool [n], True where the label is "".
    """
    missing = (isinstance(cell, str) and not cell for cell in labels)
    return np.fromiter(missing, bool, len(labels))


def find_unlabelled_split(
    head: head_kinds.HeadInfo, labels: dict[str, np.ndarray], *, split: str
) -> list[findings.Problem]:
    """A head that has no label in a split.

    Args:
      head: the head.
      labels: {head name: encoded labels of the split}.
      split: the split's name.

    Returns:
      An error for training, a warning for another split that has examples; or none.
    """
    values, name = labels[head.name], head.name
    if not len(values) or head_kinds.find_labelled(values).any():
        return []
    message = f"the {split} split has no label of head '{name}'."
    if split == "train":
        return [findings.Problem(f"{message} Add some, or leave the head out.")]
    message += " Nothing of this head is measured there."
    return [findings.Problem(message, severity=findings.WARNING)]


def _find_missing_labels(
    part: examples.Examples, labels: np.ndarray, *, column: str
) -> list[findings.Problem]:
    return [
        part.problem(int(row), f"no label in column '{findings.one_line(column)}'.")
        for row in np.flatnonzero(is_missing(labels))
    ]
