"""Runs a test of learning rates: steps that are thrown away, see `rate_range`."""

import dataclasses
import math
import time
from typing import Any

import keras

from tf_finetune import phase_data, rate_range, training_cost


@dataclasses.dataclass(frozen=True)
class Tried:
    """What the steps gave.

    Attributes:
      rates: of the steps with a finite loss, rising.
      losses: as many.
      num_steps: that ran.
      secs: that they took, in all.
      is_late: whether the time was over before the last of them.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    num_steps: int
    secs: float
    is_late: bool


def make_schedule(
    plan: rate_range.Plan,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The rates of a test, step by step.

    Args:
      plan: what to try.

    Returns:
      A schedule that rises by the same factor with each step.
    """
    return keras.optimizers.schedules.ExponentialDecay(
        plan.lowest, decay_steps=1, decay_rate=plan.factor
    )


def try_rates(
    trainer: keras.Model,
    data: phase_data.PhaseData,
    plan: rate_range.Plan,
    *,
    deadline: float,
) -> Tried:
    """Trains for a few steps, then puts every variable back as it was.

    Args:
      trainer: compiled with `make_schedule`, one step at a time; its optimizer is built.
      data: of the phase. Where an epoch is shorter than the test, it comes again.
      plan: what to try.
      deadline: `time.monotonic()` seconds after which no further step is tried.

    Returns:
      What was found.
    """
    start, epoch = time.monotonic(), data.epoch.numpy()
    losses = _LossList(deadline)
    try:
        # Always the first: a run that was interrupted tries the same.
        data.epoch.assign(0)
        # Not by epochs of `fit`: beginning one takes longer than some steps on features.
        batches = data.train.repeat().take(plan.num_steps)
        with training_cost.undoing(trainer):
            trainer.fit(batches, shuffle=False, verbose=0, callbacks=[losses])
    finally:
        data.epoch.assign(epoch)
    finite = [loss for loss in losses.values if math.isfinite(loss)]
    return Tried(
        plan.list_rates(len(finite)),
        tuple(finite),
        len(losses.values),
        time.monotonic() - start,
        losses.is_late,
    )


class _LossList(keras.callbacks.Callback):
    """Notes the loss of each batch, and ends training where nothing more is to be learnt."""

    def __init__(self, deadline: float):
        super().__init__()
        self._deadline = deadline
        self.values: list[float] = []
        self.is_late = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes the batch's own loss: Keras's is the mean since the metrics began anew."""
        self.values.append(float((logs or {})["loss"]))
        self.model.reset_metrics()
        self.is_late = time.monotonic() >= self._deadline
        if self.is_late or rate_range.has_diverged(self.values):
            self.model.stop_training = True
