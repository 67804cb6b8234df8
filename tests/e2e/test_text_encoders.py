"""Text encoders of every kind through the whole verb: strings in, probabilities out."""

import csv
import importlib.util
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_text
from tests.models import hugging_face_folders, saved_models
from tf_finetune import main

TEXTS = ("a good film", "very bad film", "", "GOOD, very good!", "é 🎬")


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    """Sixty texts; "good" or "bad" tells the class."""
    fillers = ("very", "the", "film", "was")
    rows = [
        (f"{('bad', 'good')[number % 2]} {' '.join(fillers[: number // 2 % 5])} {number}", label)
        for number, label in enumerate(["neg", "pos"] * 30)
    ]
    folder = tmp_path_factory.mktemp("data")
    return tiny_text.write_table(folder / "reviews.csv", rows)


def write_saved_models(folder):
    saved_models.write_encoder(folder / "encoder")
    saved_models.write_preprocessor(folder / "preprocessor")
    return (f"--model={folder}/encoder", f"--preprocessor={folder}/preprocessor")


def write_hugging_face(folder):
    model = hugging_face_folders.write(folder / "bert", hugging_face_folders.make_weights())
    return (f"--model={model}",)


def write_keras_hub(folder):
    models = pytest.importorskip("keras_hub").models
    keras.utils.set_random_seed(0)
    backbone = models.BertBackbone(
        vocabulary_size=len(hugging_face_folders.PIECES),
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=12,
        max_sequence_length=16,
    )
    for weight in backbone.weights:
        weight.assign(weight + np.random.default_rng(1).normal(0, 0.3, weight.shape))
    pieces = [*hugging_face_folders.PIECES[:-1], "[MASK]"]
    backbone.save_to_preset(str(folder))
    models.BertTokenizer(vocabulary=pieces, lowercase=True).save_to_preset(str(folder))
    return (f"--model=kerashub:{folder}",)


KINDS = {
    "saved_model": write_saved_models,
    "hf": write_hugging_face,
    "kerashub": write_keras_hub,
}


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory, data_path):
    """(folder of a finished run that trained everything, its flags)"""
    folder = tmp_path_factory.mktemp(request.param)
    flags = (
        *KINDS[request.param](folder / "model"),
        f"--data={data_path}",
        f"--workdir={folder}/run",
        "--phase=name=fine,epochs=12,freeze=none,learning_rate=0.02",
        "--require_min=test/accuracy:1.0",
    )
    assert main.main(flags) == 0
    return folder / "run", flags


def expected_probabilities(folder):
    """By plain Keras: softmax of the logits of model.keras, [n, (neg, pos)]."""
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    logits = model({"text": tf.constant(list(TEXTS))}, training=False)["label"]
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def test_it_learns_and_says_what_it_trained(run):
    folder, _ = run
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["test"]["label"]["accuracy"] == 1.0
    assert summary["layers"]["frozen"] == 0
    assert summary["parameters"]["trainable"] > 50


def test_predict_and_export_say_the_same(run, tmp_path):
    folder, _ = run
    table = tiny_text.write_table(
        tmp_path / "new.csv", [(text or "-", "") for text in TEXTS], header=("review", "x")
    )
    found = {}
    for name, model in {
        "run": f"--workdir={folder}",
        "export": f"--model={folder}/export/1",
    }.items():
        output = tmp_path / f"{name}.csv"
        column = ("--text_column=review",) if name == "export" else ()
        flags = ("--mode=predict", model, f"--input={table}", f"--output={output}", *column)
        assert main.main(flags) == 0
        with output.open(encoding="utf-8", newline="") as file:
            found[name] = [
                (row["class"], float(row["probability"])) for row in csv.DictReader(file)
            ]
    assert [name for name, _ in found["run"]] == [name for name, _ in found["export"]]
    for (_, one), (_, other) in zip(found["run"], found["export"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_the_export_answers_in_the_c_library_alone(run, shared):
    folder, _ = run
    spec = importlib.util.spec_from_file_location("tf_capi", shared / "serving" / "tf_capi.py")
    tf_capi = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tf_capi)
    from tensorflow.core.protobuf import meta_graph_pb2

    served = tf_capi.SavedModel(f"{folder}/export/1")
    graph = meta_graph_pb2.MetaGraphDef.FromString(served.meta_graph)
    signature = graph.signature_def["serving_default"]
    (text,) = signature.inputs.values()
    texts = np.array([value.encode() for value in TEXTS], object)
    (probabilities,) = served.run(
        [(text.name, text.dtype, texts)], [signature.outputs["probabilities"].name]
    )
    np.testing.assert_allclose(probabilities, expected_probabilities(folder), rtol=0, atol=1e-5)


def test_frozen_weights_stay(run, tmp_path):
    folder, flags = run
    del folder
    rest = [flag for flag in flags if not flag.startswith(("--phase", "--workdir", "--require"))]
    workdir = tmp_path / "frozen"
    assert main.main((*rest, f"--workdir={workdir}", "--freeze=2", "--epochs=2")) in (0, 3)
    plan = (workdir / "freeze_plan.txt").read_text()
    assert plan.count("  frozen\n") == 2
    assert "  trainable\n" in plan
