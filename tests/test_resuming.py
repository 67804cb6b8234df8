"""A run that ends after any of its checkpoints goes on to the same bits."""

import dataclasses
import os
import signal
import threading

import numpy as np
import pytest

from tests import test_training
from tf_finetune import checkpoints, findings, interruptions, resuming, specs, training

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


def run(material, folder, *, every_secs=1e-9, data="1"):
    """(what must be the same however often a run was interrupted, the lines that it told)."""
    lines = []
    model, backbone, task = test_training.build(
        material, dropout=0.3, phases=PHASES, patience_epochs=2
    )
    task = dataclasses.replace(
        task,
        augment=specs.AugmentSpec(augment="flip,crop,mixup"),
        train=dataclasses.replace(task.train, patience_epochs=2),
    )
    recorder = resuming.Recorder(
        str(folder), every_secs=every_secs, keep=2, inputs={"the data": data}, announce=lines.append
    )
    result = training.fit(model, backbone, task, recorder=recorder, announce=lines.append)
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
    end_phase = resuming.Recorder.end_phase

    def end_phase_and_die(self, phase, results):
        end_phase(self, phase, results)
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(resuming.Recorder, "end_phase", end_phase_and_die)
        run(material, tmp_path)
    standing = checkpoints.read_newest(str(tmp_path))[0].state["standing"]
    assert (standing["phase"], standing["step"], len(standing["results"])) == (1, 0, 1)
    assert run(material, tmp_path)[0] == whole[0]


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


def test_other_data_are_refused(material, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill_after(patch, 1)
        run(material, tmp_path)
    with pytest.raises(findings.RefusedError) as caught:
        run(material, tmp_path, data="2")
    assert caught.value.problems[0].message == (
        f"{tmp_path}: the data changed since this run was interrupted, and going on would mix "
        "both. Put back what was there, or remove the workdir to start again."
    )


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
    recorder._write_secs = 10.0  # then an epoch's end is due after 500 s, and a step after 100
    assert not recorder.is_due(epoch_ended=True)
    recorder._written -= 101.0
    assert recorder.is_due(epoch_ended=False)
    assert not resuming.Recorder(None, every_secs=100.0).is_due(epoch_ended=True)


@pytest.mark.parametrize(
    ("state", "arrays"),
    [
        ({}, {}),
        ({"inputs": {"the data": "1"}, "run": {}, "standing": {"results": []}}, {}),
        ({"inputs": {"the data": "1"}, "run": {}, "standing": {"results": [], "odd": 1}}, {}),
        (
            {
                "inputs": {"the data": "1"},
                "run": {"rows": [], "best_value": None, "best_epoch": 0},
                "standing": {"results": []},
            },
            {"best/0": np.zeros((1, 2), "f4")},
        ),
        (
            {
                "inputs": {"the data": "1"},
                "run": {"rows": [], "best_value": None, "best_epoch": 0},
                "standing": {"results": [], "phase": 0},
            },
            {"optimizer/0": np.zeros((1, 2), "f4")},
        ),
    ],
)
def test_what_another_program_wrote(material, tmp_path, state, arrays):
    checkpoints.write(str(tmp_path), state, arrays, keep=1)
    with pytest.raises(findings.RefusedError) as caught:
        run(material, tmp_path)
    assert caught.value.problems[0].message == (
        f"{tmp_path}: the newest checkpoint is of another program or model. Expected one that this "
        "version wrote for these flags. Remove the workdir to start again."
    )
