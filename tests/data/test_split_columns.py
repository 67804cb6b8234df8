import os

import numpy as np
import pytest

from tests.data import data_files, record_files
from tf_finetune import specs
from tf_finetune.data import loading


def write_texts(path, rows, *, header="text,label,patient_id,fold"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def make_rows(num_patients=12, size=5):
    """A row text,label,patient,fold for each example; folds are empty."""
    return [
        (f"text {patient:02d} {number}", "yn"[(patient + number // 3) % 2], f"p{patient:02d}", "")
        for patient in range(num_patients)
        for number in range(size)
    ]


def load(path, *, heads=(), seed=0, **options):
    return loading.load_data(specs.DataSpec(data=str(path), **options), heads=heads, seed=seed)


def refused(path, **options):
    return data_files.refusal(load, path, **options)


def texts_of(splits):
    return {
        split.name: sorted(split.texts) for split in (splits.train, splits.validation, splits.test)
    }


def sizes(splits):
    return len(splits.train), len(splits.validation), len(splits.test)


def patients_of(splits):
    return {name: {text[5:7] for text in texts} for name, texts in texts_of(splits).items()}


def check_patients(splits):
    found = patients_of(splits)
    assert sum(map(len, found.values())) == len(set().union(*found.values()))
    return {name: len(patients) for name, patients in found.items()}


def test_no_patient_is_in_two_splits(tmp_path):
    path = write_texts(tmp_path / "a.csv", make_rows())
    plain = load(path, label_column="label")
    assert sum(map(len, patients_of(plain).values())) > 12
    splits = load(path, label_column="label", split_by="patient_id")
    assert check_patients(splits) == {"train": 10, "validation": 1, "test": 1}
    assert splits.info.num_examples == 60
    assert data_files.warnings_of(splits.problems) == []
    turned = write_texts(tmp_path / "b.csv", make_rows()[::-1])
    assert texts_of(load(turned, label_column="label", split_by="patient_id")) == texts_of(splits)
    other = load(path, label_column="label", split_by="patient_id", seed=1)
    assert texts_of(other) != texts_of(splits)


def test_columns_of_splits_are_no_labels(tmp_path):
    rows = [(row[0], row[2], row[1]) for row in make_rows()]
    path = write_texts(tmp_path / "a.csv", rows, header="text,patient_id,label")
    splits = load(path, split_by="patient_id")
    assert splits.info.label_columns == ("label",) and splits.problems == ()
    assert splits.info.fingerprint != load(path, label_column="label").info.fingerprint
    path = write_texts(tmp_path / "b.csv", [row[:2] for row in rows], header="text,patient_id")
    assert refused(path, split_by="patient_id")[0] == (
        f"{path}: no column is left for labels. Expected one more."
    )


def test_new_examples_follow_their_group(tmp_path):
    path, file = tmp_path / "a.csv", tmp_path / "split.csv"
    options = {"label_column": "label", "split_by": "patient_id"}
    before = load(write_texts(path, make_rows(12, 5)), **options)
    file.write_text(loading.split_rows(before))
    after = load(write_texts(path, make_rows(20, 8)), split_file=str(file), **options)
    for name, patients in patients_of(before).items():
        assert patients <= patients_of(after)[name]
    assert check_patients(after) == {"train": 16, "validation": 2, "test": 2}
    assert load(path, split_file=str(file), **options).problems == ()


def test_a_split_file_that_tears_groups_apart(tmp_path):
    path, file = write_texts(tmp_path / "a.csv", make_rows()), tmp_path / "split.csv"
    file.write_text(loading.split_rows(load(path, label_column="label")))
    problems = refused(path, label_column="label", split_by="patient_id", split_file=str(file))
    assert len(problems) == 3
    assert problems[2] == (
        "2 groups of --split_by=patient_id are in the validation and in the test split: 'p04', "
        f"'p06'. --split_file={file} says so. Leave it out."
    )


def test_repeated_texts_join_groups(tmp_path):
    rows = make_rows(20, 3)
    rows += [(f"text {p:02d} 0", "y", f"p{p + 1:02d}", "") for p in range(0, 20, 2)]
    splits = load(
        write_texts(tmp_path / "a.csv", rows), label_column="label", split_by="patient_id"
    )
    texts = texts_of(splits)
    for name, patients in patients_of(splits).items():
        assert all(f"{int(p) ^ 1:02d}" in patients for p in patients), name
    assert set(texts["train"]).isdisjoint(texts["test"] + texts["validation"])
    assert min(sizes(splits)) > 0


def test_few_shot_with_groups(tmp_path):
    path = write_texts(tmp_path / "a.csv", make_rows(20, 6))
    splits = load(path, label_column="label", split_by="patient_id", examples_per_class=3)
    check_patients(splits)
    train, validation, test = sizes(splits)
    assert (train, validation) == (6, 6)
    (warning,) = [text for text in data_files.warnings_of(splits.problems) if "leaves out" in text]
    assert warning == (
        f"--examples_per_class=3 leaves out {120 - train - validation - test} examples of groups "
        "that are in training or validation."
    )


def test_groups_that_are_too_large_or_too_few(tmp_path):
    rows = [(f"text 00 {n}", "yn"[n % 2], "p00", "") for n in range(40)] + make_rows(10, 6)[6:]
    path = write_texts(tmp_path / "a.csv", rows)
    splits = load(path, label_column="label", split_by="patient_id")
    counts = sizes(splits)
    check_patients(splits)
    assert data_files.warnings_of(splits.problems) == [
        "--split_by=patient_id: group 'p00' has 40 of 94 examples, more than the 9.4 that "
        f"validation should have: train has {counts[0]}, validation has {counts[1]}, test has "
        f"{counts[2]}."
    ]
    path = write_texts(tmp_path / "b.csv", make_rows(2, 10))
    splits = load(path, label_column="label", split_by="patient_id")
    assert data_files.warnings_of(splits.problems)[1] == (
        "--split_by=patient_id has 2 groups, and none is left for test."
    )


def test_groups_of_other_sources(tmp_path):
    path = write_texts(tmp_path / "a.csv", make_rows())
    other = write_texts(tmp_path / "b.csv", [(f"t {n}", "yn"[n % 2], "p03", "") for n in range(4)])
    options = {"label_column": "label", "split_by": "patient_id"}
    (problem,) = refused(path, test_data=str(other), **options)
    assert problem.endswith(
        "in the test split: 'p03'. They are in --data and --test_data. Take them out of one."
    )
    assert problem.startswith("1 groups of --split_by=patient_id are in the ")
    write_texts(other, [(f"t {n}", "yn"[n % 2], "p77", "") for n in range(4)])
    assert sizes(load(path, test_data=str(other), **options))[2] == 4
    write_texts(other, [(f"t {n}", "yn"[n % 2]) for n in range(4)], header="text,label")
    splits = load(path, test_data=str(other), **options)
    assert data_files.warnings_of(splits.problems) == [
        f"--split_by=patient_id: --test_data={other} has no such column, so that nobody can tell "
        "whether its groups are in training too."
    ]


def test_examples_without_a_group(tmp_path):
    rows = [(*row[:2], "" if n in (3, 7) else row[2], "") for n, row in enumerate(make_rows())]
    path = write_texts(tmp_path / "a.csv", rows)
    options = {"label_column": "label", "split_by": "patient_id"}
    advice = (
        "nothing in column 'patient_id' of --split_by. Fill it in (a value of its own for an "
        "example that is of no group); --on_bad_example=skip leaves such examples out."
    )
    assert refused(path, **options) == [f"{path}, line {n}: {advice}" for n in (5, 9)]
    splits = load(path, on_bad_example="skip", **options)
    assert sum(sizes(splits)) == 58
    assert data_files.warnings_of(splits.problems) == [
        f"{path}: 2 of 60 examples have nothing in --split_by=patient_id, and are left out."
    ]


def test_a_column_that_does_not_exist(tmp_path):
    path = write_texts(tmp_path / "a.csv", make_rows())
    assert refused(path, label_column="label", split_by="patient", split_column="folds") == [
        f"--split_by=patient: {path} has no such column. Did you mean 'patient_id'? It has "
        "'label', 'patient_id', 'fold'.",
        f"--split_column=folds: {path} has no such column. Did you mean 'fold'? It has 'label', "
        "'patient_id', 'fold'.",
    ]
    photos = data_files.write_files(tmp_path / "photos", cat=3, dog=3)
    assert refused(photos, split_by="patient_id") == [
        "--split_by=patient_id needs a table or records with that column. Received the folder "
        f"{photos}."
    ]


def test_a_column_is_named_once():
    with pytest.raises(specs.SpecError) as caught:
        specs.DataSpec(split_by="id", split_column="id", label_column="id")
    assert caught.value.problems == (
        "--split_by and --split_column both name the column 'id'. Expected different columns.",
        "--split_by and --label_column both name the column 'id'. Expected different columns.",
        "--split_column and --label_column both name the column 'id'. Expected different columns.",
    )
    with pytest.raises(specs.SpecError) as caught:
        specs.RunSpec(data=specs.DataSpec(split_by="id"), heads=(specs.HeadSpec(label="id"),))
    assert caught.value.problems == (
        "--split_by and --head=name=label both name the column 'id'. Expected different columns.",
    )


NAMES = ["train", " Train", "VALIDATION", "val", "valid", "dev", "Test", "test", "", "training"]


def test_a_column_says_which_split(tmp_path):
    rows = [(f"text {n:02d}", "yn"[n // 10 % 2], "x", NAMES[n % 10]) for n in range(40)]
    path = write_texts(tmp_path / "a.csv", rows)
    splits = load(path, label_column="label", split_column="fold")
    expected = {
        name: [f"text {n:02d}" for n in range(40) if n % 10 in digits]
        for name, digits in (("train", (0, 1, 9)), ("validation", (2, 3, 4, 5)), ("test", (6, 7)))
    }
    assert texts_of(splits) == expected
    assert splits.info.num_examples == 36
    labels = splits.heads[0].classes
    for split in (splits.train, splits.validation, splits.test):
        for text, label in zip(split.texts, split.labels["label"], strict=True):
            assert labels[label] == "yn"[int(text[5:]) // 10 % 2]
    warnings = data_files.warnings_of(splits.problems)
    assert f"{path}: 4 of 40 examples have nothing in --split_column=fold, and are left out." in (
        warnings
    )
    file = tmp_path / "split.csv"
    file.write_text(loading.split_rows(splits))
    again = load(path, label_column="label", split_column="fold", split_file=str(file))
    assert texts_of(again) == expected


def test_a_missing_part_is_cut_from_training(tmp_path):
    rows = [
        (f"text {n:02d}", "yn"[n % 2], n // 3, "test" if n >= 60 else "train") for n in range(80)
    ]
    path = write_texts(tmp_path / "a.csv", rows)
    splits = load(path, label_column="label", split_column="fold")
    assert sizes(splits) == (54, 6, 20)
    assert min(splits.test.texts) == "text 60"
    both = load(path, label_column="label", split_column="fold", split_by="patient_id")
    groups = [{int(t[5:]) // 3 for t in texts} for texts in texts_of(both).values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 27
    assert sizes(both) == (54, 6, 20)
    rows[0] = (*rows[0][:2], 25, "train")
    write_texts(path, rows)
    assert refused(path, label_column="label", split_column="fold", split_by="patient_id")[0] in {
        f"1 groups of --split_by=patient_id are in the {name} and in the test split: '25'. "
        "--split_column=fold says so. Correct the column."
        for name in ("train", "validation")
    }


def test_values_that_are_no_split(tmp_path):
    rows = [(f"text {n}", "yn"[n % 2], "x", "holdout" if n > 1 else "train") for n in range(9)]
    path = write_texts(tmp_path / "a.csv", rows)
    assert refused(path, label_column="label", split_column="fold") == [
        *(
            f"{path}, line {line}: expected train, validation (valid, val, dev), test or nothing "
            "in column 'fold'. Received 'holdout'."
            for line in range(4, 9)
        ),
        f"{path}: and 2 more.",
    ]
    path = write_texts(tmp_path / "b.csv", [(*row[:3], "test") for row in rows])
    assert refused(path, label_column="label", split_column="fold")[0] == (
        f"{path}: no example has 'train' in --split_column=fold."
    )


def test_images_of_a_table(tmp_path):
    data_files.write_files(tmp_path, x=30)
    rows = [(f"x/{n}.jpg", n // 3, "yn"[n % 2], "" if n == 5 else "train") for n in range(30)]
    path = write_texts(tmp_path / "a.csv", rows, header="image,site,label,fold")
    splits = load(path, split_by="site", split_column="fold", label_column="label")
    assert sizes(splits) == (23, 3, 3)
    sites = []
    for split in (splits.train, splits.validation, splits.test):
        for key, index in zip(split.keys, split.indices, strict=True):
            assert os.fsdecode(split.inputs.paths[index]).endswith(f"/{key}")
        sites.append({int(key[2:-4]) // 3 for key in split.keys})
    assert sum(map(len, sites)) == 10 and len(set().union(*sites)) == 10


def test_features_of_records(tmp_path):
    path = tmp_path / "a.tfrecord"
    records = [
        record_files.example(
            image=b"x%d" % n, label=n % 2, site=b"s%d" % (n // 4), fold=b"train" if n - 9 else b""
        )
        for n in range(60)
    ]
    path.write_bytes(b"".join(map(record_files.frame, records)))
    splits = load(path, split_by="site", split_column="fold")
    assert sum(sizes(splits)) == 59
    assert np.abs(np.array(sizes(splits)) - 59 * np.array([0.8, 0.1, 0.1])).max() <= 2
    sites = []
    for split in (splits.train, splits.validation, splits.test):
        numbers = [int(key[-8:]) - 1 for key in split.keys]
        assert split.inputs.numbers[split.indices].tolist() == [number + 1 for number in numbers]
        sites.append({number // 4 for number in numbers})
    assert sum(map(len, sites)) == len(set().union(*sites)) == 15


def test_strata_of_several_heads_and_of_numbers(tmp_path):
    random = np.random.default_rng(0)
    rows = [
        (
            f"text {n}",
            "ab"[random.random() < 0.3],
            "" if n % 3 else "xyz"[n % 9 // 3],
            random.random(),
        )
        for n in range(300)
    ]
    path = write_texts(tmp_path / "a.csv", rows, header="text,first,second,price")
    heads = (specs.HeadSpec(name="first"), specs.HeadSpec(name="second"))
    splits = load(path, heads=heads)
    for split, part in ((splits.validation, 0.1), (splits.test, 0.1), (splits.train, 0.8)):
        labels = split.labels["second"]
        assert np.abs(np.bincount(labels[labels >= 0], minlength=3) - 33.3 * part).max() < 1.5
        assert abs((labels < 0).sum() - 200 * part) <= 2
        expected = np.bincount([row[1] == "b" for row in rows]) * part
        assert np.abs(np.bincount(split.labels["first"]) - expected).max() <= 2
    splits = load(path, heads=(specs.HeadSpec(name="price", kind="regression"),))
    edges = np.quantile([row[3] for row in rows], np.arange(1, 10) / 10)
    for split in (splits.validation, splits.test):
        counts = np.bincount(np.searchsorted(edges, split.labels["price"][:, 0]), minlength=10)
        assert counts.tolist() == pytest.approx([3] * 10, abs=1.01)
