"""Examples as features that a frozen prefix has made of them: in memory, or read from the disk.

One idea: to the pipeline features are one more kind of input, so that order, labels, weights and
strata of a batch are what they would be if the inputs themselves were read.
"""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Features of the examples of one split.

    Attributes:
      names: of the features, in order.
      shapes: of one example, in the same order.
      dtypes: names of TensorFlow, in the same order.
      size: number of examples.
      arrays: {name: [rows, ...]}; None: they are read from the disk.
      read: function of rows (int64 [b]) to a list of [b, ...]; None: they are in memory.
      lengths: int32 [n], tokens of the texts they were made of, which group them into batches.
      num_views: each example has so many rows one after another, one of each view, see
        `augmentation.number_view`; None: one, of the example as it is.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    size: int
    arrays: dict[str, np.ndarray] | None = None
    read: Callable[[np.ndarray], list[np.ndarray]] | None = None
    lengths: np.ndarray | None = None
    num_views: int | None = None

    def __len__(self) -> int:
        return self.size
