import os
import shutil

import numpy as np
import PIL.Image
import pytest

from tests import tiny
from tests.data import data_files, image_bytes, mixed_files
from tf_finetune import findings, specs
from tf_finetune.data import (
    doctor,
    doctor_images,
    doctor_rows,
    duplicates,
    examples,
    image_findings,
    image_stores,
    loading,
)


@pytest.fixture
def photos(tmp_path):
    tiny.write_color_folder(tmp_path / "photos", per_class=10)
    return tmp_path / "photos"


def find(folder, *, heads=(), **options):
    return doctor.examine(specs.DataSpec(data=str(folder), **options), heads).problems


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
    assert [line for line in found if "is identical" in line] == [
        f"{folder}/test/red/copy.png is identical to {folder}/train/red/000.png, in train and "
        "test: test measures memory. Keep one.",
        f"{folder}/train/blue/000.png is identical to {folder}/train/green/copy.png, with "
        "different labels: 'blue', 'green'. One is wrong.",
    ]


def make_rows(store, *, splits, labels):
    """Rows of a source that is no file."""
    part = examples.Examples(
        source="photos",
        keys=np.array([f"k{row}" for row in range(len(store))], object),
        inputs=store,
        labels={"label": np.array(list(labels), object)},
        splits=np.array(splits, np.int8),
    )
    parts = {"data": part}
    rows = doctor_rows.collect_rows(parts, (), specs.DataSpec(data="photos"), splits=None)
    return parts, rows


def test_identical_images_in_arrays_and_streams():
    import tensorflow as tf

    pixels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    pixels[5] = pixels[0]
    encoded = [image_bytes.encode(image, "PNG") for image in pixels]
    for store in (
        image_stores.ArrayImages(pixels),
        image_stores.StreamImages(lambda: tf.data.Dataset.from_tensor_slices(pixels), 6),
        image_stores.StreamImages(lambda: tf.data.Dataset.from_tensor_slices(encoded), 6),
    ):
        parts, rows = make_rows(store, splits=[0, 0, 0, 1, 2, 2], labels="abcabb")
        looks = doctor_images.read_images(parts, max_pixels=100).looks
        digests = {row: look.content for row, look in looks.items()}
        assert [problem.message for problem in duplicates.find_repeated(rows, digests)] == [
            "photos, example k0 is identical to photos, example k5, with different labels: 'a', "
            "'b'. One is wrong.",
            "photos, example k0 is identical to photos, example k5, in train and test: test "
            "measures memory. Keep one.",
        ]


def test_a_stream_that_ends_early():
    import tensorflow as tf

    good = image_bytes.encode(image_bytes.gradient(), "PNG")
    store = image_stores.StreamImages(
        lambda: tf.data.Dataset.from_tensor_slices([b"no image", good]), 3
    )
    parts, rows = make_rows(store, splits=[0, 0, 0], labels="abc")
    reading = doctor_images.read_images(parts, max_pixels=10_000)
    assert list(reading.looks) == [1]
    assert reading.bad == {
        0: "is no image that can be decoded: it begins with 'no image'",
        2: "is missing: the data set ended before it",
    }
    found = image_findings.describe_bad(rows, reading, skip=False)
    assert [problem.message for problem in found] == [
        "Example k0 is no image that can be decoded: it begins with 'no image'. Expected JPEG, "
        "PNG, BMP, GIF or WebP; --on_bad_example=skip leaves it out.",
        "Example k2 is missing: the data set ended before it. Expected JPEG, PNG, BMP, GIF or "
        "WebP; --on_bad_example=skip leaves it out.",
    ]


def test_the_list_of_identical_images_ends():
    # 1,002 images, each once in training and once in test.
    store = image_stores.ArrayImages(np.zeros((2004, 1, 1, 1), np.uint8))
    _, rows = make_rows(store, splits=[0] * 1002 + [2] * 1002, labels="a" * 2004)
    digests = {row: b"%d" % (row % 1002) for row in range(2004)}
    found = duplicates.find_repeated(rows, digests)
    assert len(found) == 1001
    assert found[-1].message == "photos: and 2 more groups of equal examples."


def test_equal_pixels_in_other_bytes(photos):
    image = PIL.Image.open(photos / "red" / "000.png")
    image.save(photos / "red" / "copy.bmp")
    opaque = image.convert("RGBA")
    opaque.save(photos / "red" / "copy.png")
    found = data_files.warnings_of(find(photos, split=(1.0, 0.0, 0.0)))
    assert found == [
        f"{photos}/red/000.png is pixel by pixel equal to {photos}/red/copy.bmp and "
        f"{photos}/red/copy.png: a copy weighs as one more example. Keep one."
    ]


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
        f"{path}, line 2: 1 of 2 classes of head 'tags' have fewer than 10 examples: 'y (3)'."
    )


def test_data_that_does_not_exist():
    report = doctor.examine(specs.DataSpec(data="nowhere"))
    assert (report.input_kind, report.num_examples, report.classes) == ("", {}, {})
    (message,) = errors(report.problems)
    assert message.startswith("--data=nowhere does not exist. Expected ")


def test_a_file_that_vanishes_is_no_crash(photos):
    parts, _ = loading.load_parts(specs.DataSpec(data=str(photos)))
    os.remove(parts["data"].inputs.paths[3])
    reading = doctor_images.read_images(parts, max_pixels=10_000)
    assert reading.bad == {3: "does not exist (a broken link, or removed meanwhile)"}
    assert len(reading.looks) == 29


def test_columns_beside_images_are_examined_too(tmp_path):
    rows = mixed_files.make_rows(24)
    cells = [
        [f"photos/{n:03d}.png", age, "same", label] for n, (_, age, _, label) in enumerate(rows)
    ]
    cells[5][1] = cells[9][1] = "-999"
    mixed_files.write_images(tmp_path, rows)
    # Equal images of other columns are no copies, of the same ones they are.
    (tmp_path / "photos" / "001.png").write_bytes((tmp_path / "photos" / "003.png").read_bytes())
    (tmp_path / "photos" / "009.png").write_bytes((tmp_path / "photos" / "005.png").read_bytes())
    path = mixed_files.write_table(tmp_path / "b.csv", cells)
    spec = specs.DataSpec(data=str(path), image_column="photo", feature_columns="age,sex")
    report = doctor.examine(spec)
    assert report.input_kind == "image"
    assert [column.name for column in report.columns] == ["age", "sex", "label"]
    found = {section.title: section.problems for section in report.sections}
    assert list(found) == ["Features", "Duplicates"]
    texts = [problem.message for problem in found["Features"]]
    assert "column 'sex' has the same value in every row" in texts[0]
    assert "column 'age' has -999 in 2 rows" in texts[1]
    assert "b.csv, line 7: 'photos/005.png' is identical to" in found["Duplicates"][0].message
    assert not any("photos/001.png" in problem.message for problem in found["Duplicates"])
