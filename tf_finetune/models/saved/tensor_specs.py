"""What is known of a tensor without its values, and of nested tensors, without Keras.

One idea: a SavedModel is described by its file and by what TensorFlow restores. Both are brought
into these values, on which one set of rules works.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Spec:
    """A tensor.

    Attributes:
      dtype: for example "float32" or "string".
      shape: None inside: any size; None: any rank.
    """

    dtype: str
    shape: tuple[int | None, ...] | None

    @property
    def is_float(self) -> bool:
        """It holds floats of any precision."""
        return "float" in self.dtype

    @property
    def is_integer(self) -> bool:
        """It holds whole numbers, signed or not."""
        return self.dtype.startswith(("int", "uint"))

    def __str__(self) -> str:
        """For the user, for example "float32 [?, 128, 128, 3]"."""
        if self.shape is None:
            return f"{self.dtype} of any shape"
        return f"{self.dtype} [{', '.join('?' if n is None else str(n) for n in self.shape)}]"


# A leaf that stands for several tensors (ragged, sparse).
OTHER = object()
NamedSpecs = tuple[tuple[str, Spec], ...]


def name_leaves(structure: Any, *, kind: str = "output") -> list[tuple[str, Any]]:
    """Names the tensors of a nested structure.

    Args:
      structure: nested dicts and lists.
      kind: what the tensors are.

    Returns:
      (name, leaf) pairs in the order of TensorFlow and Keras, dicts by sorted keys: keys joined by
      "/", KIND_N for elements of a list; KIND alone.
    """
    return [("/".join(parts) or kind, leaf) for parts, leaf in _walk(structure, kind)]


def _walk(structure: Any, kind: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(structure, Mapping):
        items = [(str(key), structure[key]) for key in sorted(structure)]
    elif isinstance(structure, list | tuple):
        items = [(f"{kind}_{index}", value) for index, value in enumerate(structure)]
    else:
        yield (), structure
        return
    for name, value in items:
        for parts, leaf in _walk(value, kind):
            yield (name, *parts), leaf
