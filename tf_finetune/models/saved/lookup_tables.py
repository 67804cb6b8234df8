"""Tables of a restored module whose content is among its variables.

One idea: a vocabulary that was learned (TextVectorization.adapt of TensorFlow 2.3 to 2.5, any
MutableHashTable) is neither in the graph nor in its assets: TensorFlow saves it as a checkpoint
does a variable. A model.keras has the graph without the checkpoint, so the content goes with it, as
plain arrays.

Reference: tensorflow/python/training/saving/saveable_object_util.py (`RestoredSaveableObject`).
"""

import os
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

FILE = "tables.npz"


def find_tables(trackables: Sequence[Any]) -> list[Any]:
    """The tables whose content a checkpoint holds.

    Args:
      trackables: `RestoredModule.trackables`.

    Returns:
      What can save and restore their content, in the order of the graph's objects.
    """
    return [
        factory(name=f"table_{number}")
        for number, item in enumerate(trackables)
        for factory in (getattr(item, "_self_saveable_object_factories", None) or {}).values()
    ]


def copy_tables(source: Sequence[Any], target: Sequence[Any]) -> None:
    """Gives the tables of one module the content of those of another.

    Args:
      source: `RestoredModule.trackables` of one.
      target: of another, restored from the same graph.
    """
    for table, copy in zip(find_tables(source), find_tables(target), strict=True):
        copy.restore([spec.tensor for spec in table.specs], None)


def write_tables(trackables: Sequence[Any], folder: str) -> None:
    """Writes the content of all tables; no file where there are none.

    Args:
      trackables: `RestoredModule.trackables`.
      folder: an existing folder.

    Raises:
      OSError: it cannot be written.
    """
    arrays: dict[str, Any] = {}
    for number, table in enumerate(find_tables(trackables)):
        for part, spec in enumerate(table.specs):
            name = f"{number}_{part}"
            values = spec.tensor.numpy()
            if spec.tensor.dtype == tf.string:
                # NumPy's own strings lose zeros at their end, and pickles are never read.
                flat = [bytes(value) for value in values.ravel()]
                arrays[f"{name}_lengths"] = np.array([len(value) for value in flat], np.int64)
                arrays[f"{name}_shape"] = np.array(values.shape, np.int64)
                values = np.frombuffer(b"".join(flat), np.uint8)
            arrays[name] = values
    if arrays:
        np.savez(os.path.join(folder, FILE), **arrays)


def read_tables(trackables: Sequence[Any], folder: str) -> None:
    """Fills all tables with what `write_tables` wrote.

    Args:
      trackables: `RestoredModule.trackables` of the same graph.
      folder: where the file lies.

    Raises:
      ValueError: there are tables and no file, or it does not hold their content.
    """
    tables = find_tables(trackables)
    if not tables:
        return
    path = os.path.join(folder, FILE)
    try:
        with zipfile.ZipFile(path) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise ValueError(f"{FILE} is compressed, as this program writes none.")
        with np.load(path, allow_pickle=False) as arrays:
            for number, table in enumerate(tables):
                parts = range(len(table.specs))
                table.restore([_read(arrays, f"{number}_{part}") for part in parts], None)
    except (
        *(OSError, KeyError, TypeError, MemoryError),
        *(zipfile.BadZipFile, tf.errors.OpError),
    ) as error:
        raise ValueError(f"The content of its tables is not in {FILE}: {error}") from error


def _read(arrays: Any, name: str) -> tf.Tensor:
    if f"{name}_lengths" not in arrays:
        return tf.constant(arrays[name])
    data, lengths = arrays[name].tobytes(), arrays[f"{name}_lengths"]
    ends = np.cumsum(lengths)
    flat = [data[start:end] for start, end in zip(ends - lengths, ends, strict=True)]
    return tf.reshape(tf.constant(flat, tf.string), arrays[f"{name}_shape"])
