"""--learning_rate=auto through the door: what is said and left, and that it can be repeated."""

import csv
import math

import keras

from tf_finetune import main, phase_fitting


def flags_of(classifier, data, folder):
    return [
        f"--model={classifier}", f"--data={data}", f"--workdir={folder}", "--pixel_range=0..1",
        "--head=name=label,dropout=0.3", "--batch_size=16", "--learning_rate=auto",
        "--feature_cache=memory", "--checkpoint_secs=1e-9",
        "--phase=name=head,epochs=8,freeze=all", "--phase=name=fine,epochs=2,freeze=3",
    ]  # fmt: skip


def numbers_of(folder):
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    names = ("run.flags", "logs/history.csv", "evaluation/test/report.json")
    return (
        *((folder / name).read_text() for name in names),
        [weight.tobytes() for weight in model.get_weights()],
    )


def test_it_is_tested_once_and_written_down(classifier, colors, tmp_path, capsys, monkeypatch):
    flags = flags_of(classifier, colors, tmp_path / "auto")
    run_phase = phase_fitting.Fitter.run_phase

    def be_interrupted(self, trainer, phase):
        if phase.name == "fine":
            raise KeyboardInterrupt
        return run_phase(self, trainer, phase)

    with monkeypatch.context() as patch:
        patch.setattr(phase_fitting.Fitter, "run_phase", be_interrupted)
        assert main.main(flags) == 130
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if line.startswith("Learning rate ")]
    assert len(found) == 2 and all("(--learning_rate=auto)" in line for line in found)
    written = (tmp_path / "auto" / "run.flags").read_text()
    assert "learning_rate=auto" not in written
    for line, phase in zip(found, ("head", "fine"), strict=True):
        (own,) = [text for text in written.splitlines() if f"--phase=name={phase}," in text]
        rate = float(line.split()[2])
        assert f",learning_rate={rate!r}," in own
    assert main.main(flags) == 0
    assert "Learning rate " not in capsys.readouterr().out
    with (tmp_path / "auto" / "logs" / "lr_range.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["phase", "learning_rate", "loss", "smoothed"]
    assert {row["phase"] for row in rows} == {"head", "fine"}
    assert all(math.isfinite(float(row["smoothed"])) for row in rows)
    path = tmp_path / "auto" / "run.flags"
    assert main.main([f"--flagfile={path}", f"--workdir={tmp_path / 'again'}"]) == 0
    assert "Learning rate " not in capsys.readouterr().out
    assert numbers_of(tmp_path / "again") == numbers_of(tmp_path / "auto")
    assert not (tmp_path / "again" / "logs" / "lr_range.csv").exists()


def test_a_dry_run_says_what_will_be_tried(classifier, colors, tmp_path, capsys):
    assert main.main([*flags_of(classifier, colors, tmp_path / "dry"), "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        "Learning rate: --learning_rate=auto tries 100 steps at rates from 5e-05 to 1.5 when the "
        "phase starts, and chooses then." in lines
    )
    assert list(tmp_path.iterdir()) == []


def test_mistakes(classifier, colors, tmp_path, capsys):
    common = [f"--model={classifier}", f"--data={colors}", f"--workdir={tmp_path / 'bad'}"]
    assert main.main([*common, "--learning_rate=Auto"]) == 2
    expected = "error: --learning_rate expects a number or auto. Received 'Auto'."
    assert capsys.readouterr().err.splitlines()[-1] == expected
    assert main.main([*common, "--phase=name=a,learning_rate=fast"]) == 2
    expected = "error: --phase: learning_rate expects a number or auto. Received 'fast'."
    assert capsys.readouterr().err.splitlines()[-1] == expected
    assert list(tmp_path.iterdir()) == []
