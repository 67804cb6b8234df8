"""Some of the inputs of a store, as a store of their own."""

import dataclasses

import numpy as np

from tf_finetune.data import columns, image_stores, input_stores, text_store


@dataclasses.dataclass(frozen=True, eq=False)
class _MatrixRows:
    """Some rows of a matrix, see `columns.Matrix`."""

    matrix: columns.Matrix
    chosen: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.matrix.read(self.chosen[rows])


def select(store: input_stores.InputStore, rows: np.ndarray) -> input_stores.InputStore:
    """A store of some inputs; what they share is not copied.

    Args:
      store: of a source, as it was listed.
      rows: int64 [m], places in the store.

    Returns:
      A store of m inputs; input i is the one at rows[i].

    Raises:
      TypeError: the inputs can only be read one after another.
    """
    if isinstance(store, text_store.Texts):
        lengths = None if store.lengths is None else store.lengths[rows]
        return dataclasses.replace(store, texts=store.texts[rows], lengths=lengths)
    if isinstance(store, columns.Columns):
        return dataclasses.replace(
            store,
            matrix=_MatrixRows(store.matrix, rows),
            strings={name: cells[rows] for name, cells in store.strings.items()},
            digests=store.digests[rows],
        )
    if isinstance(store, image_stores.PathImages):
        return image_stores.PathImages(store.paths[rows])
    if isinstance(store, image_stores.SliceImages):
        names = ("files", "numbers", "offsets", "sizes", "footers")
        return dataclasses.replace(store, **{name: getattr(store, name)[rows] for name in names})
    if isinstance(store, image_stores.ArrayImages | image_stores.DecodedImages):
        return dataclasses.replace(store, pixels=store.pixels[rows])
    raise TypeError("A stream has no rows to choose from.")
