"""An image or a text and columns through the whole verb, and every other verb on what it leaves."""

import csv
import json
import pathlib
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.data import mixed_files
from tf_finetune import main, trained

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "image_and_columns.flags"
HEAD = "--head=name=label,label=label,hidden_units=16"
PHASE = "--phase=name=head,epochs=25,freeze=all,learning_rate=0.05"
BOTH = ["--image_column=photo", "--feature_columns=age,sex"]
PERFECT = "--require_min=test/accuracy:1.0"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    mixed_files.make_image_network().save(folder / "image.keras")
    mixed_files.make_named_network().save(folder / "named.keras")
    mixed_files.make_text_network().save(folder / "text.keras")
    mixed_files.make_named_network(of_text=True).save(folder / "named_text.keras")
    return folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return {
        decides: mixed_files.write_images(folder / decides, mixed_files.make_rows(decides=decides))
        for decides in ("columns", "image", "both")
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory, models, tables):
    """A backbone of images alone, on labels that need both; the config's flags."""
    folder = tmp_path_factory.mktemp("runs") / "both"
    data = tables["both"]
    flags = [f"--flagfile={CONFIG}", f"--model={models}/image.keras", f"--data={data}"]
    flags += ["--image_column=photo", f"--workdir={folder}", PHASE, "--batch_size=16"]
    assert main.main([*flags, "--warmup_examples=3", PERFECT]) == 0
    return folder


@pytest.fixture(scope="module")
def named_run(tmp_path_factory, models, tables):
    folder = tmp_path_factory.mktemp("runs") / "named"
    assert fit(models / "named.keras", tables["both"], folder, *BOTH, PERFECT) == 0
    return folder


def fit(model, data, folder, *flags):
    places = [f"--model={model}", f"--data={data}", f"--workdir={folder}"]
    return main.main([*places, HEAD, PHASE, "--batch_size=16", *flags])


def predict(*flags, output):
    assert main.main(["--mode=predict", f"--output={output}", *flags]) == 0
    if str(output).endswith(".jsonl"):
        return [json.loads(line) for line in output.read_text().splitlines()]
    with open(output, newline="") as file:
        return list(csv.DictReader(file))


def new_table(folder, count=8):
    return mixed_files.write_images(folder, mixed_files.make_rows(count, seed=5))


@pytest.mark.parametrize(
    ("decides", "model", "cache"),
    [("columns", "image", "memory"), ("image", "named", "disk"), ("image", "image", "off")],
)
def test_either_side_decides_alone(tmp_path, models, tables, capsys, decides, model, cache):
    flags = [*BOTH, PERFECT, f"--feature_cache={cache}", f"--cache_dir={tmp_path}/cache"]
    assert fit(models / f"{model}.keras", tables[decides], tmp_path / "run", *flags) == 0
    # What is frozen has the columns in it: they are part of the features.
    assert ("Features: 108 computed" in capsys.readouterr().out) == (cache != "off")


def test_random_labels_fail_the_requirement(tmp_path, models, capsys):
    rows = mixed_files.make_rows()
    labels = [row[-1] for row in rows]
    random.Random(1).shuffle(labels)
    rows = [(*row[:-1], label) for row, label in zip(rows, labels, strict=True)]
    data = mixed_files.write_images(tmp_path / "data", rows)
    flags = [*BOTH, "--require_min=test/accuracy:0.95"]
    assert fit(models / "image.keras", data, tmp_path / "run", *flags) == 3
    assert "--require_min=test/accuracy:0.95 is not met" in capsys.readouterr().err
    assert not (tmp_path / "run" / "export").exists()


def test_what_a_run_records(run, named_run):
    stored = json.loads((run / "model.json").read_text())["preprocessing"]
    assert stored["kind"] == "mixed"
    assert stored["column"] == "photo"
    assert stored["main"]["height"] == 8
    assert [part["name"] for part in stored["columns"]["inputs"]] == ["numbers", "categories"]
    stored = json.loads((named_run / "model.json").read_text())["preprocessing"]
    parts = [(part["name"], part["columns"], part["shape"]) for part in stored["columns"]["inputs"]]
    assert parts == [("age", ["age"], [1]), ("sex", ["sex"], [])]
    assert "--feature_columns=*" in (run / "run.flags").read_text()
    # Columns are counted by no freeze rule: the backbone's layers are.
    assert json.loads((run / "summary.json").read_text())["layers"] == {"frozen": 2, "total": 2}
    assert json.loads((named_run / "summary.json").read_text())["layers"]["total"] == 7


@pytest.mark.parametrize("which", ["run", "named_run"])
def test_export_model_and_prediction_agree(which, request, tmp_path):
    folder = request.getfixturevalue(which)
    table = new_table(tmp_path / "new")
    cells = list(csv.DictReader(table.open()))
    names = [row["photo"] for row in cells]
    encoded = [(table.parent / name).read_bytes() for name in names]
    pixels = np.stack([tf.io.decode_png(content).numpy() for content in encoded])
    pixels = pixels.astype(np.float32)
    ages = np.array([row["age"] for row in cells], np.float32)
    sexes = np.array([row["sex"].encode() for row in cells], object)
    model = trained.load_run(str(folder)).model
    inputs = {"image": pixels, "age": ages[:, None], "sex": sexes}
    if which == "run":
        inputs = {"image": pixels, "numbers": ages[:, None], "categories": sexes[:, None]}
    logits = model({name: tf.constant(value) for name, value in inputs.items()})["label"]
    expected = tf.nn.softmax(logits).numpy()
    signatures = tf.saved_model.load(str(folder / "export" / "1")).signatures
    beside = {"age": tf.constant(ages), "sex": tf.constant(sexes)}
    for name, main_input in (
        ("serving_default", {"image": tf.constant(pixels)}),
        ("serve_bytes", {"image_bytes": tf.constant(encoded)}),
    ):
        served = signatures[name](**main_input, **beside)
        np.testing.assert_allclose(served["probabilities"].numpy(), expected, atol=1e-5)
        assert [text.decode() for text in served["classes"].numpy()] == [
            row["label"] for row in cells
        ]
    as_lines = [[row[name] for name in mixed_files.NAMES] for row in cells]
    other = mixed_files.write_table(table.with_suffix(".jsonl"), as_lines)
    for number, source in enumerate((f"--workdir={folder}", f"--model={folder}/export/1")):
        for given, first in ((table, 2), (other, 1)):
            flags = [source, f"--input={given}", "--batch_size=3"]
            found = predict(*flags, output=tmp_path / f"{number}.csv")
            assert [row["class"] for row in found] == [row["label"] for row in cells]
            assert [int(row["line"]) for row in found] == list(range(first, first + 8))
            assert {row["path"] for row in found} == {str(given)}
            probabilities = [float(row["probability"]) for row in found]
            np.testing.assert_allclose(probabilities, expected.max(axis=1), atol=1e-5)


def test_bad_rows_of_a_prediction_cost_themselves(run, tmp_path):
    table = new_table(tmp_path / "new", 2)
    table.write_text(
        "sex,photo,age\nf,photos/000.png,old\nf,nope.png,70\nm,photos/000.png,\n"
        "f,table.csv,70\nf,,70\nf,photos/001.png\nunheard,photos/001.png,70\n"
    )
    found = predict(f"--workdir={run}", f"--input={table}", output=tmp_path / "o.jsonl")
    assert found[-1]["predictions"]["label"]["predicted"] == ["no"]
    assert [row.get("error", "") for row in found] == [
        "column 'age': expected a number. Received 'old'",
        "'nope.png' does not exist. Paths are relative to the table's folder",
        "column 'age' has no number",
        "'table.csv' is no image that can be decoded: it begins with 'sex,photo,age\\nf,'",
        "the path is empty",
        "expected 3 columns. Received 2",
        "",
    ]
    assert [row["line"] for row in found] == list(range(2, 9))
    other = table.with_suffix(".jsonl")
    other.write_text('{"sex": "f", "photo": ["photos/001.png"], "age": 7}\n')
    (row,) = predict(f"--model={run}/export/1", f"--input={other}", output=tmp_path / "o.jsonl")
    assert row["error"] == "column 'photo': expected a path. Received a list"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("photo,sex", "lacks 'age' of the columns that the model takes. It has 'photo', 'sex'."),
        ("age,sex", "lacks 'photo' of the columns that the model takes. It has 'age', 'sex'."),
    ],
)
@pytest.mark.parametrize("of_export", [False, True])
def test_a_table_without_a_column_is_refused(run, tmp_path, capsys, names, message, of_export):
    path = tmp_path / "b.csv"
    path.write_text(f"{names}\na,b\n")
    source = f"--model={run}/export/1" if of_export else f"--workdir={run}"
    flags = ["--mode=predict", source, f"--input={path}", f"--output={tmp_path}/o.csv"]
    assert main.main(flags) == 2
    assert capsys.readouterr().err.strip() == f"error: {path} {message}"
    assert not (tmp_path / "o.csv").exists()


def test_evaluate_and_export_again(run, tmp_path, capsys):
    table = new_table(tmp_path / "new", 12)
    flags = ["--mode=evaluate", f"--workdir={run}", PERFECT]
    assert main.main([*flags, f"--test_data={table}"]) == 0
    assert "Warning" not in capsys.readouterr().out
    assert main.main(flags) == 0
    flags = ["--mode=export", f"--workdir={run}", f"--export_dir={tmp_path}/out"]
    assert main.main(flags) == 0
    assert main.main([*flags, "--warmup_examples=3"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1", "2"]
    capsys.readouterr()
    flags = ["--mode=evaluate", f"--workdir={run}", f"--test_data={table.parent / 'photos'}"]
    assert main.main(flags) == 2
    assert "needs a .csv, .tsv, .jsonl or .tfrecord with such columns" in capsys.readouterr().err


def test_a_stranger_cannot_lie_about_the_inputs(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("model.keras", "run.flags"):
        (copy / name).write_bytes((run / name).read_bytes())
    stored = json.loads((run / "model.json").read_text())
    stored["preprocessing"]["columns"]["inputs"][0]["name"] = "nombres"
    (copy / "model.json").write_text(json.dumps(stored))
    assert main.main(["--mode=evaluate", f"--workdir={copy}"]) == 2
    assert "preprocessing: the model takes" in capsys.readouterr().err
    stored["preprocessing"]["main"] = {"kind": "mixed"}
    (copy / "model.json").write_text(json.dumps(stored))
    assert main.main(["--mode=evaluate", f"--workdir={copy}"]) == 2
    assert "main: expected images or texts" in capsys.readouterr().err


def test_texts_and_columns(tmp_path, models):
    data = mixed_files.write_texts(tmp_path / "data", mixed_files.make_rows())
    flags = ["--text_column=review", "--feature_columns=age,sex", PERFECT]
    thawed = "--phase=name=all,epochs=25,freeze=none,learning_rate=0.03"
    flags = [*flags, HEAD, thawed, "--batch_size=16", f"--data={data}"]
    new = mixed_files.write_texts(tmp_path / "new", mixed_files.make_rows(8, seed=5))
    cells = list(csv.DictReader(new.open()))
    for name in ("text", "named_text"):
        folder = tmp_path / name
        assert main.main([f"--model={models}/{name}.keras", f"--workdir={folder}", *flags]) == 0
        signatures = tf.saved_model.load(str(folder / "export" / "1")).signatures
        assert list(signatures) == ["serving_default"]
        served = signatures["serving_default"](
            text=tf.constant([row["review"] for row in cells]),
            age=tf.constant([float(row["age"]) for row in cells]),
            sex=tf.constant([row["sex"] for row in cells]),
        )["probabilities"].numpy()
        for source in (f"--workdir={folder}", f"--model={folder}/export/1"):
            found = predict(source, f"--input={new}", output=tmp_path / "o.csv")
            assert [row["class"] for row in found] == [row["label"] for row in cells]
            probabilities = [float(row["probability"]) for row in found]
            np.testing.assert_allclose(probabilities, served.max(axis=1), atol=1e-5)


def test_two_devices_half_precision_and_views(tmp_path, models, tables):
    flags = [*BOTH, "--strategy=mirrored", "--precision=bfloat16", "--augment=flip"]
    flags += ["--phase=name=head,epochs=2,learning_rate=0.05", f"--workdir={tmp_path}/run"]
    flags += [f"--model={models}/image.keras", f"--data={tables['columns']}", "--batch_size=16"]
    assert main.main(flags) == 0
    model = trained.load_run(str(tmp_path / "run")).model
    (backbone,) = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    assert backbone.get_layer("conv").compute_dtype == "bfloat16"
    assert model.get_layer("columns_scaled").compute_dtype == "float32"
    assert "--strategy=mirrored" in (tmp_path / "run" / "run.flags").read_text()


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        (
            ["--image_column=photo"],
            ["--model={} has several inputs ('pixels', 'age', 'sex'), and the data have images "
             "alone. Give a table, name its column of images with --image_column and the columns "
             "for the other inputs with --feature_columns."],
        ),
        (
            ["--image_column=photo", "--feature_columns=years,height"],
            ["--model={} takes, beside the image of the column 'photo', the inputs 'age', 'sex', "
             "and --feature_columns names 'years', 'height': no column for 'age', 'sex', no input "
             "for 'years', 'height'. Name a column as each input, or write INPUT:a+b,OTHER:c."],
        ),
        (
            ["--image_column=photo", "--feature_columns=INPUT:height,sex:code"],
            ["--model={} takes, beside the image of the column 'photo', the inputs 'age', 'sex', "
             "and --feature_columns names 'INPUT', 'sex': no column for 'age', no input for "
             "'INPUT'. Name a column as each input, or write INPUT:a+b,OTHER:c."],
        ),
        (
            ["--image_column=photo", "--feature_columns=age:word,sex:code"],
            ["The model's input 'age' takes float32, and there is text in 'word', such as 'one'. "
             "Leave text out, or write --feature_columns=word=number to have each cell named that "
             "is no number.",
             "The model's input 'sex' takes string, and there are only numbers in 'code'. "
             "--feature_columns=code=string reads them as strings."],
        ),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_the_inputs(tmp_path, models, capsys, flags, messages):
    rows = mixed_files.make_rows(12)
    mixed_files.write_images(tmp_path, rows)
    table = mixed_files.write_table(
        tmp_path / "b.csv",
        [[f"photos/{n:03d}.png", 20 + n, 1.5, n, "one", row[-1]] for n, row in enumerate(rows)],
        names=("photo", "years", "height", "code", "word", "label"),
    )
    model = models / "named.keras"
    flags = [f"--model={model}", f"--data={table}", "--label_column=label", *flags]
    assert main.main([*flags, f"--workdir={tmp_path}/run"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors == [f"error: {text.format(model)}" for text in messages]
    assert not (tmp_path / "run").exists()


def test_a_cell_that_is_no_number_is_named(tmp_path, models, tables, capsys):
    lines = tables["both"].read_text().splitlines()
    lines[3] = lines[3].replace(lines[3].split(",")[1], "old")
    lines[5] = "nope.png" + lines[5][lines[5].index(",") :]
    bad = tables["both"].parent / "bad.csv"
    bad.write_text("\n".join(lines) + "\n")
    flags = ["--image_column=photo", "--feature_columns=age=number,sex", "--label_column=label"]
    assert main.main([f"--model={models}/image.keras", f"--data={bad}", *flags]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: {bad}, line 4: column 'age': expected a number. Received 'old'.",
        f"error: {bad}, line 6: 'nope.png' does not exist. Paths are relative to the table's "
        "folder.",
    ]
    assert main.main(["--mode=validate", f"--data={bad}", *flags]) == 2
    page = capsys.readouterr().out
    assert "**2 errors, 0 warnings.**" in page
    assert "| age |  | 0 |" in page


def test_inspect_tells_of_images_beside_columns(models, capsys):
    assert main.main(["--mode=inspect", f"--model={models}/named.keras"]) == 0
    page = capsys.readouterr().out
    assert "Inputs:         age (1) float32; pixels (8, 8, 3) float32; sex () string" in page
    assert "Pixel range:    0..255: the model scales pixels itself ('scale')" in page
