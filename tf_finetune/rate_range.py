"""Which learning rate a phase should have, told by a range test: --learning_rate=auto.

One idea: a few dozen steps, each at a higher rate than the one before, show where the loss falls
and where it no longer does. What is learnt in them is thrown away.

This module plans the test and reads what it gave; `range_steps` runs it.

Reference: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3,
https://arxiv.org/abs/1506.01186 (the range test).
"""

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tf_finetune import specs

# From a thousandth to a thousand times the rate that the recipe has for such a phase.
_REACH = 1000.0
# On features steps cost next to nothing.
CACHED_STEPS, OTHER_STEPS = 100, 60
_SMOOTHING = 0.9
# A smoothed loss of so many times its minimum will not come back.
_DIVERGED = 4.0
# Fewer say nothing.
_MIN_STEPS = 10
# The chosen rate is so much lower than that of the lowest loss.
_MARGIN = 10.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a test tries.

    Attributes:
      lowest: the first rate.
      highest: the last rate.
      num_steps: how many are tried, from one to the other by equal factors.
    """

    lowest: float
    highest: float
    num_steps: int

    @property
    def factor(self) -> float:
        """From one rate to the next."""
        return (self.highest / self.lowest) ** (1 / (self.num_steps - 1))

    def list_rates(self, count: int) -> tuple[float, ...]:
        """The rates of the first steps.

        Args:
          count: how many steps.

        Returns:
          So many rates, rising.
        """
        return tuple(self.lowest * self.factor**step for step in range(count))


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """What a test gave.

    Attributes:
      phase: the phase's name.
      rate: that was chosen.
      rates: that were tried, rising.
      losses: of the batch at each of them, finite.
    """

    phase: str
    rate: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]

    def describe(self, *, num_steps: int, secs: float) -> str:
        """The line that says what was found.

        Args:
          num_steps: steps that ran, also those without a finite loss.
          secs: that the test took.

        Returns:
          One line.
        """
        cost = f"{num_steps} steps, {secs:.1f} s"
        if choose_rate(self.rates, self.losses) is not None:
            return (
                f"Learning rate {self.rate:g} (--learning_rate=auto): a tenth of the one at which "
                f"the smoothed loss was lowest, of {self.rates[0]:.2g} to {self.rates[-1]:.2g} "
                f"({cost}, which are undone)."
            )
        reason = "the loss did not fall at any"
        if len(self.losses) < _MIN_STEPS:
            reason = f"the loss was not finite after {len(self.losses)} steps"
        return (
            f"Learning rate {self.rate:g}, the recipe's: the test of --learning_rate=auto tells "
            f"none, {reason} ({cost}, which are undone)."
        )


def plan_test(default_rate: float, *, is_cheap: bool) -> Plan:
    """What to try in a phase.

    Args:
      default_rate: the recipe's for such a phase.
      is_cheap: whether it trains on features that are there.

    Returns:
      The plan.
    """
    return Plan(
        default_rate / _REACH, default_rate * _REACH, CACHED_STEPS if is_cheap else OTHER_STEPS
    )


def describe_plan(plan: Plan) -> str:
    """The line that says what a run will do.

    Args:
      plan: of the test.

    Returns:
      One line.
    """
    return (
        f"Learning rate: --learning_rate=auto tries {plan.num_steps} steps at rates from "
        f"{plan.lowest:g} to {plan.highest:g} when the phase starts, and chooses then."
    )


def smooth(losses: Sequence[float]) -> list[float]:
    """The losses without most of the noise of batches.

    Args:
      losses: of the steps.

    Returns:
      As many numbers: averages over all steps so far, older ones count less.
    """
    average, result = 0.0, []
    for number, loss in enumerate(losses, 1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        result.append(average / (1 - _SMOOTHING**number))
    return result


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether higher rates can be spared.

    Args:
      losses: of the steps so far.

    Returns:
      True where the last one is not finite, or the smoothed loss is several times its minimum.
    """
    if not losses:
        return False
    if not math.isfinite(losses[-1]):
        return True
    smoothed = smooth(losses)
    return len(losses) >= _MIN_STEPS and smoothed[-1] > _DIVERGED * min(smoothed)


def choose_rate(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """A tenth of the rate at which the smoothed loss was lowest.

    Args:
      rates: that were tried, rising.
      losses: as many, finite.

    Returns:
      The rate with two digits; None where too few were tried or the loss never fell.
    """
    if len(losses) < _MIN_STEPS:
        return None
    smoothed = smooth(losses)
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    if lowest == 0:
        return None
    # Nobody needs more digits, and what is shown is then what is used.
    return float(f"{rates[lowest] / _MARGIN:.2g}")


def make_test(phase: specs.PhaseSpec, rates: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """What follows from the losses of a test.

    Args:
      phase: that was tested, with the rate that it has where the test tells none.
      rates: that were tried, rising.
      losses: as many, finite.

    Returns:
      The test's result.
    """
    rate = choose_rate(rates, losses) or phase.peak_rate
    return RangeTest(phase.name, rate, tuple(rates), tuple(losses))


def settle_phases(
    phases: Sequence[specs.PhaseSpec], tests: Sequence[RangeTest]
) -> tuple[specs.PhaseSpec, ...]:
    """The phases with the rates that tests have found.

    Args:
      phases: of a run.
      tests: so far.

    Returns:
      The same phases; one whose rate is open and is known by now has it.
    """
    found = {test.phase: test.rate for test in tests}
    return tuple(
        dataclasses.replace(phase, learning_rate=found[phase.name])
        if phase.learning_rate == specs.AUTO and phase.name in found
        else phase
        for phase in phases
    )


def format_tests(tests: Sequence[RangeTest]) -> str:
    """The text of lr_range.csv.

    Args:
      tests: of the phases so far.

    Returns:
      CSV with a header; numbers are written so that reading them gives the same number.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["phase", "learning_rate", "loss", "smoothed"])
    for test in tests:
        for numbers in zip(test.rates, test.losses, smooth(test.losses), strict=True):
            writer.writerow([test.phase, *map(repr, numbers)])
    return text.getvalue()


def read_tests(saved: Sequence[Mapping[str, Any]]) -> tuple[RangeTest, ...]:
    """The tests that a checkpoint holds.

    Args:
      saved: as `dataclasses.asdict` made them, by way of JSON.

    Returns:
      The tests.

    Raises:
      KeyError, TypeError, ValueError: that is no list of tests.
    """
    tests = []
    for values in saved:
        rates, losses = (tuple(map(float, values[name])) for name in ("rates", "losses"))
        rate = float(values["rate"])
        # Also checks the range of the rate.
        phase = specs.PhaseSpec(name=values["phase"], learning_rate=rate)
        if len(rates) != len(losses):
            raise ValueError(f"expected as many losses as rates, received {len(losses)}")
        tests.append(RangeTest(phase.name, rate, rates, losses))
    return tuple(tests)
