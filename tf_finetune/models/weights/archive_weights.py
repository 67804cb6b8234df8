"""Weights of .keras archives that Keras 2 wrote.

One idea: such an archive stores an object's variables in "vars" by number, those of its
parts below the attribute's name, and those of a model's layers below their class, numbered in the
model's order. The attributes kept their names in Keras 3, so the built model is walked beside the
file.

Reference: tf_keras 2.21, src/saving/saving_lib.py (`_save_state`, `_save_container_state`).
"""

import io
import typing
import zipfile
from collections.abc import Iterator

import h5py
import keras
import numpy as np

from tf_finetune import findings
from tf_finetune.models.legacy import private_layers
from tf_finetune.models.stored import archive_vocabularies, stored_config, stored_model

Json = dict[str, typing.Any]
_LAYER_GROUPS = archive_vocabularies.LAYER_GROUPS


def assign_weights(model: keras.Model, stored: stored_model.StoredModel, *, where: str) -> None:
    """Gives every variable of a model its stored value.

    Args:
      model: built from the archive's configuration.
      stored: the header of the archive.
      where: the archive.

    Raises:
      findings.RefusedError: the archive is damaged, or holds no value, or one of another shape, for
        a variable.
    """
    missing = {id(variable): variable for variable in model.weights}
    try:
        with zipfile.ZipFile(where) as archive:
            content = io.BytesIO(archive.read(stored_model.ARCHIVE_PARTS[2]))
        with h5py.File(content, "r") as file:
            walker = _Walker(stored.renamed, where)
            for variable, value, path in walker.model(model, stored.stored_config, file, ""):
                if tuple(variable.shape) != value.shape:
                    raise stored_config.refused(
                        where,
                        f"variable '{findings.one_line(variable.path)}' has the shape "
                        f"{tuple(variable.shape)}, its value '{path}' {value.shape}. The archive "
                        "is damaged.",
                    )
                variable.assign(value)
                missing.pop(id(variable), None)
    except findings.RefusedError:
        raise
    except (zipfile.BadZipFile, *stored_model.HDF5_ERRORS) as error:
        raise stored_model.damaged_archive(where, stored_config.one_reason(error)) from error
    for variable in missing.values():
        raise stored_config.refused(
            where,
            f"holds no value for variable '{findings.one_line(variable.path)}'. The archive is "
            "incomplete: save the model as .h5 with the Keras that wrote it.",
        )
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


Found = tuple[typing.Any, np.ndarray, str]


class _Walker:
    """Holds what no single object says: the file's name and which layers were renamed."""

    def __init__(self, renamed: dict[str, str], where: str) -> None:
        self._new_names = {
            (path.rpartition("/")[0], old): path.rpartition("/")[2] for path, old in renamed.items()
        }
        self._where = where

    def model(
        self, model: keras.Model, config: Json, group: typing.Any, path: str
    ) -> Iterator[Found]:
        """(variable, value, path in the file) of a model and all in it."""
        inner = config["config"]
        stored = inner if isinstance(inner, list) else inner["layers"]
        name = next((name for name in _LAYER_GROUPS if name in group), None)
        if name is None:
            return
        by_name = {layer.name: layer for layer in model.layers}
        numbered = archive_vocabularies.number_names([layer["class_name"] for layer in stored])
        for layer, key in zip(stored, numbered, strict=True):
            own = str(layer.get("name") or layer["config"].get("name"))
            own = self._new_names.get((path, own), own)
            if own in by_name and key in group[name]:
                own_path = f"{path}/{own}" if path else own
                yield from self._object(by_name[own], layer, group[name][key], own_path)

    def _object(
        self, layer: typing.Any, config: Json, group: typing.Any, path: str
    ) -> Iterator[Found]:
        if isinstance(layer, keras.Model):
            yield from self.model(layer, config, group, path)
            return
        if isinstance(layer, private_layers.TimeMajor):
            yield from self._object(layer.layer, config, group, path)
            return
        values = group.get("vars", {})
        parts = [part for part in _parts(layer) if part is not layer]
        below = {id(variable) for part in parts for variable in part.weights}
        own = [variable for variable in layer.weights if id(variable) not in below]
        for number, variable in enumerate(own):
            if str(number) in values:
                yield variable, np.asarray(values[str(number)]), values[str(number)].name
        for key in group:
            part = getattr(layer, key, None) if key not in ("vars", *_LAYER_GROUPS) else None
            inner = config["config"].get(key) if isinstance(config.get("config"), dict) else None
            if isinstance(part, keras.layers.Layer):
                inner = inner if isinstance(inner, dict) else {"config": {}}
                yield from self._object(part, inner, group[key], path)
            elif isinstance(part, list | tuple):
                cells = archive_vocabularies.number_names([type(cell).__name__ for cell in part])
                for cell, cell_key in zip(part, cells, strict=True):
                    if cell_key in group[key]:
                        yield from self._object(cell, {"config": {}}, group[key][cell_key], path)


def _parts(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    yield from layer._flatten_layers(include_self=False, recursive=True)
