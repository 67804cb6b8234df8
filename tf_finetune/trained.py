"""The trained model on disk: model.keras, and model.json for what a graph cannot hold.

model.keras opens with plain Keras; model.json has the classes, thresholds and decoding that make
its numbers mean something. evaluate, export and predict start from the pair.
"""

import dataclasses
import os
from typing import Any

import keras

from tf_finetune import findings, head_kinds, workdir
from tf_finetune.data import preprocessing
from tf_finetune.models import custom_objects

_FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model with the meaning of its inputs and outputs.

    Attributes:
      model: input {"image": float32 [batch, height, width, channels], 0 to 255} or {"text": string
        [batch]}, outputs {HEAD: float32 [batch, units] logits}.
      heads: kind, classes and thresholds of each head.
      preprocessing: how an encoded image becomes the model's input; a TextSpec for texts.
      facts: where the model came from: pretrained file, pixel range, freeze plan, loss weights.
    """

    model: keras.Model
    heads: tuple[head_kinds.HeadInfo, ...]
    preprocessing: preprocessing.InputSpec
    facts: dict[str, Any]


def write_trained(folder: str, trained: TrainedModel) -> None:
    """Writes model.keras and model.json, each whole or not at all.

    Args:
      folder: the workdir.
      trained: what to write.

    Raises:
      OSError: the folder cannot be written.
    """
    with workdir.replace_file(os.path.join(folder, workdir.MODEL)) as temporary:
        trained.model.save(temporary, include_optimizer=False)
    workdir.write_json(
        os.path.join(folder, workdir.MODEL_INFO),
        {
            "format": _FORMAT_VERSION,
            "heads": [dataclasses.asdict(head) for head in trained.heads],
            "preprocessing": trained.preprocessing.to_dict(),
            **trained.facts,
        },
    )


def load_run(folder: str) -> TrainedModel:
    """Reads what a run trained.

    Args:
      folder: the workdir of a finished run.

    Returns:
      The model with its best weights, and what its numbers mean.

    Raises:
      RefusedError: the folder holds no trained model, or one of a newer format; the module of its
        --custom_objects cannot be imported any more.
    """
    facts = _read_facts(folder)
    heads = tuple(
        head_kinds.HeadInfo(
            name=head["name"],
            kind=head["kind"],
            classes=tuple(head["classes"]),
            thresholds=tuple(head["thresholds"]),
        )
        for head in facts.pop("heads")
    )
    own = facts.get("custom_objects") or {}
    with custom_objects.offered(own.get("module"), folder=own.get("folder")):
        model = keras.saving.load_model(
            os.path.join(folder, workdir.MODEL), compile=False, safe_mode=True
        )
    return TrainedModel(
        model=model,
        heads=heads,
        preprocessing=preprocessing.read_input_spec(facts.pop("preprocessing")),
        facts=facts,
    )


def read_input_spec(folder: str) -> preprocessing.InputSpec:
    """Reads what a run's model takes, without opening the model.

    Args:
      folder: the workdir of a finished run.

    Returns:
      The preprocessing of its images, or a TextSpec.

    Raises:
      RefusedError: as for `load_run`.
    """
    return preprocessing.read_input_spec(_read_facts(folder)["preprocessing"])


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
    facts = workdir.read_json(path)
    found = facts.pop("format", None)
    if found != _FORMAT_VERSION:
        raise findings.RefusedError(
            findings.Problem(
                f"{findings.one_line(path)}: expected format {_FORMAT_VERSION}. Received {found}. "
                "Use the version of tf_finetune that wrote it.",
                path=path,
            )
        )
    return facts
