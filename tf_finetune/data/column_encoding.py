"""What the training rows say of columns that stand beside an image or a text: means, categories.

One idea: features of a backbone are of about the size one, so columns that are put beside them are
brought there: numbers by the mean and deviation of the training rows, strings to a place for each
category that these have. Both become constants of layers, so that serving cannot do otherwise.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from tf_finetune import findings
from tf_finetune.data import column_names, columns, mixed_spec

# More are names or texts, and a weight for each would learn the rows by heart.
MAX_CATEGORIES = 1000
_CHUNK_ROWS = 2**16


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How columns become features.

    Attributes:
      means: of each column of numbers, in order.
      variances: the same, above 0.
      categories: of each column of strings, in order, its different cells, sorted; a cell that is
        none of them, or empty, is a row of zeros.
    """

    means: tuple[float, ...]
    variances: tuple[float, ...]
    categories: tuple[tuple[str, ...], ...]


def make_spec(store: columns.Columns) -> columns.ColumnsSpec:
    """The inputs for columns of a model whose backbone takes none.

    Args:
      store: the columns.

    Returns:
      `mixed_spec.NUMBERS` of all columns of numbers and `mixed_spec.CATEGORIES` of all of strings;
      one of them alone where there are no others.
    """
    numbers = tuple(name for name, kind in store.kinds.items() if kind == columns.NUMBER)
    strings = tuple(name for name, kind in store.kinds.items() if kind == columns.STRING)
    inputs = (
        columns.ModelInput(mixed_spec.NUMBERS, numbers, "float32", (len(numbers),)),
        columns.ModelInput(mixed_spec.CATEGORIES, strings, "string", (len(strings),)),
    )
    return columns.ColumnsSpec(tuple(part for part in inputs if part.columns))


def measure(store: columns.Columns, spec: columns.ColumnsSpec) -> Encoding:
    """Measures the training rows.

    Args:
      store: their columns, at least one row.
      spec: of `make_spec`.

    Returns:
      The encoding. A column of one number alone has the variance 1.

    Raises:
      findings.RefusedError: a column of strings has no string, or more than MAX_CATEGORIES
        different ones; every such column.
    """
    kinds = spec.kinds
    names = [name for name, kind in kinds.items() if kind == columns.NUMBER]
    means, variances = _measure_numbers(store, names)
    problems, categories = [], []
    for name in (name for name, kind in kinds.items() if kind == columns.STRING):
        cells = sorted(set(store.strings[name].tolist()) - {""})
        shown = f"{column_names.FLAG}: the column '{findings.one_line(name)}'"
        if not cells:
            problems.append(f"{shown} is empty in all training rows. Leave it out.")
        elif len(cells) > MAX_CATEGORIES:
            problems.append(
                f"{shown} has {len(cells):,} different texts in the training rows, such as "
                f"{findings.list_first(cells, limit=3)}. Expected categories, at most "
                f"{MAX_CATEGORIES:,}. Leave it out, or group them."
            )
        categories.append(tuple(cells))
    if problems:
        raise findings.RefusedError(
            *[findings.Problem(text, flag=column_names.FLAG) for text in problems]
        )
    return Encoding(means, variances, tuple(categories))


def _measure_numbers(
    store: columns.Columns, names: list[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    places = [store.number_names.index(name) for name in names]
    total = np.zeros(len(places))
    for numbers in _read_chunks(store, places):
        total += numbers.sum(axis=0)
    means = total / len(store)
    squares = np.zeros(len(places))
    for numbers in _read_chunks(store, places):
        squares += np.square(numbers - means).sum(axis=0)
    # Numbers that are equal but for their last bits say nothing, and would be blown up.
    deviations = np.sqrt(squares / len(store))
    is_constant = deviations <= 1e-7 * np.maximum(np.abs(means), 1e-30)
    variances = np.where(is_constant, 1.0, np.square(deviations))
    return tuple(means.tolist()), tuple(variances.tolist())


def _read_chunks(store: columns.Columns, places: list[int]) -> Iterator[np.ndarray]:
    for start in range(0, len(store) if places else 0, _CHUNK_ROWS):
        rows = np.arange(start, min(start + _CHUNK_ROWS, len(store)))
        yield store.matrix.read(rows)[:, places].astype(np.float64)
