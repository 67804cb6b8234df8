"""A workdir in a store: both sides after every kind of interruption."""

import os
import pathlib
import shutil

import pytest

from tests import gcs_server
from tf_finetune import findings, run_lock, workdir
from tf_finetune.object_store import objects, workdir_copies

URL = "gs://bucket/runs/one"
START = {"state/request.flags": "--asked", "run.flags": "--resolved", "split.csv": "s"}
MIDDLE = {"state/checkpoints/00000001.npz": "first", "logs/history.csv": "1"}
LATER = {"state/checkpoints/00000002.npz": "second", "logs/history.csv": "12"}
END = {"model.keras": "m", "model.json": "j", "summary.json": "s", "evaluation/test/report.md": "r"}


@pytest.fixture
def copy(store):
    found = workdir_copies.WorkdirCopy(URL)
    found.bring()
    return found


def write(copy, files):
    for name, content in files.items():
        workdir.write_atomic(os.path.join(copy.folder, name), content)


def remove(copy, *names):
    for name in names:
        os.remove(os.path.join(copy.folder, name))


def local(copy):
    folder = pathlib.Path(copy.folder)
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def remote(store):
    names = store.names("runs/one/")
    return {name.removeprefix("runs/one/"): store.path(name).read_text() for name in names}


def writes(store):
    found = [line.split(" runs/one/") for line in store.take_log()]
    return [" ".join(parts) for parts in found if parts[0] in ("upload", "remove")]


def test_what_is_written_goes_up_in_order_and_once(store, copy):
    write(copy, {**START, **MIDDLE})
    copy.send()
    assert remote(store) == {**START, **MIDDLE}
    assert writes(store)[:2] == ["upload state/request.flags", "upload run.flags"]
    store.take_log()
    copy.send()
    assert writes(store) == []
    write(copy, {**LATER, **END})
    remove(copy, "state/checkpoints/00000001.npz")
    copy.send()
    written = writes(store)
    assert written[-3:] == [
        "upload model.json",
        "upload summary.json",
        "remove state/checkpoints/00000001.npz",
    ]
    assert "upload run.flags" not in written
    assert remote(store) == {**START, **LATER, **END}


def test_what_does_not_belong_there_stays_here(store, copy):
    write(copy, {**START, "state/lock": "7", "export/1/saved_model.pb": "e"})
    write(copy, {"logs/.0123abcd.history.csv": "half"})
    copy.send()
    assert remote(store) == START


def test_another_machine_goes_on(store, copy, machine):
    write(copy, {**START, **MIDDLE})
    copy.send()
    store.put("runs/one/export/1/saved_model.pb", b"large")
    machine("two")
    other = workdir_copies.WorkdirCopy(URL)
    other.bring()
    assert other.folder != copy.folder
    assert local(other) == {**START, **MIDDLE}
    write(other, LATER)
    remove(other, "state/checkpoints/00000001.npz")
    other.send()
    machine("one")
    write(copy, {"state/checkpoints/00000009.npz": "of nobody any more"})
    again = workdir_copies.WorkdirCopy(URL)
    again.bring()  # the store has changed: it counts as a whole
    assert local(again) == {**START, **LATER}


def test_the_copy_counts_where_it_is_ahead(store, copy):
    write(copy, START)
    copy.send()
    write(copy, MIDDLE)
    store.fail(gcs_server.Fault("upload", 503))
    with pytest.raises(objects.StoreError) as caught:
        copy.send()
    (problem,) = caught.value.problems
    assert problem.message == (
        f"{URL}/logs/history.csv cannot be written: the store does not answer as expected (HTTP "
        "503). Run the same command again when the store answers. The run's folder is whole in "
        f"{copy.folder}."
    )
    store.fail()
    again = workdir_copies.WorkdirCopy(URL)
    again.bring()
    assert local(again) == {**START, **MIDDLE}
    again.send()
    assert remote(store) == {**START, **MIDDLE}


def test_a_copy_that_somebody_has_removed_takes_nothing_from_the_store(store, copy):
    write(copy, {**START, **MIDDLE})
    copy.send()
    shutil.rmtree(copy.folder)
    again = workdir_copies.WorkdirCopy(URL)
    again.bring()
    again.send()
    assert local(again) == remote(store) == {**START, **MIDDLE}


@pytest.mark.parametrize("name", [*START, *MIDDLE])
def test_a_cleaned_up_cache_takes_nothing_from_the_store(store, copy, name):
    write(copy, {**START, **MIDDLE})
    copy.send()
    remove(copy, name)
    again = workdir_copies.WorkdirCopy(URL)
    again.bring()
    again.send()
    if name.startswith("logs"):  # a run that starts anew removes those too
        assert remote(store).keys() == {*START, *MIDDLE} - {name}
    else:
        assert local(again) == remote(store) == {**START, **MIDDLE}


def test_a_workdir_that_was_removed_in_the_store_is_new(store, copy):
    write(copy, {**START, **MIDDLE})
    copy.send()
    for name in store.names("runs/one/"):
        store.path(name).unlink()
    again = workdir_copies.WorkdirCopy(URL)
    again.bring()
    assert local(again) == {}


def test_every_interruption_leaves_a_run_to_go_on_from(store, machine):
    """At each write to the store another machine sees whose run it is, and a whole checkpoint."""
    for number in range(100):
        machine(f"writer{number}")
        store.empty()
        store.fail()
        copy = workdir_copies.WorkdirCopy(URL)
        copy.bring()
        store.fail(gcs_server.Fault("^(upload|remove)", 403, skip=number))
        try:
            write(copy, START)
            copy.send()
            write(copy, MIDDLE)
            copy.send()
            write(copy, LATER)
            remove(copy, "state/checkpoints/00000001.npz")
            copy.send()
            write(copy, END)
            remove(copy, "state/checkpoints/00000002.npz")
            copy.send()
            break
        except objects.StoreError:
            store.fail()
        machine(f"reader{number}")
        reader = workdir_copies.WorkdirCopy(URL)
        reader.bring()
        seen = local(reader)
        assert not seen or {"run.flags", "state/request.flags"} <= seen.keys()
        # From the first checkpoint on there is always one, or the end.
        if number >= 5:
            assert any("npz" in name for name in seen) or "summary.json" in seen, number
        if "summary.json" in seen:
            assert seen.items() >= {**START, **END}.items()
    assert 12 < number < 99


def test_an_unreadable_list_of_what_was_sent_makes_the_store_count(store, copy):
    write(copy, START)
    copy.send()
    pathlib.Path(copy.folder, "..", "synced.json").resolve().write_text("{")
    write(copy, {"split.csv": "other"})
    again = workdir_copies.WorkdirCopy(URL)
    again.bring()
    assert local(again) == START


def test_a_run_of_this_machine_is_not_disturbed(store, copy):
    write(copy, START)
    with run_lock.hold(copy.folder), pytest.raises(findings.RefusedError) as caught:
        workdir_copies.WorkdirCopy(URL).bring()
    assert "is used by a run that has not ended" in str(caught.value)
