"""What is odd about feature columns: one value only, numbers that stand for a missing one.

One idea: the numbers are read in chunks, and of a column stay its bounds and a few counts; a table
that does not fit the memory is examined in little of it.
"""

import collections
import dataclasses

import numpy as np

from tf_finetune import findings
from tf_finetune.data import columns, doctor_rows

_CHUNK_ROWS = 2**16
# What programs write where they have no number, if it is the least or the largest of a column.
_STAND_INS = (-99999.0, -9999.0, -999.0, -99.0, 999.0, 9999.0, 99999.0, 999999.0)
_FAR_TIMES = 10
_MIN_STAND_INS = 2


@dataclasses.dataclass
class NumberColumn:
    """A column of numbers.

    Attributes:
      low: the least number.
      high: the largest.
      inner_low: the least that is no stand-in for a missing number.
      inner_high: the largest that is none.
      stand_ins: {number that may stand for a missing one: how often}.
      first: {the same number: (line, row) where it stands first}.
    """

    low: float = np.inf
    high: float = -np.inf
    inner_low: float = np.inf
    inner_high: float = -np.inf
    stand_ins: collections.Counter[float] = dataclasses.field(default_factory=collections.Counter)
    first: dict[float, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def add(self, numbers: np.ndarray, rows: np.ndarray, lines: np.ndarray) -> None:
        """Takes the numbers of a chunk.

        Args:
          numbers: float [m]; NaN is passed over.
          rows: int64 [m], their rows.
          lines: int64 [m], their lines.
        """
        known = numbers[~np.isnan(numbers)]
        if not len(known):
            return
        self.low, self.high = min(self.low, known.min()), max(self.high, known.max())
        is_stand_in = np.isin(numbers, _STAND_INS)
        for place in np.flatnonzero(is_stand_in).tolist():
            number = float(numbers[place])
            self.stand_ins[number] += 1
            here = (int(lines[place]), int(rows[place]))
            self.first[number] = min(self.first.get(number, here), here)
        inner = numbers[~is_stand_in & ~np.isnan(numbers)]
        if len(inner):
            self.inner_low = min(self.inner_low, inner.min())
            self.inner_high = max(self.inner_high, inner.max())


def read_columns(store: columns.Columns, *, lines: np.ndarray | None) -> dict[str, NumberColumn]:
    """Reads all numbers of a table once.

    Args:
      store: the table.
      lines: int64 [n], of each row, or None.

    Returns:
      {column: what is known of it}, columns of numbers only.
    """
    found = {name: NumberColumn() for name in store.number_names}
    for start in range(0, len(store), _CHUNK_ROWS):
        rows = np.arange(start, min(start + _CHUNK_ROWS, len(store)))
        numbers = store.matrix.read(rows)
        for place, column in enumerate(found.values()):
            column.add(numbers[:, place], rows, rows if lines is None else lines[rows])
    return found


def find_odd_columns(
    rows: doctor_rows.Rows, store: columns.Columns, found: dict[str, NumberColumn]
) -> list[findings.Problem]:
    """Columns that can be used and should be looked at.

    Args:
      rows: the examples.
      store: the feature columns of the first source.
      found: of `read_columns`.

    Returns:
      Warnings: a column with a single value, at the first row; a number such as -999 that is far
      from all others of its column, at its first row.
    """
    if len(store) < 2:
        return []
    first = rows.sort(range(len(store)))[0]
    constant = [name for name, column in found.items() if column.low == column.high]
    constant += [name for name, cells in store.strings.items() if np.all(cells == cells[0])]
    problems = [
        rows.warn(
            first,
            f": column '{findings.one_line(name)}' has the same value in every row. Leave it out "
            "of --feature_columns.",
            flag="--feature_columns",
        )
        for name in constant
    ]
    for name, column in found.items():
        spread = column.inner_high - column.inner_low
        for number, count in sorted(column.stand_ins.items()):
            distance = max(column.inner_low - number, number - column.inner_high)
            if count < _MIN_STAND_INS or not distance > spread * _FAR_TIMES:
                continue
            text = (
                f": column '{findings.one_line(name)}' has {number:g} in {count} rows, and "
                f"{column.inner_low:g} to {column.inner_high:g} in the others. Does it stand for a "
                "missing number? Remove these rows or fill in a number."
            )
            problems.append(rows.warn(column.first[number][1], text))
    return problems


def find_repeated_digests(rows: doctor_rows.Rows) -> dict[int, bytes]:
    """Digests of the rows whose features are those of another row.

    Args:
      rows: the examples, of tables with feature columns.

    Returns:
      {row: digest}, see `duplicates.find_repeated`.
    """
    digests = np.concatenate(
        [
            part.inputs.digests
            for part in rows.parts.values()
            if isinstance(part.inputs, columns.Columns)
        ]
    )
    _, places, counts = np.unique(digests, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[places] > 1)
    return {int(row): digests[row].tobytes() for row in repeated}
