import numpy as np
import pytest

from tests.data import test_pipeline
from tf_finetune import specs
from tf_finetune.data import image_stores, loading, service_sources, text_store

PIXELS = np.zeros((3, 4, 4, 3), np.uint8)


def make_splits(train, test):
    parts = [
        test_pipeline.make_split(store, range(count), name=name)
        for name, store, count in (("train", train, 2), ("validation", train, 0), ("test", test, 1))
    ]
    return loading.Splits(*parts, test_pipeline.HEADS, test_pipeline.INFO)


def test_files_of_their_own_are_read():
    files = image_stores.PathImages(np.array([b"a", b"b", b"c"], object))
    spec = specs.DataSpec(data="photos", test_data="more")
    assert not service_sources.find_problems(spec, make_splits(files, files))


@pytest.mark.parametrize(
    ("store", "held"),
    [
        (
            text_store.Texts(np.array(["a", "b", "c"], object)),
            "texts, which are in this process's memory and need no service",
        ),
        (image_stores.ArrayImages(PIXELS), "images in this process's memory"),
        (
            image_stores.StreamImages(lambda: None, 3),
            "images that come one after another to this process",
        ),
    ],
)
def test_what_workers_cannot_read(store, held):
    files = image_stores.PathImages(np.array([b"a", b"b", b"c"], object))
    spec = specs.DataSpec(data="photos", test_data="more.tfrecord")
    (problem,) = service_sources.find_problems(spec, make_splits(files, store))
    assert problem.message == (
        "--data_service: its workers read images that are files of their own, and "
        f"--test_data=more.tfrecord holds {held}. Leave --data_service out, or give a folder of "
        "images or a table of their paths."
    )
    (problem,) = service_sources.find_problems(specs.DataSpec(data="a"), make_splits(store, store))
    assert "and --data=a holds" in problem.message
