"""An array that grows while a file is read, without its parts and their sum in memory at once."""

import numpy as np

_FIRST_ROWS = 4096


class GrowingArray:
    """Takes numbers a few at a time.

    Args:
      dtype: NumPy type of an element.
    """

    def __init__(self, dtype: type) -> None:
        self._values: np.ndarray = np.empty(_FIRST_ROWS, dtype)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def extend(self, values: np.ndarray) -> None:
        """Adds numbers.

        Args:
          values: [m], cast to the array's type.
        """
        needed = self._size + len(values)
        if needed > len(self._values):
            # By an eighth: large memory is moved by the system, and what is not used yet is zeros
            # that count as memory all the same.
            self._values.resize(max(needed, len(self._values) * 9 // 8), refcheck=False)
        self._values[self._size : needed] = values
        self._size = needed

    def finish(self) -> np.ndarray:
        """Gives the numbers away; the array is empty again.

        Returns:
          [n] in the order in which they came.
        """
        values, self._values = self._values, np.empty(_FIRST_ROWS, self._values.dtype)
        values.resize(self._size, refcheck=False)
        self._size = 0
        return values
