"""A run that ends after any of its checkpoints goes on to the same bits."""

import dataclasses
import errno
import os
import signal
import threading
import time

import numpy as np
import pytest

from tests import test_training
from tf_finetune import (
    checkpoints,
    findings,
    graph_precision,
    interruptions,
    resuming,
    specs,
    training,
)

material = test_training.material
PHASES = (
    specs.PhaseSpec(name="head", epochs=2, learning_rate=0.03, warmup_fraction=0.2),
    # Too fast: it stops before its end, after epochs that improved nothing.
    specs.PhaseSpec(
        name="fine",
        epochs=8,
        freeze="3",
        learning_rate=0.3,
        schedule="constant",
        gradient_clip_norm=1.0,
    ),
)


class KilledError(Exception):
    """Stands for the end of the process."""


def run(
    material,
    folder,
    *,
    every_secs=1e-9,
    data="1",
    must_go_on=False,
    precision="float32",
    phases=PHASES,
    augment="flip,crop,mixup",
    deadline=None,
    workdir_path=None,
    **options,
):
    """(what must be the same however often a run was interrupted, the lines that it told)."""
    lines = []
    model, backbone, task = test_training.build(
        material, dropout=0.3, phases=phases, **{"patience_epochs": 2, **options}
    )
    task = dataclasses.replace(
        task,
        augment=specs.AugmentSpec(augment=augment),
        train=dataclasses.replace(task.train, patience_epochs=2),
    )
    recorder = resuming.Recorder(
        str(folder), every_secs=every_secs, keep=2, must_go_on=must_go_on, announce=lines.append
    )
    recorder.read({"the data": data})
    recorder.settle({"--feature_precision": precision})
    result = training.fit(
        model,
        backbone,
        task,
        recorder=recorder,
        deadline=deadline,
        workdir_path=workdir_path,
        announce=lines.append,
    )
    weights = [weight.tobytes() for weight in model.get_weights()]
    return (weights, dataclasses.replace(result, cost=None)), lines


@pytest.fixture(scope="module")
def whole(material, tmp_path_factory):
    """(what an uninterrupted run gives, how many checkpoints it writes)."""
    folder = tmp_path_factory.mktemp("whole") / "c"
    found, lines = run(material, folder)
    assert not any("Going on" in line for line in lines)
    return found, checkpoints.list_numbers(str(folder))[-1]


def kill_after(monkeypatch, number):
    """The process ends as soon as it has written so many checkpoints."""
    write, written = checkpoints.write, []

    def write_and_die(*arguments, **options):
        found = write(*arguments, **options)
        written.append(found)
        if len(written) == number:
            raise KilledError
        return found

    monkeypatch.setattr(checkpoints, "write", write_and_die)


def test_it_goes_on_from_any_checkpoint_to_the_same_bits(material, whole, tmp_path, monkeypatch):
    expected, num_checkpoints = whole
    # One run that dies after every third checkpoint that it writes: all kinds of places come.
    lives = 0
    places = set()
    while True:
        with monkeypatch.context() as patch:
            kill_after(patch, 3)
            try:
                found, lines = run(material, tmp_path)
            except KilledError:
                lives += 1
                newest, _ = checkpoints.read_newest(str(tmp_path))
                standing = newest.state["standing"]
                places.add((standing["phase"], min(standing["step"], 1), bool(standing["waited"])))
                continue
        break
    assert lives >= num_checkpoints // 3 - 1
    assert {phase for phase, _, _ in places} == {0, 1} and (1, 1, True) in places
    assert expected[1].phases[1].stopped_by == "patience"
    assert any("Going on from checkpoint" in line for line in lines)
    assert found == expected


def test_it_goes_on_from_the_end_of_a_phase_to_the_same_bits(
    material, whole, tmp_path, monkeypatch
):
    end_phase, num_phases = resuming.Recorder.end_phase, 1

    def end_phase_and_die(self, results):
        end_phase(self, results)
        if len(results) == num_phases:
            raise KilledError

    for num_phases in (1, 2):
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(resuming.Recorder, "end_phase", end_phase_and_die)
            run(material, tmp_path)
        standing = checkpoints.read_newest(str(tmp_path))[0].state["standing"]
        assert (standing["phase"], standing["step"]) == (num_phases, 0)
        assert len(standing["results"]) == num_phases
    # Nothing is left to train, and what the last phase trained is known all the same.
    found, _ = run(material, tmp_path)
    assert found == whole[0]
    assert found[1].num_trainable > 0


@pytest.mark.parametrize(
    "options",
    [
        {"steps_per_execution": 2},
        {"accumulate_steps": 2},
        {"augment": "none", "feature_cache": "memory", "phases": PHASES[:1]},
        pytest.param(
            {"training_precision": "bfloat16", "phases": PHASES[1:]},
            marks=pytest.mark.skipif(
                not graph_precision.has_bfloat16(), reason="this processor has no bfloat16"
            ),
        ),
    ],
    ids=lambda options: next(iter(options)),
)
def test_kinds_of_steps_go_on_to_the_same_bits(material, tmp_path, monkeypatch, options):
    expected, _ = run(material, tmp_path / "whole", every_secs=1e9, **options)
    numbers = iter(range(1, 4))
    steps = []
    for number in numbers:
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            kill_after(patch, number)
            run(material, tmp_path / "killed", **options)
        newest, _ = checkpoints.read_newest(str(tmp_path / "killed"))
        steps.append(newest.state["standing"]["step"])
    assert any(steps)
    assert run(material, tmp_path / "killed", **options)[0] == expected


def test_a_phase_whose_time_is_over_ends_with_what_it_has(material, tmp_path, monkeypatch):
    # Only the limit of an uninterrupted run can be met here; of this one, nothing is left.
    folder = tmp_path / "c"
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill_after(patch, 4)
        run(material, folder, workdir_path=str(tmp_path))
    standing = checkpoints.read_newest(str(folder))[0].state["standing"]
    num_rows = len(checkpoints.read_newest(str(folder))[0].state["run"]["rows"])
    assert standing["phase"] == 0 and standing["secs"] > 0 and num_rows > 0
    (tmp_path / "logs" / "history.csv").unlink()
    (_, result), _ = run(
        material, folder, deadline=time.monotonic() + 1e-3, workdir_path=str(tmp_path)
    )
    (phase,) = result.phases
    assert (phase.name, phase.stopped_by, phase.epochs_run) == ("head", "time", num_rows)
    assert phase.improved == standing["improved"]
    history = (tmp_path / "logs" / "history.csv").read_text()
    assert len(history.splitlines()) == num_rows + 1


def test_ctrl_c_ends_between_two_steps_with_a_checkpoint(material, whole, tmp_path, monkeypatch):
    moves = []
    move = resuming.Recorder.move

    def move_and_press(self, **changes):
        move(self, **changes)
        moves.append(changes)
        if changes == {"step": 2}:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(resuming.Recorder, "move", move_and_press)
        run(material, tmp_path, every_secs=1e9)
    newest, _ = checkpoints.read_newest(str(tmp_path))
    assert newest.state["standing"]["step"] == 2
    assert run(material, tmp_path, every_secs=1e9)[0] == whole[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps_per_execution": 2},
        {"augment": "none", "feature_cache": "memory", "phases": PHASES[:1]},
    ],
    ids=["plain", "steps_per_execution", "feature_cache"],
)
def test_a_validation_that_is_interrupted_is_done_again_without_the_steps_before_it(
    material, tmp_path, monkeypatch, options
):
    expected, _ = run(material, tmp_path / "whole", every_secs=1e9, **options)
    hold_metrics, held = resuming.Recorder.hold_metrics, []

    def hold_and_press(self, trainer):
        hold_metrics(self, trainer)
        held.append(self.standing)
        if len(held) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(resuming.Recorder, "hold_metrics", hold_and_press)
        run(material, tmp_path / "killed", every_secs=1e9, **options)
    newest, _ = checkpoints.read_newest(str(tmp_path / "killed"))
    step = newest.state["standing"]["step"]
    assert (len(newest.state["run"]["rows"]), step) == (1, held[-1].step) and step > 1

    move, steps = resuming.Recorder.move, []

    def move_and_note(self, **changes):
        move(self, **changes)
        steps.extend(changes["step"] for _ in range("step" in changes))

    with monkeypatch.context() as patch:
        patch.setattr(resuming.Recorder, "move", move_and_note)
        found, _ = run(material, tmp_path / "killed", every_secs=1e9, **options)
    assert steps[0] == 0  # the end of that epoch comes first
    assert found == expected


def test_other_data_are_refused(material, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill_after(patch, 1)
        run(material, tmp_path)
    with pytest.raises(findings.RefusedError) as caught:
        run(material, tmp_path, data="2")
    assert caught.value.problems[0].message == (
        f"{tmp_path}: the data changed since this run was interrupted, and going on would mix "
        "both. Put back what was there (of data, files with the times that they had), or remove "
        "the workdir to start again."
    )


def test_what_was_measured_before_is_kept_or_refused(material, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill_after(patch, 1)
        run(material, tmp_path)
    recorder = resuming.Recorder(str(tmp_path))
    recorder.read({"the data": "1"})
    assert recorder.goes_on and recorder.settled == {"--feature_precision": "float32"}
    with pytest.raises(findings.RefusedError) as caught:
        run(material, tmp_path, precision="bfloat16")
    assert caught.value.problems[0].message.startswith(
        f"{tmp_path}: --feature_precision changed since this run was interrupted"
    )


def test_a_phase_that_trained_otherwise_is_refused(material, tmp_path, monkeypatch):
    options = {"phases": PHASES[:1], "augment": "none"}
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill_after(patch, 1)
        run(material, tmp_path, feature_cache="memory", **options)
    with pytest.raises(findings.RefusedError) as caught:
        run(material, tmp_path, feature_cache="off", **options)
    assert caught.value.problems[0].message == (
        f"{tmp_path}: the phase that was interrupted trained on features, and now would train on "
        "the inputs themselves: there is more or less room for features. Make room as there was, "
        "or remove the workdir to start again."
    )


@pytest.mark.parametrize("must_go_on", [True, False])
def test_no_checkpoint_is_whole(material, whole, tmp_path, monkeypatch, must_go_on):
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill_after(patch, 3)
        run(material, tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    if must_go_on:
        with pytest.raises(findings.RefusedError) as caught:
            run(material, tmp_path, must_go_on=True)
        assert caught.value.problems[0].message == (
            f"{tmp_path}: no checkpoint is whole, so the run cannot go on as --resume=must asks. "
            "Leave --resume out to start again."
        )
        return
    found, lines = run(material, tmp_path)
    assert found == whole[0]
    assert sum(line.startswith("Warning: ") for line in lines) == 2
    assert "No checkpoint is whole: the run starts again." in lines


def test_checkpoints_that_cannot_be_read(tmp_path, monkeypatch):
    def fail(folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO), folder)

    monkeypatch.setattr(checkpoints, "read_newest", fail)
    with pytest.raises(findings.RefusedError) as caught:
        resuming.Recorder(str(tmp_path)).read({})
    assert caught.value.problems[0].message == (
        f"{tmp_path}: checkpoints cannot be read: Input/output error. Make them readable, or "
        "remove the workdir to start again."
    )


def test_weights_are_told_apart():
    weights = [np.arange(6, dtype="f4").reshape(2, 3), np.zeros((), "f4")]
    same = [np.asfortranarray(weights[0]), weights[1]]
    others = ([weights[0].reshape(3, 2), weights[1]], [weights[0] + 1, weights[1]], weights[:1])
    assert checkpoints.digest_weights(weights) == checkpoints.digest_weights(same)
    for other in others:
        assert checkpoints.digest_weights(weights) != checkpoints.digest_weights(other)


def test_a_full_disk_is_told_and_the_former_checkpoint_serves(
    material, whole, tmp_path, monkeypatch
):
    write, written = checkpoints.write, []

    def write_until_full(*arguments, **options):
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        written.append(write(*arguments, **options))
        return written[-1]

    with monkeypatch.context() as patch, pytest.raises(findings.RefusedError) as caught:
        patch.setattr(checkpoints, "write", write_until_full)
        run(material, tmp_path)
    assert caught.value.problems[0].message == (
        f"{tmp_path}: a checkpoint cannot be written: No space left on device. The former ones are "
        "whole: make room, and run the same command again to go on from the newest."
    )
    assert run(material, tmp_path)[0] == whole[0]


def test_nothing_is_written_where_checkpoints_are_off(material, whole, tmp_path):
    assert run(material, tmp_path / "c", every_secs=0.0)[0] == whole[0]
    assert not (tmp_path / "c").exists()


def test_a_second_signal_is_not_held_back():
    with pytest.raises(KeyboardInterrupt), interruptions.postponed() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.is_asked
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("unreachable")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_is_obeyed_at_the_end_at_the_latest():
    reached = []
    with pytest.raises(KeyboardInterrupt), interruptions.postponed():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(1)
    assert reached


def test_other_threads_hold_nothing_back():
    handlers = []

    def work():
        with interruptions.postponed() as interruption:
            interruption.obey()
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


def test_how_often_it_writes():
    recorder = resuming.Recorder("x", every_secs=100.0)
    assert recorder.is_due(epoch_ended=True)
    assert not recorder.is_due(epoch_ended=False)
    recorder._write_secs = 1.0  # then an epoch's end is due after 50 s, and a step after 100
    assert not recorder.is_due(epoch_ended=True)
    recorder._written -= 49.0
    assert not recorder.is_due(epoch_ended=True)
    recorder._written -= 2.0
    assert recorder.is_due(epoch_ended=True)
    assert not recorder.is_due(epoch_ended=False)
    recorder._written -= 50.0
    assert recorder.is_due(epoch_ended=False)
    assert not resuming.Recorder(None, every_secs=100.0).is_due(epoch_ended=True)


STATE = {
    "inputs": {"the data": "1"},
    "settled": {"--feature_precision": "float32"},
    "run": {"rows": [], "best_value": None, "best_epoch": 0},
    "standing": {"results": [], "cost": None},
    "trainer": None,
}


@pytest.mark.parametrize(
    ("changes", "arrays"),
    [
        ({"inputs": None}, {}),
        ({"settled": None}, {}),
        ({"standing": {"results": [], "cost": None, "odd": 1}}, {}),
        ({"standing": {"results": []}}, {}),
        ({"run": {}}, {}),
        ({}, {"best/0": np.zeros((1, 2), "f4")}),
        ({"trainer": "TrainerModel"}, {"optimizer/0": np.zeros((1, 2), "f4")}),
    ],
)
def test_what_another_program_wrote(material, tmp_path, changes, arrays):
    checkpoints.write(str(tmp_path), {**STATE, **changes}, arrays, keep=1)
    with pytest.raises(findings.RefusedError) as caught:
        run(material, tmp_path)
    assert caught.value.problems[0].message == (
        f"{tmp_path}: the newest checkpoint is of another program or model. Expected one that this "
        "version wrote for these flags. Remove the workdir to start again."
    )
