"""What stands in the place of a PreprocessingSpec where a row has an image or a text and columns.

One idea: the image or the text is prepared as it is alone, and the columns as they are alone; this
only holds the two together, so that everything about one of them asks for its part.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from tf_finetune.data import columns

if TYPE_CHECKING:
    from tf_finetune.data import preprocessing, text_store

# Inputs of a model whose backbone takes the image or the text alone: the columns of numbers, and
# those of strings, in order.
NUMBERS, CATEGORIES = "numbers", "categories"


@dataclasses.dataclass(frozen=True)
class MixedSpec:
    """An image or a text, and columns of the same row.

    Attributes:
      main: what happens to the image, or a TextSpec.
      column: name of the column that held the image's path or the text.
      columns: the other inputs of the model and what feeds them.
      kind: "mixed".
    """

    main: "preprocessing.PreprocessingSpec | text_store.TextSpec"
    column: str
    columns: columns.ColumnsSpec
    kind: str = "mixed"

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values.

        Returns:
          What JSON can hold and `preprocessing.read_input_spec` reads.
        """
        return {
            "kind": self.kind,
            "main": self.main.to_dict(),
            "column": self.column,
            "columns": self.columns.to_dict(),
        }


def find_main(spec: Any) -> Any:
    """What is done to the image or the text.

    Args:
      spec: an InputSpec of any kind.

    Returns:
      The part of a MixedSpec; any other spec itself.
    """
    return spec.main if isinstance(spec, MixedSpec) else spec


def find_mixed(spec: Any) -> MixedSpec | None:
    """The spec itself where it is of an image or a text and columns.

    Args:
      spec: an InputSpec of any kind.

    Returns:
      The spec, or None.
    """
    return spec if isinstance(spec, MixedSpec) else None


def replace_main(spec: Any, main: Any) -> Any:
    """The reverse of `find_main`.

    Args:
      spec: an InputSpec of any kind.
      main: what stands in the place of `find_main(spec)`.

    Returns:
      A copy of a MixedSpec with another main; else `main`.
    """
    return dataclasses.replace(spec, main=main) if isinstance(spec, MixedSpec) else main


def find_columns(spec: Any) -> columns.ColumnsSpec | None:
    """Which columns feed which inputs.

    Args:
      spec: an InputSpec of any kind.

    Returns:
      The columns of a MixedSpec, a ColumnsSpec itself, None of images or texts alone.
    """
    if isinstance(spec, MixedSpec):
        return spec.columns
    return spec if isinstance(spec, columns.ColumnsSpec) else None
