"""Every task through the door on solid colours: right answers, and the negative twins."""

import csv
import json

import numpy as np
import pytest
import sklearn.metrics

from tests import task_data
from tf_finetune import main, trained

TRAIN = (
    "--pixel_range=0..1",
    "--phase=name=head,epochs=25,learning_rate=0.1",
    "--batch_size=16",
)
COUNT = 160
HAS = "has_red+has_green+has_blue"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return task_data.write_model(tmp_path_factory.mktemp("model") / "primaries.keras")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    return folder, task_data.make_columns(task_data.write_images(folder, count=COUNT))


def write(images, name, columns, **options):
    """A table beside the images, under a name of its own."""
    folder, _ = images
    path = task_data.write_table(folder, columns, **options)
    return path.rename(folder / f"{name}.csv")


def run(classifier, table, folder, *flags):
    return main.main([f"--model={classifier}", f"--data={table}", f"--workdir={folder}", *flags])


def read_summary(folder):
    return json.loads((folder / "summary.json").read_text())


def serve(folder, images, number):
    """Outputs of the exported version for one image."""
    import tensorflow as tf

    served = tf.saved_model.load(read_summary(folder)["export"]["path"])
    image = (images[0] / "images" / f"{number:03d}.png").read_bytes()
    answer = served.signatures["serve_bytes"](image_bytes=tf.constant([image]))
    return {name: value.numpy() for name, value in answer.items()}


def test_two_heads_with_missing_labels(images, classifier, tmp_path):
    """Must show 2: a softmax and a sigmoid head of two columns, labels missing in each."""
    columns = {name: list(images[1][name]) for name in ("count", "tags")}
    columns["tags"] = [cell or "black" for cell in columns["tags"]]
    for number in range(COUNT):
        if number % 5 == 0:
            columns["count"][number] = ""
        if number % 7 == 1:
            columns["tags"][number] = ""
    table = write(images, "two_heads", columns)
    flags = (
        "--head=name=count,dropout=0",
        "--head=name=tags,empty=missing,dropout=0",
        "--require_min=test/count/accuracy:1.0",
        "--require_min=test/tags/accuracy:1.0",
    )
    assert run(classifier, table, tmp_path / "run", *TRAIN, *flags) == 0
    summary = read_summary(tmp_path / "run")
    assert summary["test"]["count"]["accuracy"] == summary["test"]["tags"]["accuracy"] == 1.0
    report = json.loads((tmp_path / "run" / "evaluation" / "test" / "report.json").read_text())
    rows = list(csv.DictReader((tmp_path / "run" / "split.csv").open()))
    tested = [int(row["key"][7:10]) for row in rows if row["split"] == "test"]
    for name in ("count", "tags"):
        labelled = sum(columns[name][number] != "" for number in tested)
        assert 0 < labelled < len(tested)
        assert report["heads"][name]["num_examples"] == labelled
        assert report["heads"][name]["num_missing"] == len(tested) - labelled
    problems = (tmp_path / "run" / "problems.txt").read_text()
    for name, count in (("count", 32), ("tags", 23)):
        assert f"column '{name}': {count} of {COUNT} examples have no label. Head" in problems
    answer = serve(tmp_path / "run", images, 3)  # red and green
    assert sorted(answer) == [
        "count_classes", "count_probabilities", "tags_classes", "tags_probabilities",
    ]  # fmt: skip
    assert answer["count_classes"].tolist() == [b"two"]
    assert answer["tags_classes"].tolist() == [[b"green", b"red", b"", b""]]


def test_two_heads_with_random_labels(images, classifier, tmp_path, capsys):
    """Must show 4, several heads: each of them fails by itself."""
    columns = {name: list(images[1][name]) for name in ("count", "tags")}
    table = write(images, "two_heads_random", columns, shuffled=True)
    flags = (
        "--head=name=count,dropout=0",
        "--head=name=tags,kind=multilabel,dropout=0",
        "--require_min=test/count/accuracy:0.9",
        "--require_min=test/tags/accuracy:0.9",
    )
    assert run(classifier, table, tmp_path / "run", *TRAIN, *flags) == 3
    error = capsys.readouterr().err
    for name in ("count", "tags"):
        assert f"--require_min=test/{name}/accuracy:0.9 is not met" in error
    assert read_summary(tmp_path / "run")["status"] == "requirement_not_met"


def test_a_column_for_each_label_with_gaps_and_focal_loss(images, classifier, tmp_path):
    """Must show 3 and 4: numbers equal scikit-learn's, thresholds are exported."""
    columns = {name: list(images[1][name]) for name in HAS.split("+")}
    for bit, cells in enumerate(columns.values()):
        cells[bit::11] = [""] * len(cells[bit::11])
    table = write(images, "columns", columns)
    flags = (
        f"--head=name=has,label={HAS},class_weight=balanced,loss=focal,dropout=0",
        "--split=0.4,0.4,0.2",
        "--require_min=test/accuracy:1.0",
    )
    folder = tmp_path / "run"
    assert run(classifier, table, folder, *TRAIN, *flags) == 0
    outcome = trained.load_run(str(folder))
    info = outcome.heads[0]
    assert info.classes == tuple(HAS.split("+"))
    assert "the best F1 on validation: has_red" in outcome.facts["thresholds"]["has"]
    rows = list(csv.DictReader((folder / "split.csv").open()))
    tested = [int(row["key"][7:10]) for row in rows if row["split"] == "test"]
    chances = np.stack([serve_probabilities(outcome, images, number) for number in tested])
    labels = np.array([[columns[name][number] for name in info.classes] for number in tested])
    f1, areas = [], []
    for bit, threshold in enumerate(info.thresholds):
        known = labels[:, bit] != ""
        true = labels[known, bit] == "1"
        f1.append(sklearn.metrics.f1_score(true, chances[known, bit] >= np.float32(threshold)))
        areas.append(sklearn.metrics.roc_auc_score(true, chances[known, bit]))
    measured = read_summary(folder)["test"]["has"]
    assert measured["f1_macro"] == pytest.approx(np.mean(f1), rel=1e-6)
    assert measured["roc_auc"] == pytest.approx(np.mean(areas), rel=1e-6)
    answer = serve(folder, images, 5)  # red and blue
    assert answer["classes"].tolist() == [[b"has_red", b"has_blue", b""]]


def serve_probabilities(outcome, images, number):
    import PIL.Image

    pixels = np.array(PIL.Image.open(images[0] / "images" / f"{number:03d}.png"), np.float32)
    logits = outcome.model({"image": pixels[np.newaxis]}, training=False)["has"]
    return 1 / (1 + np.exp(-np.array(logits)[0]))


def test_names_joined_by_another_mark(images, classifier, tmp_path):
    columns = {"tags": [cell.replace("|", " ; ") for cell in images[1]["tags"]]}
    table = write(images, "delimiter", columns)
    flags = ("--label_delimiter=;", "--head=name=tags,dropout=0", "--require_min=test/accuracy:1.0")
    assert run(classifier, table, tmp_path / "run", *TRAIN, *flags) == 0
    answer = serve(tmp_path / "run", images, 6)  # green and blue
    assert answer["classes"].tolist() == [[b"blue", b"green", b""]]


def test_numbers_are_predicted_in_their_unit(images, classifier, tmp_path):
    table = write(images, "numbers", {"brightness": images[1]["brightness"]})
    folder = tmp_path / "run"
    flags = (
        "--head=name=brightness,kind=regression,dropout=0",
        "--require_min=test/r2:0.99",
        "--require_max=test/mean_absolute_error:1.5",
    )
    assert run(classifier, table, folder, *TRAIN, *flags) == 0
    measured = read_summary(folder)["test"]["brightness"]
    assert set(measured) == {
        "mean_squared_error", "root_mean_squared_error", "mean_absolute_error", "r2",
    }  # fmt: skip
    answer = serve(folder, images, 7)  # all three
    assert list(answer) == ["predictions"]
    assert answer["predictions"].shape == (1,)
    assert answer["predictions"][0] == pytest.approx(1031.5, abs=3)
    output = tmp_path / "predicted.csv"
    export = read_summary(folder)["export"]["path"]
    for source in (f"--workdir={folder}", f"--model={export}"):
        image = images[0] / "images" / "007.png"
        assert main.main(["--mode=predict", source, f"--input={image}", f"--output={output}"]) == 0
        (row,) = csv.DictReader(output.open())
        assert float(row["prediction"]) == pytest.approx(float(answer["predictions"][0]), rel=1e-5)


def test_yes_and_no(images, classifier, tmp_path):
    table = write(images, "binary", {"bright": images[1]["bright"]})
    flags = (
        "--head=name=bright,kind=binary,threshold=0.4,dropout=0",
        "--require_min=test/accuracy:1.0",
    )
    assert run(classifier, table, tmp_path / "run", *TRAIN, *flags) == 0
    assert trained.load_run(str(tmp_path / "run")).heads[0].thresholds == (0.4,)
    answer = serve(tmp_path / "run", images, 0)  # black
    assert answer["classes"].tolist() == [b"no"]


@pytest.mark.parametrize(
    ("column", "head", "required"),
    [
        ("bright", "kind=binary", "accuracy:0.9"),
        (HAS, "kind=multilabel", "accuracy:0.9"),
        ("brightness", "kind=regression", "r2:0.5"),
    ],
)
def test_random_labels_do_not_meet_the_requirement(
    images, classifier, tmp_path, capsys, column, head, required
):
    columns = {name: images[1][name] for name in column.split("+")}
    table = write(images, f"random_{required[:2]}_{column[:6]}", columns, shuffled=True)
    flags = (f"--head=name=x,label={column},{head}", f"--require_min=test/{required}")
    code = run(classifier, table, tmp_path / "run", "--epochs=3", "--pixel_range=0..1", *flags)
    assert code == 3
    assert f"--require_min=test/{required} is not met" in capsys.readouterr().err
    assert not (tmp_path / "run" / "export").exists()


def test_a_split_without_a_label_of_a_head_is_told(images, classifier, tmp_path, capsys):
    columns = {name: images[1][name][:40] for name in ("count", "bright")}
    train = write(images, "unlabelled_train", columns)
    columns = {"count": images[1]["count"][40:80], "bright": [""] * 40}
    test = write(images, "unlabelled_test", columns, first=40)
    flags = (f"--test_data={test}", "--epochs=2", "--split=0.8,0.2,0", "--pixel_range=0..1")
    heads = ("--head=name=count", "--head=name=bright,kind=binary")
    folder = tmp_path / "run"
    assert run(classifier, train, folder, *flags, *heads) in (0, 3)
    output = capsys.readouterr().out
    assert "Warning: the test split has no label of head 'bright'. Nothing" in output
    report = json.loads((folder / "evaluation" / "test" / "report.json").read_text())
    assert report["heads"]["bright"]["metrics"] == {}
    assert report["heads"]["bright"]["undefined"]["accuracy"] == "no example has a label"
    required = ["--require_min=test/bright/accuracy:0.5"]
    assert main.main(["--mode=evaluate", f"--workdir={folder}", *required]) == 3
    assert (
        "cannot be met: accuracy is not defined on test: no example has a label."
        in capsys.readouterr().err
    )


def run_config(name, repository, classifier, table, folder):
    """A config on tiny data: what it says about heads and splits holds, only the time is cut."""
    flags = (f"--flagfile={repository / 'configs' / name}", "--epochs=2", "--pixel_range=0..1")
    assert run(classifier, table, folder, *flags) == 0
    return read_summary(folder)


def test_config_csv_multilabel(repository, images, classifier, tmp_path):
    table = write(images, "config_tags", {"tags": images[1]["tags"]})
    summary = run_config("csv_multilabel.flags", repository, classifier, table, tmp_path / "run")
    assert summary["status"] == "completed"
    assert set(summary["test"]) == {"tags", "loss"}
    info = trained.load_run(str(tmp_path / "run")).heads[0]
    assert (info.kind, info.classes) == ("multilabel", ("blue", "green", "red"))


def test_config_multi_head(repository, images, classifier, tmp_path):
    columns = {
        "breed": [cell if number % 4 else "" for number, cell in enumerate(images[1]["count"])],
        "tags": images[1]["tags"],
        "weight": [
            cell if number % 3 else "" for number, cell in enumerate(images[1]["brightness"])
        ],
    }
    table = write(images, "config_heads", columns)
    summary = run_config("multi_head.flags", repository, classifier, table, tmp_path / "run")
    assert set(summary["test"]) == {"breed", "tags", "weight", "loss"}
    assert "r2" in summary["test"]["weight"] and "f1_macro" in summary["test"]["tags"]
    answer = serve(tmp_path / "run", images, 1)
    assert {"breed_classes", "tags_probabilities", "weight_predictions"} <= set(answer)
