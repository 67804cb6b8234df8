"""A column of cells that grows, in little memory.

One idea: labels repeat. While a column has few different cells each is kept once and a row is a
number; a column of many, such as ids, is packed by NumPy.
"""

from collections.abc import Sequence

import numpy as np

from tf_finetune.data import columns, csv_rows, examples, json_rows

_MAX_DIFFERENT = 2**16


class CellColumn:
    """Takes the cells of a column a chunk at a time.

    Args:
      strip: labels lose the blanks around them; what a model gets stays as it is.
    """

    def __init__(self, *, strip: bool) -> None:
        self._strip = strip
        self._codes: dict[json_rows.Cell, int] = {}
        self._coded: list[np.ndarray] = []
        self._packed: list[np.ndarray] = []

    def extend(self, cells: Sequence[json_rows.Cell]) -> None:
        """Adds cells.

        Args:
          cells: text, or tuples of names.
        """
        if self._strip:
            cells = [cell.strip() if isinstance(cell, str) else cell for cell in cells]
        several = any(isinstance(cell, tuple) for cell in cells)
        if len(self._codes) <= _MAX_DIFFERENT or several:
            codes = self._codes
            numbers = [codes.setdefault(cell, len(codes)) for cell in cells]
            self._add(np.array(numbers, np.int32), is_code=True)
        else:
            self._add(np.array(cells, columns.STRINGS), is_code=False)

    def _add(self, part: np.ndarray, *, is_code: bool) -> None:
        # In the order of the file, whichever form a chunk has.
        self._coded.append(part if is_code else np.empty(0, np.int32))
        self._packed.append(np.empty(0, columns.STRINGS) if is_code else part)

    def texts(self) -> np.ndarray:
        """The cells as they are.

        Returns:
          StringDType [n].
        """
        values = np.array([str(cell) for cell in self._codes], columns.STRINGS)
        parts = [
            values[coded] if len(coded) else packed
            for coded, packed in zip(self._coded, self._packed, strict=True)
        ]
        return np.concatenate([np.empty(0, columns.STRINGS), *parts])

    def labels(self, delimiter: str | None) -> np.ndarray:
        """The cells as labels, see `csv_rows.to_labels`.

        Args:
          delimiter: what joins several names in a cell; None: nothing does.

        Returns:
          [n] of str, packed where there are very many; or, where some cell lists several names,
          object [n] of tuples.
        """
        is_split = delimiter is not None and any(
            isinstance(cell, str) and delimiter in cell for cell in self._different()
        )
        lists = any(isinstance(cell, tuple) for cell in self._codes)
        if not is_split and not lists and any(map(len, self._packed)):
            return self.texts()
        values: list = list(self._codes)
        if is_split and delimiter is not None:
            values = [
                csv_rows.split_cell(cell, delimiter) if isinstance(cell, str) else cell
                for cell in values
            ]
        table = examples.object_array(values)
        parts = []
        for coded, packed in zip(self._coded, self._packed, strict=True):
            texts: list = packed.tolist()
            if is_split and delimiter is not None:
                texts = [csv_rows.split_cell(text, delimiter) for text in texts]
            parts.append(table[coded] if len(coded) else examples.object_array(texts))
        return np.concatenate(parts) if parts else examples.object_array([])

    def _different(self) -> list[json_rows.Cell]:
        return [*self._codes, *(text for part in self._packed for text in part.tolist())]
