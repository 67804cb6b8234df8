"""What training will cost, said before it starts, from a few timed steps of the real thing."""

import contextlib
import dataclasses
import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tf_finetune import specs

# The first step traces the graph; the median of the others tells the cost.
TIMED_STEPS = 4


@dataclasses.dataclass(frozen=True)
class CostEstimate:
    """What training will cost, from a few timed steps.

    Attributes:
      secs_per_epoch: per phase, (lower, upper) bound in seconds, validation included.
      total_secs: (lower, upper) bound of all phases.
      peak_memory_bytes: largest resident memory of the process so far.
      num_timed: how many steps were timed.
    """

    secs_per_epoch: dict[str, tuple[float, float]]
    total_secs: tuple[float, float]
    peak_memory_bytes: int
    num_timed: int


class StepTimer(keras.callbacks.Callback):
    """Notes when each step ended; given to `fit` for a few steps.

    Attributes:
      loss: mean of the steps so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ends: list[float] = []
        self._numbers: list[int] = []
        self.loss = math.nan

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes the time."""
        self._ends.append(time.monotonic())
        self._numbers.append(batch)
        self.loss = float((logs or {}).get("loss", math.nan))

    def secs_per_step(self) -> float:
        """Median seconds of the steps after the first ones to end; with no more, 0."""
        # Where several run at once, only the last of them ends.
        secs = np.diff(self._ends) / np.diff(self._numbers)
        return float(np.median(secs)) if len(secs) else 0.0

    def num_timed(self) -> int:
        """How many steps that is the median of."""
        return self._numbers[-1] - self._numbers[0] if self._numbers else 0


@contextlib.contextmanager
def undoing(trainer: keras.Model) -> Iterator[None]:
    """Puts every variable back as it was, for steps that are only tried.

    Args:
      trainer: compiled, its optimizer built.

    Yields:
      Nothing. Afterwards, also after an error, model and optimizer are as before.
    """
    variables = [*trainer.variables, *trainer.optimizer.variables]
    saved = [np.array(variable) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, saved, strict=True):
            variable.assign(value)


def time_steps(trainer: keras.Model, batches: Any) -> StepTimer:
    """Runs a few steps, then puts every variable back as it was.

    Args:
      trainer: compiled, its optimizer built.
      batches: tf.data.Dataset of the steps; the first ones trace the graph.

    Returns:
      What they took.
    """
    timer = StepTimer()
    with undoing(trainer):
        trainer.fit(batches, verbose=0, shuffle=False, callbacks=[timer])
    return timer


def describe_cost(
    cost: CostEstimate,
    phases: Sequence[specs.PhaseSpec],
    *,
    num_examples: int,
    num_trainable: int,
) -> str:
    """The line that says, before training, what it will cost.

    Args:
      cost: the estimate.
      phases: the phases, resolved.
      num_examples: training examples.
      num_trainable: trainable parameters of the first phase.

    Returns:
      One line.
    """
    epochs = ", ".join(
        f"{phase.name} {phase.epochs} x {_format_bounds(cost.secs_per_epoch[phase.name])}"
        for phase in phases
    )
    return (
        f"Cost: {num_examples:,} training examples, {num_trainable:,} trainable "
        f"parameters, {cost.peak_memory_bytes / 2**30:.1f} GiB of memory so far, epochs: {epochs}, "
        f"in all about {_format_bounds(cost.total_secs)} of training steps (from {cost.num_timed} "
        "timed; building each phase's graph, the report and the export come on top)."
    )


def _format_bounds(bounds: tuple[float, float]) -> str:
    low, high = (f"{secs:.1f}" if secs < 10 else f"{secs:.0f}" for secs in bounds)
    return f"{low} s" if low == high else f"{low} to {high} s"


def estimate_cost(
    phases: Sequence[specs.PhaseSpec], *, epoch_secs: float, num_timed: int
) -> CostEstimate:
    """Bounds for all phases from the measured cost of the first.

    Args:
      phases: the phases, resolved.
      epoch_secs: seconds of an epoch of the first phase.
      num_timed: from how many steps that is known.

    Returns:
      The estimate. A later phase trains deeper: its backward pass through the backbone costs up to
      twice the forward pass, so an epoch takes between one and three times as long.
    """
    bounds = {
        phase.name: (epoch_secs, epoch_secs * (1 if number == 0 else 3))
        for number, phase in enumerate(phases)
    }
    low, high = (
        sum(bounds[phase.name][side] * (phase.epochs or 1) for phase in phases) for side in (0, 1)
    )
    return CostEstimate(bounds, (low, high), peak_memory_bytes(), num_timed)


def read_estimate(saved: Mapping[str, Any] | None) -> CostEstimate | None:
    """The estimate that a checkpoint holds.

    Args:
      saved: as `dataclasses.asdict` made it, by way of JSON; None: there is none.

    Returns:
      The estimate.
    """
    if saved is None:
        return None
    bounds = {name: tuple(both) for name, both in saved["secs_per_epoch"].items()}
    return CostEstimate(
        bounds, tuple(saved["total_secs"]), saved["peak_memory_bytes"], saved["num_timed"]
    )


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far.

    Returns:
      Bytes.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
