"""Labels in an array as the cells of a label column.

One idea: from here on a label is what it would be in a table, so a class number is a name in
decimal, or with --classes the name at that place, and NaN or None is no label.
"""

from typing import Any

import numpy as np

from tf_finetune import findings
from tf_finetune.data import examples, json_rows, known_names


class BadArrayError(ValueError):
    """What is wrong with an array; the text follows its name.

    Attributes:
      row: place of the example that it is about, or None.
    """

    def __init__(self, message: str, *, row: int | None = None):
        super().__init__(message)
        self.row = row


def refuse(error: BadArrayError, *, flag: str, name: str) -> findings.RefusedError:
    """An error about one of the arrays, for its user.

    Args:
      error: what is wrong.
      flag: the argument that it was handed over in.
      name: of the array.

    Returns:
      The error to raise.
    """
    place = flag if error.row is None else f"{flag}, example {error.row}"
    text = f"{place}: '{findings.one_line(name)}': {error}"
    return findings.RefusedError(findings.Problem(text, flag=f"--{flag}"))


def to_cells(array: np.ndarray, *, classes: tuple[str, ...]) -> np.ndarray:
    """Reads the labels of examples.

    Args:
      array: [n] or [n, 1] of whole numbers (classes, or numbers to predict), floats, bools, text or
        bytes in UTF-8; object [n] of these, of tuples or lists of names, or None; or [n, classes]
        of 0 and 1, where a row of exactly one 1 everywhere is one label and not a set of them.
      classes: names of --classes; whole numbers that are none of them are places in it.

    Returns:
      object [n] of str, or of tuples of str; "" is a missing label.

    Raises:
      BadArrayError: another shape or dtype, an infinite number, or bytes that are not UTF-8.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.dtype.kind in "biuf":
        return known_names.name_numbers(_read_matrix(array), classes)
    if array.ndim == 2 and array.dtype.kind in "USOT":
        array = examples.object_array([tuple(row) for row in array.tolist()])
    if array.ndim != 1 or array.dtype.kind not in "biufUSOT":
        raise BadArrayError(
            "expected a label for each example, [n], or a 0 or 1 for each class, [n, classes]. "
            f"Received {describe(array)}."
        )
    return known_names.name_numbers(_read_cells(array), classes)


def describe(array: np.ndarray) -> str:
    """What an array is, for messages.

    Args:
      array: any.

    Returns:
      For example "float32 [100, 28, 28]".
    """
    return f"{array.dtype} {list(array.shape)}"


def _read_matrix(array: np.ndarray) -> np.ndarray:
    if not np.isin(array, (0, 1)).all():
        raise BadArrayError(
            "expected 0 and 1 in a matrix of labels, a column for each class. Received other "
            "numbers."
        )
    present = array == 1
    if (present.sum(axis=1) == 1).all():
        return examples.object_array([str(place) for place in present.argmax(axis=1)])
    return examples.object_array(
        [tuple(str(place) for place in np.flatnonzero(row)) for row in present]
    )


def _read_cells(array: np.ndarray) -> np.ndarray:
    values = array.tolist()
    if array.dtype.kind == "f":
        infinite = np.flatnonzero(np.isinf(array))
        if len(infinite):
            raise BadArrayError("expected a finite number. Received inf.", row=int(infinite[0]))
        known = ~np.isnan(array)
        if (array[known] == np.floor(array[known])).all():
            values = [int(value) if value == value else None for value in values]
        else:
            # The shortest text that means the same number of this dtype.
            values = [str(value) if value == value else None for value in array]
    return examples.object_array([_read_cell(value, row) for row, value in enumerate(values)])


def to_plain(value: Any) -> Any:
    """A cell without what is its process's own or too long to be printed whole.

    Args:
      value: any.

    Returns:
      A tuple of a set, in an order that no hash seed changes; a list of an array; all else as it
      is.
    """
    if isinstance(value, set | frozenset):
        return tuple(sorted(value, key=repr))
    return value.tolist() if isinstance(value, np.ndarray) else value


def _read_cell(value: Any, row: int) -> str | tuple[str, ...]:
    value = to_plain(value)
    if isinstance(value, list | tuple):
        names = [_read_name(name, row) for name in value]
        # Repeats too: a set of classes has none, and a tag for each word has.
        return json_rows.ListCell.make(name for name in names if name)
    return _read_name(value, row)


def _read_name(value: Any, row: int) -> str:
    return read_text(value, row).strip()


def _is_missing(value: Any) -> bool:
    if value is None or isinstance(value, str | bytes) or hasattr(value, "__len__"):
        return value is None
    try:
        return bool(value != value)
    except TypeError:  # pandas.NA, of which nobody knows whether it equals itself
        return True


def read_text(value: Any, row: int) -> str:
    """A value as text.

    Args:
      value: text, bytes in UTF-8, a number, a bool or None.
      row: place of its example, for messages.

    Returns:
      The text; "true" or "false" of a bool, "" of None, NaN and pandas.NA.

    Raises:
      BadArrayError: it is another thing, bytes that are not UTF-8, or half of a character.
    """
    if _is_missing(value):
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, str | int | float | np.integer | np.floating):
            text = str(value)
            text.encode()
            return text
    except UnicodeError as error:
        raise BadArrayError("its text is not UTF-8.", row=row) from error
    shown = findings.one_line(type(value).__name__)
    raise BadArrayError(f"expected a number or text. Received {shown}.", row=row)
