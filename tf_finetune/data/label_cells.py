"""Label cells in the form that a kind of head takes: names, sets of names, or numbers.

One idea: a cell that says nothing is "", whatever the kind, and what a cell says wrongly is an
error at its line. Which names make up the classes is `label_encoding`'s business.
"""

import collections
import re

import numpy as np

from tf_finetune import findings, head_kinds, specs
from tf_finetune.data import examples, mask_paths, word_tags

# Joins the names of columns in --head=label=A+B.
COLUMN_JOINT = "+"
_PRESENT = ("1", "true", "yes", "1.0")  # a table library writes a column with gaps as floats
_ABSENT = ("0", "false", "no", "0.0")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_COMMA_NUMBER = re.compile(r"[+-]?[0-9]+,[0-9]+")
# Beyond it a float32 is infinite.
_LARGEST = 3.4e38


def split_columns(asked: str, available: list[str]) -> tuple[str, ...]:
    """The columns that a head's `label` names.

    Args:
      asked: a column, or several joined by "+".
      available: the columns there are; one that has a "+" in its name is taken as it is.

    Returns:
      At least one name; whether it exists is not asked.
    """
    return (asked,) if asked in available else tuple(asked.split(COLUMN_JOINT))


def find_kind(part: examples.Examples, columns: tuple[str, ...]) -> str:
    """The kind of a head that names none.

    Args:
      part: the first source.
      columns: its label columns, of `split_columns`.

    Returns:
      "multilabel" where there are several columns or a cell lists several names, else
      "multiclass".
    """
    several = len(columns) > 1 or is_multiple(part.labels[columns[0]])
    return "multilabel" if several else "multiclass"


def is_multiple(cells: np.ndarray) -> bool:
    """Whether cells may list several names.

    Args:
      cells: object [n] of str, or of tuples of str in which a missing label is "".

    Returns:
      True if there is a tuple.
    """
    return any(isinstance(cell, tuple) for cell in cells)


def convert(
    part: examples.Examples,
    columns: tuple[str, ...],
    *,
    head: specs.HeadSpec,
    kind: str,
    follow_links: bool = False,
) -> tuple[np.ndarray, list[findings.Problem]]:
    """The labels of a head.

    Args:
      part: a source.
      columns: its label columns, of `split_columns`; they exist.
      head: its name, for messages, and `empty`.
      kind: a key of `head_kinds.HEAD_KINDS`.
      follow_links: whether links of masks may lead out of the table's folder.

    Returns:
      (object [n]: str, for multilabel tuples of str; "" is a missing label; of masks their
      paths; of words tuples of their tags.
      An error for each cell that the kind does not take).
    """
    cells = part.labels[columns[0]]
    if len(columns) > 1:
        return _join_columns(part, columns)
    if not head_kinds.HEAD_KINDS[kind].exclusive:
        return _take_sets(cells, empty_is_missing=head.empty == "missing"), []
    if head_kinds.HEAD_KINDS[kind].positions == "words":
        return word_tags.read(part, cells, head=head.name)
    problems: list[findings.Problem] = []
    if is_multiple(cells):
        cells, problems = _take_single(part, cells, head=head.name, kind=kind)
    if head_kinds.HEAD_KINDS[kind].positions == "pixels":
        cells, more = mask_paths.resolve(part, cells, head=head.name, follow_links=follow_links)
        return cells, problems + more
    if not head_kinds.HEAD_KINDS[kind].has_classes:
        problems += _find_bad_numbers(part, cells, column=columns[0])
    return cells, problems


def _take_sets(cells: np.ndarray, *, empty_is_missing: bool) -> np.ndarray:
    several = is_multiple(cells)
    none: object = "" if empty_is_missing else ()
    taken: list[object] = []
    for cell in cells:
        if isinstance(cell, tuple):
            taken.append(cell or none)
        elif cell:
            taken.append((cell,))
        else:
            # Among lists, [] is none of the classes, and what is no list says nothing.
            taken.append("" if several else none)
    return examples.object_array(taken)


def _take_single(
    part: examples.Examples, cells: np.ndarray, *, head: str, kind: str
) -> tuple[np.ndarray, list[findings.Problem]]:
    numbers = not head_kinds.HEAD_KINDS[kind].has_classes
    advice = "" if numbers else f" --head=name={head},kind=multilabel takes several."
    problems = [
        part.problem(
            row,
            f"'{findings.one_line('|'.join(cell))}' names {len(cell)} classes, and "
            f"head '{head}' is {kind}: it takes one{' number' if numbers else ''}.{advice}",
            flag="--head",
        )
        for row, cell in enumerate(cells)
        if isinstance(cell, tuple) and len(cell) > 1
    ]
    first = [(cell[0] if cell else "") if isinstance(cell, tuple) else cell for cell in cells]
    return examples.object_array(first), problems


def _find_bad_numbers(
    part: examples.Examples, cells: np.ndarray, *, column: str
) -> list[findings.Problem]:
    problems = []
    shown_column = findings.one_line(column)
    for row, cell in enumerate(cells):
        if not cell or (_NUMBER.fullmatch(cell) and abs(float(cell)) < _LARGEST):
            continue
        shown = findings.one_line(cell)
        advice = ""
        if _COMMA_NUMBER.fullmatch(cell):
            advice = f" Write {shown.replace(',', '.')}."
        message = (
            f"column '{shown_column}': expected a number such as 1.5 or -2e3. Received "
            f"'{shown}'.{advice}"
        )
        problems.append(part.problem(row, message, flag="--head"))
    return problems


def _join_columns(
    part: examples.Examples, columns: tuple[str, ...]
) -> tuple[np.ndarray, list[findings.Problem]]:
    present: list[list[str]] = [[] for _ in range(len(part))]
    unknown: list[list[str]] = [[] for _ in range(len(part))]
    problems = []
    for column in columns:
        for row, cell in enumerate(part.labels[column]):
            word = cell.lower() if isinstance(cell, str) else "|".join(cell)
            if word in _PRESENT:
                present[row].append(column)
            elif not word:
                unknown[row].append(column)
            elif word not in _ABSENT:
                message = (
                    f"column '{findings.one_line(column)}': expected 0 or 1, true or false, yes "
                    f"or no, or nothing. Received '{findings.one_line(word)}'."
                )
                problems.append(part.problem(row, message, flag="--head"))
    labels: list[object] = []
    for names, gaps in zip(present, unknown, strict=True):
        if len(gaps) == len(columns):
            labels.append("")
        elif gaps:
            labels.append(head_kinds.PartialLabels.make(tuple(names), unknown=tuple(gaps)))
        else:
            labels.append(tuple(names))
    return examples.object_array(labels), problems


def count_names(labels: np.ndarray) -> dict[str, int]:
    """Examples of each class.

    Args:
      labels: object [n] of str, or of tuples of str; "" is no label.

    Returns:
      {class: number of examples}, an example with several classes counting for each.
    """
    if is_multiple(labels):
        counts = collections.Counter(name for names in labels for name in names)
    else:
        counts = collections.Counter(labels)
    counts.pop("", None)
    return dict(counts)


def describe_missing(
    part: examples.Examples, labels: np.ndarray, *, head: str, column: str
) -> list[findings.Problem]:
    """Counts the examples that a head of several passes over.

    Args:
      part: a source.
      labels: of `convert`.
      head: the head's name.
      column: its column, for messages.

    Returns:
      A warning with the numbers, or none.
    """
    num_missing = sum(isinstance(cell, str) and not cell for cell in labels)
    gaps: dict[str, int] = {}
    for cell in labels:
        for name in getattr(cell, "unknown", ()):
            gaps[name] = gaps.get(name, 0) + 1
    texts = []
    if num_missing:
        texts.append(f"{num_missing} of {len(labels)} examples have no label")
    if gaps:
        counts = [f"{name} ({count})" for name, count in sorted(gaps.items())]
        texts.append(f"classes of some examples are unknown: {findings.list_first(counts)}")
    if not texts:
        return []
    message = (
        f"{findings.one_line(part.source)}, column '{findings.one_line(column)}': "
        f"{'; '.join(texts)}. Head '{head}' passes them over."
    )
    return [findings.Problem(message, severity=findings.WARNING, path=part.source)]
