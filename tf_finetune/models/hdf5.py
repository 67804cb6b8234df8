""".h5 and .hdf5 files: a whole model as Keras 1, 2 and 3 store it, or weights only.

One idea: Keras reads what Keras 3 wrote. Of older files only the JSON and the arrays are used: the
configuration is translated (`stored_model`), Keras builds the model from it, and each array goes to
the layer that bears its name (`weight_assignment`).

Reference: HDF5 file format specification, "Superblock",
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html.
"""

import os
import tempfile
import warnings

import h5py
import keras

from tf_finetune import specs
from tf_finetune.models import backbone, formats, model_building
from tf_finetune.models.stored import (
    keras3_config,
    stored_config,
    stored_model,
    stored_weights,
)
from tf_finetune.models.weights import weight_assignment

# What Keras raises for files that it does not understand, by experience; an error of the machine
# (out of memory, a failing disk) is not among them.
KERAS_ERRORS = model_building.KERAS_ERRORS


def load_model(path: str, spec: specs.ModelSpec) -> backbone.LoadedModel:
    """Loads a whole model, uncompiled, in safe mode unless --trust_model.

    Args:
      path: a file that starts with the HDF5 signature.
      spec: the options of the model.

    Returns:
      The model; its source is for example "HDF5 of Keras 3.15.1".

    Raises:
      findings.RefusedError: the file is truncated or damaged, holds weights only or no model,
        has a Lambda or custom layer, weights that do not fit it, or Keras does not build it.
    """
    check_size(path)
    stored = stored_model.read_stored_model(path, trust_model=spec.trust_model)
    if stored.generation == 3:
        model, notes = _load_keras3(path, stored, spec), stored.notes
    else:
        stored_layers = read_layers(path)
        model = model_building.build_model(stored, where=path, trust_model=spec.trust_model)
        layers, notes = model_building.convert_layers(stored_layers, stored, where=path)
        weight_assignment.assign_weights(model, layers, stored, where=path)
    return model_building.finish(model, stored, sha256=formats.file_sha256(path), notes=notes)


def load_under_name(path: str, name: str, *, safe_mode: bool = True) -> keras.Model:
    """Opens a model file whatever its name: Keras goes by the ending, we by the bytes.

    Args:
      path: the file.
      name: a name with the ending that Keras expects.
      safe_mode: False runs code that the file carries.

    Returns:
      The model, uncompiled.

    Raises:
      OSError: the file cannot be read.
      ValueError: or another of KERAS_ERRORS, if Keras refuses it.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        model_building.private_classes(),
    ):
        # Advice for the author of the model ("Use `negative_slope` instead"), not for its user.
        warnings.simplefilter("ignore")
        link = os.path.join(folder, name)
        os.symlink(os.path.abspath(path), link)
        return keras.models.load_model(link, compile=False, safe_mode=safe_mode)


def load_weights_under_name(model: keras.Model, path: str) -> None:
    """Loads a Keras 3 weights file (`save_weights`) whatever its name.

    Args:
      model: the architecture that the weights were saved from.
      path: the file.

    Raises:
      OSError: the file cannot be read.
      ValueError: or another of KERAS_ERRORS, if the weights do not fit.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Keras looks for weights in more places than it writes to, and warns of each; where a
        # layer's weights are missing it raises.
        warnings.simplefilter("ignore")
        link = os.path.join(folder, "model.weights.h5")
        os.symlink(os.path.abspath(path), link)
        model.load_weights(link)


def check_size(path: str) -> None:
    """Compares the size that an HDF5 header states with the file's.

    Args:
      path: a file that starts with the HDF5 signature.

    Raises:
      findings.RefusedError: the file is shorter than its header says.
    """
    stated, size = _stated_size(path), os.path.getsize(path)
    if stated is not None and size < stated:
        raise stored_config.refused(
            path,
            f"the HDF5 file is truncated: its header says {stated:,} bytes, it has {size:,}. Copy "
            "or download it again.",
        )


def is_keras3_weights(path: str) -> bool:
    """Whether a file was written by `save_weights` of Keras 3.

    Args:
      path: an HDF5 file.

    Returns:
      True for that layout, False for the older one and for any other content.

    Raises:
      findings.RefusedError: the file is damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            return stored_weights.has_keras3_weights(file)
    except stored_model.HDF5_ERRORS as error:
        raise stored_model.damaged(path, error) from error


def read_layers(path: str) -> list[stored_weights.StoredLayer]:
    """Reads the weights of an older weights file, or of a whole model's file, layer by layer.

    Args:
      path: an HDF5 file written by Keras 1 or 2, or by Keras 3 as a legacy .h5.

    Returns:
      Every layer in the file's order, also those without weights.

    Raises:
      findings.RefusedError: the file is damaged or holds no Keras weights.
    """
    try:
        with h5py.File(path, "r") as file:
            group = file.get("model_weights", file)
            if "layer_names" not in group.attrs and "layer_names0" not in group.attrs:
                raise stored_config.refused(path, stored_weights.explain_no_layers(file))
            return stored_weights.read_layers(file)
    except stored_model.HDF5_ERRORS as error:
        if isinstance(error, ValueError) and not isinstance(error, OSError | KeyError):
            raise
        raise stored_model.damaged(path, error) from error


def _load_keras3(path: str, stored: stored_model.StoredModel, spec: specs.ModelSpec) -> keras.Model:
    if keras3_config.has_operations(stored.stored_config):
        layers = read_layers(path)
        with model_building.private_classes():
            model = model_building.build_model(stored, where=path, trust_model=spec.trust_model)
        weight_assignment.assign_weights(model, layers, stored, where=path)
        return model
    try:
        model = load_under_name(path, "model.h5", safe_mode=not spec.trust_model)
    except OSError as error:
        raise stored_model.damaged(path, error) from error
    except KERAS_ERRORS as error:
        raise stored_config.explain(
            error, stored.config, where=path, version=stored.keras_version
        ) from error
    _check_order(path, model)
    return model


def _check_order(path: str, model: keras.Model) -> None:
    # Keras assigns stored weights by position. Where it orders the layers otherwise than the
    # writer did, equal shapes would hide that two layers swapped their weights.
    with h5py.File(path, "r") as file:
        group = file["model_weights"]
        names = stored_weights.read_names(group, "layer_names")
        stored = [name for name in names if group[name].keys()]
    own = [layer.name for layer in model.layers if layer.weights]
    if set(stored) == set(own) and stored != own:
        first = next(name for name, other in zip(stored, own, strict=True) if name != other)
        raise stored_config.refused(
            path,
            f"Keras {keras.__version__} orders its layers otherwise than the Keras that wrote it, "
            f"from '{first}' on: weights would be swapped. Save it again as .keras.",
        )


def _stated_size(path: str) -> int | None:
    with open(path, "rb") as file:
        header = file.read(64)
    if len(header) < 64 or not header.startswith(formats.HDF5_SIGNATURE):
        return None
    if header[8] in (0, 1):
        offset_size, start = header[13], 24 if header[8] == 0 else 28
    elif header[8] in (2, 3):
        offset_size, start = header[9], 12
    else:
        return None
    # Base address, one other address, then the end of the file.
    end = header[start + 2 * offset_size : start + 3 * offset_size]
    return int.from_bytes(end, "little") if offset_size in (2, 4, 8) else None
