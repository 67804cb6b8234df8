"""The verb train through the door, on real tiny data: right answers of both signs, and promises."""

import csv
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests import tiny
from tf_finetune import main, trained


def test_the_colours_are_learnt_and_the_export_names_them(run):
    import tensorflow as tf

    assert run.summary["status"] == "completed"
    assert run.summary["test"]["label"]["accuracy"] == 1.0
    served = tf.saved_model.load(run.summary["export"]["path"])
    for name in tiny.COLORS:
        image = next((run.data / name).iterdir()).read_bytes()
        answer = served.signatures["serve_bytes"](image_bytes=tf.constant([image]))
        assert answer["classes"].numpy()[0].decode() == name
        assert answer["probabilities"].shape == (1, 3)


def test_random_labels_do_not_meet_the_requirement(tmp_path, classifier, capsys):
    folder = tmp_path / "noise"
    tiny.write_color_folder(folder, per_class=40)
    files = sorted(folder.rglob("*.png"))
    targets = [path.parent for path in files]
    random.Random(0).shuffle(targets)
    for number, (path, target) in enumerate(zip(files, targets, strict=True)):
        path.rename(target / f"moved_{number}.png")
    flags = [
        f"--model={classifier}",
        f"--data={folder}",
        f"--workdir={tmp_path / 'run'}",
        "--epochs=3",
        "--require_min=test/accuracy:0.9",
    ]
    assert main.main(flags) == 3
    captured = capsys.readouterr()
    assert "--require_min=test/accuracy:0.9 is not met: accuracy on test is 0." in captured.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["export"]) == ("requirement_not_met", None)
    assert not (tmp_path / "run" / "export").exists()
    assert main.main(flags) == 3  # asked again, it says the same and trains nothing
    assert "did not meet its requirements" in capsys.readouterr().err


def test_what_a_run_leaves_behind(run):
    names = {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()}
    expected = {
        "run.flags", "environment.json", "dataset_info.json", "split.csv", "freeze_plan.txt",
        "problems.txt", "summary.json", "logs/history.csv", "model.keras", "model.json",
        "evaluation/test/report.json", "evaluation/test/report.md",
        "evaluation/validation/report.json", "export/1/saved_model.pb",
        "export/1/assets/labels_label.txt", "export/1/assets.extra/tf_serving_warmup_requests",
    }  # fmt: skip
    assert expected <= names
    assert any("events.out.tfevents" in name for name in names)
    assert not [name for name in names if os.path.basename(name).startswith(".")]


def test_the_summary_has_what_a_script_reads(run):
    summary = run.summary
    assert summary["examples"] == {"train": 72, "validation": 9, "test": 9}
    assert summary["layers"] == {"frozen": 3, "total": 6}
    assert summary["parameters"]["trainable"] < summary["parameters"]["total"]
    assert summary["epochs_run"] == 63
    assert set(summary["seconds"]) == {
        "model", "data", "features", "train", "evaluate", "export", "total",
    }  # fmt: skip
    assert summary["export"] == {"path": str(run.folder / "export" / "1"), "version": 1}
    history = list(csv.DictReader((run.folder / "logs" / "history.csv").open()))
    assert len(history) == 63
    assert [row["phase"] for row in history[::62]] == ["head", "fine"]
    assert not [name for name in history[0] if "sec" in name or "time" in name]


def test_the_served_files_can_be_read_by_another_user(run):
    umask = os.umask(0)  # it can only be read by setting it
    os.umask(umask)
    version = run.folder / "export" / "1"
    for path in (version, *version.rglob("*")):
        expected = (0o755 if path.is_dir() else 0o644) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_frozen_weights_and_statistics_are_bit_equal(run):
    before = keras.saving.load_model(run.model, compile=False)
    after = trained.load_run(str(run.folder)).model
    backbone = next(layer for layer in after.layers if isinstance(layer, keras.Model))
    frozen = ("conv_a", "norm_a")
    for name in (*frozen, "norm_b"):  # norm_b is above the line, held in inference mode
        for old, new in zip(
            before.get_layer(name).weights, backbone.get_layer(name).weights, strict=True
        ):
            np.testing.assert_array_equal(np.array(old), np.array(new), err_msg=old.path)
    assert not np.array_equal(
        np.array(before.get_layer("conv_b").kernel), np.array(backbone.get_layer("conv_b").kernel)
    )


def test_model_keras_opens_with_plain_keras(run):
    model = keras.saving.load_model(run.folder / "model.keras")
    assert list(model.input) == ["image"]
    assert list(model.output) == ["label"]
    pixels = np.full((1, 12, 12, 3), tiny.COLORS["red"], np.float32)
    classes = json.loads((run.folder / "model.json").read_text())["heads"][0]["classes"]
    assert classes[int(np.argmax(model.predict({"image": pixels}, verbose=0)["label"]))] == "red"


def test_a_finished_run_asked_again_is_its_summary(run, capsys):
    before = (run.folder / "model.keras").stat().st_mtime_ns
    assert main.main(run.flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{run.folder} holds this run, finished."
    assert any(line.startswith("test, label: accuracy 1.0000, ") for line in lines)
    assert lines[-1] == f"Exported for TF Serving: {run.folder / 'export' / '1'}"
    assert (run.folder / "model.keras").stat().st_mtime_ns == before


def test_another_run_in_the_workdir_is_refused(run, capsys):
    assert main.main([*run.flags, "--seed=1"]) == 2
    error = capsys.readouterr().err
    assert f"--workdir={run.folder} holds another run; its flags differ: " in error
    assert "there --seed=0; here --seed=1" in error


def test_an_unfinished_run_is_gone_on_with_as_resume_says(run, tmp_path, capsys):
    folder = tmp_path / "cut_short"
    shutil.copytree(run.folder, folder)
    assert os.listdir(folder / "state" / "checkpoints") == []  # a finished run needs none
    (folder / "summary.json").unlink()
    flags = [f"--workdir={folder}" if "--workdir" in flag else flag for flag in run.flags]
    assert main.main([*flags, "--resume=never"]) == 2
    assert capsys.readouterr().err == (
        f"error: --workdir={folder} holds this run, unfinished, and --resume=never. Leave that out "
        "to go on, or remove the folder to start again.\n"
    )
    assert main.main([*flags, "--resume=must"]) == 2
    assert capsys.readouterr().err == (
        f"error: --resume=must, and the run in --workdir={folder} ended before its first "
        "checkpoint. Leave --resume out to start again.\n"
    )
    assert main.main([*flags, f"--workdir={tmp_path / 'none'}", "--resume=must"]) == 2
    assert "holds no run. Name the workdir of the run that was" in capsys.readouterr().err
    assert main.main(flags) == 0
    assert numbers_of(folder) == numbers_of(run.folder)


def numbers_of(folder):
    """Everything of a run that must repeat bit for bit."""
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    return (
        (folder / "logs" / "history.csv").read_text(),
        (folder / "evaluation" / "test" / "report.json").read_text(),
        [weight.tobytes() for weight in model.get_weights()],
    )


def test_run_flags_and_the_seed_repeat_a_run_bit_for_bit(run, tmp_path):
    flags = [f"--flagfile={run.folder / 'run.flags'}", f"--workdir={tmp_path / 'again'}"]
    assert main.main(flags) == 0
    assert numbers_of(tmp_path / "again") == numbers_of(run.folder)
    assert main.main(flags) == 0  # finished, also under the resolved flags


def test_another_seed_is_another_run(run, tmp_path):
    flags = [f"--flagfile={run.folder / 'run.flags'}", f"--workdir={tmp_path / 'b'}", "--seed=1"]
    assert main.main(flags) in (0, 3)
    assert numbers_of(tmp_path / "b")[0] != numbers_of(run.folder)[0]


def test_two_devices_give_the_history_of_one(colors, classifier, tmp_path):
    histories = []
    for strategy in ("one_device", "mirrored"):
        flags = [
            f"--model={classifier}", f"--data={colors}", f"--workdir={tmp_path / strategy}",
            f"--strategy={strategy}", "--head=name=label,dropout=0", "--batch_size=13",
            "--phase=name=head,epochs=2,learning_rate=0.03",
            "--phase=name=fine,epochs=2,freeze=3,learning_rate=0.01,gradient_clip_norm=0.05",
        ]  # fmt: skip
        assert main.main(flags) == 0
        rows = list(csv.DictReader((tmp_path / strategy / "logs" / "history.csv").open()))
        histories.append([[float(row[name]) for name in list(row)[2:]] for row in rows])
        assert json.loads((tmp_path / strategy / "environment.json").read_text())["replicas"] == (
            2 if strategy == "mirrored" else 1
        )
    np.testing.assert_allclose(histories[1], histories[0], rtol=2e-4, atol=1e-6)


def test_no_device_is_left_without_examples(colors, classifier, tmp_path):
    # 72 training examples: a last batch of one would be empty on the second device.
    flags = [
        f"--model={classifier}", f"--data={colors}", f"--workdir={tmp_path / 'run'}",
        "--strategy=mirrored", "--batch_size=71", "--freeze=none", "--epochs=2",
    ]  # fmt: skip
    assert main.main(flags) in (0, 3)
    rows = list(csv.DictReader((tmp_path / "run" / "logs" / "history.csv").open()))
    assert len(rows) == 2


def test_a_dry_run_says_what_it_costs_and_leaves_nothing(colors, classifier, tmp_path, capsys):
    flags = [f"--model={classifier}", f"--data={colors}", f"--workdir={tmp_path / 'run'}"]
    assert main.main([*flags, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "Cost: 72 training examples, 27 trainable parameters, " in out
    assert "--dry_run: nothing was trained or written." in out
    assert not (tmp_path / "run").exists()


def test_time_that_is_over_keeps_the_best_weights(colors, classifier, tmp_path, capsys):
    flags = [
        f"--model={classifier}", f"--data={colors}", f"--workdir={tmp_path / 'run'}",
        "--max_minutes=0",
    ]  # fmt: skip
    assert main.main(flags) == 3  # nothing was learnt: an untrained model is not exported
    captured = capsys.readouterr()
    assert "not started, --max_minutes is over." in captured.out
    assert "error: No epoch was better than the untrained heads on validation" in captured.err
    assert (tmp_path / "run" / "model.keras").is_file()
    assert not (tmp_path / "run" / "export").exists()


def test_images_that_training_has_seen_are_told(colors, classifier, tmp_path, capsys):
    folder = tmp_path / "colors"
    shutil.copytree(colors, folder)
    for number in range(30):
        shutil.copy(folder / "red" / "000.png", folder / "red" / f"copy_{number}.png")
    flags = [f"--model={classifier}", f"--data={folder}", "--dry_run"]
    assert main.main(flags) == 0
    out = capsys.readouterr().out
    assert "test images are equal to a training image, so test numbers are too good: " in out


def test_a_run_that_is_terminated_keeps_its_best_weights(colors, classifier, tmp_path):
    command = [
        sys.executable, "-m", "tf_finetune.main", f"--model={classifier}", f"--data={colors}",
        f"--workdir={tmp_path / 'run'}", "--epochs=100000",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        for line in run.stdout:
            if line.startswith("train 3/"):
                break
        run.send_signal(signal.SIGTERM)
        out, error = run.communicate(timeout=120)
    assert run.returncode == 143
    assert error.splitlines()[-1] == "Terminated."
    assert f"The best weights so far are in {tmp_path / 'run'}: " in out
    trained.load_run(str(tmp_path / "run"))


def test_a_diverging_run_names_the_step_and_keeps_good_weights(colors, tmp_path, capsys):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.Activation("exponential", name="exp")(x)
    outputs = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    keras.Model(inputs, outputs).save(tmp_path / "exploding.h5")
    flags = [
        f"--model={tmp_path / 'exploding.h5'}", f"--data={colors}",
        f"--workdir={tmp_path / 'run'}", "--pixel_range=0..1", "--batch_size=16",
        "--phase=name=fast,epochs=5,freeze=none,learning_rate=100,warmup_fraction=0,"
        "gradient_clip_norm=0",
    ]  # fmt: skip
    assert main.main(flags) == 4
    error = capsys.readouterr().err
    assert "in phase 'fast', epoch 1, step " in error
    assert "The best weights so far are kept" in error
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "diverged"
    weights = trained.load_run(str(tmp_path / "run")).model.get_weights()
    assert all(np.isfinite(weight).all() for weight in weights)
    assert not (tmp_path / "run" / "export").exists()


@pytest.fixture
def shapes(tmp_path):
    """A table with two label columns: the colour, and two names that may hold at once."""
    folder = tmp_path / "shapes"
    tiny.write_color_folder(folder, per_class=20)
    rows = ["path,colour,tags"]
    for path in sorted(folder.rglob("*.png")):
        tags = {"red": "warm|strong", "green": "strong", "blue": "cold"}[path.parent.name]
        rows.append(f"{path.relative_to(folder)},{path.parent.name},{tags}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder / "labels.csv"


def test_several_heads_at_once(shapes, classifier, tmp_path):
    import tensorflow as tf

    flags = [
        f"--model={classifier}", f"--data={shapes}", f"--workdir={tmp_path / 'run'}",
        "--head=name=colour,label=colour,class_weight=balanced,label_smoothing=0.05",
        "--head=name=tags,label=tags,kind=multilabel,hidden_units=16,loss_weight=0.5",
        "--phase=name=head,epochs=60,learning_rate=0.03", "--batch_size=16",
        "--monitor=tags/cross_entropy", "--pixel_range=0..1",
        "--require_min=test/colour/accuracy:1", "--require_min=test/tags/f1_macro:0.99",
    ]  # fmt: skip
    assert main.main(flags) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["monitor"]["name"] == "tags/cross_entropy"
    served = tf.saved_model.load(summary["export"]["path"])
    image = next((shapes.parent / "red").iterdir()).read_bytes()
    answer = served.signatures["serve_bytes"](image_bytes=tf.constant([image]))
    assert answer["colour_classes"].numpy().tolist() == [b"red"]
    assert answer["tags_classes"].numpy().tolist() == [[b"strong", b"warm", b""]]


def test_without_a_test_split_the_run_says_so(colors, classifier, tmp_path, capsys):
    flags = [
        f"--model={classifier}", f"--data={colors}", f"--workdir={tmp_path / 'run'}",
        "--split=1,0,0", "--epochs=1",
    ]  # fmt: skip
    assert main.main(flags) == 0
    out = capsys.readouterr().out
    assert "No validation data: the newest weights are kept." in out
    assert "there is no test split, so nothing is known of new examples." in out


def test_bfloat16_computes_the_backbone_and_keeps_float32_heads(colors, classifier, tmp_path):
    flags = [
        f"--model={classifier}", f"--data={colors}", f"--workdir={tmp_path / 'run'}",
        "--precision=bfloat16", "--epochs=40", "--learning_rate=0.03", "--pixel_range=0..1",
        "--batch_size=16", "--require_min=test/accuracy:1.0",
    ]  # fmt: skip
    assert main.main(flags) == 0
    model = trained.load_run(str(tmp_path / "run")).model
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    assert backbone.get_layer("conv_a").compute_dtype == "bfloat16"
    assert backbone.get_layer("conv_a").variable_dtype == "float32"
    assert model.get_layer("label_logits").compute_dtype == "float32"
