"""The place at which a run stands, and what it has found on the way there."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tf_finetune import rate_range, specs, training_cost


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
      phase: 0-based number of the phase that runs; the number of phases where all have ended.
      first_epoch: epochs of the run before that phase.
      step: finished steps of the epoch that runs; all of them: it is to be validated.
      start_value: the monitor before the phase's first step, None without validation data.
      waited: epochs of the phase since the last improvement.
      improved: whether an epoch of the phase was the best.
      results: a dict for each phase that has ended.
      ranges: the tests of learning rates so far, one for each phase that had one.
      precisions: {name of a phase that left it open: what its steps compute in}.
      cost: the estimate made before training; None before it was made.
      secs: spent on training so far, over all runs.
      num_frozen_layers: frozen layers of the backbone in the newest phase.
      num_trainable: trainable parameters in the newest phase.
    """

    phase: int = 0
    first_epoch: int = 0
    step: int = 0
    start_value: float | None = None
    waited: int = 0
    improved: bool = False
    results: tuple[dict[str, Any], ...] = ()
    ranges: tuple[rate_range.RangeTest, ...] = ()
    precisions: dict[str, str] = dataclasses.field(default_factory=dict)
    cost: training_cost.CostEstimate | None = None
    secs: float = 0.0
    num_frozen_layers: int = 0
    num_trainable: int = 0

    def settle_phases(self, phases: tuple[specs.PhaseSpec, ...]) -> tuple[specs.PhaseSpec, ...]:
        """The phases with what was found when they started.

        Args:
          phases: of the run.

        Returns:
          Copies; what is not known yet stays open.
        """
        return tuple(
            dataclasses.replace(phase, training_precision=self.precisions[phase.name])
            if phase.name in self.precisions
            else phase
            for phase in rate_range.settle_phases(phases, self.ranges)
        )


def read_standing(values: Mapping[str, Any]) -> Standing:
    """What `dataclasses.asdict` made of a standing, by way of JSON.

    Args:
      values: of a checkpoint.

    Returns:
      The standing.

    Raises:
      AttributeError, KeyError, TypeError, ValueError: it is that of another program.
    """
    return Standing(
        **{
            **values,
            "results": tuple(values["results"]),
            "ranges": rate_range.read_tests(values["ranges"]),
            "cost": training_cost.read_estimate(values["cost"]),
        }
    )
