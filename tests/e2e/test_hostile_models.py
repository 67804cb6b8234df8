"""Models that would run code or reach for files, through every verb that opens one."""

import json
import os
import re
import subprocess
import sys

import h5py
import keras
import pytest
import tensorflow as tf

from tests import tiny
from tf_finetune import main
from tf_finetune.models import custom_objects

RUNNER = "hostile/run_hostile.py"
MODELS = "h5,keras,weights,savedmodel,archive"


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """A file that hostile code makes when it runs."""
    path = tmp_path / "trace"
    monkeypatch.setenv("TRACE", str(path))
    return path


@pytest.fixture
def with_lambda(tmp_path, trace):
    """An .h5 with a Lambda in front."""
    model = tiny.make_classifier()
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Lambda(
        lambda x: (open(__import__("os").environ["TRACE"], "w").close(), x)[1], name="evil"
    )(inputs)
    path = tmp_path / "evil.h5"
    keras.Model(inputs, model(x)).save(path)
    trace.unlink()
    return path


class Writer(tf.Module):
    """Writes a file whenever it is called."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def __call__(self, image_bytes):
        tf.io.write_file(os.environ["TRACE"], "ran")
        return tf.strings.length(image_bytes)


def refusal(capsys, *flags: str) -> list[str]:
    capsys.readouterr()
    assert main.main(flags) == 2
    errors = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in errors)
    return [line.removeprefix("error: ") for line in errors]


def test_training_refuses_code_and_leaves_nothing(with_lambda, colors, tmp_path, trace, capsys):
    run = tmp_path / "run"
    flags = (f"--model={with_lambda}", f"--data={colors}", f"--workdir={run}")
    for mode in ((), ("--dry_run",), ("--mode=inspect",)):
        given = flags if "--mode=inspect" not in mode else flags[:1]
        (line,) = refusal(capsys, *given, *mode)
        assert line == (
            f"{with_lambda}: layer 'evil' is a Lambda: it is stored Python code, and is never run "
            "unasked. Build the model from plain layers and save it again. --trust_model opens it "
            "all the same, if you know who made it."
        )
    assert not trace.exists()
    assert not run.exists()


def test_trust_is_loud_recorded_and_asked_for_again(with_lambda, colors, tmp_path, trace, capsys):
    run = tmp_path / "run"
    flags = [f"--model={with_lambda}", f"--data={colors}", f"--workdir={run}", "--epochs=2"]
    capsys.readouterr()
    # Nothing is learnt in two epochs: 3, and nothing is exported.
    assert main.main([*flags, "--trust_model", "--pixel_range=0..1"]) in (0, 3)
    message = (
        "--trust_model is given, so it is opened all the same, and its code runs: layer 'evil' is "
        "a Lambda: it is stored Python code, and is never run unasked. Build the model from plain "
        "layers and save it again."
    )
    assert f"Warning: {with_lambda}: {message}\n" in capsys.readouterr().out
    assert trace.exists()
    assert message in (run / "problems.txt").read_text()
    facts = json.loads((run / "model.json").read_text())
    assert facts["trust"] == {"trust_model": True, "findings": [message]}
    report = json.loads((run / "evaluation/test/report.json").read_text())
    assert report["notes"][1:] == [message]
    assert "The pretrained model was opened with" in (run / "evaluation/test/report.md").read_text()
    # The folder may be given to others, for whom its own flags mean nothing.
    trace.unlink()
    (line,) = refusal(capsys, "--mode=evaluate", f"--workdir={run}")
    assert re.match(rf"{re.escape(str(run))}/model.keras: layer '\w+/evil' is a Lambda: ", line)
    assert not trace.exists()
    assert main.main(["--mode=evaluate", f"--workdir={run}", "--trust_model"]) == 0


def test_a_saved_model_that_writes_a_file_is_loaded_by_no_verb(tmp_path, colors, trace, capsys):
    model = str(tmp_path / "export" / "1")
    tf.saved_model.save(Writer(), model)
    image = next((colors / "red").iterdir())
    output = f"--output={tmp_path / 'p.csv'}"
    given = (
        ("--mode=inspect",),
        (f"--data={colors}", f"--workdir={tmp_path / 'run'}"),
        ("--mode=predict", f"--input={image}", output),
    )
    for flags in given:
        lines = refusal(capsys, f"--model={model}", *flags)
        assert lines[0].startswith(f"{model}: ")
        assert "'WriteFile'" in lines[0]
        assert "it writes files" in lines[0]
    assert not trace.exists()


def test_weights_that_reach_for_another_file(tmp_path, colors, capsys):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4000))
    model = tiny.make_classifier()
    architecture, weights = tmp_path / "model.json", tmp_path / "model.weights.h5"
    architecture.write_text(model.to_json())
    model.save_weights(weights)
    with h5py.File(weights, "a") as file:
        kernel = file["layers/conv2d/vars/0"]
        shape, dtype = kernel.shape, kernel.dtype
        del file["layers/conv2d/vars/0"]
        file.create_dataset(
            "layers/conv2d/vars/0", shape, dtype, external=[(str(secret), 0, kernel_bytes(shape))]
        )
    (line,) = refusal(
        capsys,
        f"--model={architecture}",
        f"--weights={weights}",
        f"--data={colors}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert line.startswith(f"{weights}: 'layers/conv2d/vars/0' ")
    assert "external" in line or "another file" in line


def kernel_bytes(shape) -> int:
    size = 4
    for side in shape:
        size *= side
    return size


def test_a_module_is_not_imported_for_a_model_that_is_refused(
    with_lambda, tmp_path, colors, capsys
):
    imported = tmp_path / "imported"
    module = tmp_path / "own_layers.py"
    module.write_text(f"open({str(imported)!r}, 'w').close()")
    (line,) = refusal(
        capsys, f"--model={with_lambda}", "--mode=inspect", f"--custom_objects={module}"
    )
    assert "is a Lambda" in line
    assert not imported.exists()
    custom_objects.import_module(str(module))
    assert imported.exists()  # so it would have been


@pytest.mark.slow
def test_the_corpus_of_hostile_models(shared, tmp_path):
    """Every hostile model and archive is refused, every benign one accepted."""
    results = tmp_path / "results.json"
    command = f"{sys.executable} -m tf_finetune.main --mode=inspect --model={{path}}"
    done = subprocess.run(
        [
            sys.executable,
            str(shared / RUNNER),
            f"--kinds={MODELS}",
            f"--command={command}",
            f"--json={results}",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stdout[-3000:]
