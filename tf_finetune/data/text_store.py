"""Texts of examples, and what serving needs to know about them.

One idea: a text reaches the model as it stands in the data. Tokens are made inside the model's
graph, so nothing here cuts, folds or cleans, and there is nothing that serving could do otherwise.
"""

import dataclasses
from typing import Any

import numpy as np

INPUT = "text"


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """Texts in memory.

    Attributes:
      texts: object [n] of str, encodable as UTF-8.
      column: name of the column that they stood in.
    """

    texts: np.ndarray
    column: str = INPUT

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
