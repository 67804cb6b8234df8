"""Runs whose data, workdir and exports are in an object store, through TensorFlow's own gs://."""

import contextlib
import csv
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import gcs_server, tiny, worker_processes
from tests.e2e import test_train
from tf_finetune import main

RUN, MODELS = "gs://bucket/runs/one", "gs://bucket/models"


@pytest.fixture
def store(tmp_path, monkeypatch, colors):
    """A store with the photographs, and this process on a machine "one" of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with gcs_server.used(tmp_path / "store", monkeypatch) as found:
        found.put_tree(colors, "photos")
        yield found


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Moves this process, and those that it starts, to a machine that has no copies yet."""
    move = functools.partial(gcs_server.move_to, folder=tmp_path, patch=monkeypatch)
    move("one")
    return move


@pytest.fixture(autouse=True)
def nothing_is_made_for_an_address(tmp_path):
    """No folder "gs:" or "s3:" is ever made."""
    yield
    assert not [name for name in os.listdir() if ":" in name]


def make_flags(classifier, *more, epochs=4, workdir=RUN):
    return [
        f"--model={classifier}", "--data=gs://bucket/photos", f"--workdir={workdir}",
        "--pixel_range=0..1", "--batch_size=16", "--head=name=label,dropout=0.4",
        f"--phase=name=head,epochs={epochs},learning_rate=0.03,freeze=all",
        "--phase=name=fine,epochs=2,freeze=3", *more,
    ]  # fmt: skip


def take(store, name, target):
    """Copies a folder of the store to this machine, past everything that is tested."""
    for path in store.names(f"{name}/"):
        place = target / path.removeprefix(f"{name}/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(store.path(path).read_bytes())
    return target


def test_a_run_in_a_store(store, classifier, colors, tmp_path, capsys, machine):
    import tensorflow as tf

    store.put("pretrained.h5", classifier.read_bytes())
    flags = make_flags("gs://bucket/pretrained.h5", f"--export_dir={MODELS}")
    assert main.main(flags) == 0
    out = capsys.readouterr().out
    assert f"\nRun folder: {RUN}\nExported for TF Serving: {MODELS}/1\n" in out
    copy = take(store, "runs/one", tmp_path / "taken")
    summary = json.loads((copy / "summary.json").read_text())
    assert summary["export"] == {"path": f"{MODELS}/1", "version": 1}
    assert "--data=gs://bucket/photos\n" in (copy / "run.flags").read_text()
    info = json.loads((copy / "dataset_info.json").read_text())
    assert info["source"] == "gs://bucket/photos"
    assert not list((copy / "state").rglob("*.npz"))
    assert not (copy / "state" / "lock").exists()
    # A server reads the version where it is.
    served = tf.saved_model.load(f"{MODELS}/1").signatures["serving_default"]
    assert served(image=np.zeros((2, 12, 12, 3), np.float32))["probabilities"].shape == (2, 3)

    # Asked for again, also from another machine, it says what it found and reads no data.
    store.take_log()
    machine("two")
    assert main.main(flags) == 0
    assert capsys.readouterr().out.splitlines()[2] == f"{RUN} holds this run, finished."
    assert not [line for line in store.take_log() if "photos" in line]
    assert main.main([*flags, "--seed=7"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --workdir={RUN} holds another run; its flags differ: ")

    # The other verbs start from it.
    assert main.main(["--mode=evaluate", f"--workdir={RUN}", "--test_data=gs://bucket/photos"]) == 0
    assert "runs/one/other_data/evaluation/test/report.json" in store.names()
    assert main.main(["--mode=export", f"--workdir={RUN}", f"--export_dir={MODELS}"]) == 0
    assert main.main(["--mode=export", f"--workdir={RUN}", "--warmup_examples=2"]) == 2
    assert f"Repeat --export_dir={MODELS} with the verb" in capsys.readouterr().err
    assert "models/2/saved_model.pb" in store.names()
    output = tmp_path / "rows.csv"
    flags = ["--mode=predict", f"--workdir={RUN}", f"--input={colors}", f"--output={output}"]
    assert main.main(flags) == 0
    with open(output) as file:
        assert len(list(csv.DictReader(file))) == 90
    # The first export is as it was, and none is half done.
    assert not [name for name in store.names("models/") if "incomplete" in name]


def start(flags):
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    del environment["GCS_STAT_CACHE_MAX_AGE"]  # as it is for a user
    return subprocess.Popen(
        [sys.executable, "-m", "tf_finetune.main", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=os.getcwd(),
    )


def wait_for_checkpoint(store, process, number):
    """Until the store has a checkpoint of at least that number."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        names = store.names("runs/one/state/checkpoints/")
        if any(int(re.search(r"(\d+)\.npz", name)[1]) >= number for name in names):
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate()[0])


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param((signal.SIGKILL,), id="killed"),
        pytest.param(
            (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL), id="ended", marks=pytest.mark.slow
        ),
    ],
)
def test_ended_on_one_machine_it_goes_on_on_another(
    store, classifier, colors, tmp_path, machine, capsys, monkeypatch, ends
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    flags = make_flags(classifier, "--checkpoint_secs=0.5", epochs=8 * len(ends))
    newest = 0
    for number, end in enumerate(ends):
        machine(f"ended{number}")
        process = start(flags)
        wait_for_checkpoint(store, process, newest + 2)
        process.send_signal(end)
        text, _ = process.communicate()
        assert process.returncode == (143 if end == signal.SIGTERM else -end), text
        assert ("Going on from checkpoint" in text) == (number > 0), text
        if end == signal.SIGTERM:  # what it had learnt is there, not only where it stood
            assert f"The best weights so far are in {RUN}: " in text
            assert "runs/one/model.keras" in store.names()
        name = store.names("runs/one/state/checkpoints/")[-1]
        newest = int(re.search(r"(\d+)\.npz", name)[1])
    machine("last")
    assert main.main(flags) == 0
    assert "Going on from checkpoint" in capsys.readouterr().out
    whole = [*flags, f"--data={colors}", f"--workdir={tmp_path / 'whole'}", "--checkpoint_secs=0"]
    assert main.main(whole) == 0
    expected = test_train.numbers_of(tmp_path / "whole")
    assert test_train.numbers_of(take(store, "runs/one", tmp_path / "taken")) == expected


def test_an_export_that_is_interrupted_is_done_by_the_next_run(store, classifier, capsys):
    flags = make_flags(classifier)
    store.fail(gcs_server.Fault("rename runs/one/export/1/saved_model.pb", 403))
    assert main.main(flags) == 2
    assert capsys.readouterr().err == (
        f"error: {RUN}/export/1/saved_model.pb cannot be written: the store refuses access (HTTP "
        "403). Allow it for the credentials in use (GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth "
        "application-default login).\n"
    )
    assert "runs/one/export/1/fingerprint.pb" in store.names()
    assert "runs/one/export/1/saved_model.pb" not in store.names()
    assert "runs/one/summary.json" not in store.names()
    store.fail()
    assert main.main(flags) == 0
    assert f"Exported for TF Serving: {RUN}/export/1\n" in capsys.readouterr().out
    assert "runs/one/export/1/saved_model.pb" in store.names()
    assert not [name for name in store.names() if "incomplete" in name]


def test_a_store_that_cannot_be_written_ends_the_run(store, classifier, capsys):
    store.fail(gcs_server.Fault("start runs/one", 403))
    assert main.main(make_flags(classifier)) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: {RUN}/state/request.flags cannot be written: the store refuses access (HTTP 403)."
    )
    (folder,) = re.findall(r"The run's folder is whole in (\S+)\.\n", error)
    assert os.path.isfile(os.path.join(folder, "run.flags"))


ABSENT = "there is no bucket 'absent'. Make it, or correct the name."


@pytest.mark.parametrize(
    ("flag", "path", "expected"),
    [
        ("data", "gs://absent/photos", f"gs://absent/photos: {ABSENT}"),
        ("workdir", "gs://absent/run", f"gs://absent/run: {ABSENT}"),
        ("export_dir", "gs://absent/models", f"gs://absent/models: {ABSENT}"),
        (
            "data",
            "gs://bucket/nothing",
            "--data=gs://bucket/nothing does not exist. Expected a folder of class folders, a "
            ".csv, .tsv or .jsonl, or a .tfrecord. Correct the name.",
        ),
        (
            "data",
            "gs://bucket/loose",
            "--data=gs://bucket/loose has no image among its 1 files ('notes.md'). Expected a "
            "folder for each class, with JPEG, PNG, BMP, GIF or WebP files in it.",
        ),
    ],
)
def test_one_line_for_what_is_not_there(store, classifier, capsys, flag, path, expected):
    store.put("loose/notes.md", b"x")
    assert main.main(make_flags(classifier, f"--{flag}={path}")) == 2
    assert capsys.readouterr().err == f"error: {expected}\n"


def test_one_line_for_what_may_not_be_read(store, classifier, capsys):
    store.fail(gcs_server.Fault("photos", 403))
    assert main.main(make_flags(classifier)) == 2
    assert capsys.readouterr().err == (
        "error: gs://bucket/photos cannot be read: the store refuses access (HTTP 403). Allow it "
        "for the credentials in use (GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth "
        "application-default login).\n"
    )


@pytest.mark.parametrize(
    "argument",
    ["--data=s3://b/x", "--workdir=hdfs://h/x", "--export_dir=https://h/x", "--workdir=gs:/b/x"],
)
def test_other_addresses_are_refused_at_once(classifier, colors, argument):
    flags = [f"--model={classifier}", f"--data={colors}", "--workdir=run", argument]
    code = (
        f"import sys; from tf_finetune import main; code = main.main({flags!r}); "
        "print(code, 'tensorflow' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.stdout == "2 False\n", ended.stderr
    assert ended.stderr == (
        f"error: {argument} is an address of a kind that is not opened. Expected a path on this "
        "machine or gs://BUCKET/PATH. Copy it to one of them.\n"
    )


def test_a_table_of_images_in_a_store_is_looked_at(store, capsys):
    rows = ["image,color", *(f"photos/{name}/000.png,{name}" for name in tiny.COLORS)]
    store.put("colors.csv", "\n".join([*rows, "photos/red/999.png,red"]).encode())
    assert main.main(["--mode=validate", "--data=gs://bucket/colors.csv"]) == 2
    out = capsys.readouterr().out
    assert "gs://bucket/colors.csv, line 5: 'photos/red/999.png' does not exist" in out
    assert "stores" not in out


@pytest.mark.slow
def test_workers_on_two_machines(store, classifier, colors, tmp_path, machine):
    flags = make_flags(classifier, "--strategy=multi_worker", "--feature_cache=off")
    logs = tmp_path / "logs"
    logs.mkdir()
    with contextlib.ExitStack() as stack:
        workers = []
        for place in worker_processes.make_places(2):
            machine(f"worker{place['task']['index']}")
            workers.append(worker_processes.Worker(flags, place, logs))
            stack.callback(workers[-1].process.kill)
        ended = [worker.end() for worker in workers]
    for each in ended:
        assert each.code == 0, each.error
    assert len({each.weights for each in ended}) == 1
    written = [line for line in store.take_log() if line.startswith("upload runs/one/run.flags")]
    assert written
    copy = take(store, "runs/one", tmp_path / "taken")
    assert json.loads((copy / "summary.json").read_text())["status"] == "completed"
    assert "runs/one/export/1/saved_model.pb" in store.names()
