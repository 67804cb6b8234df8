"""Labels of records as columns, which appear and miss as the records have them.

One idea: rows are kept only until there are some thousands of them, and then as cells of columns,
where a label that repeats costs four bytes.
"""

import numpy as np

from tf_finetune.data import cell_columns, examples, json_rows

_CHUNK_ROWS = 4096


class RecordColumns:
    """Takes the labels of records one after the other."""

    def __init__(self) -> None:
        self._columns: dict[str, cell_columns.CellColumn] = {}
        self._rows: list[dict[str, json_rows.Cell]] = []
        self._num_rows = 0

    def add(self, labels: dict[str, json_rows.Cell]) -> None:
        """Adds a record.

        Args:
          labels: {feature: label}; a record may lack some.
        """
        self._rows.append(labels)
        if len(self._rows) >= _CHUNK_ROWS:
            self._flush()

    def finish(self, order: np.ndarray) -> dict[str, np.ndarray]:
        """Gives the columns away.

        Args:
          order: int64 [n], number of the record that comes first, second and so on.

        Returns:
          {feature: [n]}, sorted by name: str, or object tuples of str where some record has
          several. A label that a record lacks is "".
        """
        self._flush()
        columns = {}
        for name in sorted(self._columns):
            cells = self._columns.pop(name).labels(None, order)
            columns[name] = _as_sets(cells) if _has_tuple(cells) else cells
        return columns

    def _flush(self) -> None:
        """Moves the rows to the columns."""
        names = dict.fromkeys(name for row in self._rows for name in row)
        for name in names.keys() - self._columns.keys():
            self._columns[name] = cell_columns.CellColumn(strip=False)
            # What came before has no such label.
            for start in range(0, self._num_rows, _CHUNK_ROWS):
                count = min(_CHUNK_ROWS, self._num_rows - start)
                self._columns[name].extend([""] * count)
        for name, column in self._columns.items():
            column.extend([row.get(name, "") for row in self._rows])
        self._num_rows += len(self._rows)
        self._rows = []


def _has_tuple(cells: np.ndarray) -> bool:
    return any(isinstance(cell, tuple) for cell in cells)


def _as_sets(cells: np.ndarray) -> np.ndarray:
    """Each cell as a tuple of names; equal names are one tuple."""
    sets: dict[json_rows.Cell, tuple[str, ...]] = {}
    taken = examples.object_array([()] * len(cells))
    for row, cell in enumerate(cells):
        if cell not in sets:
            sets[cell] = cell if isinstance(cell, tuple) else ((cell,) if cell else ())
        taken[row] = sets[cell]
    return taken
