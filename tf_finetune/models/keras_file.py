""".keras archives: a zip of config.json, metadata.json and model.weights.h5.

Keras 3 wrote most of them; Keras 2.12 to 2.15 and tf_keras write them too, with configurations of
Keras 2, which are translated.

Reference: Keras 3 saving format, https://keras.io/guides/serialization_and_saving/; tf_keras 2.21,
src/saving/saving_lib.py.
"""

import zipfile

import keras

from tf_finetune import specs
from tf_finetune.models import backbone, formats, hdf5, model_building
from tf_finetune.models.stored import stored_config, stored_model
from tf_finetune.models.weights import archive_weights


def load_model(path: str, spec: specs.ModelSpec) -> backbone.LoadedModel:
    """Loads a whole model, uncompiled, in safe mode unless --trust_model.

    Args:
      path: a file that starts with the zip signature.
      spec: the options of the model.

    Returns:
      The model; its source is for example ".keras of Keras 3.10.0".

    Raises:
      findings.RefusedError: the archive is truncated, damaged or of another kind, has a Lambda or
        custom layer, or Keras does not open it.
    """
    stored = stored_model.read_stored_model(path, trust_model=spec.trust_model)
    if stored.generation == 3:
        model = _load_keras3(path, stored, spec)
    else:
        model = model_building.build_model(stored, where=path, trust_model=spec.trust_model)
        archive_weights.assign_weights(model, stored, where=path)
    return model_building.finish(
        model, stored, sha256=formats.file_sha256(path), notes=stored.notes
    )


def _load_keras3(path: str, stored: stored_model.StoredModel, spec: specs.ModelSpec) -> keras.Model:
    try:
        return hdf5.load_under_name(path, "model.keras", safe_mode=not spec.trust_model)
    except (OSError, zipfile.BadZipFile) as error:
        raise stored_model.damaged_archive(path, stored_config.one_reason(error)) from error
    except hdf5.KERAS_ERRORS as error:
        raise stored_config.explain(
            error, stored.config, where=path, version=stored.keras_version
        ) from error
