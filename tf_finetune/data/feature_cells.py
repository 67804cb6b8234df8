"""Cells of feature columns, as the numbers and strings that a model takes.

One idea: training and predict read a cell the same way, so both ask the parser here; what each of
them says of a bad row it makes of the fault's fields.
"""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tf_finetune import findings
from tf_finetune.data import column_names, columns, json_rows

# Whole numbers beyond it are not all float32.
_MAX_EXACT = 2**24
_LIST = "Received a list"


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with the cells of a row.

    Attributes:
      message: one line without a full stop: of the first bad cell.
      is_missing: a number is missing there, which is no mistake of the table.
    """

    message: str
    is_missing: bool = False


class FeatureParser:
    """Turns cells into numbers and strings; training and predict both ask it.

    Args:
      names: the table's columns.
      kinds: {feature column: columns.NUMBER or STRING}.
    """

    def __init__(self, names: Sequence[str], kinds: dict[str, str]):
        place = {name: number for number, name in enumerate(names)}
        self.number_names = [name for name, kind in kinds.items() if kind == columns.NUMBER]
        self.string_names = [name for name, kind in kinds.items() if kind == columns.STRING]
        self._number_places = [place[name] for name in self.number_names]
        self._string_places = [place[name] for name in self.string_names]
        self._pick = _make_picker(self._number_places)

    def parse(
        self, rows: Sequence[list[Any]]
    ) -> tuple[np.ndarray, list[list[str]], dict[int, Fault]]:
        """Cells of some rows.

        Args:
          rows: cells, as many in each as there are columns.

        Returns:
          (float64 [n, number columns], the string cells of each row, {row: what is wrong with
          it}); what a bad row holds means nothing.
        """
        wrong: dict[int, Fault] = {}
        numbers = np.zeros((len(rows), len(self._number_places)))
        if self._number_places:
            for row, cells in enumerate(rows):
                picked = self._pick(cells)
                try:
                    numbers[row] = list(map(float, picked))
                except (TypeError, ValueError):
                    wrong[row] = self._find_wrong(cells)
                else:
                    if "_" in "".join(picked):  # Python reads 1_000, no other program does
                        wrong[row] = self._find_wrong(cells)
            for row in np.flatnonzero(~np.isfinite(numbers).all(axis=1)).tolist():
                wrong[row] = self._find_wrong(rows[row])
        strings = [[cells[place] for place in self._string_places] for cells in rows]
        for row, values in enumerate(strings):
            for name, value in zip(self.string_names, values, strict=True):
                if isinstance(value, tuple):
                    shown = findings.one_line(name)
                    wrong[row] = Fault(f"column '{shown}': expected text. {_LIST}")
        return numbers, strings, wrong

    def _find_wrong(self, cells: list[Any]) -> Fault:
        for name, place in zip(self.number_names, self._number_places, strict=True):
            if not _is_number(cells[place]):
                return _describe_cell(name, cells[place])
        return Fault("expected numbers")


def _is_number(cell: json_rows.Cell) -> bool:
    return isinstance(cell, str) and column_names.is_number(cell)


def is_missing(cell: json_rows.Cell) -> bool:
    """Whether a cell of a column of numbers holds none, and says so.

    Args:
      cell: text.

    Returns:
      True for an empty cell, nan and what programs write for it.
    """
    return isinstance(cell, str) and cell.strip().lower() in ("", "nan", "na", "n/a", "null")


def _describe_cell(name: str, cell: json_rows.Cell) -> Fault:
    shown = f"column '{findings.one_line(name)}'"
    if isinstance(cell, tuple):
        return Fault(f"{shown}: expected a number. {_LIST}")
    if is_missing(cell):
        return Fault(f"{shown} has no number", is_missing=True)
    return Fault(f"{shown}: expected a number. Received '{findings.one_line(cell)[:80]}'")


def _make_picker(places: list[int]) -> Callable[[Sequence], Sequence[str]]:
    if len(places) == 1:
        place = places[0]
        return lambda cells: (cells[place],)
    if places and places == list(range(places[0], places[-1] + 1)):
        first, last = places[0], places[-1] + 1
        return lambda cells: cells[first:last]
    return operator.itemgetter(*places) if places else lambda cells: ()


def is_odd(cell: json_rows.Cell) -> bool:
    """Whether a cell makes its column one of strings.

    Args:
      cell: text, or a list.

    Returns:
      True of what is neither a number nor says that there is none.
    """
    return not _is_number(cell) and not is_missing(cell)


def needs_float64(numbers: np.ndarray) -> bool:
    """Whether float32 would change whole numbers.

    Args:
      numbers: finite, of any shape.

    Returns:
      True if some whole number is no float32.
    """
    if not numbers.size or np.abs(numbers).max() <= _MAX_EXACT:
        return False
    large = numbers[np.abs(numbers) > _MAX_EXACT]
    return bool(((large == np.floor(large)) & (large != large.astype(np.float32))).any())
