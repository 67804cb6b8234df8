import dataclasses
import shutil

import numpy as np

from tests import tiny
from tf_finetune import specs
from tf_finetune.data import image_stores, leaks, loading, pipeline, preprocessing


def load(folder, **options):
    tiny.write_color_folder(folder, per_class=10)
    return loading.load_data(specs.DataSpec(data=str(folder), **options))


def test_a_source_that_is_listed_once_shares_nothing(tmp_path):
    splits = load(tmp_path / "colors")
    assert leaks.find_shared_files(splits) == ()
    assert leaks.count_shared(splits.test, splits.train) == 0


def test_a_link_to_the_training_data_is_seen_through(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "colors")
    splits = load(tmp_path / "colors", test_data=str(tmp_path / "link"))
    first, second = leaks.find_shared_files(splits)
    assert first.message.startswith("27 files are in the train and in the test split: ")
    assert second.message.startswith("3 files are in the validation and in the test split: ")
    assert leaks.count_shared(splits.test, splits.train) == 27


def test_images_in_memory_have_no_files_to_share(tmp_path):
    splits = load(tmp_path / "colors")
    array = image_stores.ArrayImages(np.zeros((30, 4, 4, 3), np.uint8))
    test = dataclasses.replace(splits.test, inputs=array)
    assert leaks.count_shared(test, splits.train) == 0


def test_equal_images_are_counted(tmp_path):
    tiny.write_color_folder(tmp_path / "colors", per_class=10)
    spec = specs.DataSpec(data=str(tmp_path / "colors"))
    splits = loading.load_data(spec)
    source = tmp_path / "colors" / splits.train.keys[0]
    for key in splits.test.keys[:2]:
        shutil.copy(source, tmp_path / "colors" / key)
    prepared = preprocessing.make_preprocessing(spec, input_shape=(12, 12, 3))
    assert leaks.find_equal_inputs(splits) == ()  # nothing is in memory yet
    splits, _, _ = pipeline.read_images(splits, prepared, on_bad_example="error")
    found = leaks.find_equal_inputs(splits)
    assert found[0].message.startswith("2 of 3 test images are equal to a training image, ")
    label = splits.train.keys[0].split("/")[0]
    pairs = [
        f"'{splits.train.keys[0]} = {key}'"
        for key in splits.test.keys[:2]
        if not key.startswith(label)
    ]
    assert [problem.message for problem in found[1:]] == [
        f"{len(pairs)} images are equal to one with another label, so one of the labels is wrong: "
        f"{', '.join(pairs)}. --mode=validate lists all; correct the labels, or remove these "
        "examples."
    ]


def test_a_missing_label_contradicts_nothing():
    for labels in (np.array([0, -1, 1]), np.array([[0.0], [np.nan], [1.0]], np.float32)):
        first, missing, second = labels
        assert leaks._differ(first, second) and leaks._differ(second, first)
        assert not leaks._differ(first, missing) and not leaks._differ(missing, missing)
        assert not leaks._differ(first, first)
