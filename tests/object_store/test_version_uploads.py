"""Versions in a store: what a model server can see at any moment."""

import pathlib

import pytest

from tests import gcs_server
from tf_finetune.object_store import mirrors, objects, version_uploads

URL = "gs://bucket/models"
FILES = {
    "saved_model.pb": b"graph",
    "fingerprint.pb": b"f",
    "assets/labels_label.txt": b"a\nb\n",
    "variables/variables.index": b"i",
    "variables/variables.data-00000-of-00001": b"weights" * 100,
}


def export(owner="run", export_dir=URL):
    with version_uploads.staged(export_dir, owner=owner) as (folder, send):
        version = pathlib.Path(folder) / "1"
        for name, content in FILES.items():
            (version / name).parent.mkdir(parents=True, exist_ok=True)
            (version / name).write_bytes(content)
        return send(str(version))


def versions(store):
    """What a server finds: {version: its files}, of those that it can load."""
    found = {}
    for name in store.names("models/"):
        _, folder, *rest = name.split("/")
        if folder.isdigit():
            found.setdefault(int(folder), {})["/".join(rest)] = store.path(name).read_bytes()
    return {version: files for version, files in found.items() if "saved_model.pb" in files}


def test_versions_count_on_from_what_the_store_has(store):
    assert export() == (f"{URL}/1", 1)
    store.put("models/007/saved_model.pb", b"of somebody")
    store.put("models/9", b"no folder")
    assert export() == (f"{URL}/8", 8)
    assert versions(store)[1] == versions(store)[8] == FILES
    assert not [name for name in store.names() if "incomplete" in name]


def test_what_makes_it_a_version_comes_last(store):
    export()
    lines = [line for line in store.take_log() if line.startswith(("upload", "rename"))]
    assert lines.index("rename models/1/saved_model.pb") == len(lines) - 1
    assert not [line for line in lines if line.startswith("upload models/1/")]


def test_an_export_may_be_interrupted_anywhere(store):
    number = 0
    while True:
        store.empty()
        store.fail(gcs_server.Fault("^(upload|rename|remove)", 403, skip=number))
        try:
            export()
            break
        except objects.StoreError:
            pass
        store.fail()
        assert all(files == FILES for files in versions(store).values()), number
        was_whole = len(versions(store))
        _, version = export()
        assert version == 1 + was_whole, number
        assert versions(store) == {n: FILES for n in range(1, version + 1)}, number
        assert not [name for name in store.names() if "incomplete" in name], number
        number += 1
    assert number > 12


def test_what_others_are_sending_is_left_alone(store):
    store.fail(gcs_server.Fault("rename models/1/saved_model.pb", 403))
    with pytest.raises(objects.StoreError):
        export(owner="first")
    store.fail()
    before = store.names()
    assert export(owner="second") == (f"{URL}/2", 2)
    assert set(before) < set(store.names())
    # The first has removed what it had left, so its number is free, and older than the newest.
    assert export(owner="first") == (f"{URL}/3", 3)
    assert versions(store).keys() == {2, 3}
    assert not [name for name in store.names() if "incomplete" in name]


def test_a_version_that_was_finished_between_two_looks_is_not_taken(store, monkeypatch):
    listed, list_names = [], objects.list_names

    def list_late(url):
        found = list_names(url)
        if url == URL:
            listed.append(url)
            if len(listed) == 2:  # which number is free
                store.put("models/1/saved_model.pb", b"of another")
        return found

    monkeypatch.setattr(objects, "list_names", list_late)
    assert export() == (f"{URL}/2", 2)
    assert store.path("models/1/saved_model.pb").read_bytes() == b"of another"
    assert not [name for name in store.names() if "incomplete" in name]


def test_where_versions_are(store, tmp_path):
    assert version_uploads.find_url("gs://b/models/") == "gs://b/models"
    assert version_uploads.find_url(str(tmp_path / "export")) is None
    folder = mirrors.Mirror("gs://b/run").folder
    assert version_uploads.find_url(f"{folder}/export") == "gs://b/run/export"
    with version_uploads.staged(str(tmp_path / "export"), owner=str(tmp_path)) as (place, send):
        assert (place, send) == (str(tmp_path / "export"), None)


def test_nothing_stays_on_this_machine(store):
    export()
    home = pathlib.Path(mirrors.Mirror(URL).home)
    assert sorted(path.name for path in home.iterdir()) == ["about.json", "files", "lock"]


def test_a_store_is_tried_out(store):
    version_uploads.check_writable(URL)
    assert store.names() == []
    store.fail(gcs_server.Fault("start", 403))
    with pytest.raises(objects.StoreError, match=r"incomplete-[0-9a-f]{16} cannot be written: "):
        version_uploads.check_writable(URL)
