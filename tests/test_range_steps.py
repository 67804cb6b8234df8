"""A test of learning rates leaves nothing behind but the rate."""

import dataclasses

import keras
import numpy as np
import pytest

from tests import test_training
from tf_finetune import (
    callbacks,
    checkpoints,
    distribution,
    findings,
    range_steps,
    rate_range,
    resuming,
    specs,
    training,
    workdir,
)

material = test_training.material
# 48 training examples: three steps in an epoch, the last one as large as the others.
HEAD = specs.PhaseSpec(name="head", epochs=3, freeze="all", learning_rate="auto")
ALL = specs.PhaseSpec(
    name="all", epochs=2, freeze="none", learning_rate="auto", warmup_fraction=0.3
)


class KilledError(Exception):
    """Stands for the end of the process."""


def fit(material, phases, *, strategy=None, batch_norm="frozen", **options):
    """(numbers of the trained model, history, phases as they were noted, lines)"""
    lines, noted = [], []
    model, backbone, task = test_training.build(
        material, dropout=0.3, phases=phases, strategy=strategy, **options
    )
    task = dataclasses.replace(task, batch_norm=batch_norm)
    result = training.fit(
        model,
        backbone,
        task,
        strategy=strategy,
        note_phases=noted.append,
        announce=lines.append,
    )
    return [np.array(variable) for variable in model.variables], result.history, noted, lines


def starting_with(lines, start):
    return [line for line in lines if line.startswith(start)]


@pytest.mark.parametrize(
    "options",
    [
        {"feature_cache": "memory"},
        {"feature_cache": "off", "batch_norm": "train", "steps_per_execution": 2},
    ],
    ids=["cached", "whole"],
)
def test_the_training_is_that_of_the_same_rate_given(material, options):
    numbers, history, noted, lines = fit(material, (HEAD, ALL), **options)
    found = starting_with(lines, "Learning rate ")
    assert len(found) == 2
    assert noted[0][1].learning_rate == "auto"
    rates = [phase.learning_rate for phase in noted[-1]]
    assert all(0 < rate < 5 for rate in rates), rates
    assert [f"{rate:g}" for rate in rates] == [line.split()[2].rstrip(",") for line in found]
    given, same_history, _, lines = fit(material, noted[-1], **options)
    assert not starting_with(lines, "Learning rate ")
    assert history == same_history
    for one, other in zip(numbers, given, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_accumulated_steps_and_two_devices(material):
    mirrored = distribution.make_strategy("mirrored")
    options = {"strategy": mirrored, "accumulate_steps": 2, "weight_decay": 0.01}
    numbers, _, noted, _ = fit(material, (ALL,), **options)
    given, _, _, _ = fit(material, noted[-1], **options)
    for one, other in zip(numbers, given, strict=True):
        np.testing.assert_array_equal(one, other)


def test_few_examples_come_again(material):
    _, _, _, lines = fit(material, (HEAD,), feature_cache="memory", batch_size=48)
    (line,) = starting_with(lines, "Learning rate ")
    steps = int(line.rpartition("(")[2].split()[0])
    assert 27 <= steps <= rate_range.CACHED_STEPS


def test_a_dry_run_only_says_it(material):
    lines = []
    model, backbone, task = test_training.build(material, phases=(HEAD, ALL))
    result = training.fit(model, backbone, task, dry_run=True, announce=lines.append)
    assert starting_with(lines, "Learning rate") == [
        "Learning rate: --learning_rate=auto tries 60 steps at rates from 5e-05 to 1.5 when the "
        "phase starts, and chooses then."
    ]
    assert "epochs of 3 steps, Adam auto cosine, " in starting_with(lines, "Phase head")[0]
    assert result.cost is not None


def test_a_loss_that_is_no_number_from_the_start(material):
    lines = []
    model, backbone, task = test_training.build(material, phases=(HEAD,))
    splits = dataclasses.replace(task.splits, validation=task.splits.validation.head(0))
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    with pytest.raises(callbacks.DivergedError, match="The loss became nan in phase 'head'"):
        training.fit(
            model, backbone, dataclasses.replace(task, splits=splits), announce=lines.append
        )
    (line,) = starting_with(lines, "Learning rate ")
    assert line.startswith(
        "Learning rate 0.005 (--learning_rate=auto): the loss was not finite after 0 steps, so it "
        "is the recipe's (1 step, "
    )


def test_no_time_for_it(material):
    lines = []
    model, backbone, task = test_training.build(material, phases=(HEAD,))
    result = training.fit(model, backbone, task, deadline=0.0, announce=lines.append)
    assert result.phases == ()
    assert lines[-1] == "Phase head: not started, --max_minutes is over."
    assert not starting_with(lines, "Learning rate ")


def test_the_rates_of_the_steps():
    plan = rate_range.Plan(1e-6, 1.0, 13)
    schedule = range_steps.make_schedule(plan)
    rates = [float(keras.ops.convert_to_numpy(schedule(step))) for step in range(13)]
    assert rates == pytest.approx(plan.list_rates(13), rel=1e-4)


PHASES = (dataclasses.replace(HEAD, epochs=2), ALL)


def run(material, folder):
    """(what must be the same however often a run was interrupted, the lines that it told)."""
    lines, noted = [], []
    model, backbone, task = test_training.build(material, dropout=0.3, phases=PHASES)
    recorder = resuming.Recorder(str(folder / "c"), every_secs=1e-9, keep=2, announce=lines.append)
    recorder.read({})
    result = training.fit(
        model,
        backbone,
        task,
        workdir_path=str(folder),
        recorder=recorder,
        note_phases=noted.append,
        announce=lines.append,
    )
    numbers = [np.array(variable).tobytes() for variable in model.variables]
    ranges = (folder / workdir.LR_RANGE).read_text()
    rates = [test.rate for test in recorder.standing.ranges]
    return (numbers, result.history, ranges, rates), lines


def test_whoever_goes_on_has_the_rates(material, tmp_path, monkeypatch):
    expected, _ = run(material, tmp_path / "whole")
    write, phases = checkpoints.write, []
    while True:
        written = []

        def write_and_die(where, state, *arguments, written=written, **options):
            written.append(write(where, state, *arguments, **options))
            if len(written) == 4:
                phases.append((state["standing"]["phase"], state["trainer"] is not None))
                raise KilledError
            return written[-1]

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "write", write_and_die)
            try:
                found, more = run(material, tmp_path / "killed")
                break
            except KilledError:
                continue
    assert {(0, True), (1, True)} <= set(phases)
    assert not starting_with(more, "Learning rate ")
    assert found == expected


def test_an_interrupted_test_begins_anew(material, tmp_path, monkeypatch):
    expected, _ = run(material, tmp_path / "whole")
    has_diverged, tests = rate_range.has_diverged, []

    def be_interrupted(losses):
        if len(losses) == 1:
            tests.append(losses)
        if len(losses) == 30 and len(tests) == 2:
            raise KeyboardInterrupt
        return has_diverged(losses)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rate_range, "has_diverged", be_interrupted)
        run(material, tmp_path / "ended")
    found, lines = run(material, tmp_path / "ended")
    assert len(starting_with(lines, "Learning rate ")) == 1
    assert found == expected


def test_a_checkpoint_with_odd_tests_is_refused(tmp_path):
    standing = {"results": [], "cost": None, "ranges": [{"phase": "head", "rate": "auto"}]}
    state = {"inputs": {}, "settled": {}, "standing": standing}
    checkpoints.write(str(tmp_path), state, {}, keep=1)
    with pytest.raises(findings.RefusedError) as caught:
        resuming.Recorder(str(tmp_path), announce=test_training.silent).read({})
    assert caught.value.problems[0].message == (
        f"{tmp_path}: the newest checkpoint is of another program or model. Expected one that this "
        "version wrote for these flags. Remove the workdir to start again."
    )
