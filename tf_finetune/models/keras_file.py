""".keras archives: a zip of config.json, metadata.json and model.weights.h5.

Reference: Keras 3 saving format, https://keras.io/guides/serialization_and_saving/.
"""

import json
import zipfile

from tf_finetune import specs
from tf_finetune.models import backbone, formats, hdf5, stored_config

_PARTS = ("config.json", "metadata.json", "model.weights.h5")


def load_model(path: str, spec: specs.ModelSpec) -> backbone.LoadedModel:
    """Loads a whole model, uncompiled, in safe mode.

    Args:
      path: a file that starts with the zip signature.
      spec: the options of the model.

    Returns:
      The model; its source is for example ".keras of Keras 3.10.0".

    Raises:
      findings.RefusedError: the archive is truncated, damaged or of another kind, has a Lambda or
        custom layer, or Keras does not open it.
    """
    text, version = _read_header(path)
    config = stored_config.read_config(text, where=path)
    stored_config.check_config(config, where=path, version=version, backend="")
    try:
        model = hdf5.load_under_name(path, "model.keras")
    except (OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, stored_config.one_reason(error)) from error
    except hdf5.KERAS_ERRORS as error:
        raise stored_config.explain(error, config, where=path, version=version) from error
    return backbone.LoadedModel(
        model, f".keras of Keras {version}", sha256=formats.file_sha256(path)
    )


def _read_header(path: str) -> tuple[bytes, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            missing = [part for part in _PARTS if part not in archive.namelist()]
            if missing:
                raise stored_config.refused(
                    path,
                    f"is a zip archive without {', '.join(missing)}. Expected a .keras file "
                    "written by model.save.",
                )
            config, metadata = archive.read("config.json"), archive.read("metadata.json")
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _damaged(path, stored_config.one_reason(error)) from error
    try:
        return config, str(json.loads(metadata)["keras_version"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, "its metadata.json names no keras_version.") from error


def _damaged(path: str, reason: str) -> Exception:
    return stored_config.refused(
        path,
        f"the .keras archive is truncated or damaged: {reason} Copy or download it again.",
    )
