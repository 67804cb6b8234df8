"""A test of learning rates leaves nothing behind but the rate."""

import csv
import dataclasses
import math

import keras
import numpy as np
import pytest

from tests import test_training, tiny
from tf_finetune import (
    callbacks,
    checkpoints,
    distribution,
    findings,
    range_steps,
    rate_range,
    runs,
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
        {"feature_cache": "off", "accumulate_steps": 2, "weight_decay": 0.01},
    ],
    ids=["cached", "whole", "accumulated"],
)
def test_the_training_is_that_of_the_same_rate_given(material, options):
    numbers, history, noted, lines = fit(material, (HEAD, ALL), **options)
    found = starting_with(lines, "Learning rate ")
    assert len(found) == len(noted) == 2
    assert noted[0][1].learning_rate == "auto"
    rates = [phase.learning_rate for phase in noted[-1]]
    assert all(0 < rate < 5 for rate in rates), rates
    assert [f"{rate:g}" for rate in rates] == [line.split()[2].rstrip(",") for line in found]
    given, same_history, noted, lines = fit(material, noted[-1], **options)
    assert not noted and not starting_with(lines, "Learning rate ")
    assert history == same_history
    for one, other in zip(numbers, given, strict=True):
        np.testing.assert_array_equal(one, other)


def test_two_devices(material):
    mirrored = distribution.make_strategy("mirrored")
    numbers, _, noted, _ = fit(material, (ALL,), strategy=mirrored)
    given, _, _, _ = fit(material, noted[-1], strategy=mirrored)
    for one, other in zip(numbers, given, strict=True):
        np.testing.assert_array_equal(one, other)


def test_few_examples_come_again(material):
    _, _, _, lines = fit(material, (HEAD,), feature_cache="memory", batch_size=48)
    (line,) = starting_with(lines, "Learning rate ")
    steps = int(line.rpartition("(")[2].split()[0])
    assert 10 <= steps <= rate_range.CACHED_STEPS


def test_a_dry_run_only_says_it(material):
    lines = []
    model, backbone, task = test_training.build(material, phases=(HEAD, ALL))
    result = training.fit(model, backbone, task, dry_run=True, announce=lines.append)
    assert starting_with(lines, "Learning rate") == [
        "Learning rate: --learning_rate=auto tries 60 steps at rates from 5e-06 to 5 when the "
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
        "Learning rate 0.005, the recipe's: the test of --learning_rate=auto tells none, the loss "
        "was not finite after 0 steps (1 steps, "
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of a model and images."""
    path = tmp_path_factory.mktemp("ranges")
    tiny.write_color_folder(path / "colors", per_class=20)
    tiny.make_classifier().save(path / "tiny.h5")
    return path


def run_spec(folder, name, **train):
    return specs.RunSpec(
        workdir=str(folder / name),
        model=specs.ModelSpec(model=str(folder / "tiny.h5"), pixel_range="0..1"),
        data=specs.DataSpec(data=str(folder / "colors")),
        heads=(specs.HeadSpec(name="label", dropout=0.3),),
        train=specs.TrainSpec(**{"batch_size": 16, "learning_rate": "auto", **train}),
    )


PHASES = (
    dataclasses.replace(HEAD, epochs=20, learning_rate=None),
    dataclasses.replace(ALL, learning_rate=None),
)


def read_outcome(path):
    """Everything that must not depend on interruptions."""
    model = keras.saving.load_model(path / "model.keras", compile=False)
    return (
        [weight.tobytes() for weight in model.get_weights()],
        *((path / name).read_text() for name in ("run.flags", workdir.HISTORY)),
        (path / workdir.LR_RANGE).read_text() if (path / workdir.LR_RANGE).exists() else None,
    )


@pytest.fixture(scope="module")
def whole(folder):
    """What an uninterrupted run leaves."""
    lines = []
    runs.train(run_spec(folder, "whole", phases=PHASES), announce=lines.append)
    assert len(starting_with(lines, "Learning rate ")) == 2
    return read_outcome(folder / "whole")


def test_what_a_run_leaves(folder, whole):
    _, flags, _, table = whole
    assert "auto" not in "".join(
        line for line in flags.splitlines() if line.startswith(("--learning_rate", "--phase"))
    )
    rows = list(csv.DictReader(table.splitlines()))
    assert {row["phase"] for row in rows} == {"head", "all"}
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    # Found finished by what was asked for, and by what was written.
    lines = []
    runs.train(run_spec(folder, "whole", phases=PHASES), announce=lines.append)
    assert not starting_with(lines, "Phase ")


def test_run_flags_repeat_the_run(folder, whole, tmp_path):
    from tf_finetune import spec_flags

    spec = spec_flags.read_flagfile(
        str(folder / "whole" / "run.flags"), workdir=str(tmp_path / "again")
    )
    lines = []
    runs.train(spec, announce=lines.append)
    assert not starting_with(lines, "Learning rate ")
    again = read_outcome(tmp_path / "again")
    assert again[:3] == whole[:3]
    assert again[3] is None


def test_an_interrupted_run_goes_on_with_its_rates(folder, whole, monkeypatch):
    write, lines, lives = checkpoints.write, [], 0
    spec = run_spec(folder, "killed", phases=PHASES, checkpoint_secs=1e-9)
    while True:
        written = []

        def write_and_die(*arguments, written=written, **options):
            written.append(write(*arguments, **options))
            if len(written) == 17:
                raise KilledError
            return written[-1]

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "write", write_and_die)
            try:
                runs.train(spec, announce=lines.append)
                break
            except KilledError:
                lives += 1
    assert lives >= 3
    # Each once: whoever goes on has the rate.
    assert len(starting_with(lines, "Learning rate ")) == 2
    assert read_outcome(folder / "killed") == whole


def test_an_interruption_of_the_test_itself(folder, whole, monkeypatch):
    has_diverged, asked = rate_range.has_diverged, []

    def be_interrupted(losses):
        asked.append(losses)
        if len(losses) == 30:
            raise KeyboardInterrupt
        return has_diverged(losses)

    spec = run_spec(folder, "ended", phases=PHASES)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rate_range, "has_diverged", be_interrupted)
        runs.train(spec, announce=test_training.silent)
    flags = (folder / "ended" / "run.flags").read_text()
    assert flags.count("learning_rate=auto") == 2
    assert runs.train(spec, announce=test_training.silent)["status"] == "completed"
    assert read_outcome(folder / "ended") == whole


def test_a_phase_with_a_rate_of_its_own_keeps_it(folder, tmp_path):
    phases = (dataclasses.replace(PHASES[0], learning_rate=0.03), PHASES[1])
    lines = []
    spec = dataclasses.replace(
        run_spec(folder, "own", phases=phases), workdir=str(tmp_path / "own")
    )
    runs.train(spec, announce=lines.append)
    assert len(starting_with(lines, "Learning rate ")) == 1
    flags = (tmp_path / "own" / "run.flags").read_text()
    assert "name=head,epochs=20,learning_rate=0.03,freeze=all" in flags
    rows = csv.DictReader((tmp_path / "own" / workdir.LR_RANGE).read_text().splitlines())
    assert {row["phase"] for row in rows} == {"all"}


def test_a_checkpoint_with_odd_tests_is_refused(folder, monkeypatch):
    spec = run_spec(folder, "odd", phases=PHASES, checkpoint_secs=1e-9)
    write = checkpoints.write

    def write_oddly(where, state, arrays, *, keep):
        state["standing"]["ranges"] = [{"phase": "head", "rate": "auto"}]
        write(where, state, arrays, keep=keep)
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(checkpoints, "write", write_oddly)
        runs.train(spec, announce=test_training.silent)
    with pytest.raises(findings.RefusedError, match="is of another program or model"):
        runs.train(spec, announce=test_training.silent)
