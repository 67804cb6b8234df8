"""What can be wrong with the classes of a head: unknown, too few, or no names at all."""

import unicodedata

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import examples, label_cells

# Fewer cannot be in training, validation and test.
MIN_EXAMPLES = 3
# The numbers of a byte but for 255, which is no class.
_MAX_POSITION_CLASSES = 255
_MISSING_WORDS = ("nan", "null", "none", "n/a", "na")


def find_problems(
    parts: list[examples.Examples],
    labels: list[np.ndarray],
    *,
    classes: tuple[str, ...],
    wanted: tuple[str, ...] | None,
    odd_names: str,
) -> list[findings.Problem]:
    """Holds labels against classes.

    Args:
      parts: the sources, --data first.
      labels: of each source, see `label_cells.convert`.
      classes: the classes of the head.
      wanted: --classes, or None.
      odd_names: severity of class names that no run can write, such as one with a comma.

    Returns:
      Errors and warnings.
    """
    problems = []
    counts = label_cells.count_names(labels[0])
    for part, converted in zip(parts, labels, strict=True):
        problems += _find_unknown_labels(part, converted, classes, wanted=wanted, first=parts[0])
    problems += _find_odd_names(parts[0], classes, severity=odd_names)
    return problems + _find_class_problems(parts[0], counts, classes=classes, wanted=wanted)


def find_number_problems(
    head: specs.HeadSpec, kind: str, classes: tuple[str, ...]
) -> list[findings.Problem]:
    """Numbers of classes that a head contradicts.

    Args:
      head: what was asked for.
      kind: a key of `head_kinds.HEAD_KINDS`.
      classes: the classes found.

    Returns:
      An error, or none.
    """
    expected = head.num_classes or (2 if kind == "binary" else None)
    if expected is None or expected == len(classes):
        return []
    asked = f"num_classes={expected}" if head.num_classes else "kind=binary, which has 2 classes"
    message = (
        f"--head=name={head.name} has {asked}. The data has {len(classes)}: "
        f"{findings.list_first(list(classes))}."
    )
    return [findings.Problem(message, flag="--head")]


def name_positions(
    first: examples.Examples,
    head: specs.HeadSpec,
    *,
    wanted: tuple[str, ...] | None,
    odd_names: str,
) -> tuple[tuple[str, ...], list[findings.Problem]]:
    """The classes of a head whose labels are class numbers of positions.

    Args:
      first: --data.
      head: what was asked for.
      wanted: --classes, or None.
      odd_names: severity of class names that no run can write.

    Returns:
      (--classes, or the numbers below num_classes; errors and warnings).
    """
    if wanted is None and head.num_classes is None:
        message = (
            f"--head=name={head.name},kind={head.kind} needs num_classes=N, or --classes with the "
            "names of the class numbers 0, 1, 2 and so on."
        )
        return (), [findings.Problem(message, flag="--head")]
    classes = wanted or tuple(map(str, range(head.num_classes or 0)))
    problems = find_number_problems(head, head.kind or "", classes) if wanted else []
    if len(classes) > _MAX_POSITION_CLASSES:
        message = (
            f"--head=name={head.name}: a mask tells {_MAX_POSITION_CLASSES} classes apart. "
            f"Received {len(classes)}."
        )
        problems.append(findings.Problem(message, flag="--head"))
    return classes, problems + _find_odd_names(first, classes, severity=odd_names)


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
    counts = label_cells.count_names(labels)
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
