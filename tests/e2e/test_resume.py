"""A run that was ended goes on when it is asked again, to the bits of one that was not."""

import json
import random
import signal
import time

import keras
import pytest

from tests import run_processes, tiny
from tf_finetune import main, training

PHASES = {
    "frozen": (
        "--phase=name=head,epochs=25,learning_rate=0.03,freeze=all",
        "--feature_cache=memory",
    ),
    "partly_frozen": (
        "--phase=name=head,epochs=8,learning_rate=0.03,freeze=all",
        "--phase=name=fine,epochs=15,freeze=3,learning_rate=0.01",
        "--augment=flip,rotate",
    ),
    "kept_views": (
        "--phase=name=head,epochs=25,learning_rate=0.03,freeze=all",
        "--augment=flip,rotate",
        "--augment_views=3",
        "--feature_cache=memory",
    ),
    "compiled": (
        "--phase=name=head,epochs=20,learning_rate=0.03,freeze=all",
        "--augment=flip,rotate",
        "--feature_cache=compiled",
    ),
    "unfrozen": ("--freeze=none", "--epochs=25", "--augment=crop", "--batch_norm=train"),
}


@pytest.fixture(scope="module")
def many_colors(tmp_path_factory):
    """Class folders of enough images for epochs of some seconds and for early stopping."""
    folder = tmp_path_factory.mktemp("data") / "colors"
    tiny.write_color_folder(folder, per_class=350)
    return folder


def make_flags(classifier, data, folder, *more):
    return [
        f"--model={classifier}", f"--data={data}", f"--workdir={folder}", "--pixel_range=0..1",
        "--head=name=label,dropout=0.4", "--batch_size=8", "--patience_epochs=6",
        "--checkpoint_secs=0.2", *more,
    ]  # fmt: skip


def numbers_of(folder):
    """Everything of a run that must not depend on interruptions."""
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    summary = json.loads((folder / "summary.json").read_text())
    del summary["seconds"], summary["export"]
    return (
        summary,
        (folder / "logs" / "history.csv").read_text(),
        (folder / "evaluation" / "test" / "report.json").read_text(),
        (folder / "run.flags").read_text(),
        [weight.tobytes() for weight in model.get_weights()],
    )


def test_a_run_that_is_terminated_goes_on_to_the_same_bits(classifier, many_colors, tmp_path):
    flags = make_flags(
        classifier, many_colors, tmp_path / "ended", "--freeze=none", "--epochs=3", "--augment=flip"
    )
    process = run_processes.start(flags)
    run_processes.wait_for(process, "train 1/3")
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate()
    took = time.monotonic() - asked
    assert process.returncode == 143, rest
    assert "Run the same command again to go on." in rest
    assert took < 30, took  # it leaves a model.keras too; measured where the machine is idle
    assert list((tmp_path / "ended" / "state" / "checkpoints").iterdir())
    again, _ = run_processes.start(flags).communicate()
    assert "Going on from checkpoint" in again, again
    flags = [*flags, f"--workdir={tmp_path / 'whole'}", "--checkpoint_secs=0"]
    assert main.main(flags) == 0
    assert numbers_of(tmp_path / "ended") == numbers_of(tmp_path / "whole")


def test_ended_before_the_first_epoch_did_there_is_nothing_to_export(
    classifier, many_colors, tmp_path, capsys, monkeypatch
):
    def be_interrupted(*arguments, **options):
        raise KeyboardInterrupt

    flags = make_flags(classifier, many_colors, tmp_path / "run", "--epochs=1")
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", be_interrupted)
        assert main.main(flags) == 130
    last = capsys.readouterr().out.splitlines()[-1]
    assert (
        last
        == "No epoch has ended. Run the same command again to go on, from the start of training."
    )
    assert not (tmp_path / "run" / "model.keras").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", PHASES)
def test_killed_twelve_times(classifier, many_colors, tmp_path, kind):
    whole = make_flags(classifier, many_colors, tmp_path / "whole", *PHASES[kind])
    begin = time.monotonic()
    process = run_processes.start(whole)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    secs = time.monotonic() - begin
    flags = [*whole, f"--workdir={tmp_path / 'killed'}"]
    generator, kills, went_on = random.Random(kind), 0, 0
    while kills < 12:
        process = run_processes.start(flags)
        # Of a run that was interrupted, what is left is short: some die early, some late.
        time.sleep(generator.uniform(0.3, 1.0) * min(secs, 30.0))
        if process.poll() is None:
            process.kill()
            kills += 1
        text, _ = process.communicate()
        went_on += "Going on from checkpoint" in text
        if process.returncode == 0:
            assert numbers_of(tmp_path / "killed") == numbers_of(tmp_path / "whole")
            flags = [*whole, f"--workdir={tmp_path / f'killed{kills}'}"]
    print(f"\n{kind}: a whole run took {secs:.1f} s; {went_on} runs went on from a checkpoint")
    assert went_on >= 4
    process = run_processes.start(flags)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    folder = tmp_path / flags[-1].rpartition("/")[2]
    assert numbers_of(folder) == numbers_of(tmp_path / "whole")


@pytest.mark.slow
def test_two_runs_in_one_workdir(classifier, many_colors, tmp_path):
    flags = make_flags(classifier, many_colors, tmp_path / "run", "--freeze=none", "--epochs=30")
    first = run_processes.start(flags)
    run_processes.wait_for(first, "train 1/30")
    second = run_processes.start(flags)
    text, _ = second.communicate()
    assert second.returncode == 2
    assert f"is used by a run that has not ended (process {first.pid})." in text
    first.kill()
    first.communicate()
