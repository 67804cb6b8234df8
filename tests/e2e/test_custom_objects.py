"""A model with a custom layer through every verb: trained, then opened again from its workdir."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests import custom_layers, tiny
from tf_finetune import main
from tf_finetune.models import custom_objects


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory, colors):
    """A finished run on an .h5 with custom layers, trained by the module's dotted name."""
    folder = tmp_path_factory.mktemp("custom")
    module_path = custom_layers.write_module(folder, "run_layers")
    model = folder / "model.h5"
    custom_layers.save_classifier(custom_objects.import_module(str(module_path)), model)
    before = os.getcwd()
    os.chdir(folder)
    try:
        flags = [
            f"--model={model}",
            f"--data={colors}",
            "--workdir=run",
            "--custom_objects=run_layers",
            "--pixel_range=0..1",
            "--epochs=20",
            "--learning_rate=0.03",
            "--freeze=until:scale",
        ]
        assert main.main(flags) == 0
    finally:
        os.chdir(before)
    return folder / "run"


def test_the_frozen_custom_layer_is_kept_and_recorded(trained_run):
    facts = json.loads((trained_run / "model.json").read_text())
    assert facts["custom_objects"] == {
        "module": "run_layers",
        "folder": str(trained_run.parent),
    }
    assert "--custom_objects=run_layers\n" in (trained_run / "run.flags").read_text()
    plan = (trained_run / "freeze_plan.txt").read_text()
    assert "scale" in plan


def run_in_new_process(folder, *flags: str) -> subprocess.CompletedProcess:
    """In another folder, so that the module is not found by chance."""
    command = [sys.executable, "-m", "tf_finetune.main", *flags]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_run_is_evaluated_predicted_and_exported_later(trained_run, colors, tmp_path):
    image = next((colors / "red").iterdir())
    for flags in (
        ["--mode=evaluate"],
        ["--mode=predict", f"--input={image}", f"--output={tmp_path / 'p.csv'}"],
        ["--mode=export", f"--export_dir={tmp_path / 'export'}"],
    ):
        module = f"--custom_objects={trained_run.parent / 'run_layers.py'}"
        done = run_in_new_process(tmp_path, f"--workdir={trained_run}", module, *flags)
        assert done.returncode == 0, done.stderr
    assert "red" in (tmp_path / "p.csv").read_text()
    import tensorflow as tf

    served = tf.saved_model.load(str(tmp_path / "export/1"))
    pixels = np.full((1, 12, 12, 3), tiny.COLORS["red"], np.float32)
    answer = served.signatures["serving_default"](image=tf.constant(pixels))
    assert answer["probabilities"].shape == (1, 3)  # the export needs no module


def test_a_module_that_only_the_run_names_is_never_imported(trained_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained_run, copy)
    (copy / "run_layers.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    facts = json.loads((copy / "model.json").read_text())
    facts["custom_objects"]["folder"] = str(copy)
    (copy / "model.json").write_text(json.dumps(facts))
    done = run_in_new_process(copy, f"--workdir={copy}", "--mode=evaluate")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: The run in {copy} was trained with --custom_objects=run_layers. A module is code "
        "and is imported only when you name it: give --custom_objects again."
    )
    # Nor is it where model.json says nothing.
    del facts["custom_objects"]
    (copy / "model.json").write_text(json.dumps(facts))
    done = run_in_new_process(copy, f"--workdir={copy}", "--mode=evaluate")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {copy}/model.keras: layer 'functional")
    assert "/shift' needs the custom class 'run_layers.Shift'." in last
    assert not (tmp_path / "ran").exists()


def test_a_module_that_is_gone_says_so(trained_run, tmp_path):
    done = run_in_new_process(
        tmp_path, f"--workdir={trained_run}", "--mode=evaluate", "--custom_objects=run_layers"
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: --custom_objects=run_layers: there is no such module in {tmp_path} or among the "
        "installed packages. Expected a dotted module name or a .py file."
    )
