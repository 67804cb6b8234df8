"""A table whose rows have an image or a text and feature columns.

One idea: the table is read twice, by what reads images or texts and by what reads columns, so that
each cell is judged as it is in a table of one kind; the line of a row joins what both made of it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import column_tables, columns, examples, json_rows, store_selection


def is_mixed(spec: specs.DataSpec) -> bool:
    """Whether the rows of a table have an image or a text and feature columns.

    Args:
      spec: the data options.

    Returns:
      True where --feature_columns and one of --image_column and --text_column are given.
    """
    named = spec.image_column is not None or spec.text_column is not None
    return named and spec.feature_columns is not None


def join_columns(
    part: examples.Examples, spec: specs.DataSpec, *, column: str
) -> examples.Examples:
    """Puts the feature columns of a table beside its images or texts.

    Args:
      part: the images or texts of the table `part.source`, all their lines known.
      spec: the data options: `feature_columns`, and all that `column_tables` reads.
      column: name of the column of images or texts.

    Returns:
      The rows that have both, with `features`; the columns are no labels any more. Their problems
      are those of both passes, a row of another length once.

    Raises:
      findings.RefusedError: --feature_columns or the table's header cannot be used, no column is
        left for labels, or no row has both.
    """
    found = column_tables.load_beside(spec, part.source, column=column)
    store = found.inputs
    if not isinstance(store, columns.Columns) or part.lines is None or found.lines is None:
        raise ValueError("expected a table whose rows have lines.")
    labels = {name: cells for name, cells in part.labels.items() if name not in store.found.names}
    if not labels:
        message = (
            f"{findings.one_line(part.source)}: no column is left for labels beside "
            f"'{findings.one_line(column)}' and --feature_columns. Expected one more, or leave it "
            "out as in *,-price."
        )
        raise findings.RefusedError(
            findings.Problem(message, path=part.source, flag="--feature_columns")
        )
    told = [*part.problems, *found.problems]
    problems = tuple(sorted(told, key=lambda problem: (problem.line is None, problem.line or 0)))
    _, rows, others = np.intersect1d(part.lines, found.lines, return_indices=True)
    order = np.argsort(rows)
    rows, others = rows[order], others[order]
    if not len(rows) and not any(problem.severity == findings.ERROR for problem in problems):
        message = f"no row has both a '{findings.one_line(column)}' and its feature columns."
        raise findings.RefusedError(
            findings.Problem(f"{findings.one_line(part.source)}: {message}", path=part.source)
        )
    part = dataclasses.replace(part, labels=labels, problems=problems)
    if len(rows) < len(part):
        part = store_selection.select_examples(part, rows)
    return dataclasses.replace(part, features=store_selection.select_columns(store, others))


def number_repeated(
    keys: list[str], cells: Sequence[Sequence[json_rows.Cell]]
) -> tuple[list[int], list[str], np.ndarray, list[int]]:
    """Rows of a table in which an image may stand several times, beside other columns.

    Args:
      keys: of each row, the path of its image.
      cells: the other cells of each row.

    Returns:
      (rows in their new order, their keys in it: the path, with a number behind it where it is
      repeated; for each the place of the first with the same image, as `Examples.repeats`; rows
      that are left out because all their cells are those of another).
    """
    # Not in the order of the file, which may change.
    texts = [list(map(str, row)) for row in cells]
    order = sorted(range(len(keys)), key=lambda row: (keys[row], texts[row], row))
    kept: list[int] = []
    equal: list[int] = []
    for row in order:
        same = kept and keys[kept[-1]] == keys[row] and texts[kept[-1]] == texts[row]
        (equal if same else kept).append(row)
    taken, named, first = set(keys), [], []
    for place, row in enumerate(kept):
        if not place or keys[kept[place - 1]] != keys[row]:
            first.append(place)
            named.append(keys[row])
            number = 1
            continue
        first.append(first[-1])
        number += 1
        while (name := f"{keys[row]}#{number}") in taken:
            number += 1
        named.append(name)
    by_key = sorted(range(len(kept)), key=named.__getitem__)
    places = np.empty(len(kept), np.int64)
    places[by_key] = np.arange(len(kept))
    repeats = np.array([places[first[place]] for place in by_key], np.int64)
    return [kept[place] for place in by_key], [named[place] for place in by_key], repeats, equal
