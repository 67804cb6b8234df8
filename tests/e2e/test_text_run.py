"""Texts through the whole verb: a CSV of sentences and a model that takes strings."""

import csv
import dataclasses
import importlib.util
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny, tiny_text
from tf_finetune import main

SENTENCES = (
    "a lovely great film",
    "an awful dull story of town",
    'music, "people"\nin town',
    "é 🎬",
)


@dataclasses.dataclass(frozen=True)
class TextRun:
    folder: pathlib.Path
    data: str
    model: str
    flags: tuple[str, ...]

    @property
    def summary(self):
        return json.loads((self.folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "words.keras"
    tiny_text.make_classifier().save(path)
    return str(path)


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return tiny_text.write_table(folder / "reviews.csv", tiny_text.make_rows())


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_path, data_path):
    folder = tmp_path_factory.mktemp("runs") / "reviews"
    flags = (
        f"--model={model_path}",
        f"--data={data_path}",
        f"--workdir={folder}",
        "--phase=name=fine,epochs=15,freeze=none,learning_rate=0.05",
        "--require_min=test/accuracy:1.0",
        "--warmup_examples=3",
    )
    assert main.main(flags) == 0
    return TextRun(folder, data_path, model_path, flags)


def read_probabilities(path):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["class"] for row in rows], np.array([float(row["probability"]) for row in rows])


def expected_probabilities(run, texts):
    """By plain Keras: softmax of the logits of model.keras, [n, (neg, pos)]."""
    model = keras.saving.load_model(run.folder / "model.keras", compile=False)
    logits = model({"text": tf.constant(list(texts))}, training=False)["label"]
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def test_the_run_knows_every_class(run):
    assert run.summary["status"] == "completed"
    assert run.summary["test"]["label"]["accuracy"] == 1.0
    assert run.summary["examples"] == {"train": 48, "validation": 6, "test": 6}
    stored = json.loads((run.folder / "model.json").read_text())
    assert stored["preprocessing"] == {"column": "review", "kind": "text"}
    flags = (run.folder / "run.flags").read_text().splitlines()
    assert {"--text_column=review", "--weight_decay=0.01"} <= set(flags)


def test_evaluate_measures_the_run_again(run, capsys):
    assert main.main(("--mode=evaluate", f"--workdir={run.folder}")) == 0
    assert "test: 6 examples" in capsys.readouterr().out


def test_evaluate_on_another_table(run, tmp_path, capsys):
    rows = [
        ("a lovely great film", "pos"),
        ("so dull and boring", "neg"),
        (*tiny_text.make_rows()[0],),
    ]
    path = tiny_text.write_table(tmp_path / "other.csv", rows)
    flags = ("--mode=evaluate", f"--workdir={run.folder}", f"--test_data={path}")
    assert main.main((*flags, "--require_min=test/accuracy:1.0")) == 0
    output = capsys.readouterr().out
    assert "test: 3 examples" in output
    assert "Warning: 1 of 3 examples were used in training or validation" in output


def test_predict_from_a_table_and_from_lines(run, tmp_path):
    table = tiny_text.write_table(
        tmp_path / "new.csv", [(7, text) for text in SENTENCES], header=("number", "review")
    )
    lines = tmp_path / "new.txt"
    lines.write_text("".join(f"{text}\n" for text in SENTENCES if "\n" not in text), "utf-8")
    expected = expected_probabilities(run, SENTENCES)
    for name, kept in (("table", [0, 1, 2, 3]), ("lines", [0, 1, 3])):
        given = table if name == "table" else lines
        output = tmp_path / f"{name}.csv"
        flags = ("--mode=predict", f"--workdir={run.folder}", f"--input={given}")
        assert main.main((*flags, f"--output={output}")) == 0
        names, probabilities = read_probabilities(output)
        answers = expected[kept]
        assert names == [("neg", "pos")[answer] for answer in answers.argmax(1)]
        np.testing.assert_allclose(probabilities, answers.max(1), rtol=0, atol=1e-5)


def test_the_export_predicts_the_same(run, tmp_path):
    table = tiny_text.write_table(
        tmp_path / "new.csv", [(text, "") for text in SENTENCES], header=("text", "x")
    )
    flags = ("--mode=predict", f"--model={run.folder}/export/1", f"--input={table}")
    assert main.main((*flags, f"--output={tmp_path}/rows.csv")) == 0
    names, probabilities = read_probabilities(tmp_path / "rows.csv")
    expected = expected_probabilities(run, SENTENCES)
    assert names == [("neg", "pos")[answer] for answer in expected.argmax(1)]
    np.testing.assert_allclose(probabilities, expected.max(1), rtol=0, atol=1e-5)


def test_the_export_answers_without_python(run, shared):
    path = shared / "serving" / "tf_capi.py"
    spec = importlib.util.spec_from_file_location("tf_capi", path)
    tf_capi = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tf_capi)
    from tensorflow.core.protobuf import meta_graph_pb2

    served = tf_capi.SavedModel(f"{run.folder}/export/1")
    graph = meta_graph_pb2.MetaGraphDef.FromString(served.meta_graph)
    signature = graph.signature_def["serving_default"]
    assert sorted(graph.signature_def) == ["__saved_model_init_op", "serving_default"]
    (text,) = signature.inputs.values()
    names = ("probabilities", "classes")
    outputs = dict(
        zip(
            names,
            served.run(
                [(text.name, text.dtype, np.array(SENTENCES, object))],
                [signature.outputs[name].name for name in names],
            ),
            strict=True,
        )
    )
    expected = expected_probabilities(run, SENTENCES)
    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=0, atol=1e-5)
    assert outputs["classes"].tolist() == [
        (b"neg", b"pos")[answer] for answer in expected.argmax(1)
    ]


def test_the_same_flags_give_the_same_bits(run, tmp_path):
    flags = (f"--flagfile={run.folder}/run.flags", f"--workdir={tmp_path}/again")
    assert main.main(flags) == 0
    for name in ("logs/history.csv", "evaluation/test/report.json", "split.csv", "run.flags"):
        first, second = run.folder / name, tmp_path / "again" / name
        assert first.read_bytes() == second.read_bytes(), name
    models = [
        keras.saving.load_model(folder / "model.keras", compile=False)
        for folder in (run.folder, tmp_path / "again")
    ]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)


def test_two_logical_devices(run, tmp_path):
    flags = (*run.flags, f"--workdir={tmp_path}/two", "--strategy=mirrored", "--batch_size=15")
    assert main.main(flags) == 0
    environment = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert environment["replicas"] == 2


def test_few_examples_train_the_heads_by_default(run, tmp_path):
    flags = (f"--model={run.model}", f"--data={run.data}", f"--workdir={tmp_path}/run")
    assert main.main(flags) == 0
    lines = (tmp_path / "run" / "run.flags").read_text().splitlines()
    (phase,) = [line for line in lines if line.startswith("--phase")]
    assert phase.startswith("--phase=name=head,epochs=200,learning_rate=0.005,freeze=all")
    assert "--weight_decay=0.0" in lines


def test_a_model_of_images_is_refused(run, tmp_path, capsys):
    path = tmp_path / "tiny.keras"
    tiny.make_classifier().save(path)
    flags = (f"--model={path}", f"--data={run.data}", f"--workdir={tmp_path}/run")
    assert main.main(flags) == 2
    assert capsys.readouterr().err == (
        f"error: --model={path} takes images, and --data={run.data} holds texts. Choose a model "
        "that takes strings; where the .csv names images, --image_column names their column "
        "instead of --text_column.\n"
    )
    assert not (tmp_path / "run").exists()


def test_data_of_images_are_refused(run, tmp_path, capsys):
    tiny.write_color_folder(tmp_path / "colors")
    flags = (f"--model={run.model}", f"--data={tmp_path}/colors", f"--workdir={tmp_path}/run")
    assert main.main(flags) == 2
    assert capsys.readouterr().err == (
        f"error: --model={run.model} takes texts, and --data={tmp_path}/colors holds images. Give "
        "a .csv with a header and name its column of texts with --text_column, or choose a model "
        "for images.\n"
    )


def test_flags_of_images_are_refused(run, tmp_path, capsys):
    flags = (f"--model={run.model}", f"--data={run.data}", f"--workdir={tmp_path}/run")
    assert main.main((*flags, "--image_size=32", "--pixel_range=0..1")) == 2
    assert capsys.readouterr().err == (
        "error: --image_size=32 has no effect on texts. Leave it out.\n"
        "error: --pixel_range=0..1 has no effect on texts. Leave it out.\n"
    )


def test_validate_names_what_is_wrong(run, tmp_path, capsys):
    rows = [*tiny_text.make_rows(), ("", "pos"), ("  ", "neg"), ("same", "pos"), ("same", "neg")]
    path = tiny_text.write_table(tmp_path / "bad.csv", rows)
    flags = ("--mode=validate", f"--data={path}", f"--output={tmp_path / 'problems.csv'}")
    assert main.main(flags) == 2
    lines = capsys.readouterr().out.splitlines()
    empty = "the text is empty. --on_bad_example=skip leaves such rows out."
    assert f"error: {path}, line 62: {empty}" in lines
    assert f"error: {path}, line 63: {empty}" in lines
    assert [line for line in lines if "'same'" in line] == [
        f"warning: {path}, line 64: 'same' is identical to {path}, line 65, with different labels: "
        "'pos', 'neg'. One is wrong."
    ]
    assert main.main((*flags, "--on_bad_example=skip")) == 0
    output = capsys.readouterr().out
    assert f"warning: {path}: 2 rows without a text are left out, lines 62, 63." in output


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_model_that_ends_with_a_sequence(shape, tmp_path, run):
    tiny_text.make_classifier(shape=shape, pooled=False).save(tmp_path / "m.keras")
    flags = (f"--model={tmp_path}/m.keras", f"--data={run.data}", f"--workdir={tmp_path}/run")
    flags = (*flags, "--phase=name=fine,epochs=15,freeze=1,learning_rate=0.05")
    assert main.main((*flags, "--require_min=test/accuracy:1.0")) == 0
    stored = json.loads((tmp_path / "run" / "model.json").read_text())
    assert stored["pretrained"]["pooling"] == "avg"


def test_real_sentences(run, shared, tmp_path):
    rows = []
    for name in ("pos", "neg"):
        text = (shared / "zoo/data/rt_polarity" / f"rt-polarity.{name}").read_text("latin-1")
        rows += [(line.strip(), name) for line in text.split("\n")[:400] if line.strip()]
    path = tiny_text.write_table(tmp_path / "films.csv", rows, header=("text", "label"))
    flags = (f"--model={run.model}", f"--data={path}", f"--workdir={tmp_path}/run")
    assert main.main((*flags, "--freeze=all", "--epochs=2")) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert sum(summary["examples"].values()) == len(rows)
