"""Flags of splits and of resampling through the whole verb."""

import csv
import json

import pytest

from tests import tiny
from tf_finetune import main


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Three solid colours, one of them rare; four images of each patient."""
    folder = tmp_path_factory.mktemp("data")
    tiny.write_color_folder(folder, per_class=24)
    rows, first = [], min(child.name for child in folder.iterdir())
    for path in sorted(folder.glob("*/*")):
        color, number = path.parent.name, len(rows)
        if color == first and number >= 12:
            continue  # 12 of the first colour, 24 of each other
        rows.append((path.relative_to(folder), color, f"p{number // 4:02d}"))
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("image", "color", "patient_id"), *rows])
    return folder / "labels.csv"


def train(table, classifier, workdir, *flags):
    return main.main(
        (
            f"--model={classifier}",
            f"--data={table}",
            f"--workdir={workdir}",
            "--label_column=color",
            "--split=0.6,0.2,0.2",
            "--pixel_range=0..1",
            "--batch_size=9",
            *flags,
        )
    )


def patients_of(table, workdir):
    with open(table, newline="") as file:
        patients = {row["image"]: row["patient_id"] for row in csv.DictReader(file)}
    found: dict[str, set[str]] = {}
    with open(workdir / "split.csv", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["split"], set()).add(patients[row["key"]])
    return found


def test_patients_and_balanced_classes(table, classifier, tmp_path):
    flags = (
        "--split_by=patient_id",
        "--resample=balanced",
        "--phase=name=head,epochs=40,learning_rate=0.03",
        "--require_min=test/accuracy:1.0",
    )
    assert train(table, classifier, tmp_path / "run", *flags) == 0
    found = patients_of(table, tmp_path / "run")
    assert set(found) == {"train", "validation", "test"}
    assert sum(map(len, found.values())) == len(set().union(*found.values())) == 15
    test = json.loads((tmp_path / "run" / "summary.json").read_text())["test"]
    assert main.main(("--mode=evaluate", f"--workdir={tmp_path / 'run'}")) == 0
    again = json.loads((tmp_path / "run" / "summary.json").read_text())["test"]
    assert again == test


def test_resampling_excludes_class_weights(table, classifier, tmp_path, capfd):
    flags = ("--resample=balanced", "--head=name=label,class_weight=balanced")
    assert train(table, classifier, tmp_path / "run", *flags) == 2
    assert (
        "--resample=balanced and class_weight=balanced of --head=name=label both make up for rare "
        "classes. Leave one of them out."
    ) in capfd.readouterr().err
