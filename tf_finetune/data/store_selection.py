"""Some of the inputs of a store as a store of their own, and some examples of a source."""

import dataclasses

import numpy as np

from tf_finetune.data import columns, examples, image_stores, input_stores, text_store


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
        return _select_rows(store, rows)
    if isinstance(store, image_stores.PathImages):
        return image_stores.PathImages(store.paths[rows])
    if isinstance(store, image_stores.SliceImages):
        names = ("files", "numbers", "offsets", "sizes", "footers")
        return dataclasses.replace(store, **{name: getattr(store, name)[rows] for name in names})
    if isinstance(store, image_stores.ArrayImages | image_stores.DecodedImages):
        return dataclasses.replace(store, pixels=store.pixels[rows])
    raise TypeError("A stream has no rows to choose from.")


def select_columns(store: columns.Columns | None, rows: np.ndarray) -> columns.Columns | None:
    """Some rows of the columns beside images or texts, where there are any.

    Args:
      store: the columns, or None.
      rows: int64 [m], places in the store.

    Returns:
      Columns of m rows, or None.
    """
    return None if store is None else _select_rows(store, rows)


def _select_rows(store: columns.Columns, rows: np.ndarray) -> columns.Columns:
    return dataclasses.replace(
        store,
        matrix=_MatrixRows(store.matrix, rows),
        strings={name: cells[rows] for name, cells in store.strings.items()},
        digests=store.digests[rows],
    )


def select_examples(part: examples.Examples, rows: np.ndarray) -> examples.Examples:
    """Some of the examples of a source.

    Args:
      part: the source.
      rows: int64 [m], which examples and in which order.

    Returns:
      The source with these examples alone.

    Raises:
      TypeError: its inputs can only be read one after another.
    """
    repeats = part.repeats
    if repeats is not None:
        # The first that is kept, where the first of all is not.
        _, first, place = np.unique(repeats[rows], return_index=True, return_inverse=True)
        repeats = first[place]
    return dataclasses.replace(
        part,
        keys=part.keys[rows],
        inputs=select(part.inputs, rows),
        features=select_columns(part.features, rows),
        labels={name: cells[rows] for name, cells in part.labels.items()},
        splits=_take(part.splits, rows),
        stamps=_take(part.stamps, rows),
        lines=_take(part.lines, rows),
        groups=_take(part.groups, rows),
        repeats=repeats,
    )


def _take(values: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if values is None else values[rows]
