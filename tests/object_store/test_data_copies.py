"""Data in a store: what of them is copied, once."""

import os
import pathlib
import time
import unicodedata

import pytest

from tests import gcs_server
from tf_finetune import findings, specs
from tf_finetune.object_store import data_copies, objects


def bring(url, **options):
    data = specs.DataSpec(data=url, **options)
    path = data_copies.bring_source(url, data, flag="data", cache_dir=None)
    return pathlib.Path(path)


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def reads(store):
    return sorted(
        line.removeprefix("read ") for line in store.take_log() if line.startswith("read ")
    )


@pytest.fixture
def photos(store):
    content = {f"{name}/{n}.png": f"{name}{n}".encode() for name in ("cat", "dog") for n in (1, 2)}
    for name, value in content.items():
        store.put(f"photos/{name}", value)
    store.put("photos2/cat/3.png", b"of another folder")
    return content


def test_a_folder_is_copied_once_and_then_what_changed(store, photos):
    folder = bring("gs://bucket/photos/")
    assert tree(folder) == photos
    for name in photos:
        entry = objects.find(f"gs://bucket/photos/{name}")
        assert (folder / name).stat().st_mtime_ns == entry.mtime_ns
    store.take_log()
    assert bring("gs://bucket/photos") == folder
    assert reads(store) == []
    time.sleep(0.01)  # the store's clock has milliseconds
    store.put("photos/cat/1.png", b"CAT1")  # of the same size
    store.put("photos/hen/1.png", b"hen1")
    store.path("photos/dog/1.png").unlink()
    store.path("photos/dog/2.png").unlink()
    bring("gs://bucket/photos")
    assert set(reads(store)) == {"photos/cat/1.png", "photos/hen/1.png"}
    assert tree(folder) == {"cat/1.png": b"CAT1", "cat/2.png": b"cat2", "hen/1.png": b"hen1"}
    assert not (folder / "dog").exists()  # an empty class folder would be one


def test_a_cache_that_refuses_the_copy(store, photos):
    folder = bring("gs://bucket/photos")
    store.put("photos/cat/new.png", b"new")
    (folder.parent / "incoming").write_text("in the way")
    with pytest.raises(findings.RefusedError) as caught:
        bring("gs://bucket/photos")
    (problem,) = caught.value.problems
    assert problem.message == (
        f"The local copy of gs://bucket/photos cannot be written in {folder.parent}: File exists. "
        "Set TFHUB_CACHE_DIR to a folder that you may write, or give objects shorter names."
    )


def test_an_interrupted_copy_goes_on(store, photos):
    store.fail(gcs_server.Fault("read photos/dog/2", 403))
    with pytest.raises(objects.StoreError):
        bring("gs://bucket/photos")
    before = set(reads(store))
    assert before == {"photos/cat/1.png", "photos/cat/2.png", "photos/dog/1.png"}
    store.fail()
    store.take_log()
    folder = bring("gs://bucket/photos")
    # Those that were whole are there; which of them had come before the error does not matter.
    assert "photos/dog/2.png" in reads(store)
    assert tree(folder) == photos
    assert sorted(os.listdir(folder.parent)) == ["about.json", "files", "lock"]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_table_comes_with_the_images_that_it_names(store, photos, ending):
    decomposed = unicodedata.normalize("NFD", "photos/dög/1.png")
    store.put(decomposed, b"unicode")
    names = ["photos/cat/1.png", "./photos/dog/2.png", "photos/dög/1.png", "../photos/cat/1.png"]
    separator = {"csv": ",", "tsv": "\t"}.get(ending)
    if separator:
        lines = [separator.join(["image", "label"]), *(separator.join([n, "x"]) for n in names)]
    else:
        lines = [f'{{"image": "{name}", "label": ["x"], "n": 1}}' for name in names]
    store.put(f"labels.{ending}", "\n".join(lines).encode())
    store.put("labels.png", b"is not named")
    path = bring(f"gs://bucket/labels.{ending}")
    assert path.name == f"labels.{ending}"
    assert sorted(tree(path.parent)) == sorted(
        [path.name, "photos/cat/1.png", "photos/dog/2.png", decomposed]
    )


def test_images_without_an_ending_are_told_by_their_column(store):
    store.put("files/one", b"1")
    store.put("labels.csv", b"kind,image\nfiles/one,files/one\n")
    assert sorted(tree(bring("gs://bucket/labels.csv").parent)) == ["labels.csv"]
    path = bring("gs://bucket/labels.csv", image_column="image")
    assert sorted(tree(path.parent)) == ["files/one", "labels.csv"]


def test_a_table_without_images_asks_for_no_folder(store):
    store.put("reviews.csv", b'text,label\n"good and/or cheap",1\n"bad/ugly",0\n')
    bring("gs://bucket/reviews.csv")
    log = store.take_log()
    assert not [line for line in log if line.startswith("list")]
    assert "read reviews.csv" in log


def test_a_broken_table_is_copied_for_its_reader_to_refuse(store):
    store.put("labels.csv", b"image,label\n\xff\xfe\x00,1\n")
    assert bring("gs://bucket/labels.csv").read_bytes().startswith(b"image")


def test_records_by_name_and_by_pattern(store):
    for name in ("train-1.tfrecord", "train-2.tfrecord", ".train-3.tfrecord", "test.tfrecord"):
        store.put(f"records/{name}", name.encode())
    store.put("records/train-4.tfrecord/x", b"a folder")
    path = bring("gs://bucket/records/train-*.tfrecord")
    assert path.name == "train-*.tfrecord"
    assert sorted(tree(path.parent)) == ["train-1.tfrecord", "train-2.tfrecord"]
    store.path("records/train-2.tfrecord").unlink()
    assert sorted(tree(bring("gs://bucket/records/train-*.tfrecord").parent)) == [
        "train-1.tfrecord"
    ]
    assert bring("gs://bucket/records/test.tfrecord").read_bytes() == b"test.tfrecord"


@pytest.mark.parametrize(
    "url", ["gs://bucket/nothing", "gs://bucket/*.tfrecord", "gs://bucket/*/x"]
)
def test_what_is_not_there(store, url):
    with pytest.raises(findings.RefusedError) as caught:
        bring(url)
    (problem,) = caught.value.problems
    assert problem.message == (
        f"--data={url} does not exist. Expected a folder of class folders, a .csv, .tsv or .jsonl, "
        "or a .tfrecord. Correct the name."
    )


def test_all_sources_of_a_run(store, photos, tmp_path):
    store.put("test.csv", b"a,b\n1,2\n")
    data = specs.DataSpec(data="gs://bucket/photos", test_data="gs://bucket/test.csv")
    found, urls = data_copies.bring_all(data, cache_dir=str(tmp_path / "cache"))
    assert found.data.startswith(str(tmp_path / "cache"))
    assert urls == {
        found.data: "gs://bucket/photos",
        os.path.dirname(found.test_data): "gs://bucket",
    }
    local = specs.DataSpec(data=str(tmp_path))
    assert data_copies.bring_all(local, cache_dir=None) == (local, {})
