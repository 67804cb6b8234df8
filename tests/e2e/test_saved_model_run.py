"""The verb train on a TF-Hub module: frozen, partly frozen and unfrozen, then what it leaves."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests import tiny
from tf_finetune import main, trained
from tf_finetune.models import loading
from tf_finetune.models.saved import saved_model_layer

NUM_FROZEN = 40


@pytest.fixture(scope="module")
def module(shared):
    return shared / "zoo" / "savedmodel" / "hub_format_mobilenet_v1_025_128_fv"


def train(module, colors, folder, *flags):
    code = main.main(
        [
            f"--model={module}",
            f"--data={colors}",
            f"--workdir={folder}",
            "--batch_size=24",
            *flags,
        ]
    )
    assert code == 0
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def partly_frozen(module, colors, tmp_path_factory):
    """A phase on the frozen module, then one that leaves its last groups free."""
    folder = tmp_path_factory.mktemp("runs") / "partly"
    summary = train(
        module, colors, folder, "--require_min=test/accuracy:1.0",
        "--phase=name=head,freeze=all,epochs=2,learning_rate=0.01",
        f"--phase=name=fine,freeze={NUM_FROZEN},epochs=4,learning_rate=0.002",
    )  # fmt: skip
    return folder, summary


def groups_of(model):
    (layer,) = saved_model_layer.find_layers(model)
    return [
        {member.name: member.numpy() for member in group.members} for group in layer.weight_groups
    ]


def test_the_frozen_groups_stay_and_the_others_train(module, partly_frozen):
    folder, summary = partly_frozen
    assert summary["test"]["label"]["accuracy"] == 1.0
    assert summary["layers"] == {"frozen": NUM_FROZEN, "total": 54}
    assert all(phase["improved"] for phase in summary["phases"])
    before = groups_of(loading.load_pretrained(str(module)))
    after = groups_of(trained.load_run(str(folder)).model)
    for number, (old, new) in enumerate(zip(before, after, strict=True), start=1):
        held = "moving_mean" in old
        for name, value in old.items():
            same = np.array_equal(value, new[name])
            assert same == (number <= NUM_FROZEN or held), (number, name)
    assert "54 weight groups frozen" in (folder / "freeze_plan.txt").read_text()
    flags = (folder / "run.flags").read_text()
    assert "--pixel_range=0..1" in flags


C_PROGRAM = """
import json, sys
import tf_capi
folder, image_path, image_bytes, probabilities = sys.argv[1:]
with open(image_path, "rb") as file:
    feeds = [(image_bytes, tf_capi.STR, [file.read()])]
(rows,) = tf_capi.SavedModel(folder).run(feeds, [probabilities])
loaded = [name for name in ("tensorflow", "keras") if name in sys.modules]
print(json.dumps({"rows": rows.tolist(), "loaded": loaded}))
"""


def test_the_export_answers_as_the_model_does_also_in_c(partly_frozen, colors, shared):
    folder, summary = partly_frozen
    path = summary["export"]["path"]
    served = tf.saved_model.load(path).signatures
    images = np.random.default_rng(0).uniform(0, 255, (5, 128, 128, 3)).astype(np.float32)
    model = trained.load_run(str(folder)).model
    expected = tf.nn.softmax(model({"image": images})["label"])
    received = served["serving_default"](image=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(received, expected, atol=1e-5)
    rows = []
    for name in tiny.COLORS:
        image = next((colors / name).iterdir())
        answer = served["serve_bytes"](image_bytes=tf.constant([image.read_bytes()]))
        assert answer["classes"].numpy()[0].decode() == name
        rows.append((image, answer["probabilities"].numpy()[0]))
    with open(os.path.join(path, "saved_model.pb"), "rb") as file:
        (graph,) = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs
    signature = graph.signature_def["serve_bytes"]
    names = [signature.inputs["image_bytes"].name, signature.outputs["probabilities"].name]
    output = subprocess.run(
        [sys.executable, "-c", C_PROGRAM, path, str(rows[0][0]), *names],
        env={**os.environ, "PYTHONPATH": str(shared / "serving")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    answer = json.loads(output.splitlines()[-1])
    assert answer["loaded"] == []
    np.testing.assert_allclose(answer["rows"][0], rows[0][1], atol=1e-5)


def test_an_unfrozen_module_trains_its_statistics_on_two_devices(module, colors, tmp_path):
    folder = tmp_path / "unfrozen"
    summary = train(
        module, colors, folder,
        "--strategy=mirrored", "--batch_norm=train",
        "--phase=name=all,freeze=none,epochs=2,learning_rate=0.0005,warmup_fraction=0",
    )  # fmt: skip
    assert summary["layers"] == {"frozen": 0, "total": 54}
    assert json.loads((folder / "environment.json").read_text())["replicas"] == 2
    before = groups_of(loading.load_pretrained(str(module)))
    after = groups_of(keras.saving.load_model(folder / "model.keras"))
    assert summary["phases"][0]["improved"]
    for old, new in zip(before, after, strict=True):
        for name, value in old.items():
            assert not np.array_equal(value, new[name]), name


def test_a_partly_frozen_graph_with_batch_norm_train_is_refused(module, colors, tmp_path, capsys):
    flags = [f"--model={module}", f"--data={colors}", f"--workdir={tmp_path / 'run'}"]
    assert main.main([*flags, "--batch_norm=train", "--freeze=40"]) == 2
    assert (
        "--batch_norm=train with --freeze=40: 40 of 54 weight groups are frozen, and the graph "
        "runs its 27 BatchNormalizations all in training mode or none."
    ) in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.keras").exists()
