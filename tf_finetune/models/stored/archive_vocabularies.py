"""The vocabularies that lookup layers of Keras 2 learned, read from a .keras archive's assets.

One idea: a layer that was adapted to data has no words in its configuration; they are lines of
"assets/.../vocabulary.txt", below the path that its weights have in model.weights.h5. They are put
into the configuration, where Keras 3 looks for them.

Reference: tf_keras 2.21, src/saving/saving_lib.py (`_save_state`, `_save_container_state`) and
src/layers/preprocessing/index_lookup.py (`save_assets`, `save_own_variables`).
"""

import io
import re
import typing
import zipfile
from collections.abc import Sequence

import h5py
import numpy as np

Json = dict[str, typing.Any]

# How versions named the list of a model's layers.
LAYER_GROUPS = ("layers", "_layer_checkpoint_dependencies")
_LOOKUPS = ("IntegerLookup", "StringLookup", "TextVectorization")
_ASSETS, _FILE, _WEIGHTS = "assets", "vocabulary.txt", "model.weights.h5"
# A TextVectorization keeps its words in a StringLookup.
_INNER = "_lookup_layer"
_TF_IDF = ("tf_idf", "tf-idf")


def number_names(class_names: Sequence[str]) -> list[str]:
    """The names that a list of objects has in an archive.

    Args:
      class_names: in the order of the list, for example ["Dense", "Conv2D", "Dense"].

    Returns:
      For example ["dense", "conv2d", "dense_1"].
    """
    counts: dict[str, int] = {}
    names = []
    for class_name in class_names:
        name = _snake_case(class_name.rpartition(">")[2])
        counts[name] = counts.get(name, -1) + 1
        names.append(f"{name}_{counts[name]}" if counts[name] else name)
    return names


def add_vocabularies(config: Json, archive: zipfile.ZipFile) -> Json:
    """Puts the words of adapted layers into the configuration of their model.

    Args:
      config: of a model, as Keras 2 stored it.
      archive: the open .keras file.

    Returns:
      The configuration; a layer whose words the archive lacks stays as it is.

    Raises:
      OSError, KeyError, ValueError, zipfile.BadZipFile: the archive is damaged.
    """
    assets = [name for name in archive.namelist() if name.endswith(f"/{_FILE}")]
    return _fill_model(config, "", archive) if assets else config


def _fill_model(stored: Json, path: str, archive: zipfile.ZipFile) -> Json:
    inner = stored.get("config")
    layers = inner if isinstance(inner, list) else (inner or {}).get("layers")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        return stored
    names = number_names([str(layer.get("class_name")) for layer in layers])
    new = [
        _fill_layer(layer, f"{path}{{}}/{name}", archive)
        for layer, name in zip(layers, names, strict=True)
    ]
    config: typing.Any = new if isinstance(inner, list) else {**(inner or {}), "layers": new}
    return {**stored, "config": config}


def _fill_layer(stored: Json, path: str, archive: zipfile.ZipFile) -> Json:
    # {} in the path stands for either name of a list of layers.
    config = stored.get("config")
    class_name = str(stored.get("class_name")).rpartition(">")[2]
    if class_name not in _LOOKUPS:
        return _fill_model(stored, f"{path}/", archive)
    if not isinstance(config, dict) or config.get("vocabulary") is not None:
        return stored
    known = set(archive.namelist())
    for group in LAYER_GROUPS:
        for inner in ("", f"/{_INNER}"):
            own = path.replace("{}", group) + inner
            if f"{_ASSETS}/{own}/{_FILE}" in known:
                text = archive.read(f"{_ASSETS}/{own}/{_FILE}").decode("utf-8")
                return {**stored, "config": {**config, **_read(config, text, own, archive)}}
    return stored


def _read(config: Json, text: str, path: str, archive: zipfile.ZipFile) -> Json:
    lines: list[typing.Any] = text.split("\n")
    if "vocabulary_dtype" in config and config["vocabulary_dtype"] != "string":
        lines = [int(line) for line in lines]
    if config.get("output_mode") not in _TF_IDF:
        return {"vocabulary": lines}
    # The weights of words begin behind those of unknown words, and the rest is padding.
    first = int(config.get("num_oov_indices", 1))
    weights = _read_weights(path, archive)[first : len(lines)]
    return {"vocabulary": lines[first:], "idf_weights": [float(weight) for weight in weights]}


def _read_weights(path: str, archive: zipfile.ZipFile) -> np.ndarray:
    with h5py.File(io.BytesIO(archive.read(_WEIGHTS)), "r") as file:
        group = file[path]
        return np.asarray(group.get(_INNER, group)["vars"]["idf_weights"])


def _snake_case(name: str) -> str:
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
