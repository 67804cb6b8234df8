"""What a store is asked, and what is told of its errors, with TensorFlow's own gs://."""

import pytest

from tests import gcs_server
from tf_finetune import findings
from tf_finetune.object_store import objects

ODD_NAMES = ["a b.txt", "p?q#r%20.txt", "über.txt", "a[1]/*.txt", "deep/er/x"]


def refusal(call, *arguments):
    with pytest.raises(objects.StoreError) as caught:
        call(*arguments)
    (problem,) = caught.value.problems
    return problem.message


def test_a_tree_is_listed_whole_over_several_pages(store):
    store.set_page_size(2)
    for name in ODD_NAMES:
        store.put(f"data/{name}", name.encode())
    store.put("data/empty/", b"")  # as consoles mark an empty folder
    store.put("data2/other", b"")
    found = objects.list_tree("gs://bucket/data")
    assert sorted(found) == sorted(ODD_NAMES)
    assert {name: entry.size for name, entry in found.items()} == {
        name: len(name.encode()) for name in ODD_NAMES
    }
    assert sorted(objects.list_tree("gs://bucket", without=("data",))) == ["data2/other"]


def test_names_in_a_bucket_and_in_no_folder(store):
    store.put("x/y", b"")
    store.put("z", b"")
    assert objects.list_names("gs://bucket") == (["z"], ["x"])
    assert objects.list_names("gs://bucket/nothing") == ([], [])


@pytest.mark.parametrize("call", [objects.find, objects.list_names, objects.list_tree])
def test_no_such_bucket(store, call):
    assert refusal(call, "gs://other/x") == (
        "gs://other/x: there is no bucket 'other'. Make it, or correct the name."
    )


@pytest.mark.parametrize("call", [objects.find, objects.list_names, objects.list_tree])
def test_what_may_not_be_read_is_not_empty(store, call):
    store.fail(gcs_server.Fault("", 403))
    assert refusal(call, "gs://bucket/x") == (
        "gs://bucket/x cannot be read: the store refuses access (HTTP 403). Allow it for the "
        "credentials in use (GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default "
        "login)."
    )


@pytest.mark.parametrize("call", [objects.find, objects.list_names, objects.list_tree])
def test_a_store_that_is_down_is_not_empty(store, call):
    store.put("x/y", b"")
    store.fail(gcs_server.Fault("", 503))
    assert refusal(call, "gs://bucket/x") == (
        "gs://bucket/x cannot be read: the store does not answer as expected (HTTP 503). Run the "
        "same command again when the store answers."
    )


def test_a_store_that_cannot_be_reached(store, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    message = refusal(objects.find, "gs://bucket/x")
    assert message.startswith("gs://bucket/x cannot be read: All 2 retry attempts failed. ")
    assert message.endswith(
        "Could not connect to server. Run the same command again when the store answers."
    )


def test_a_short_fault_is_not_noticed(store, tmp_path):
    store.fail(gcs_server.Fault("", 503, times=1), gcs_server.Fault("upload", 503, times=1))
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert objects.upload(str(path), "gs://bucket/x").size == 7
    assert store.path("x").read_bytes() == b"content"


def test_find(store):
    store.put("x/y", b"content")
    assert objects.find("gs://bucket/x") is None
    assert objects.find("gs://bucket") is None
    assert objects.find("gs://bucket/x/y").size == 7
    with pytest.raises(FileNotFoundError):
        objects.find("gs://bucket/z")


def test_who_may_not_see_the_bucket_may_read_objects(store):
    store.fail(gcs_server.Fault("^bucket", 403))
    assert objects.list_names("gs://bucket/new") == ([], [])


@pytest.mark.parametrize("name", ["a", "..", "."])
def test_names_that_no_folder_can_hold(store, name):
    store.put(f"data/{name}", b"")
    store.put(f"data/{name}/b", b"")
    assert refusal(objects.list_tree, "gs://bucket/data") == (
        "gs://bucket/data has objects that cannot be files of a folder: "
        + ("'a'" if name == "a" else f"'{name}', '{name}', '{name}'")
        + " (empty, '.', '..', or both a file and a folder). Rename them."
    )


@pytest.mark.parametrize("content", [b"", b"x" * 3_000_000])
def test_there_and_back(store, tmp_path, content):
    (tmp_path / "here").write_bytes(content)
    entry = objects.upload(str(tmp_path / "here"), "gs://bucket/x y/z")
    assert entry == objects.find("gs://bucket/x y/z")
    places = {"z": str(tmp_path / "back")}
    assert list(objects.download("gs://bucket/x y", {"z": entry}, places)) == ["z"]
    assert (tmp_path / "back").read_bytes() == content
    assert (tmp_path / "back").stat().st_mtime_ns == entry.mtime_ns


def test_what_changes_while_it_is_copied(store, tmp_path):
    store.put("x", b"before")
    entry = objects.find("gs://bucket/x")
    store.put("x", b"after it")
    copies = objects.download("gs://bucket", {"x": entry}, {"x": str(tmp_path / "x")})
    assert refusal(list, copies) == (
        "gs://bucket/x changed while it was copied: expected 6 bytes, received 8. Run the same "
        "command again."
    )


def test_an_upload_that_fails_leaves_the_former_object(store, tmp_path):
    store.put("x", b"former")
    (tmp_path / "x").write_bytes(b"new")
    store.fail(gcs_server.Fault("upload", 500))
    assert refusal(objects.upload, str(tmp_path / "x"), "gs://bucket/x") == (
        "gs://bucket/x cannot be written: the store does not answer as expected (HTTP 500). Run "
        "the same command again when the store answers."
    )
    assert store.path("x").read_bytes() == b"former"
    with pytest.raises(FileNotFoundError):
        objects.upload(str(tmp_path / "nothing"), "gs://bucket/x")


def test_small_objects(store):
    objects.write("gs://bucket/x", "text ü")
    assert objects.read("gs://bucket/x") == "text ü"
    objects.rename("gs://bucket/x", "gs://bucket/y/z")
    assert store.names() == ["y/z"]
    objects.remove("gs://bucket/y/z")
    objects.remove("gs://bucket/y/z")  # is not there any more
    assert objects.read("gs://bucket/y/z") is None


def test_errors_end_with_exit_code_2():
    assert issubclass(objects.StoreError, findings.RefusedError)
