"""A column of cells that grows, in little memory.

One idea: labels repeat. While a column has few different cells each is kept once and a row is a
number; a column of many, such as ids, is packed by NumPy.
"""

from collections.abc import Sequence

import numpy as np

from tf_finetune.data import columns, csv_rows, examples, growing_array, json_rows

_MAX_DIFFERENT = 2**16
_CHUNK_ROWS = 2**14
_PACKED = -1


class CellColumn:
    """Takes the cells of a column a chunk at a time.

    Args:
      strip: labels lose the blanks around them; what a model gets stays as it is.
    """

    def __init__(self, *, strip: bool) -> None:
        self._strip = strip
        self._values: dict[json_rows.Cell, int] = {}
        self._codes = growing_array.GrowingArray(np.int32)
        self._packed: list[np.ndarray] = []

    def extend(self, cells: Sequence[json_rows.Cell]) -> None:
        """Adds cells.

        Args:
          cells: text, or tuples of names.
        """
        if self._strip:
            cells = [cell.strip() if isinstance(cell, str) else cell for cell in cells]
        several = any(isinstance(cell, tuple) for cell in cells)
        if len(self._values) <= _MAX_DIFFERENT or several:
            values = self._values
            numbers = [values.setdefault(cell, len(values)) for cell in cells]
            self._codes.extend(np.array(numbers, np.int32))
        else:
            self._codes.extend(np.full(len(cells), _PACKED, np.int32))
            self._packed.append(np.array(cells, columns.STRINGS))

    def texts(self, order: np.ndarray) -> np.ndarray:
        """The cells as they are; gives them away.

        Args:
          order: int64 [n], number of the cell that comes first, second and so on.

        Returns:
          StringDType [n].
        """
        table = np.array([str(cell) for cell in self._values], columns.STRINGS)
        return self._join(table, order)

    def labels(self, delimiter: str | None, order: np.ndarray) -> np.ndarray:
        """The cells as labels, see `csv_rows.to_labels`; gives them away.

        Args:
          delimiter: what joins several names in a cell; None: nothing does.
          order: int64 [n], number of the cell that comes first, second and so on.

        Returns:
          [n] of str, packed where there are very many; or, where some cell lists several names,
          object [n] of tuples.
        """
        is_split = delimiter is not None and any(
            isinstance(cell, str) and delimiter in cell for cell in self._different()
        )
        lists = any(isinstance(cell, tuple) for cell in self._values)
        if not is_split and not lists and any(map(len, self._packed)):
            return self.texts(order)
        values: list = list(self._values)
        if is_split and delimiter is not None:
            values = [_split(cell, delimiter) for cell in values]
            self._packed = [
                examples.object_array([_split(cell, delimiter) for cell in part.tolist()])
                for part in self._packed
            ]
        return self._join(examples.object_array(values), order)

    def _join(self, table: np.ndarray, order: np.ndarray) -> np.ndarray:
        """The cells in an order; `table` has the values, in the type of the result."""
        codes = self._codes.finish()
        if not self._packed:
            return _gather(table, codes, order)
        is_packed = codes == _PACKED
        # Behind the values, in the order in which they came.
        codes[is_packed] = len(table) + np.arange(int(is_packed.sum()), dtype=np.int32)
        packed = [part.astype(table.dtype) for part in self._packed]
        self._packed.clear()
        return _gather(np.concatenate([table, *packed]), codes, order)

    def _different(self) -> list[json_rows.Cell]:
        return [*self._values, *(text for part in self._packed for text in part.tolist())]


def _split(cell: json_rows.Cell, delimiter: str) -> json_rows.Cell:
    return csv_rows.split_cell(cell, delimiter) if isinstance(cell, str) else cell


def _gather(table: np.ndarray, codes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """table[codes[order]], without the places of all in memory."""
    gathered = np.empty(len(order), table.dtype)
    for start in range(0, len(order), _CHUNK_ROWS):
        gathered[start : start + _CHUNK_ROWS] = table[codes[order[start : start + _CHUNK_ROWS]]]
    return gathered
