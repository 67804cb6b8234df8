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
    assert leaks.find_equal_images(splits) == ()  # nothing is in memory yet
    splits, _, _ = pipeline.read_images(splits, prepared, on_bad_example="error")
    (problem,) = leaks.find_equal_images(splits)
    assert problem.message.startswith("2 of 3 test images are equal to a training image, ")
