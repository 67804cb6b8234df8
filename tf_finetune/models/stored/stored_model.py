"""A whole model's file read without Keras: what wrote it, and its configuration for Keras 3.

One idea: whatever the age of a file, its configuration leaves here in one form, which both the
loader and --mode=inspect read. The canonical form is Keras 3's own, as JSON:

- an object is {"module", "class_name", "config", "registered_name"};
- "Functional" has config {"name", "layers", "input_layers", "output_layers"}; each layer there
  also has "name" and "inbound_nodes", a list of calls {"args": [...], "kwargs": {...}}, where a
  tensor is {"class_name": "__keras_tensor__", "config": {"shape", "dtype", "keras_history":
  [layer, call, output]}} (the shape of a translated file says nothing: []). Calls count from 0,
  those of nested models too; only in output_layers a nested Functional counts from 1, as Keras 3
  has it. A model of one input or output names it alone, without a list around it;
- "Sequential" has config {"name", "layers"} and begins with an InputLayer where the file tells a
  shape;
- InputLayer has "batch_shape"; data types are names; no layer name has a "/".

Files of Keras 3 are passed on as they are: inbound calls in the same form, objects without "module"
where they come from .h5 (but see `keras3_config`), and {"class_name": "DTypePolicy"} data types.
"""

import dataclasses
import json
import typing
import zipfile

import h5py

from tf_finetune.models import formats
from tf_finetune.models.legacy import keras2_config
from tf_finetune.models.stored import (
    archive_vocabularies,
    keras3_config,
    stored_config,
    stored_weights,
)

ARCHIVE_PARTS = ("config.json", "metadata.json", "model.weights.h5")
# What h5py raises for a damaged file.
HDF5_ERRORS = (OSError, KeyError, RuntimeError, ValueError)


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """The header of a model file.

    Attributes:
      config: of the model, in the canonical form.
      keras_version: as stored, for example "2.2.4-tf"; "1" where the file tells none.
      backend: "tensorflow", "theano" or "cntk"; "" where the file tells none.
      format: "HDF5" or ".keras".
      renamed: path of a layer in `config` (names of nested models, then its own, joined by "/") ->
        its name in the file, where they differ; "" where the configuration tells no name.
      notes: lines for the user: what was left out or read otherwise.
      stored_config: the configuration as the file has it.
      dropped: paths of layers, with their names in the file, that only a loss or a metric needs.
    """

    config: dict[str, typing.Any]
    keras_version: str
    backend: str
    format: str
    renamed: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stored_config: dict[str, typing.Any] = dataclasses.field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    @property
    def generation(self) -> int:
        """1, 2 or 3: the major version of the Keras that wrote the file."""
        return _generation(self.keras_version)


def read_stored_model(path: str, *, trust_model: bool = False) -> StoredModel:
    """Reads the header of a model file and translates its configuration.

    Args:
      path: a file that starts with the HDF5 or the zip signature.
      trust_model: a Lambda is no reason to refuse.

    Returns:
      What is stored, in the canonical form. Weights are not read.

    Raises:
      findings.RefusedError: the file is truncated or damaged, holds weights only or no model, has a
        Lambda, was written by a Keras newer than this one knows, or has a meaning that Keras 3
        cannot express.
    """
    with open(path, "rb") as file:
        archive = file.read(4) == formats.ZIP_SIGNATURE
    if archive:
        stored, version, backend = read_archive_header(path)
        kind = ".keras"
        if _generation(version) == 2:
            stored = _add_vocabularies(path, stored)
    else:
        stored, version, backend = read_header(path)
        kind = "HDF5"
    shapes = None
    if not archive and _generation(version) == 1:
        shapes = _read_shapes(path)
    return translate(
        stored,
        where=path,
        version=version,
        backend=backend,
        kind=kind,
        trust_model=trust_model,
        shapes=shapes,
    )


def translate(
    stored: dict[str, typing.Any],
    *,
    where: str,
    version: str,
    backend: str,
    kind: str,
    trust_model: bool = False,
    shapes: dict[str, list[tuple[int, ...]]] | None = None,
) -> StoredModel:
    """Translates a configuration, wherever it was stored.

    Args:
      stored: the configuration as stored.
      where: the file, for the texts of errors.
      version: the Keras version that wrote it.
      backend: "tensorflow", "theano", "cntk" or "".
      kind: the format of the file.
      trust_model: a Lambda is no reason to refuse.
      shapes: layer name -> shapes of its weights; tells what Keras 1 did not store.

    Returns:
      What is stored, in the canonical form.

    Raises:
      findings.RefusedError: as for `read_stored_model`.
    """
    if not trust_model:
        stored_config.check_code(stored, where=where)
    generation = _generation(version)
    if generation > 3:
        raise stored_config.refused(
            where,
            f"was written by Keras {version}, which is newer than this program knows. Expected "
            "Keras 1, 2 or 3: upgrade, or save it again with Keras 3.",
        )
    if generation == 3:
        if kind != ".keras":
            stored_config.check_vocabularies(stored, where=where)
        config = stored
        if keras3_config.has_operations(stored):
            config = keras3_config.add_modules(stored)
        return StoredModel(config, version, backend, kind, stored_config=stored)
    source = stored
    if generation == 1:
        from tf_finetune.models.legacy import keras1_config

        source = keras1_config.translate_config(stored, where=where, shapes=shapes)
    result = keras2_config.translate_config(source, where=where, version=version)
    return StoredModel(
        result.config,
        version,
        backend,
        kind,
        renamed=result.renamed,
        notes=result.notes,
        stored_config=stored,
        dropped=result.dropped,
    )


def read_header(path: str) -> tuple[dict[str, typing.Any], str, str]:
    """Reads the attributes of an HDF5 file that describe its model.

    Args:
      path: an HDF5 file.

    Returns:
      The configuration as stored, the Keras version ("1" where none is stored), the backend (""
      where none is stored).

    Raises:
      findings.RefusedError: the file is damaged, holds weights only, or no model.
    """
    try:
        with h5py.File(path, "r") as file:
            stored = file.attrs.get("model_config")
            version = stored_weights.as_text(file.attrs.get("keras_version", "1"))
            backend = stored_weights.as_text(file.attrs.get("backend", ""))
            weights = "layer_names" in file.attrs or stored_weights.has_keras3_weights(file)
    except HDF5_ERRORS as error:
        raise damaged(path, error) from error
    if stored is None and weights:
        raise stored_config.refused(
            path,
            "holds weights only, without the layers they belong to. Give them as --weights, and "
            "name the architecture: --model=keras:NAME, or a .json file of model.to_json().",
        )
    if stored is None:
        raise stored_config.refused(
            path,
            "is an HDF5 file without a Keras model (no model_config attribute). Expected a file "
            "written by model.save.",
        )
    text = stored_weights.as_text(stored)
    return stored_config.read_config(text, where=path), version, backend


def read_archive_header(path: str) -> tuple[dict[str, typing.Any], str, str]:
    """Reads config.json and metadata.json of a .keras archive.

    Args:
      path: a zip file.

    Returns:
      The configuration as stored, the Keras version, and "".

    Raises:
      findings.RefusedError: the archive is truncated, damaged, or of another kind.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            missing = [part for part in ARCHIVE_PARTS if part not in archive.namelist()]
            if missing:
                raise stored_config.refused(
                    path,
                    f"is a zip archive without {', '.join(missing)}. Expected a .keras file "
                    "written by model.save.",
                )
            config, metadata = archive.read("config.json"), archive.read("metadata.json")
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise damaged_archive(path, stored_config.one_reason(error)) from error
    try:
        version = str(json.loads(metadata)["keras_version"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged_archive(path, "its metadata.json names no keras_version.") from error
    return stored_config.read_config(config, where=path), version, ""


def damaged(path: str, error: BaseException) -> Exception:
    """The error of an HDF5 file that cannot be read.

    Args:
      path: the file.
      error: what h5py raised.

    Returns:
      The error to raise.
    """
    if isinstance(error, BlockingIOError):  # HDF5 locks a file that is open for writing
        return stored_config.refused(
            path, "another process is writing it. Wait for its end, and run the same command again."
        )
    return stored_config.refused(
        path,
        f"the HDF5 file is damaged: {stored_config.one_reason(error)} Copy or download it again.",
    )


def damaged_archive(path: str, reason: str) -> Exception:
    """The error of a .keras archive that cannot be read.

    Args:
      path: the file.
      reason: a sentence.

    Returns:
      The error to raise.
    """
    return stored_config.refused(
        path,
        f"the .keras archive is truncated or damaged: {reason} Copy or download it again.",
    )


def _add_vocabularies(path: str, stored: dict[str, typing.Any]) -> dict[str, typing.Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive_vocabularies.add_vocabularies(stored, archive)
    except (zipfile.BadZipFile, NotImplementedError, *HDF5_ERRORS) as error:
        raise damaged_archive(path, stored_config.one_reason(error)) from error


def _read_shapes(path: str) -> dict[str, list[tuple[int, ...]]]:
    try:
        with h5py.File(path, "r") as file:
            return stored_weights.read_shapes(file)
    except HDF5_ERRORS as error:
        raise damaged(path, error) from error


def _generation(version: str) -> int:
    major = version.partition(".")[0]
    return int(major) if major.isdigit() else 1
