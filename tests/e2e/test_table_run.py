"""Tables of numbers through the whole verb: vectors, several named inputs, and what comes out."""

import csv
import json
import pathlib
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.data import table_files
from tf_finetune import main, trained

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "tabular.flags"
PHASE = "--phase=name=head,epochs=25,freeze=all,learning_rate=0.03"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "mlp.keras"
    table_files.make_network().save(path)
    return str(path)


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    rows = table_files.make_rows(150)
    rows[7] = ["", *rows[7][1:]]  # the config leaves it out
    return table_files.write_table(tmp_path_factory.mktemp("data") / "a.csv", rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_path, data_path):
    folder = tmp_path_factory.mktemp("runs") / "table"
    flags = [
        f"--flagfile={CONFIG}",
        f"--model={model_path}",
        f"--data={data_path}",
        f"--workdir={folder}",
        PHASE,
        "--batch_size=16",
        "--warmup_examples=3",
        "--require_min=test/accuracy:1.0",
    ]
    assert main.main(flags) == 0
    return folder


def predict(*flags, output):
    assert main.main(["--mode=predict", f"--output={output}", *flags]) == 0
    if str(output).endswith(".jsonl"):
        return [json.loads(line) for line in output.read_text().splitlines()]
    with open(output, newline="") as file:
        return list(csv.DictReader(file))


def test_a_separable_table_reaches_accuracy_one(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert summary["examples"] == {"train": 119, "validation": 15, "test": 15}
    split = (run / "split.csv").read_text().splitlines()
    assert len(split) == 150
    assert "lines 9." in (run / "problems.txt").read_text()


def test_random_labels_fail_the_requirement(tmp_path, model_path, capsys):
    rows = table_files.make_rows(150)
    labels = [row[-1] for row in rows]
    random.Random(1).shuffle(labels)
    mixed = [[*row[:-1], label] for row, label in zip(rows, labels, strict=True)]
    data = table_files.write_table(tmp_path / "a.csv", mixed)
    flags = [f"--model={model_path}", f"--data={data}", "--feature_columns=x0..x3"]
    flags += [f"--workdir={tmp_path / 'run'}", "--require_min=test/accuracy:0.9"]
    assert main.main([*flags, "--epochs=3", "--learning_rate=0.03"]) == 3
    assert "--require_min=test/accuracy:0.9 is not met" in capsys.readouterr().err


def test_export_model_and_prediction_agree(run, tmp_path):
    rows = table_files.make_rows(9, seed=1)
    names = ("label", *reversed(table_files.NAMES))
    turned = [[row[4], *reversed(row[:4])] for row in rows]
    tables = [table_files.write_table(tmp_path / "b.tsv", turned, header=names)]
    tables.append(table_files.write_table(tmp_path / "b.jsonl", turned, header=names))
    model = trained.load_run(str(run)).model
    numbers = np.array([row[:4] for row in rows], np.float32)
    logits = keras.ops.convert_to_numpy(model({"features": numbers})["label"])
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    signature = tf.saved_model.load(str(run / "export" / "1")).signatures["serving_default"]
    served = signature(
        **{name: tf.constant(numbers[:, place]) for place, name in enumerate(table_files.NAMES)}
    )
    np.testing.assert_allclose(served["probabilities"].numpy(), expected, atol=1e-6)
    for number, table in enumerate(tables):
        for source in (f"--workdir={run}", f"--model={run}/export/1"):
            found = predict(source, f"--input={table}", output=tmp_path / f"{number}.csv")
            assert [row["class"] for row in found] == [row[4] for row in rows]
            assert [row["line"] for row in found] == [str(n + 2 - number) for n in range(9)]
            assert {row["path"] for row in found} == {table}
            probabilities = [float(row["probability"]) for row in found]
            np.testing.assert_allclose(probabilities, expected.max(axis=1), atol=1e-6)


def test_bad_rows_cost_themselves(run, tmp_path):
    path = tmp_path / "b.csv"
    path.write_text("x3,x2,x1,x0\n0,0,0,8\n0,,0,8\n0,0,8\n0,0,8,zero\n0,0,8,0\n")
    found = predict(f"--workdir={run}", f"--input={path}", output=tmp_path / "o.jsonl")
    assert [row.get("error", "") for row in found] == [
        "",
        "column 'x2' has no number",
        "expected 4 columns. Received 3",
        "column 'x0': expected a number. Received 'zero'",
        "",
    ]
    assert found[4]["predictions"]["label"]["predicted"] == ["middle"]
    assert [row["line"] for row in found] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.csv", "x0,x1,x2\n1,2,3\n", "{} lacks 'x3' of the columns that the model takes. It has "
         "'x0', 'x1', 'x2'."),
        ("b.csv", "1,2,3,4\n", "{} lacks 'x0', 'x1', 'x2', 'x3' of the columns that the "
         "model takes. Its first row holds numbers: --header=none names its columns 1, 2, "
         "3 and so on. "
         "It has '1', '2', '3', '4'."),
        ("b.png", "x", "--input={}: the model takes columns. Expected a .csv, .tsv, .tab, .jsonl "
         "or .ndjson."),
    ],
)  # fmt: skip
def test_inputs_that_are_refused(run, tmp_path, capsys, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    flags = ["--mode=predict", f"--workdir={run}", f"--input={path}", f"--output={tmp_path}/o.csv"]
    assert main.main(flags) == 2
    assert capsys.readouterr().err.strip() == f"error: {message.format(path)}"


def test_evaluate_on_another_table(run, tmp_path, data_path, capsys):
    table = table_files.write_table(tmp_path / "b.jsonl", table_files.make_rows(9, seed=1))
    flags = ["--mode=evaluate", f"--workdir={run}", "--require_min=test/accuracy:1.0"]
    assert main.main([*flags, f"--test_data={table}"]) == 0
    assert "Warning" not in capsys.readouterr().out
    assert main.main([*flags, f"--test_data={data_path}"]) == 0
    assert "134 of 149 examples were used in training or validation" in capsys.readouterr().out


def test_models_and_tables_that_do_not_fit(tmp_path, model_path, data_path, classifier, capsys):
    for flags, message in (
        ([f"--model={model_path}", "--feature_columns=x0..x2"], "takes 4 numbers in its input "
         "'features', and --feature_columns names 3 columns. Expected as many."),
        ([f"--model={classifier}", "--feature_columns=x0..x3"], "takes images, and "
         f"--data={data_path} holds columns. Choose a model of vectors, leave --feature_columns "
         "out, or name the column of images beside them with --image_column."),
        ([f"--model={model_path}", "--feature_columns=x0..x3", "--image_size=8"],
         "--image_size=8 has no effect on columns. Leave it out."),
    ):  # fmt: skip
        options = [f"--data={data_path}", "--on_bad_example=skip", f"--workdir={tmp_path / 'run'}"]
        assert main.main([*flags, *options]) == 2
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    table_files.make_mixed_network().save(folder / "mixed.keras")
    generator = np.random.default_rng(0)
    with open(folder / "a.csv", "w") as file:
        file.write("id,age,income,color,kids,buys\n")
        for number in range(60):
            color = ("red", "green", "blue")[number % 3]
            age, income = generator.normal(size=2)
            kids = generator.integers(0, 10)
            file.write(f"{number},{age:.3f},{income:.3f},{color},{kids},{color == 'red'}\n")
    flags = [
        f"--model={folder}/mixed.keras",
        f"--data={folder}/a.csv",
        "--feature_columns=*,-id",
        "--label_column=buys",
        f"--workdir={folder}/run",
        "--phase=name=all,epochs=25,freeze=none,learning_rate=0.03",
        "--batch_size=16",
        "--require_min=test/accuracy:1.0",
    ]
    assert main.main(flags) == 0
    return folder


def test_several_inputs_by_name(mixed_run, tmp_path):
    rows = [(0.5, -1.0, "red", 3, "True"), (2.5, 0.0, "green", 0, "False")]
    table = table_files.write_table(
        tmp_path / "b.jsonl", rows, header=("age", "income", "color", "kids", "buys")
    )
    by_run, by_export = (
        predict(source, f"--input={table}", output=tmp_path / "o.csv")
        for source in (f"--workdir={mixed_run}/run", f"--model={mixed_run}/run/export/1")
    )
    assert [row["class"] for row in by_run] == ["True", "False"]
    for one, other in zip(by_run, by_export, strict=True):
        assert one["class"] == other["class"]
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=1e-6)
    signature = tf.saved_model.load(f"{mixed_run}/run/export/1").signatures["serving_default"]
    _, arguments = signature.structured_input_signature
    assert {name: (spec.dtype.name, spec.shape.rank) for name, spec in arguments.items()} == {
        "age": ("float32", 1),
        "income": ("float32", 1),
        "color": ("string", 1),
        "kids": ("int32", 1),
    }


def test_unknown_ids_are_refused_before_training(mixed_run, tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("age,income,color,kids,buys\n" + "1,2,red,3,yes\n1,3,blue,10,no\n" * 5)
    flags = [f"--model={mixed_run}/mixed.keras", f"--data={path}", "--feature_columns=*"]
    flags += ["--label_column=buys", f"--workdir={tmp_path}/run"]
    assert main.main(flags) == 2
    assert (
        "error: The model's input 'kids' takes int32, and the column 'kids' has 10. Expected whole "
        "numbers from 0 to 9."
    ) in capsys.readouterr().err


def test_an_id_that_the_model_does_not_know(mixed_run, tmp_path):
    path = tmp_path / "b.csv"
    path.write_text("age,income,color,kids\n1,2,red,3\n1,2,red,99\n1,2,red,1.5\n")
    for source in (f"--workdir={mixed_run}/run", f"--model={mixed_run}/run/export/1"):
        found = predict(source, f"--input={path}", output=tmp_path / "o.csv")
        assert [row["error"].partition(":")[0] for row in found] == [
            "", "is refused by the model", "column 'kids'"
        ]  # fmt: skip
        assert found[2]["error"] == "column 'kids': expected a whole number. Received 1.5"


def test_very_many_columns_are_one_argument(tmp_path):
    names = [f"pixel_{number}" for number in range(70)]
    generator = np.random.default_rng(0)
    rows = []
    for number in range(30):
        values = generator.normal(size=70)
        values[number % 2] += 9
        rows.append([*(f"{value:.3f}" for value in values), "ab"[number % 2]])
    data = table_files.write_table(tmp_path / "a.csv", rows, header=(*names, "label"))
    table_files.make_network(70).save(tmp_path / "mlp.keras")
    flags = [f"--model={tmp_path}/mlp.keras", f"--data={data}", "--feature_columns=pixel_*"]
    flags += [f"--workdir={tmp_path}/run", "--epochs=15", "--learning_rate=0.03", "--batch_size=8"]
    assert main.main(flags) == 0
    signature = tf.saved_model.load(f"{tmp_path}/run/export/1").signatures["serving_default"]
    _, arguments = signature.structured_input_signature
    assert {name: spec.shape.as_list() for name, spec in arguments.items()} == {
        "features": [None, 70]
    }
    by_run, by_export = (
        predict(source, f"--input={data}", output=tmp_path / "o.csv")
        for source in (f"--workdir={tmp_path}/run", f"--model={tmp_path}/run/export/1")
    )
    for one, other in zip(by_run, by_export, strict=True):
        assert one["class"] == other["class"]
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=1e-6)
