"""In which arithmetic the steps of a phase are computed.

One idea: bfloat16 is faster for some models on some processors and slower for others, so a few real
steps are timed in both, where a phase is long enough to pay for that. What is decided is written to
run.flags and obeyed from then on.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_finetune import findings, graph_precision, specs, training_cost

AUTO, FLOAT32, BFLOAT16 = "auto", "float32", "bfloat16"
# A second graph is made for the trial; shorter phases would not get the time back.
_MIN_SECS = 60.0
# What other work on the machine does to a median of few steps.
_MIN_RATIO = 1.15
# How far the mean loss of the same steps may move, as a part of it.
_MAX_CHANGE = 0.02


@dataclasses.dataclass(frozen=True)
class Decision:
    """What was found for a phase.

    Attributes:
      precision: "float32" or "bfloat16".
      reason: why, as a sentence without its full stop; empty where nothing was tried.
    """

    precision: str
    reason: str = ""


def check_processor(phases: Sequence[specs.PhaseSpec]) -> None:
    """Refuses phases in bfloat16 on a processor that has none.

    Args:
      phases: of the run.

    Raises:
      findings.RefusedError: a phase asks for it.
    """
    if all(phase.training_precision != BFLOAT16 for phase in phases):
        return
    if not graph_precision.has_bfloat16():
        message = (
            "--training_precision=bfloat16 needs a processor that computes in it (x86 with AVX-512 "
            "BF16 or AMX, on Linux), and this one is not known to. Leave it out, or give "
            "--precision=bfloat16, which any device computes."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--training_precision"))


def may_try(*, precision: str, input_kind: str, has_columns: bool, num_replicas: int) -> bool:
    """Whether "auto" may find bfloat16.

    Args:
      precision: value of --precision.
      input_kind: "image", "text" or "columns".
      has_columns: whether columns stand beside images or texts.
      num_replicas: devices that share each batch.

    Returns:
      False where the user wants float32, where a number may count by its last digits, on several
      devices, and where the processor, or a GPU in its place, has no such graphs.
    """
    return (
        precision == "auto"
        and input_kind != "columns"
        and not has_columns
        and num_replicas == 1
        and graph_precision.has_bfloat16()
        and not tf.config.list_logical_devices("GPU")
    )


def decide(trainer: Any, batches: tf.data.Dataset, *, num_steps: int, max_secs: float) -> Decision:
    """Times a few steps in float32, and where that will take long in bfloat16, too.

    Args:
      trainer: compiled, its optimizer built; afterwards as it was.
      batches: some steps, at least two executions.
      num_steps: of the phase.
      max_secs: that the phase may take.

    Returns:
      The decision; the trainer follows it.
    """
    exact = training_cost.time_steps(trainer, batches)
    secs = exact.secs_per_step()
    if min(secs * num_steps, max_secs) < _MIN_SECS:
        return Decision(FLOAT32)
    trainer.use_bfloat16(is_on=True)
    rounded = training_cost.time_steps(trainer, batches)
    found = compare(secs, rounded.secs_per_step(), losses=(exact.loss, rounded.loss))
    trainer.use_bfloat16(is_on=found.precision == BFLOAT16)
    return found


def compare(secs: float, rounded_secs: float, *, losses: tuple[float, float]) -> Decision:
    """Judges a trial.

    Args:
      secs: of a step in float32.
      rounded_secs: of one in bfloat16.
      losses: mean losses of the same steps in float32 and in bfloat16.

    Returns:
      The decision.
    """
    exact, rounded = losses
    change = abs(rounded - exact) / abs(exact) if exact else math.inf
    ratio = secs / rounded_secs if rounded_secs else math.inf
    if not change <= _MAX_CHANGE:  # NaN too
        reason = f"bfloat16 would change the loss of the first steps by {change:.1%}"
        return Decision(FLOAT32, reason)
    if ratio < _MIN_RATIO:
        return Decision(FLOAT32, f"bfloat16 is {ratio:.2f} times as fast")
    return Decision(BFLOAT16, f"bfloat16 is {ratio:.2f} times as fast")


def describe(phase: str, decision: Decision, announce: Callable[[str], None]) -> None:
    """Tells what was tried.

    Args:
      phase: its name.
      decision: of the phase.
      announce: takes the line.
    """
    if decision.reason:
        announce(f"Phase {phase}: steps in {decision.precision}, {decision.reason}.")
