import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from tf_finetune import rate_range, specs

PLAN = rate_range.Plan(1e-6, 1.0, 61)
PHASE = specs.PhaseSpec(name="head", learning_rate=0.005)


def losses_of(rates, *, best=1e-1, start=2.0, noise=0.02):
    """Falls by one between 1e-4 and 1e-1, then rises; flat where rates are too low to matter."""
    generator = np.random.default_rng(0)
    return [
        start + min(0.0, abs(math.log10(rate / best)) - 3) / 3 + noise * generator.normal()
        for rate in rates
    ]


def rising_from(rates, edge, *, noise=0.02):
    """Of a model that is trained already."""
    generator = np.random.default_rng(0)
    return [0.2 + max(0.0, math.log10(rate / edge)) + noise * generator.normal() for rate in rates]


def test_rates_rise_by_equal_factors():
    rates = PLAN.list_rates(61)
    assert rates[0] == 1e-6
    assert rates[-1] == pytest.approx(1.0)
    assert [second / first for first, second in itertools.pairwise(rates)] == (
        pytest.approx([10 ** (6 / 60)] * 60)
    )
    assert PLAN.list_rates(3) == rates[:3]


def test_what_is_tried_lies_around_the_rate_of_the_recipe():
    cheap = rate_range.plan_test(0.005, is_cheap=True)
    dear = rate_range.plan_test(1e-4, is_cheap=False)
    assert (cheap.lowest, cheap.highest) == (pytest.approx(5e-5), pytest.approx(1.5))
    assert (dear.lowest, dear.highest) == (pytest.approx(1e-6), pytest.approx(0.03))
    assert dear.num_steps < cheap.num_steps
    assert rate_range.describe_plan(dear) == (
        "Learning rate: --learning_rate=auto tries 60 steps at rates from 1e-06 to 0.03 when the "
        "phase starts, and chooses then."
    )


def test_the_smoothed_loss_is_a_mean_that_does_not_lag():
    assert rate_range.smooth([]) == []
    line = [float(step) for step in range(20)]
    assert rate_range.smooth(line)[4:16] == pytest.approx(line[4:16])
    assert rate_range.smooth(line)[0] == pytest.approx(2.0)
    assert rate_range.smooth([0.0] * 9 + [9.0] + [0.0] * 9) == pytest.approx(
        [0.0] * 5 + [1.0] * 9 + [0.0] * 5
    )


def test_it_ends_where_the_loss_explodes():
    assert not rate_range.has_diverged([])
    assert rate_range.has_diverged([math.nan])
    assert rate_range.has_diverged([1.0, 1.0, math.inf])
    assert not rate_range.has_diverged([1.0] * 30 + [20.0])  # one bad batch is noise
    assert rate_range.has_diverged([1.0] * 30 + [20.0, 20.0])
    assert not rate_range.has_diverged([1.0] * 20 + [30.0])  # too early to tell


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_falls(seed):
    rates = PLAN.list_rates(61)
    generator = np.random.default_rng(seed)
    losses = [loss + 0.05 * generator.normal() for loss in losses_of(rates, noise=0.0)]
    # It falls from 1e-4 to 1e-1; two thirds of that are made at 1e-2.
    rate, reason = rate_range.choose_rate(rates, losses, 0.001)
    assert 5e-3 < rate < 2e-2
    assert rate == float(f"{rate:.2g}")
    assert reason == "with it the loss has made two thirds of its fall"


def test_how_deep_it_falls_does_not_matter():
    # On few examples the loss goes on falling at any rate.
    rates = PLAN.list_rates(61)
    losses = [2 / (1 + rate / 1e-3) for rate in rates]
    rate, _ = rate_range.choose_rate(rates, losses, 1e-4)
    assert 1e-3 < rate < 4e-3


def test_the_rate_of_the_recipe_is_the_lowest_that_does_not_hurt():
    rates = PLAN.list_rates(61)
    assert rate_range.choose_rate(rates, losses_of(rates), 0.03) == (
        0.03,
        "a lower one might do and this one does not raise the loss, so it is the recipe's",
    )
    rate, _ = rate_range.choose_rate(rates, rising_from(rates, 1e-3), 0.1)
    assert rate < 3e-3


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_cannot_fall(seed):
    rates = PLAN.list_rates(61)
    generator = np.random.default_rng(seed)
    losses = [loss + 0.05 * abs(generator.normal()) for loss in rising_from(rates, 1e-3, noise=0.0)]
    rate, reason = rate_range.choose_rate(rates, losses, 1e-4)
    assert 2e-4 < rate < 3e-3
    assert reason == "the loss does not fall, and this is the highest that does not raise it"
    assert rate_range.choose_rate(rates, losses, 1e-6) == (
        3e-5,
        "the loss does not fall, and up to 30 times the recipe's does not rise",
    )


def test_where_nothing_is_told():
    rates = PLAN.list_rates(61)
    flat = rising_from(rates, 1e9)
    assert rate_range.choose_rate(rates, flat, 0.01) == (
        0.01,
        "the loss neither falls nor rises, so it is the recipe's",
    )
    few = "the loss was not finite after 5 steps, so it is the recipe's"
    assert rate_range.choose_rate(rates[:5], losses_of(rates[:5]), 0.1) == (0.1, few)


def test_the_lines_that_say_what_was_found():
    rates = PLAN.list_rates(61)
    found = rate_range.make_test(PHASE, rates, losses_of(rates))
    assert found.describe(num_steps=61, secs=1.234) == (
        f"Learning rate {found.rate:g} (--learning_rate=auto): with it the loss has made two "
        "thirds of its fall (61 steps at 1e-06 to 1, 1.2 s, all undone)."
    )
    broken = rate_range.make_test(PHASE, (), ())
    assert broken.rate == 0.005
    assert broken.describe(num_steps=1, secs=0.5) == (
        "Learning rate 0.005 (--learning_rate=auto): the loss was not finite after 0 steps, so it "
        "is the recipe's (1 step, 0.5 s, all undone)."
    )


def test_phases_get_what_was_found():
    phases = (
        specs.PhaseSpec(name="head", learning_rate="auto"),
        specs.PhaseSpec(name="middle", learning_rate=0.1),
        specs.PhaseSpec(name="fine", learning_rate="auto"),
    )
    tests = [rate_range.RangeTest(name, 0.02, "", (), ()) for name in ("head", "middle")]
    settled = rate_range.settle_phases(phases, tests)
    assert [phase.learning_rate for phase in settled] == [0.02, 0.1, "auto"]


def test_the_file():
    test = rate_range.RangeTest("head", 0.1, "why", (1e-6, 0.1), (2.0, 1 / 3))
    lines = rate_range.format_tests([test, dataclasses.replace(test, phase="fine")]).splitlines()
    assert lines[0] == "phase,learning_rate,loss,smoothed"
    assert lines[1] == f"head,1e-06,2.0,{7 / 6!r}"
    phase, rate, loss, smoothed = lines[4].split(",")
    assert (phase, float(rate), float(loss)) == ("fine", 0.1, 1 / 3)
    assert float(smoothed) == rate_range.smooth(test.losses)[1]


def test_a_checkpoint_gives_it_back():
    tests = (rate_range.RangeTest("head", 0.1, "why", (1e-6, 0.1), (2.0, 1 / 3)),)
    saved = json.loads(json.dumps([dataclasses.asdict(test) for test in tests]))
    assert rate_range.read_tests(saved) == tests


@pytest.mark.parametrize(
    "saved",
    [
        [{}],
        [1],
        None,
        [{"phase": "head", "rate": "fast", "reason": "", "rates": [], "losses": []}],
        [{"phase": "head", "rate": -1.0, "reason": "", "rates": [], "losses": []}],
        [{"phase": "a b", "rate": 1.0, "reason": "", "rates": [], "losses": []}],
        [{"phase": "head", "rate": 1.0, "reason": "", "rates": [1.0], "losses": []}],
        [{"phase": "head", "rate": 1.0, "reason": "", "rates": ["x"], "losses": [1.0]}],
    ],
)
def test_what_another_program_wrote(saved):
    with pytest.raises((KeyError, TypeError, ValueError)):
        rate_range.read_tests(saved)
