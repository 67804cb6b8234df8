"""An architecture in a .json file of `model.to_json()`, with weights from --weights.

Reference: Keras saving format, https://keras.io/api/models/model_saving_apis/.
"""

import dataclasses
import os
import typing

import keras

from tf_finetune import findings, specs
from tf_finetune.models import admission, backbone, formats, model_building
from tf_finetune.models.stored import stored_config, stored_model
from tf_finetune.models.weights import weights_only
from tf_finetune.trust import keras_numbers

Json = dict[str, typing.Any]

NO_WEIGHTS = "is an architecture without weights. Add --weights=FILE.h5."
_MAX_BYTES = 256 * 2**20
# Compressed weights shrink by less; zeros alone by more.
_MOST_ELEMENTS_PER_BYTE = 8
_MOST_ELEMENTS_ALONE = 2**29


def load_model(path: str, spec: specs.ModelSpec) -> backbone.LoadedModel:
    """Builds a stored architecture and gives it the weights of --weights.

    Args:
      path: JSON text as `model.to_json()` of Keras 1, 2 or 3 writes it.
      spec: the options of the model; its weights name the file of weights.

    Returns:
      The model; its source is for example "architecture of Keras 2.2.4, weights from w.h5".

    Raises:
      trust.UntrustedModelError: the weights must not be opened.
      findings.RefusedError: --weights is missing; the text is no model's configuration, has a
        Lambda or custom layer, or does not open in Keras 3; the weights do not exist or do not fit.
    """
    if not spec.weights:
        shown = findings.one_line(path)
        message = f"--model={shown} {NO_WEIGHTS}"
        raise findings.RefusedError(findings.Problem(message, path=path, flag="--weights"))
    problems = formats.find_weights_problems(spec.weights)
    if problems:
        raise findings.RefusedError(*problems)
    admission.check(spec.weights, role=admission.WEIGHTS)
    model, stored = _build(path, spec)
    weights = findings.one_line(spec.weights)
    architecture = weights_only.Architecture(
        model,
        shown=findings.one_line(os.path.basename(path)),
        advice=f"Name the architecture that {os.path.basename(weights)} was saved from.",
        stored=stored,
    )
    notes = weights_only.load_weights(architecture, spec.weights)
    digest = formats.file_sha256(spec.weights)
    loaded = model_building.finish(model, stored, sha256=digest, notes=(*stored.notes, *notes))
    return dataclasses.replace(loaded, source=f"{loaded.source}, weights from {weights}")


def load_without_weights(path: str, spec: specs.ModelSpec) -> backbone.LoadedModel:
    """Builds a stored architecture as it is, to describe its layers.

    Args:
      path: see `load_model`.
      spec: the options of the model.

    Returns:
      The model with fresh weights; its source is for example "architecture of Keras 2.2.4".

    Raises:
      findings.RefusedError: as for `load_model`, of the architecture alone.
    """
    model, stored = _build(path, spec)
    return model_building.finish(model, stored, sha256=None, notes=stored.notes)


def _build(path: str, spec: specs.ModelSpec) -> tuple[keras.Model, stored_model.StoredModel]:
    stored = _read(path, trust_model=spec.trust_model)
    _check_sizes(stored, path, spec.weights)
    with model_building.private_classes():
        model = model_building.build_model(stored, where=path, trust_model=spec.trust_model)
    if not isinstance(model, keras.Model):
        raise stored_config.refused(path, "is the architecture of a layer. Expected a model's.")
    return model, stored


def _check_sizes(stored: stored_model.StoredModel, path: str, weights: str | None) -> None:
    # Building would allocate what the text claims; the file of weights bounds what can be true.
    size = _MOST_ELEMENTS_ALONE
    if weights:
        size = _MOST_ELEMENTS_PER_BYTE * os.path.getsize(weights)
    for layer, _ in keras_numbers.find_excesses(stored.config, stored_size=size):
        where = f"layer '{findings.one_line(layer)}'" if layer else "the architecture"
        held = f"{findings.one_line(weights)} can hold" if weights else "any model of its kind has"
        message = f"{where} asks for more weights than {held}: building it would fill the memory."
        raise stored_config.refused(path, message)


def _read(path: str, *, trust_model: bool) -> stored_model.StoredModel:
    if os.path.getsize(path) > _MAX_BYTES:
        raise stored_config.refused(path, "is too large for an architecture.")
    with open(path, "rb") as file:
        stored = stored_config.read_config(file.read(), where=path)
    version = str(stored.get("keras_version") or _guess_version(stored))
    backend = str(stored.get("backend") or "")
    return stored_model.translate(
        stored,
        where=path,
        version=version,
        backend=backend,
        kind="architecture",
        trust_model=trust_model,
    )


def _guess_version(stored: Json) -> str:
    # Keras 3 and the first Keras 1 write none.
    if "module" in stored or "registered_name" in stored:
        return "3"
    layers = list(stored_config.find_layers(stored))
    old = {"nb_filter", "border_mode", "inner_init", "dim_ordering", "W_regularizer", "init"}
    return "1" if any(old.intersection(layer.config) for layer in layers) else "2"
