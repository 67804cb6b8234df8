"""Arrays of numbers and strings as the feature columns of a table."""

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import (
    array_labels,
    column_names,
    columns,
    feature_cells,
    row_keys,
    vector_columns,
)

_CHUNK_ROWS = 4096


def name_columns(name: str, array: np.ndarray) -> list[str]:
    """The columns that an array becomes.

    Args:
      name: of the array.
      array: [n], or [n, d].

    Returns:
      The name, or those of its d elements.
    """
    return vector_columns.name_elements(name, array.shape[1]) if array.ndim == 2 else [name]


def find_columns(
    spec: specs.DataSpec, arrays: dict[str, np.ndarray], inputs: tuple[str, ...], *, flag: str
) -> columns.FeatureColumns:
    """Settles which columns a model takes.

    Args:
      spec: the data options: `feature_columns`.
      arrays: {name: [n, ...]} of everything.
      inputs: the arrays that it takes where `feature_columns` does not say.
      flag: name of the argument, for messages.

    Returns:
      The columns.

    Raises:
      findings.RefusedError: an array has no numbers, see also `column_names.read_feature_columns`.
    """
    if spec.feature_columns is None:
        for name in inputs:
            if arrays[name].ndim == 2 and not arrays[name].shape[1]:
                error = array_labels.BadArrayError(
                    "expected a number or more for each example. Received "
                    f"{array_labels.describe(arrays[name])}."
                )
                raise array_labels.refuse(error, flag=flag, name=name)
        names = [column for name in inputs for column in name_columns(name, arrays[name])]
        return columns.FeatureColumns(tuple(names), {}, {})
    lengths = {name: array.shape[1] for name, array in arrays.items() if array.ndim == 2}
    return column_names.read_feature_columns(spec, list(arrays), path=flag, lengths=lengths)


def make_columns(
    arrays: dict[str, np.ndarray], found: columns.FeatureColumns, *, flag: str
) -> tuple[columns.Columns, dict[int, str]]:
    """The columns as a store.

    Args:
      arrays: {name: [n] or [n, d] of numbers or bools, or [n] of strings} that they are in.
      found: of `find_columns`.
      flag: name of the argument, for messages.

    Returns:
      (the store; {example with a number that is not finite: what is wrong}).

    Raises:
      findings.RefusedError: an array has another rank or dtype, or the kind of a column is not what
        was asked for.
    """
    numbers: dict[str, np.ndarray] = {}
    strings: dict[str, np.ndarray] = {}
    bad: dict[int, str] = {}
    for name, array in arrays.items():
        try:
            read = _read_array(name, array, found)
        except array_labels.BadArrayError as error:
            raise array_labels.refuse(error, flag=flag, name=name) from error
        for column, values in read.items():
            if values.dtype.kind == "T":
                strings[column] = values
                continue
            numbers[column] = values
            for row in np.flatnonzero(~np.isfinite(values)).tolist():
                fault = f"'{findings.one_line(column)}' is {values[row]}. Expected a finite number."
                bad.setdefault(row, fault)
    names = [name for name in found.names if name in numbers]
    texts = [name for name in found.names if name in strings]
    matrix, digests = _stack([numbers[name] for name in names], [strings[name] for name in texts])
    store = columns.Columns(
        found=found,
        number_names=tuple(names),
        matrix=matrix,
        strings={name: strings[name] for name in texts},
        digests=digests,
        examples_of={name: str(strings[name][0]) for name in texts},
    )
    return store, bad


def _read_array(
    name: str, array: np.ndarray, found: columns.FeatureColumns
) -> dict[str, np.ndarray]:
    """{column: numbers, or StringDType} of those that were asked for."""
    if array.ndim > 2 or array.dtype.kind not in "biufUSOT":
        raise array_labels.BadArrayError(
            f"expected numbers, [n] or [n, d], or strings, [n]. Received "
            f"{array_labels.describe(array)}."
        )
    wanted = [column for column in name_columns(name, array) if column in found.names]
    asked = {found.kinds.get(column) for column in wanted} - {None}
    is_text = array.dtype.kind in "USOT"
    if is_text and (array.ndim > 1 or columns.NUMBER in asked):
        raise array_labels.BadArrayError(
            f"expected numbers. Received {array_labels.describe(array)}."
        )
    if is_text or columns.STRING in asked:
        values = array[:, np.newaxis] if array.ndim == 1 else array
        texts = [
            [array_labels.read_text(value, row) for row, value in enumerate(column)]
            for column in values.T.tolist()
        ]
        return {
            column: np.array(cells, columns.STRINGS)
            for column, cells in zip(name_columns(name, array), texts, strict=True)
            if column in wanted
        }
    by_name = dict(zip(name_columns(name, array), np.atleast_2d(array.T), strict=True))
    return {column: by_name[column] for column in wanted}


def _stack(
    numbers: list[np.ndarray], strings: list[np.ndarray]
) -> tuple[columns.Matrix, np.ndarray]:
    """(the numbers as a matrix, the digests of the rows)."""
    num_rows = len((numbers or strings)[0])
    wide = any(
        feature_cells.needs_float64(column[np.isfinite(column)].astype(np.float64))
        for column in numbers
    )
    writer = columns.MatrixWriter(len(numbers), np.float64 if wide else np.float32)
    digests = []
    for start in range(0, num_rows, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, num_rows)
        chunk = np.empty((stop - start, len(numbers)))
        for place, column in enumerate(numbers):
            chunk[:, place] = column[start:stop]
        writer.write(chunk)
        texts = [column[start:stop].tolist() for column in strings]
        rows = [list(row) for row in zip(*texts, strict=True)] or [[] for _ in chunk]
        digests.append(row_keys.hash_features(chunk, rows))
    return writer.finish(np.arange(num_rows)), np.concatenate(digests)
