"""Texts of examples, and what serving needs to know about them.

One idea: a text reaches the model as it stands in the data. Tokens are made inside the model's
graph, so nothing here cuts, folds or cleans, and there is nothing that serving could do otherwise.
"""

import dataclasses
from typing import Any

import numpy as np

INPUT = "text"
# Batches whose texts are sorted by length together.
WINDOW_BATCHES = 50


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """Texts in memory.

    Attributes:
      texts: object [n] of str, encodable as UTF-8.
      column: name of the column that they stood in.
      lengths: int32 [n], tokens of each text; None: not known, or the model pads every text to the
        same length, so that nothing is gained by batches of like length.
    """

    texts: np.ndarray
    column: str = INPUT
    lengths: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts)


@dataclasses.dataclass(frozen=True)
class TextSpec:
    """What stands in the place of a PreprocessingSpec where the examples are texts.

    Attributes:
      column: name of the column that held the texts, where predict looks for them too.
      kind: "text".
    """

    column: str = INPUT
    kind: str = "text"

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values.

        Returns:
          What JSON can hold and `preprocessing.read_input_spec` reads.
        """
        return dataclasses.asdict(self)


def shorten(text: str, *, limit: int = 40) -> str:
    """The beginning of a text, for messages.

    Args:
      text: any.
      limit: most characters, at least 1.

    Returns:
      The text, or its first characters and "..."; line ends are spaces.
    """
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def sort_by_length(lengths: np.ndarray) -> np.ndarray:
    """The order in which texts are evaluated or predicted with little padding.

    Args:
      lengths: int [n].

    Returns:
      int64 [n]: the row of the longest text first, so that what does not fit into memory is known
      at once; rows of equal length keep their order.
    """
    return np.argsort(-np.asarray(lengths, np.int64), kind="stable")
