"""The default recipe: which phases a run has, when its user names none or leaves values out.

Images: first the heads alone on a frozen backbone, then, with enough examples, the last third of
the backbone at a rate fifty times lower. Texts: with enough examples everything at once, slowly and
for a few epochs, as transformers are fine-tuned; with fewer, or where nothing in the backbone can
train, the heads alone. Columns: the heads alone.

Reference: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution", https://arxiv.org/abs/2202.10054 (heads first); TensorFlow, "Transfer learning
and fine-tuning", https://www.tensorflow.org/tutorials/images/transfer_learning (where to unfreeze);
Devlin et al. 2019, "BERT", https://arxiv.org/abs/1810.04805, appendix A.3 (text).
"""

import dataclasses
import math
from typing import Any

from tf_finetune import freezing, layer_table, specs

HEAD_LEARNING_RATE = 5e-3
FINE_LEARNING_RATE = 1e-4
# A fresh head above moving layers: its first gradients are noise, so the backbone moves slowly.
JOINT_LEARNING_RATE = 3e-4
FINE_FREEZE = "67%"
FINE_EPOCHS = 10
FINE_WARMUP_FRACTION = 0.1
FINE_CLIP_NORM = 1.0
MIN_HEAD_EPOCHS, MIN_HEAD_STEPS, MAX_HEAD_EPOCHS = 30, 1000, 200
MIN_EXAMPLES_TO_UNFREEZE = 500
TEXT_LEARNING_RATE = 3e-5
TEXT_EPOCHS = 3
TEXT_WEIGHT_DECAY = 0.01
PATIENCE_EPOCHS, TEXT_PATIENCE_EPOCHS = 5, 2
MIN_VALIDATION_FOR_STOPPING = 100
# Columns: heads, and what a user unfreezes, at the rate at which such networks are trained anyway.
COLUMNS_LEARNING_RATE = 1e-3
COLUMNS_PATIENCE_EPOCHS = 10
_IMAGE, _TEXT, _COLUMNS = "image", "text", "columns"


def plan_phases(
    train: specs.TrainSpec,
    freeze: specs.FreezeSpec,
    *,
    table: layer_table.LayerTable,
    num_train_examples: int,
    input_kind: str = _IMAGE,
    can_train: bool = True,
) -> tuple[specs.PhaseSpec, ...]:
    """The phases of a run, every field set.

    Naming --epochs, --freeze or a --phase replaces the recipe's phases by what was named.

    Args:
      train: epochs, rates and phases as the user gave them.
      freeze: the freeze line as the user gave it.
      table: the backbone's layers.
      num_train_examples: at least 1.
      input_kind: "image", "text" or "columns".
      can_train: whether the backbone has weights that could train, see `can_train_backbone`.

    Returns:
      At least one phase.

    Raises:
      SpecError: a freeze rule does not fit the backbone.
    """
    if train.phases:
        named = train.phases
    elif train.epochs is not None or freeze.freeze is not None:
        named = (specs.PhaseSpec(name="train", epochs=train.epochs, freeze=freeze.freeze),)
    else:
        few = num_train_examples < MIN_EXAMPLES_TO_UNFREEZE
        named = _recipe(train, input_kind, heads_only=few or not can_train)
    steps = math.ceil(num_train_examples / train.step_examples)
    return tuple(
        _fill_in(
            phase,
            train,
            freeze,
            table=table,
            steps=steps,
            is_first=number == 0,
            input_kind=input_kind,
        )
        for number, phase in enumerate(named)
    )


def can_train_backbone(model: Any) -> bool:
    """Whether a backbone has weights that some --freeze would let train.

    Args:
      model: a `keras.Model`, whatever of it is frozen just now.

    Returns:
      False for features that are computed by constants, such as those of a signature.
    """
    return any(layer._trainable_variables for layer in model._flatten_layers())


def settle_options(
    train: specs.TrainSpec,
    freeze: specs.FreezeSpec,
    phases: tuple[specs.PhaseSpec, ...],
    *,
    table: layer_table.LayerTable,
    num_validation_examples: int,
    input_kind: str = _IMAGE,
) -> specs.TrainSpec:
    """The options with the recipe's patience and weight decay where none is named.

    Args:
      train: the options as the user gave them.
      freeze: the freeze options as the user gave them.
      phases: of `plan_phases`.
      table: the backbone's layers.
      num_validation_examples: examples of the validation split.
      input_kind: "image", "text" or "columns".

    Returns:
      A copy; its patience is None where no phase stops early. A text encoder that trains has a
      weight decay of 0.01 and a patience of 2 epochs, columns of 0 and 10, everything else of 0
      and 5.
    """
    plans = [
        freezing.plan_freeze(phase.freeze or "all", table, batch_norm=freeze.batch_norm)
        for phase in phases
    ]
    is_encoder = input_kind == _TEXT and any(
        row.num_parameters and state != freezing.FROZEN
        for plan in plans
        for row, state in plan.rows
    )
    decay = train.weight_decay
    if decay is None:
        decay = TEXT_WEIGHT_DECAY if is_encoder else 0.0
    default = COLUMNS_PATIENCE_EPOCHS if input_kind == _COLUMNS else PATIENCE_EPOCHS
    patience = patience_epochs(
        train,
        num_validation_examples=num_validation_examples,
        default=TEXT_PATIENCE_EPOCHS if is_encoder else default,
    )
    return dataclasses.replace(train, weight_decay=decay, patience_epochs=patience)


def patience_epochs(
    train: specs.TrainSpec, *, num_validation_examples: int, default: int = PATIENCE_EPOCHS
) -> int | None:
    """Epochs without improvement that end a phase.

    Args:
      train: may name the patience.
      num_validation_examples: examples of the validation split.
      default: where it does not.

    Returns:
      The patience; None (no early stopping, the schedule runs out) with fewer than 100 validation
      examples, where the monitor is mostly noise, unless the user named one.
    """
    if num_validation_examples == 0:
        return None
    if train.patience_epochs is None and num_validation_examples < MIN_VALIDATION_FOR_STOPPING:
        return None
    return train.patience_epochs or default


def default_rate(*, all_frozen: bool, is_first: bool, input_kind: str = _IMAGE) -> float:
    """The learning rate of a phase that names none.

    Args:
      all_frozen: whether only heads train.
      is_first: whether it is the run's first phase.
      input_kind: "image", "text" or "columns".

    Returns:
      Adam's peak rate.
    """
    if input_kind == _COLUMNS:
        return COLUMNS_LEARNING_RATE
    if all_frozen:
        return HEAD_LEARNING_RATE
    if input_kind == _TEXT:
        return TEXT_LEARNING_RATE
    return JOINT_LEARNING_RATE if is_first else FINE_LEARNING_RATE


def _recipe(
    train: specs.TrainSpec, input_kind: str, *, heads_only: bool
) -> tuple[specs.PhaseSpec, ...]:
    head = specs.PhaseSpec(name="head", freeze="all")
    if heads_only or input_kind == _COLUMNS:
        return (head,)
    if input_kind == _TEXT:
        return (specs.PhaseSpec(name="fine", freeze="none"),)
    rate: Any = FINE_LEARNING_RATE
    if train.learning_rate == specs.AUTO:
        rate = specs.AUTO
    elif isinstance(train.learning_rate, int | float):
        rate = train.learning_rate * FINE_LEARNING_RATE / HEAD_LEARNING_RATE
    fine = specs.PhaseSpec(name="fine", freeze=FINE_FREEZE, epochs=FINE_EPOCHS, learning_rate=rate)
    return (head, fine)


def _fill_in(
    phase: specs.PhaseSpec,
    train: specs.TrainSpec,
    freeze: specs.FreezeSpec,
    *,
    table: layer_table.LayerTable,
    steps: int,
    is_first: bool,
    input_kind: str,
) -> specs.PhaseSpec:
    rule = phase.freeze or freeze.freeze or "all"
    plan = freezing.plan_freeze(rule, table, batch_norm=freeze.batch_norm)
    all_frozen = plan.num_frozen == plan.num_layers
    head_epochs = min(MAX_HEAD_EPOCHS, max(MIN_HEAD_EPOCHS, math.ceil(MIN_HEAD_STEPS / steps)))
    fine_epochs = head_epochs if is_first else FINE_EPOCHS
    if input_kind == _TEXT:
        fine_epochs = TEXT_EPOCHS
    defaults: dict[str, Any] = {
        "freeze": rule,
        "epochs": head_epochs if all_frozen else fine_epochs,
        "learning_rate": train.learning_rate,
        "schedule": train.schedule,
        "warmup_fraction": train.warmup_fraction,
        "gradient_clip_norm": train.gradient_clip_norm,
        "training_precision": "float32" if all_frozen else train.training_precision,
    }
    if defaults["learning_rate"] is None:
        defaults["learning_rate"] = default_rate(
            all_frozen=all_frozen, is_first=is_first, input_kind=input_kind
        )
    if defaults["warmup_fraction"] is None:
        defaults["warmup_fraction"] = 0.0 if all_frozen else FINE_WARMUP_FRACTION
    if defaults["gradient_clip_norm"] is None:
        defaults["gradient_clip_norm"] = 0.0 if all_frozen else FINE_CLIP_NORM
    missing = {name: value for name, value in defaults.items() if getattr(phase, name) is None}
    return dataclasses.replace(phase, **missing)
