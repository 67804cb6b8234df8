"""The trained model on disk: model.keras, and model.json for what a graph cannot hold.

model.keras opens with plain Keras; model.json has the classes, thresholds and decoding that make
its numbers mean something. evaluate, export and predict start from the pair.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import keras

from tf_finetune import disk_room, findings, head_kinds, model_meaning, run_records, workdir
from tf_finetune.data import preprocessing
from tf_finetune.models import admission, model_building
from tf_finetune.models import custom_objects as objects
from tf_finetune.models.stored import stored_config

_FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model with the meaning of its inputs and outputs.

    Attributes:
      model: input {"image": float32 [batch, height, width, channels], 0 to 255} or {"text": string
        [batch]}, the columns by the names of their inputs, or both; outputs {HEAD: float32 [batch,
        units] logits}.
      heads: kind, classes and thresholds of each head.
      preprocessing: how an encoded image becomes the model's input; a TextSpec for texts, a
        ColumnsSpec for columns, a MixedSpec for an image or a text with columns.
      facts: where the model came from: pretrained file, pixel range, freeze plan, loss weights.
    """

    model: keras.Model
    heads: tuple[head_kinds.HeadInfo, ...]
    preprocessing: preprocessing.InputSpec
    facts: dict[str, Any]


def write_trained(folder: str, trained: TrainedModel) -> None:
    """Writes model.keras and model.json, whole or not at all.

    Args:
      folder: the workdir.
      trained: what to write.

    Raises:
      OSError: the folder cannot be written.
    """
    facts = {
        "format": _FORMAT_VERSION,
        "heads": [dataclasses.asdict(head) for head in trained.heads],
        "preprocessing": trained.preprocessing.to_dict(),
        **trained.facts,
    }
    paths = [os.path.join(folder, name) for name in (workdir.MODEL, workdir.MODEL_INFO)]
    with workdir.replace_pair(*paths) as (model_path, facts_path):
        with disk_room.naming(paths[0]):
            trained.model.save(model_path, include_optimizer=False)
        with open(facts_path, "w", encoding="utf-8") as file:
            file.write(workdir.format_json(facts))


def load_run(
    folder: str, *, custom_objects: str | None = None, trust_model: bool = False
) -> TrainedModel:
    """Reads what a run trained. The folder may be a stranger's: it cannot make its own code run.

    Args:
      folder: the workdir of a finished run.
      custom_objects: module that registers the model's custom layers; it is imported. The run
        records its own, which is named in the error and never imported unasked.
      trust_model: runs the Python code that the model carries.

    Returns:
      The model with its best weights, and what its numbers mean.

    Raises:
      trust.UntrustedModelError: its model.keras must not be opened.
      RefusedError: the folder holds no trained model, or one of a newer format; model.json is
        damaged or of another model; it needs custom_objects, or they cannot be imported.
    """
    facts = _read_facts(folder)
    _check_custom_objects(facts, custom_objects, folder)
    heads, inputs = _read_meaning(facts, folder)
    path = os.path.join(folder, workdir.MODEL)
    with admission.unchanged(path):
        admission.check(
            path,
            trust_model=trust_model,
            custom_objects=objects.offered_names(custom_objects),
        )
        with objects.offered(custom_objects):
            model = _open_model(path, trust_model=trust_model)
    try:
        model_meaning.check_model(model, heads, inputs)
    except ValueError as error:
        raise run_records.damaged(folder, workdir.MODEL_INFO, str(error)) from error
    return TrainedModel(model=model, heads=heads, preprocessing=inputs, facts=facts)


def _open_model(path: str, *, trust_model: bool) -> keras.Model:
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=not trust_model)
    except model_building.KERAS_ERRORS as error:
        reason = stored_config.one_reason(error)
        raise stored_config.refused(path, f"Keras does not open it: {reason}") from error


def _read_meaning(
    facts: dict[str, Any], folder: str
) -> tuple[tuple[head_kinds.HeadInfo, ...], preprocessing.InputSpec]:
    try:
        heads = model_meaning.read_heads(facts.pop("heads", None))
        inputs = model_meaning.read_inputs(facts.pop("preprocessing", None))
        model_meaning.check_loss_weights(facts.get("loss_weights"), heads)
    except ValueError as error:
        raise run_records.damaged(folder, workdir.MODEL_INFO, str(error)) from error
    return heads, inputs


def _check_custom_objects(facts: dict[str, Any], given: str | None, folder: str) -> None:
    own = facts.get("custom_objects")
    if not own or given is not None:
        return
    module = findings.one_line(own.get("module") if isinstance(own, dict) else own)
    raise findings.RefusedError(
        findings.Problem(
            f"The run in {findings.one_line(folder)} was trained with --custom_objects={module}. A "
            "module is code and is imported only when you name it: give --custom_objects again.",
            path=folder,
            flag="--custom_objects",
        )
    )


def list_trust_notes(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """What a report's readers should know of how the pretrained model was opened.

    Args:
      facts: of a trained model; they may be a stranger's.

    Returns:
      A sentence for --trust_model and each finding that it lifted; none where it was not given.
    """
    trust = facts.get("trust")
    if not isinstance(trust, dict) or not trust.get("trust_model"):
        return ()
    found = trust.get("findings")
    lead = "The pretrained model was opened with --trust_model, which runs code that it carries."
    return (lead, *map(str, found if isinstance(found, list) else ()))


def read_input_spec(folder: str) -> preprocessing.InputSpec:
    """Reads what a run's model takes, without opening the model.

    Args:
      folder: the workdir of a finished run.

    Returns:
      The preprocessing of its images, or a TextSpec.

    Raises:
      RefusedError: as for `load_run`.
    """
    return _read_meaning(_read_facts(folder), folder)[1]


def _read_facts(folder: str) -> dict[str, Any]:
    """The content of model.json, without its format."""
    path = os.path.join(folder, workdir.MODEL_INFO)
    model_path = os.path.join(folder, workdir.MODEL)
    if not (os.path.isfile(path) and os.path.isfile(model_path)):
        raise findings.RefusedError(
            findings.Problem(
                f"--workdir={findings.one_line(folder)} holds no trained model: expected "
                f"{workdir.MODEL} and {workdir.MODEL_INFO}. Run --mode=train with this workdir "
                "first.",
                path=folder,
            )
        )
    facts = run_records.read_record(folder, workdir.MODEL_INFO)
    found = facts.pop("format", None)
    if found != _FORMAT_VERSION:
        raise findings.RefusedError(
            findings.Problem(
                f"{findings.one_line(path)}: expected format {_FORMAT_VERSION}. Received "
                f"{findings.one_line(found)[:40]}. Use the version of tf_finetune that wrote it.",
                path=path,
            )
        )
    return facts
