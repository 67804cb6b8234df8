"""Which learning rate a phase should have, told by a range test: --learning_rate=auto.

One idea: a few dozen steps, each at a higher rate than the one before, show where the loss falls
and where it rises. What is learnt in them is thrown away.

The rule: the rate at which the smoothed loss has made two thirds of its fall. Its minimum, which is
often quoted, says little with Adam: on few examples the loss goes on falling far beyond any rate
that generalizes. Where a phase begins with a trained model the loss has nowhere to fall; then it
is the highest rate that does not raise it, at most thirty times the recipe's. Noise may hide where
a fall ends, so the recipe's rate is the lowest that is chosen, unless the loss rises with it.

This module plans the test and reads what it gave; `range_steps` runs it.

Reference: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3,
https://arxiv.org/abs/1506.01186 (the range test).
"""

import csv
import dataclasses
import io
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tf_finetune import specs

# Of the rate that the recipe has for such a phase: below it is too low to see anything.
_LOWEST, _HIGHEST = 0.01, 300.0
# On features steps cost next to nothing.
CACHED_STEPS, OTHER_STEPS = 100, 60
# A smoothed loss is the mean of so many steps before, the step, and so many behind.
_SIDE = 4
# A smoothed loss of so many times the highest before will not come back.
_DIVERGED = 4.0
# Fewer say nothing.
_MIN_STEPS = 3 * (2 * _SIDE + 1)
# Part of the fall that is made at the rate that is chosen.
_FALLEN = 2 / 3
# A fall of the smoothed loss by less, in standard deviations of a batch's loss, is noise.
_MIN_FALL = 2.0
# Where a loss does not fall, little is known of rates far above the recipe's.
_MOST = 30.0
_DEFAULT = "so it is the recipe's"
# The median difference of two normal numbers, in standard deviations of one.
_MEDIAN_DIFFERENCE = 0.954


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
      reason: why, as a sentence without its full stop.
      rates: that were tried, rising.
      losses: of the batch at each of them, finite.
    """

    phase: str
    rate: float
    reason: str
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
        count = "1 step" if num_steps == 1 else f"{num_steps} steps"
        tried = f" at {self.rates[0]:.2g} to {self.rates[-1]:.2g}" if self.rates else ""
        return (
            f"Learning rate {self.rate:g} (--learning_rate=auto): {self.reason} ({count}{tried}, "
            f"{secs:.1f} s, all undone)."
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
        default_rate * _LOWEST, default_rate * _HIGHEST, CACHED_STEPS if is_cheap else OTHER_STEPS
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
      As many numbers: the mean of each and its neighbours on both sides, so that nothing lags.
    """
    return [
        statistics.fmean(losses[max(0, step - _SIDE) : step + _SIDE + 1])
        for step in range(len(losses))
    ]


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether higher rates can be spared.

    Args:
      losses: of the steps so far.

    Returns:
      True where the last one is not finite, or the mean of the last few is several times as high as
      it was at the beginning.
    """
    width = 2 * _SIDE + 1
    if losses and not math.isfinite(losses[-1]):
        return True
    if len(losses) < _MIN_STEPS:
        return False
    return statistics.fmean(losses[-width:]) > _DIVERGED * statistics.fmean(losses[:width])


def choose_rate(
    rates: Sequence[float], losses: Sequence[float], default_rate: float
) -> tuple[float, str]:
    """What a test tells.

    Args:
      rates: that were tried, rising.
      losses: as many, finite.
      default_rate: the recipe's.

    Returns:
      (the rate, two digits of it unless it is the recipe's; the reason).
    """
    if len(losses) < _MIN_STEPS:
        return default_rate, f"the loss was not finite after {len(losses)} steps, {_DEFAULT}"
    smoothed = smooth(losses)
    # At low rates nothing happens: there is the level that the phase starts from, and the noise.
    quiet = losses[: len(losses) // 4]
    level, noise = statistics.fmean(quiet), _measure_noise(quiet)
    # Of hard batches there are few: what they did at low rates, they may do again.
    highest = max(smoothed[: len(losses) // 3]) + noise / 2
    edge = max(step for step, loss in enumerate(smoothed) if loss <= highest)
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    fall = level - smoothed[lowest]
    if fall > _MIN_FALL * noise:
        before = [step for step in range(lowest) if smoothed[step] > level - _FALLEN * fall]
        rate, reason = rates[before[-1] + 1], "with it the loss has made two thirds of its fall"
    elif edge >= len(losses) - _SIDE:
        return default_rate, f"the loss neither falls nor rises, {_DEFAULT}"
    else:
        rate = min(rates[edge], _MOST * default_rate)
        reason = "the loss does not fall, and this is the highest that does not raise it"
        if rate < rates[edge]:
            reason = f"the loss does not fall, and up to {_MOST:g} times the recipe's does not rise"
    if rate <= default_rate <= rates[edge]:
        return (
            default_rate,
            f"a lower one might do and this one does not raise the loss, {_DEFAULT}",
        )
    # Nobody needs more digits, and what is shown is then what is used.
    return float(f"{rate:.2g}"), reason


def _measure_noise(losses: Sequence[float]) -> float:
    """The standard deviation of losses that have no trend, whatever single ones do."""
    steps = [abs(second - first) for first, second in itertools.pairwise(losses)]
    return statistics.median(steps) / _MEDIAN_DIFFERENCE


def make_test(phase: specs.PhaseSpec, rates: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """What follows from the losses of a test.

    Args:
      phase: that was tested, with the recipe's rate.
      rates: that were tried, rising.
      losses: as many, finite.

    Returns:
      The test's result.
    """
    rate, reason = choose_rate(rates, losses, phase.peak_rate)
    return RangeTest(phase.name, rate, reason, tuple(rates), tuple(losses))


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
        tests.append(RangeTest(phase.name, rate, str(values["reason"]), rates, losses))
    return tuple(tests)
