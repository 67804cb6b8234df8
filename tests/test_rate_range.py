import dataclasses
import itertools
import json
import math

import pytest

from tf_finetune import rate_range, specs

PLAN = rate_range.Plan(1e-6, 1.0, 61)
PHASE = specs.PhaseSpec(name="head", learning_rate=0.005)


def losses_of(rates, *, best=1e-2, start=2.0):
    """A valley over the logarithm of the rate, flat where rates are too low to matter."""
    return [start + min(0.0, abs(math.log10(rate / best)) - 3) for rate in rates]


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
    assert (cheap.lowest, cheap.highest) == (pytest.approx(5e-6), pytest.approx(5.0))
    assert (dear.lowest, dear.highest) == (pytest.approx(1e-7), pytest.approx(0.1))
    assert dear.num_steps < cheap.num_steps
    assert rate_range.describe_plan(dear) == (
        "Learning rate: --learning_rate=auto tries 60 steps at rates from 1e-07 to 0.1 when the "
        "phase starts, and chooses then."
    )


def test_the_smoothed_loss_is_an_average_that_forgets():
    assert rate_range.smooth([]) == []
    assert rate_range.smooth([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])
    assert rate_range.smooth([1.0, 2.0]) == pytest.approx([1.0, (0.09 * 1 + 0.1 * 2) / 0.19])


def test_it_ends_where_the_loss_explodes():
    assert not rate_range.has_diverged([])
    assert rate_range.has_diverged([math.nan])
    assert rate_range.has_diverged([1.0, 1.0, math.inf])
    assert not rate_range.has_diverged([1.0] * 30 + [20.0])  # one bad batch is noise
    assert rate_range.has_diverged([1.0] * 30 + [20.0, 20.0])
    assert not rate_range.has_diverged([1.0, 30.0])  # too early to tell


def test_a_clean_valley():
    rates = PLAN.list_rates(61)
    rate = rate_range.choose_rate(rates, losses_of(rates))
    # The smoothed loss lags behind by some steps; a tenth of it is on the safe side still.
    assert 1e-3 <= rate <= 5e-3
    assert rate == float(f"{rate:.2g}")


def test_where_nothing_is_told_the_rate_stays():
    rates = PLAN.list_rates(61)
    assert rate_range.choose_rate(rates[:5], losses_of(rates[:5])) is None
    assert rate_range.choose_rate(rates, [1.0 + 0.1 * step for step in range(61)]) is None
    assert rate_range.choose_rate((), ()) is None


def test_the_lines_that_say_what_was_found():
    rates = PLAN.list_rates(61)
    found = rate_range.make_test(PHASE, rates, losses_of(rates))
    line = found.describe(num_steps=61, secs=1.234)
    assert line.startswith(f"Learning rate {found.rate:g} (--learning_rate=auto): ")
    assert line.endswith(" (61 steps, 1.2 s, which are undone).")
    rising = rate_range.make_test(PHASE, rates, [1.0 + 0.1 * step for step in range(61)])
    assert rising.rate == 0.005
    assert rising.describe(num_steps=61, secs=1.0) == (
        "Learning rate 0.005, the recipe's: the test of --learning_rate=auto tells none, the loss "
        "did not fall at any (61 steps, 1.0 s, which are undone)."
    )
    broken = rate_range.make_test(PHASE, (), ())
    assert broken.describe(num_steps=1, secs=0.5) == (
        "Learning rate 0.005, the recipe's: the test of --learning_rate=auto tells none, the loss "
        "was not finite after 0 steps (1 steps, 0.5 s, which are undone)."
    )


def test_phases_get_what_was_found():
    phases = (
        specs.PhaseSpec(name="head", learning_rate="auto"),
        specs.PhaseSpec(name="middle", learning_rate=0.1),
        specs.PhaseSpec(name="fine", learning_rate="auto"),
    )
    tests = [rate_range.RangeTest(name, 0.02, (), ()) for name in ("head", "middle")]
    settled = rate_range.settle_phases(phases, tests)
    assert [phase.learning_rate for phase in settled] == [0.02, 0.1, "auto"]


def test_the_file():
    test = rate_range.RangeTest("head", 0.1, (1e-6, 0.1), (2.0, 1 / 3))
    lines = rate_range.format_tests([test, dataclasses.replace(test, phase="fine")]).splitlines()
    assert lines[0] == "phase,learning_rate,loss,smoothed"
    assert lines[1] == "head,1e-06,2.0,2.0"
    phase, rate, loss, smoothed = lines[4].split(",")
    assert (phase, float(rate), float(loss)) == ("fine", 0.1, 1 / 3)
    assert float(smoothed) == rate_range.smooth(test.losses)[1]


def test_a_checkpoint_gives_it_back():
    tests = (rate_range.RangeTest("head", 0.1, (1e-6, 0.1), (2.0, 1 / 3)),)
    saved = json.loads(json.dumps([dataclasses.asdict(test) for test in tests]))
    assert rate_range.read_tests(saved) == tests


@pytest.mark.parametrize(
    "saved",
    [
        [{}],
        [1],
        None,
        [{"phase": "head", "rate": "fast", "rates": [], "losses": []}],
        [{"phase": "head", "rate": -1.0, "rates": [], "losses": []}],
        [{"phase": "a b", "rate": 1.0, "rates": [], "losses": []}],
        [{"phase": "head", "rate": 1.0, "rates": [1.0], "losses": []}],
        [{"phase": "head", "rate": 1.0, "rates": ["x"], "losses": [1.0]}],
    ],
)
def test_what_another_program_wrote(saved):
    with pytest.raises((KeyError, TypeError, ValueError)):
        rate_range.read_tests(saved)
