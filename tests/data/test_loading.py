import dataclasses
import os

import numpy as np
import pytest

from tests.data import data_files
from tf_finetune import specs
from tf_finetune.data import loading


@pytest.fixture
def photos(tmp_path):
    return data_files.write_files(tmp_path / "photos", cat=20, dog=10)


def load(folder, *, heads=(), seed=0, **options):
    return loading.load_data(specs.DataSpec(data=str(folder), **options), heads=heads, seed=seed)


def refused(folder, **options):
    return data_files.refusal(load, folder, **options)


def keys_of(splits):
    return {
        split.name: split.keys.tolist() for split in (splits.train, splits.validation, splits.test)
    }


def sizes(splits):
    return len(splits.train), len(splits.validation), len(splits.test)


def test_a_folder_becomes_three_splits(photos):
    splits = load(photos)
    assert sizes(splits) == (24, 3, 3)
    assert splits.problems == ()
    (head,) = splits.heads
    assert (head.name, head.kind, head.classes) == ("label", "multiclass", ("cat", "dog"))
    for split in (splits.train, splits.validation, splits.test):
        assert sorted(split.keys) == split.keys.tolist()
        for key, index, label in zip(split.keys, split.indices, split.labels["label"], strict=True):
            with open(split.inputs.paths[index], "rb") as file:
                name, number = file.read().decode().split()
            assert key == f"{name}/{number}.jpg" and head.classes[label] == name
    together = [key for keys in keys_of(splits).values() for key in keys]
    assert len(together) == len(set(together)) == 30
    assert splits.info.source == str(photos)
    assert (splits.info.num_examples, splits.info.label_columns) == (30, ("label",))


def test_seed_and_order(photos):
    assert keys_of(load(photos)) == keys_of(load(photos)) == keys_of(load(f"{photos}/"))
    assert keys_of(load(photos, seed=1)) != keys_of(load(photos))


def test_the_fingerprint_tells_data_apart(photos):
    first = load(photos).info.fingerprint
    assert len(first) == 64 and load(photos).info.fingerprint == first
    path = photos / "cat" / "0.jpg"
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    second = load(photos).info.fingerprint
    path.rename(photos / "cat" / "x.jpg")
    third = load(photos).info.fingerprint
    (photos / "cat" / "x.jpg").rename(photos / "dog" / "x.jpg")
    assert len({first, second, third, load(photos).info.fingerprint}) == 4


def test_split_csv_repeats_a_split_and_new_examples_join(photos, tmp_path):
    before = load(photos, seed=5)
    path = tmp_path / "split.csv"
    path.write_text(loading.split_rows(before), encoding="utf-8")
    assert path.read_text().startswith("key,split\ncat/0.jpg,")
    assert keys_of(load(photos, split_file=str(path))) == keys_of(before)
    data_files.write_files(photos, cat=40)
    (photos / "dog" / "3.jpg").unlink()
    after = load(photos, split_file=str(path))
    for name, keys in keys_of(before).items():
        assert set(keys) - {"dog/3.jpg"} <= set(keys_of(after)[name])
    assert sizes(after) == (40 - 8 + 8 - ("dog/3.jpg" in keys_of(before)["train"]), 5, 5)
    assert data_files.warnings_of(after.problems) == [
        f"--split_file={path} names 1 examples that are not in the data: 'dog/3.jpg'."
    ]


def test_split_files_that_do_not_fit(photos, tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("key,split\na.jpg,train\n")
    assert refused(photos, split_file=str(path)) == [
        f"--split_file={path} names no example of {photos}. Is it of other data?"
    ]
    path.write_text("key,split\ncat/0.jpg,validation\ncat/1.jpg,train\n")
    more = data_files.write_files(tmp_path / "more", cat=1, dog=1)
    assert refused(photos, split_file=str(path), validation_data=str(more)) == [
        f"--split_file={path} contradicts the splits of the data for 'cat/0.jpg'. Leave the file "
        "out, or put the examples back."
    ]
    path.write_text("key,split\n" + "".join(f"dog/{n}.jpg,test\n" for n in range(10)))
    assert refused(photos, split_file=str(path)) == [
        "the train split has no example of 1 of 2 classes of head 'label': 'dog'. Add some, or "
        "remove these classes."
    ]


def test_fractions_of_zero_are_honoured(photos):
    assert sizes(load(photos, split=(0.9, 0.1, 0.0))) == (27, 3, 0)
    assert sizes(load(photos, split=(1.0, 0.0, 0.0))) == (30, 0, 0)


def test_split_folders(tmp_path):
    data_files.write_files(tmp_path / "train", cat=18, dog=9)
    data_files.write_files(tmp_path / "test", cat=4, dog=1)
    splits = load(tmp_path)
    assert sizes(splits) == (24, 3, 5)
    assert keys_of(splits)["test"][0] == "test/cat/0.jpg"
    assert all(key.startswith("train/") for key in keys_of(splits)["validation"])
    data_files.write_files(tmp_path / "valid", cat=2)
    splits = load(tmp_path)
    assert sizes(splits) == (27, 2, 5)
    assert data_files.warnings_of(splits.problems) == [
        "the validation split has no example of 1 of 2 classes of head 'label': 'dog'."
    ]


def test_a_class_without_training_examples(tmp_path):
    data_files.write_files(tmp_path / "train", cat=4, dog=4)
    data_files.write_files(tmp_path / "test", cat=4, owl=4)
    assert refused(tmp_path) == [
        "the train split has no example of 1 of 3 classes of head 'label': 'owl'. Add some, or "
        "remove these classes."
    ]


def test_validation_and_test_data(photos, tmp_path):
    data_files.write_files(tmp_path / "v", cat=2, dog=2)
    (tmp_path / "t.csv").write_text("v/cat/0.jpg,cat\n")
    splits = load(photos, validation_data=str(tmp_path / "v"))
    assert sizes(splits) == (27, 4, 3)
    assert keys_of(splits)["validation"][0] == "validation_data/cat/0.jpg"
    assert os.fsdecode(splits.validation.inputs.paths[0]) == str(tmp_path / "v/cat/0.jpg")
    assert splits.info.num_examples == 34
    splits = load(photos, test_data=str(tmp_path / "t.csv"))
    assert sizes(splits) == (27, 3, 1)
    assert data_files.warnings_of(splits.problems) == [
        "the test split has no example of 1 of 2 classes of head 'label': 'dog'."
    ]
    path = tmp_path / "split.csv"
    path.write_text(loading.split_rows(splits))
    again = load(photos, test_data=str(tmp_path / "t.csv"), split_file=str(path))
    assert keys_of(again) == keys_of(splits) and again.problems == splits.problems
    both = load(photos, validation_data=f"{tmp_path}/v", test_data=f"{tmp_path}/t.csv")
    assert sizes(both) == (30, 4, 1)


def test_validation_data_that_does_not_fit(photos, tmp_path):
    more = data_files.write_files(tmp_path / "v", cat=2, owl=1)
    assert refused(photos, validation_data=str(more), test_data="nowhere") == [
        "--test_data=nowhere does not exist. Expected a folder of class folders, a .csv, .tsv or "
        ".jsonl, a .tfrecord, tfds:NAME or sklearn:NAME.",
        f"{more}/owl/0.jpg: label 'owl' is not a class of {photos}: 'cat', 'dog'.",
    ]


def test_split_folders_meet_validation_data(tmp_path):
    for name in ("train", "val", "test"):
        data_files.write_files(tmp_path / "data" / name, cat=3, dog=3)
    folder = str(tmp_path / "data")
    more = data_files.write_files(tmp_path / "more", cat=1, dog=1)
    assert refused(folder, validation_data=str(more)) == [
        f"--validation_data={more} and --data={folder} both have validation examples. Give one of "
        "them."
    ]
    # Of a source that is split itself, the split of that name is taken.
    splits = load(more, test_data=folder)
    assert sizes(splits) == (2, 0, 6)
    assert keys_of(splits)["test"][0] == "test_data/test/cat/0.jpg"
    data_files.write_files(tmp_path / "other" / "train", cat=1, dog=1)
    assert refused(more, test_data=f"{tmp_path}/other") == [
        f"--test_data={tmp_path}/other is split itself, and has no test split. Expected examples "
        "that are not split, or a source with that split."
    ]


def test_examples_per_class(photos, tmp_path):
    splits = load(photos, examples_per_class=1)
    assert sizes(splits) == (2, 2, 26)
    path = tmp_path / "split.csv"
    path.write_text(loading.split_rows(splits))
    again = load(photos, examples_per_class=1, split_file=str(path))
    assert keys_of(again) == keys_of(splits)
    more = data_files.write_files(tmp_path / "more", cat=3, dog=3)
    few = load(photos, examples_per_class=2, validation_data=str(more))
    assert sizes(few) == (4, 4, 26)
    given = load(photos, examples_per_class=1, test_data=str(more))
    assert sizes(given) == (2, 2, 6)
    assert data_files.warnings_of(given.problems) == [
        "--examples_per_class=1 leaves out 26 examples, because the test split is given."
    ]


def test_digits_with_few_examples():
    splits = load("sklearn:digits", examples_per_class=5)
    assert sizes(splits) == (50, 50, 1697)
    assert splits.heads[0].classes == tuple("0123456789")
    counts = np.bincount(splits.train.labels["label"])
    assert counts.tolist() == [5] * 10
    assert splits.info.fingerprint == load("sklearn:digits").info.fingerprint


def test_several_heads_of_a_table(tmp_path):
    data_files.write_files(tmp_path, x=8)
    rows = [f"x/{n}.jpg,{'cat' if n % 2 else 'dog'},{'a|b' if n < 4 else 'a'}\n" for n in range(8)]
    (tmp_path / "labels.csv").write_text("image,animal,tags\n" + "".join(rows))
    heads = (specs.HeadSpec(name="animal", kind="binary"), specs.HeadSpec(name="tags"))
    splits = load(tmp_path / "labels.csv", heads=heads)
    assert sizes(splits) == (4, 2, 2)
    assert splits.info.label_columns == ("animal", "tags")
    assert [head.kind for head in splits.heads] == ["binary", "multilabel"]
    for split in (splits.train, splits.validation, splits.test):
        numbers = [int(key[2:-4]) for key in split.keys]
        assert split.labels["animal"].tolist() == [[0.0 if n % 2 else 1.0] for n in numbers]
        assert split.labels["tags"].tolist() == [[1.0, float(n < 4)] for n in numbers]


def test_mistakes_are_reported_together(tmp_path):
    data_files.write_files(tmp_path, cat=2, owl=0)
    data_files.write_named(tmp_path, "a,b/1.jpg")
    options = {"classes": "cat,cat", "split_file": "no.csv"}
    assert refused(tmp_path, **options) == [
        f"{tmp_path}/owl: the class folder has no image. Add some, or remove the folder.",
        "--classes names 'cat' twice.",
        f"{tmp_path}: class name 'a,b' has a comma. Rename the class.",
        "--split_file=no.csv cannot be read: No such file or directory. Expected a split.csv.",
    ]


def test_only_the_first_lines_of_a_bad_table(tmp_path):
    data_files.write_files(tmp_path, x=4)
    path = tmp_path / "labels.csv"
    good = "".join(f"x/{n}.jpg,{n % 2}\n" for n in range(4))
    path.write_text("image,label\n" + good + "".join(f"no/{n}.jpg,1\n" for n in range(36)))
    lines = refused(path, classes="0,1,2")
    assert lines == [
        *(
            f"{path}, line {6 + n}: 'no/{n}.jpg' does not exist. Paths are relative to the table's "
            "folder."
            for n in range(5)
        ),
        f"{path}: and 31 more.",
        f"--classes names '2', with no example in {path}.",
    ]


def test_nothing_is_loaded_from_nothing():
    assert refused("") == [
        "--data is missing. Expected a folder of class folders, a .csv, .tsv or "
        ".jsonl, a .tfrecord, tfds:NAME or sklearn:NAME."
    ]


def test_results_are_frozen(photos):
    splits = load(photos)
    with pytest.raises(dataclasses.FrozenInstanceError):
        splits.train = splits.test
