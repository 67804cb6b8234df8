import os
import shutil

import numpy as np
import PIL.Image
import pytest

from tests import tiny
from tests.data import data_files
from tf_finetune import findings, specs
from tf_finetune.data import checks, loading


@pytest.fixture
def photos(tmp_path):
    tiny.write_color_folder(tmp_path / "photos", per_class=10)
    return tmp_path / "photos"


def find(folder, *, heads=(), **options):
    return checks.find_data_problems(specs.DataSpec(data=str(folder), **options), heads)


def errors(problems):
    return [problem.message for problem in problems if problem.severity == findings.ERROR]


def test_good_data_has_no_problems(photos):
    assert find(photos) == ()


def test_unreadable_images_are_all_named(photos):
    (photos / "red" / "000.png").write_bytes(b"")
    (photos / "blue" / "x.jpg").write_text("no image")
    content = (photos / "green" / "001.png").read_bytes()
    (photos / "green" / "001.png").write_bytes(content[: len(content) // 2])
    found = errors(find(photos))
    names = ["blue/x.jpg", "green/001.png", "red/000.png"]
    assert len(found) == 3
    assert all(
        line.startswith(f"{photos}/{name} ") for line, name in zip(found, names, strict=True)
    )
    skipped = find(photos, on_bad_example="skip")
    assert len(data_files.warnings_of(skipped)) == 3


def test_unreadable_images_and_label_errors_together(photos):
    (photos / "red" / "000.png").write_bytes(b"")
    (photos / "empty").mkdir()
    found = errors(find(photos, classes="red,green"))
    assert found[:2] == [
        f"{photos}/empty: the class folder has no image. Add some, or remove the folder.",
        f"{photos}/blue/000.png: label 'blue' (10 examples) is not a class of --classes: 'red', "
        "'green'.",
    ]
    assert len(found) == 3 and found[2].startswith(f"{photos}/red/000.png ")


def test_all_lines_of_a_bad_table(photos):
    good = "".join(f"{name}/00{n}.png,{name}\n" for name in ("red", "blue") for n in range(10))
    bad = "".join(f"no/{n}.png,red\n" for n in range(8))
    path = photos / "labels.csv"
    path.write_text("image,label\n" + good + bad)
    found = find(path)
    assert [problem.line for problem in found] == list(range(22, 30))


def test_identical_images(tmp_path):
    folder = tmp_path / "photos"
    for split in ("train", "validation", "test"):
        tiny.write_color_folder(folder / split, per_class=1)
    # The three splits hold the same noise; make each image its own but for two.
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        PIL.Image.fromarray(np.full((4, 4), 20 * number, np.uint8)).save(path)
    shutil.copy(folder / "train/red/000.png", folder / "test/red/copy.png")
    shutil.copy(folder / "train/blue/000.png", folder / "train/green/copy.png")
    found = data_files.warnings_of(find(folder))
    assert found[-3:-1] == [
        f"{folder}: identical images have different labels: 'train/blue/000.png', "
        "'train/green/copy.png'.",
        f"{folder}: identical images are in train and test: 'train/red/000.png', "
        "'test/red/copy.png'.",
    ]


def test_identical_images_in_arrays_and_streams():
    import tensorflow as tf

    from tf_finetune.data import image_stores

    pixels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    pixels[5] = pixels[0]
    splits = loading.load_data(specs.DataSpec(data="sklearn:digits"))
    for store in (
        image_stores.ArrayImages(pixels),
        image_stores.StreamImages(lambda: tf.data.Dataset.from_tensor_slices(pixels), 6),
        image_stores.StreamImages(
            lambda: tf.data.Dataset.from_tensor_slices([b"a", b"b", b"c", b"d", b"e", b"a"]), 6
        ),
    ):
        parts = [
            loading.Split(
                name,
                np.array([f"k{row}" for row in rows], object),
                store,
                np.array(rows),
                {"label": np.zeros(len(rows), np.int32)},
            )
            for name, rows in (("train", [0, 1, 2]), ("validation", [3]), ("test", [4, 5]))
        ]
        made = loading.Splits(*parts, heads=splits.heads, info=splits.info)
        assert [problem.message for problem in checks.find_repeated(made)] == [
            "sklearn:digits: identical images are in train and test: 'k0', 'k5'."
        ]


def test_the_list_of_identical_images_ends():
    from tf_finetune.data import image_stores

    # 1,002 images, each once in training and once in test.
    pixels = np.tile(
        np.arange(1002, dtype=np.uint16).view(np.uint8).reshape(-1, 1, 2, 1), (2, 1, 1, 1)
    )
    store = image_stores.ArrayImages(pixels)
    info = loading.DatasetInfo("photos", len(pixels), ("label",), "")
    train, validation, test = (
        loading.Split(
            name,
            np.array([f"{name}/{row}" for row in rows], object),
            store,
            np.array(rows, np.int64),
            {"label": np.zeros(len(rows), np.int32)},
        )
        for name, rows in (
            ("train", range(1002)),
            ("validation", []),
            ("test", range(1002, 2004)),
        )
    )
    found = checks.find_repeated(loading.Splits(train, validation, test, (), info))
    assert len(found) == 1001
    assert found[-1].message == "photos: and 2 more groups of identical images."


def test_small_classes(tmp_path):
    tiny.write_color_folder(tmp_path / "photos", per_class=12)
    for number in range(4, 12):
        (tmp_path / "photos" / "red" / f"{number:03d}.png").unlink()
    assert data_files.warnings_of(find(tmp_path / "photos")) == [
        f"{tmp_path}/photos: 1 of 3 classes of head 'label' have fewer than 10 examples: 'red (4)'."
    ]


def test_small_classes_of_every_kind(photos):
    rows = []
    for number, name in enumerate(["red", "blue"] * 10):
        tags = "x|y" if number < 3 else "x"
        rows.append(f"{name}/{number // 2:03d}.png,{name},{tags}\n")
    path = photos / "labels.csv"
    path.write_text("image,colour,tags\n" + "".join(rows))
    heads = (specs.HeadSpec(name="colour", kind="binary"), specs.HeadSpec(name="tags"))
    found = data_files.warnings_of(find(path, heads=heads))
    assert found[-1] == (
        f"{path}: 1 of 2 classes of head 'tags' have fewer than 10 examples: 'y (3)'."
    )


def test_data_that_does_not_exist():
    assert errors(find("nowhere")) == [
        "--data=nowhere does not exist. Expected a folder of class folders, a .csv, a .tfrecord, "
        "tfds:NAME or sklearn:NAME."
    ]


def test_a_file_that_vanishes_is_no_crash(photos):
    splits = loading.load_data(specs.DataSpec(data=str(photos)))
    os.remove(splits.train.inputs.paths[splits.train.indices[0]])
    assert checks.find_repeated(splits) == []
