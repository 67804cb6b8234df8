"""Examples for a model that is trained already: its classes are given, not found in the labels."""

import numpy as np

from tf_finetune import findings, head_kinds, specs
from tf_finetune.data import (
    examples,
    label_cells,
    label_encoding,
    loading,
    memory_source,
    position_labels,
    sources,
)


def load_split(
    source: str | memory_source.Arrays,
    spec: specs.DataSpec,
    *,
    heads: tuple[specs.HeadSpec, ...],
    infos: tuple[head_kinds.HeadInfo, ...],
    name: str,
) -> tuple[loading.Split, tuple[findings.Problem, ...]]:
    """Lists all examples of a source, whatever splits it has, under known classes.

    Args:
      source: in a form of --data, or examples in memory.
      spec: column names and other options.
      heads: the heads as they were asked for.
      infos: the same heads with their classes.
      name: the split's name.

    Returns:
      (split, warnings). Classes without an example are no problem here.

    Raises:
      RefusedError: the source cannot be listed, or has labels that are not among the classes (all
        are named, each at its first example).
    """
    part = sources.load_source(spec, source, flag="test_data")
    problems = list(part.problems)
    labels, positions = {}, {}
    for head, info in zip(heads, infos, strict=True):
        columns = _find_columns(part, spec, head)
        cells, cell_problems = label_cells.convert(
            part, columns, head=head, kind=info.kind, follow_links=spec.follow_links
        )
        cell_problems += _find_missing(part, cells, columns, may_miss=len(infos) > 1)
        cell_problems += _find_unknown(part, cells, info)
        problems += cell_problems
        if not any(problem.severity == findings.ERROR for problem in cell_problems):
            labels[info.name], store = position_labels.encode(cells, info)
            if store is not None:
                positions[info.name] = store
    errors = [problem for problem in problems if problem.severity == findings.ERROR]
    if errors:
        raise findings.RefusedError(*examples.cut_problems(errors))
    rows = np.arange(len(part), dtype=np.int64)
    split = loading.Split(name, part.keys, part.inputs, rows, labels, part.features, positions)
    return split, tuple(problems)


def _find_columns(
    part: examples.Examples, spec: specs.DataSpec, head: specs.HeadSpec
) -> tuple[str, ...]:
    names = list(part.labels)
    asked = head.label or spec.label_column
    for column in (asked, head.name):
        columns = label_cells.split_columns(column or "", names)
        if all(name in part.labels for name in columns):
            return columns
    if len(names) == 1:  # a folder calls its only column "label", whatever a table calls its own
        return (names[0],)
    raise findings.RefusedError(
        findings.Problem(
            f"{findings.one_line(part.source)} has no label column for head '{head.name}'"
            f"{f', which was trained on {asked!r}' if asked else ''}. It has "
            f"{findings.list_first(names, limit=20)}.",
            path=part.source,
        )
    )


def _find_missing(
    part: examples.Examples, cells: np.ndarray, columns: tuple[str, ...], *, may_miss: bool
) -> list[findings.Problem]:
    """An error for each missing label of a run's only head."""
    if may_miss:
        return []
    column = findings.one_line(label_cells.COLUMN_JOINT.join(columns))
    return [
        part.problem(int(row), f"no label in column '{column}'.")
        for row in np.flatnonzero(label_encoding.is_missing(cells))
    ]


def _find_unknown(
    part: examples.Examples, cells: np.ndarray, info: head_kinds.HeadInfo
) -> list[findings.Problem]:
    """An error for each label that the model does not know, at its first example."""
    row_of_kind = head_kinds.HEAD_KINDS[info.kind]
    if not row_of_kind.has_classes or row_of_kind.positions == "pixels":
        return []
    known = {*info.classes, ""}
    rows: dict[str, int] = {}
    for row, cell in enumerate(cells):
        for name in cell if isinstance(cell, tuple) else (cell,):
            if name not in known:
                rows.setdefault(name, row)
    return [
        part.problem(
            row,
            f"label '{findings.one_line(name)}' is not a class that head '{info.name}' was trained "
            f"on: {findings.list_first(list(info.classes))}.",
        )
        for name, row in rows.items()
    ]
