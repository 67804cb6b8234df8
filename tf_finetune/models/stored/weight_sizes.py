"""How large the stored weights of each layer are, read without their values and without Keras.

One idea: an HDF5 file says the shape of each array in its header. A layer of the graph finds its
arrays by name in an .h5 (a group per layer, arrays of a nested model named after its layers), by
class and position in a .keras.

Reference: keras/src/legacy/saving/legacy_h5_format.py and keras/src/saving/saving_lib.py of
Keras 3.15.
"""

import contextlib
import dataclasses
import io
import math
import os
import re
import shutil
import tempfile
import typing
import zipfile
from collections.abc import Iterator

import h5py
import numpy as np

from tf_finetune.models.stored import stored_graph, stored_weights

_KERAS3_ROOTS = ("layers", "_layer_checkpoint_dependencies")
# States of random layers, which are saved but are no weights.
_SEEDS = re.compile(r"(^|/)(seed_generator|generator|random_generator)(/|$)")
_ZIP_HEADER_SIZE = 30


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """One array of a file.

    Attributes:
      name: as stored, for example "conv/kernel:0".
      shape: of the array.
      dtype: of the array, for example "float32".
      key: where it stands in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    key: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


# (layer or group name, its arrays), in the file's order
StoredLayerWeights = tuple[str, tuple[StoredWeight, ...]]


@dataclasses.dataclass(frozen=True)
class WeightsOnly:
    """A file of weights without the layers they belong to.

    Attributes:
      layers: those that have weights.
      keras_version: that wrote it; None where the file tells none, as Keras 3's.
      backend: of that Keras; None where the file tells none.
      writer: for people, for example "Keras 2.4.0".
    """

    layers: tuple[StoredLayerWeights, ...]
    keras_version: str | None
    backend: str | None
    writer: str


class WeightFile:
    """The arrays of an open file, by layer."""

    def __init__(self, file: h5py.File, renamed: dict[str, str]):
        self._file = file
        self._renamed = renamed
        self._by_path: dict[tuple[str, ...], list[StoredWeight]] = {}

    def assign(self, graph: stored_graph.Graph) -> None:
        """Finds the arrays of each layer of a graph.

        Args:
          graph: of the whole model.
        """
        root = next((self._file[name] for name in _KERAS3_ROOTS if name in self._file), None)
        if root is not None and "model_weights" not in self._file:
            self._assign_keras3(graph, root)
        else:
            self._assign_legacy(graph)

    def weights_of(self, layer: stored_graph.Layer) -> list[StoredWeight]:
        """The arrays of one layer.

        Args:
          layer: of a graph that `assign` has seen, nested or not.

        Returns:
          Its arrays in the file's order, those of all inner layers where it is a model.
        """
        found = list(self._by_path.get(layer.path, ()))
        if layer.graph is not None:
            for inner in layer.graph.layers:
                found += self.weights_of(inner)
        return found

    def read(self, weight: StoredWeight) -> np.ndarray:
        """Reads one array.

        Args:
          weight: of this file.

        Returns:
          Its values.

        Raises:
          OSError: the file is damaged.
        """
        return np.asarray(self._file[weight.key])

    def describe(self) -> WeightsOnly:
        """Everything in the file, for one that has no graph.

        Returns:
          Its layers with weights, and what wrote it.
        """
        attributes = self._file.attrs
        version, backend = attributes.get("keras_version"), attributes.get("backend")
        groups: dict[str, list[StoredWeight]] = {}
        if stored_weights.has_keras3_weights(self._file):
            for weight in _arrays_below(self._file):
                group = weight.name.rpartition("/vars/")[0] or weight.name.rpartition("/")[0]
                groups.setdefault(group, []).append(weight)
            writer = "Keras 3"
        else:
            groups = self._read_legacy()
            version = stored_weights.as_text(version) if version is not None else "1"
            writer = f"Keras {version}"
        return WeightsOnly(
            tuple((name, tuple(weights)) for name, weights in groups.items() if weights),
            None if version is None else stored_weights.as_text(version),
            None if backend is None else stored_weights.as_text(backend),
            writer,
        )

    def _stored_name(self, layer: stored_graph.Layer) -> str:
        return self._renamed.get("/".join(layer.path), layer.path[-1])

    def _root(self) -> typing.Any:
        return self._file.get("model_weights", self._file)

    def _read_legacy(self) -> dict[str, list[StoredWeight]]:
        root = self._root()
        return {
            name: [
                _describe(weight, root[name][weight])
                for weight in stored_weights.read_names(root[name], "weight_names")
            ]
            for name in stored_weights.read_names(root, "layer_names")
        }

    def _assign_legacy(self, graph: stored_graph.Graph) -> None:
        top = {self._stored_name(layer): layer for layer in graph.layers}
        leaves = {self._stored_name(leaf): leaf for leaf in _leaves(graph)}
        groups = self._read_legacy()
        # Models whose names are not stored come in the file's order.
        nameless = [layer for layer in graph.layers if not self._stored_name(layer)]
        left = [name for name, weights in groups.items() if weights and name not in top]
        top |= dict(zip(left, nameless, strict=False))
        for name, weights in groups.items():
            # Keras 1 wrote the layers of nested models side by side.
            layer = top.get(name) or leaves.get(name)
            if layer is None:
                continue
            if layer.graph is None:
                self._by_path[layer.path] = weights
            else:
                named = [(self._stored_name(leaf), leaf) for leaf in _leaves(layer.graph)]
                self._by_path.update(_share_out(weights, named))

    def _assign_keras3(self, graph: stored_graph.Graph, root: h5py.Group) -> None:
        used: dict[str, int] = {}
        for layer in graph.layers:
            sequential_input = graph.class_name == "Sequential" and not layer_counts(layer)
            if layer.is_operation or sequential_input:
                continue
            key = _snake_case(layer.class_name)
            number = used.get(key, 0)
            used[key] = number + 1
            group = root.get(f"{key}_{number}" if number else key)
            if group is None:
                continue
            inner = next((group[name] for name in _KERAS3_ROOTS if name in group), None)
            if layer.graph is not None and inner is not None:
                self._assign_keras3(layer.graph, inner)
            else:
                self._by_path[layer.path] = _arrays_below(group)


def layer_counts(layer: stored_graph.Layer) -> bool:
    """Whether --freeze counts a layer.

    Args:
      layer: of a graph.

    Returns:
      False for inputs and for operations of keras.ops.
    """
    return layer.class_name != "InputLayer" and not layer.is_operation


@contextlib.contextmanager
def open_weights(path: str, *, renamed: dict[str, str] | None = None) -> Iterator[WeightFile]:
    """Opens the weights of an .h5 or .keras file.

    Args:
      path: the file; its bytes count, not its name.
      renamed: path of a layer -> its name in the file, where they differ, as in
        `stored_model.StoredModel`.

    Yields:
      The open file.

    Raises:
      OSError: it cannot be read, or is damaged.
      KeyError: it lacks what it names.
      zipfile.BadZipFile: it is a damaged archive.
    """
    with contextlib.ExitStack() as stack:
        source: typing.Any = path
        if zipfile.is_zipfile(path):
            source = stack.enter_context(_open_member(path, "model.weights.h5"))
        yield WeightFile(stack.enter_context(h5py.File(source, "r")), renamed or {})


def read_weights_only(path: str) -> WeightsOnly | None:
    """Reads what a file of weights holds.

    Args:
      path: any file.

    Returns:
      Its layers; None where it is another kind of file, or damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            legacy = stored_weights.read_names(file, "layer_names")
            if "model_config" in file.attrs:
                return None
            if not legacy and not stored_weights.has_keras3_weights(file):
                return None
            return WeightFile(file, {}).describe()
    except (OSError, KeyError, RuntimeError, ValueError):
        # Said by whoever reads it as a model.
        return None


@contextlib.contextmanager
def _open_member(path: str, name: str) -> Iterator[typing.BinaryIO]:
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
        if info.compress_type == zipfile.ZIP_STORED:
            # As Keras writes it: read in place. ZipExtFile would read all that a seek passes.
            with open(path, "rb") as file:
                file.seek(info.header_offset)
                header = file.read(_ZIP_HEADER_SIZE)
                lengths = (
                    int.from_bytes(header[26:28], "little"),
                    int.from_bytes(header[28:30], "little"),
                )
                start = info.header_offset + _ZIP_HEADER_SIZE + sum(lengths)
                yield typing.cast(typing.BinaryIO, _Window(file, start, info.file_size))
        else:
            with tempfile.TemporaryFile() as copy, archive.open(info) as member:
                shutil.copyfileobj(member, copy)
                yield typing.cast(typing.BinaryIO, copy)


class _Window(io.RawIOBase):
    """A part of a file, as a file of its own."""

    def __init__(self, file: typing.BinaryIO, start: int, size: int):
        super().__init__()
        self._file = file
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: typing.Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._start + self._position)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _describe(name: str, array: typing.Any) -> StoredWeight:
    return StoredWeight(name, tuple(array.shape), str(array.dtype), array.name)


def _arrays_below(group: typing.Any) -> list[StoredWeight]:
    found: list[StoredWeight] = []

    def visit(name: str, item: typing.Any) -> None:
        if isinstance(item, h5py.Dataset) and not _SEEDS.search(name):
            found.append(_describe(name, item))

    group.visititems(visit)
    # As text "10" would come before "2".
    return sorted(found, key=lambda weight: _natural(weight.name))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part or 0), rest) for part, rest in re.findall(r"(\d*)(\D*)", name)]


def _snake_case(class_name: str) -> str:
    # As keras/src/utils/naming.py.
    name = re.sub(r"\W+", "", class_name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _leaves(graph: stored_graph.Graph) -> Iterator[stored_graph.Layer]:
    for layer in graph.layers:
        if layer.graph is None:
            yield layer
        else:
            yield from _leaves(layer.graph)


def _share_out(
    weights: list[StoredWeight], leaves: list[tuple[str, stored_graph.Layer]]
) -> dict[tuple[str, ...], list[StoredWeight]]:
    """Gives the arrays of a nested model to its layers, by name, else by order."""
    shared: dict[tuple[str, ...], list[StoredWeight]] = {}
    strange: dict[str, list[StoredWeight]] = {}
    for weight in weights:
        leaf = _best_leaf(weight.name, leaves)
        if leaf is None:
            strange.setdefault(weight.name.rpartition("/")[0], []).append(weight)
        else:
            shared.setdefault(leaf.path, []).append(weight)
    # Keras 1 and 2 made names unique per session, so they may not be those of the layers.
    without = [leaf for _, leaf in leaves if _keeps_weights(leaf) and leaf.path not in shared]
    if len(without) == len(strange):
        for leaf, group in zip(without, strange.values(), strict=True):
            shared[leaf.path] = group
    elif without:
        shared[without[0].path] = [weight for group in strange.values() for weight in group]
    return shared


def _best_leaf(
    name: str, leaves: list[tuple[str, stored_graph.Layer]]
) -> stored_graph.Layer | None:
    best, score = None, (-1, 0)
    slashed = f"/{name}"
    for own, leaf in leaves:
        if f"/{own}/" in slashed or name.startswith(f"{own}_"):
            levels = sum(f"/{level}/" in slashed for level in (*leaf.path[:-1], own))
            if (levels, len(own)) > score:
                best, score = leaf, (levels, len(own))
    return best


def _keeps_weights(layer: stored_graph.Layer) -> bool:
    name = layer.class_name
    kinds = ("Conv", "Dense", "Normalization", "LSTM", "GRU", "RNN", "Embedding", "PReLU")
    wrappers = ("Bidirectional", "TimeDistributed", "Attention", "LayerScale")
    return any(kind in name for kind in (*kinds, *wrappers)) and name != "UnitNormalization"
