"""The default recipe: which phases a run has, when its user names none or leaves values out.

First the heads alone on a frozen backbone, then, with enough examples, the last third of the
backbone at a rate fifty times lower.

Reference: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution", https://arxiv.org/abs/2202.10054 (heads first); TensorFlow, "Transfer learning
and fine-tuning", https://www.tensorflow.org/tutorials/images/transfer_learning (where to unfreeze).
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
PATIENCE_EPOCHS = 5
MIN_VALIDATION_FOR_STOPPING = 100


def plan_phases(
    train: specs.TrainSpec,
    freeze: specs.FreezeSpec,
    *,
    table: layer_table.LayerTable,
    num_train_examples: int,
) -> tuple[specs.PhaseSpec, ...]:
    """The phases of a run, every field set.

    Naming --epochs, --freeze or a --phase replaces the recipe's two phases by what was named.

    Args:
      train: epochs, rates and phases as the user gave them.
      freeze: the freeze line as the user gave it.
      table: the backbone's layers.
      num_train_examples: at least 1.

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
        named = _recipe(train, num_train_examples)
    steps = math.ceil(num_train_examples / train.batch_size)
    return tuple(
        _fill_in(phase, train, freeze, table=table, steps=steps, is_first=number == 0)
        for number, phase in enumerate(named)
    )


def patience_epochs(train: specs.TrainSpec, *, num_validation_examples: int) -> int | None:
    """Epochs without improvement that end a phase.

    Args:
      train: may name the patience.
      num_validation_examples: examples of the validation split.

    Returns:
      The patience; None (no early stopping, the schedule runs out) with fewer than 100 validation
      examples, where the monitor is mostly noise, unless the user named one.
    """
    if num_validation_examples == 0:
        return None
    if train.patience_epochs is None and num_validation_examples < MIN_VALIDATION_FOR_STOPPING:
        return None
    return train.patience_epochs or PATIENCE_EPOCHS


def _recipe(train: specs.TrainSpec, num_train_examples: int) -> tuple[specs.PhaseSpec, ...]:
    head = specs.PhaseSpec(name="head", freeze="all")
    if num_train_examples < MIN_EXAMPLES_TO_UNFREEZE:
        return (head,)
    rate = FINE_LEARNING_RATE
    if train.learning_rate is not None:
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
) -> specs.PhaseSpec:
    rule = phase.freeze or freeze.freeze or "all"
    plan = freezing.plan_freeze(rule, table, batch_norm=freeze.batch_norm)
    all_frozen = plan.num_frozen == plan.num_layers
    head_epochs = min(MAX_HEAD_EPOCHS, max(MIN_HEAD_EPOCHS, math.ceil(MIN_HEAD_STEPS / steps)))
    defaults: dict[str, Any] = {
        "freeze": rule,
        "epochs": head_epochs if is_first or all_frozen else FINE_EPOCHS,
        "learning_rate": train.learning_rate,
        "schedule": train.schedule,
        "warmup_fraction": train.warmup_fraction,
        "gradient_clip_norm": train.gradient_clip_norm,
    }
    if defaults["learning_rate"] is None:
        joint = JOINT_LEARNING_RATE if is_first else FINE_LEARNING_RATE
        defaults["learning_rate"] = HEAD_LEARNING_RATE if all_frozen else joint
    if defaults["warmup_fraction"] is None:
        defaults["warmup_fraction"] = 0.0 if all_frozen else FINE_WARMUP_FRACTION
    if defaults["gradient_clip_norm"] is None:
        defaults["gradient_clip_norm"] = 0.0 if all_frozen else FINE_CLIP_NORM
    missing = {name: value for name, value in defaults.items() if getattr(phase, name) is None}
    return dataclasses.replace(phase, **missing)
