"""A disk that fills up at each kind of write: one line, and after room is made the run goes on."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests import small_disk
from tests.e2e import test_resume
from tf_finetune import (
    callbacks,
    checkpoints,
    event_writers,
    freezing,
    main,
    report,
    run_folder,
    run_start,
    runs,
    serving_graph,
    trained,
    warmup,
)
from tf_finetune.feature_cache import shards

# {kind of write: (where our function is looked up, its name, which call, rooms that are left)}. The
# rooms make the write fail at its beginning, in its middle and at its end.
KINDS = {
    "request.flags": (run_folder, "claim", 1, (0, 4096)),
    "run.flags": (run_start, "write_flags", 1, (0,)),
    "records": (run_start, "_name_strategy", 1, (0, 4096)),
    "freeze plan": (freezing, "format_plan", 1, (0,)),
    "first checkpoint": (checkpoints, "write", 1, (0, 4096)),
    "checkpoint": (checkpoints, "write", 4, (0, 4096, 8192)),
    "history": (callbacks, "format_history", 2, (0,)),
    "events": (event_writers.EventWriter, "close", 1, (0,)),
    "model": (trained, "write_trained", 1, (0, 16384, 36864)),
    "report": (report, "write_report", 1, (0, 4096)),
    "export": (serving_graph, "write_saved_model", 1, (0, 16384, 65536, 114688)),
    "warm-up": (warmup, "write_requests", 1, (0,)),
    "summary": (runs, "_summarize", 1, (0,)),
}
SLOW = [(kind, room) for kind, (*_, rooms) in KINDS.items() for room in rooms]


@pytest.fixture
def disk(tmp_path):
    with small_disk.mounted(tmp_path / "disk") as found:
        yield found


def make_flags(classifier, data, folder, *more):
    return [
        f"--model={classifier}", f"--data={data}", f"--workdir={folder}", "--pixel_range=0..1",
        "--head=name=label,dropout=0.4", "--batch_size=8", "--checkpoint_secs=0.001",
        "--phase=name=head,epochs=4,learning_rate=0.03,freeze=3", "--feature_cache=memory",
        "--feature_precision=float32", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(classifier, colors, tmp_path_factory):
    """What an undisturbed run gives."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main.main(make_flags(classifier, colors, folder)) == 0
    return test_resume.numbers_of(folder)


@pytest.fixture
def former(disk, run):
    """A finished run on the same disk, with its export."""
    shutil.copytree(run.folder, disk.folder / "former")
    return disk.folder / "former"


def ask(folder):
    """What the model and the newest export of a run answer."""
    image = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3)).astype("f4")
    model = trained.load_run(str(folder)).model
    version = max(int(path.name) for path in (folder / "export").iterdir())
    served = tf.saved_model.load(str(folder / "export" / str(version)))
    outputs = served.signatures["serving_default"](tf.constant(image))
    return model({"image": image})["label"].numpy(), outputs["probabilities"].numpy()


@contextlib.contextmanager
def filling(disk):
    disk.fill()
    yield


def refusal(capsys, flags):
    """The one line of a run that had no room."""
    capsys.readouterr()
    code = main.main(flags)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert (code, line) == (2, printed.err.splitlines()[-1]), printed.out
    return line


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "room"), SLOW)
def test_after_room_is_made_a_run_goes_on(
    classifier, colors, whole, disk, former, capsys, monkeypatch, kind, room
):
    module, name, call, _ = KINDS[kind]
    answers = ask(former)
    flags = make_flags(classifier, colors, disk.folder / "run")

    @contextlib.contextmanager
    def full():
        disk.fill(room)
        yield

    with monkeypatch.context() as patch:
        calls = small_disk.before(patch, module, name, full, call=call)
        line = refusal(capsys, flags)
    assert len(calls) >= call
    assert "No space left on device" in line and " free" in line
    assert f"{disk.folder}/run" in line
    assert small_disk.list_left(disk.folder) == ["ballast"]
    kept = disk.folder / "run" / "state" / "checkpoints"
    if kind == "checkpoint":
        assert "go on from the newest" in line
        newest, damaged = checkpoints.read_newest(str(kept))
        assert (newest.number, damaged) == (call - 1, ())
    with capsys.disabled():
        print(f"\n{kind}, {room} bytes left: {line}")
    for before, now in zip(answers, ask(former), strict=True):
        np.testing.assert_array_equal(before, now)
    # A disk that is still full is refused too, and nothing is lost by asking.
    refusal(capsys, flags)
    disk.clear()
    assert main.main(flags) == 0
    assert ("Going on from checkpoint" in capsys.readouterr().out) == (
        list(KINDS).index(kind) > list(KINDS).index("first checkpoint")
    )
    assert test_resume.numbers_of(disk.folder / "run") == whole
    ask(disk.folder / "run")
    assert small_disk.list_left(disk.folder) == []


def test_a_write_that_fails_half_way_loses_nothing(
    classifier, colors, whole, tmp_path, capsys, monkeypatch
):
    """The same where nothing can be mounted: four kinds, one after another, on one run."""
    flags = make_flags(classifier, colors, tmp_path / "run")
    places = {
        "checkpoint": (3000, "state/checkpoints"),
        "model": (9000, "model.keras"),
        "report": (500, "evaluation"),
        "export": (20_000, "export"),
    }
    for kind, (size, place) in places.items():
        module, name, call, _ = KINDS[kind]
        with monkeypatch.context() as patch:
            small_disk.before(
                patch, module, name, functools.partial(small_disk.limited, size), call=call
            )
            line = refusal(capsys, flags)
        assert "File too large" in line and f"{tmp_path}/run/{place}" in line, line
        assert small_disk.list_left(tmp_path) == []
    assert main.main(flags) == 0
    assert test_resume.numbers_of(tmp_path / "run") == whole
    ask(tmp_path / "run")


def test_full_before_it_starts(classifier, colors, disk, capsys):
    flags = make_flags(classifier, colors, disk.folder / "run")
    disk.fill()
    line = refusal(capsys, flags)
    assert line.startswith(
        f"error: --workdir={disk.folder}/run cannot be written: No space left on device, 0 bytes "
        "free. Make room, and run the same command again, or choose another folder."
    )
    assert os.listdir(disk.folder) == ["ballast"]


def test_the_verbs_keep_what_was_there(colors, disk, former, capsys):
    """evaluate, export, predict and validate on a disk with room for a page or two."""
    answers = ask(former)
    reports = {path: path.read_bytes() for path in sorted((former / "evaluation").rglob("*.*"))}
    own = f"--workdir={former}"
    output = disk.folder / "p.csv"
    predict = ["--mode=predict", own, f"--input={colors}", f"--output={output}"]
    assert main.main(predict) == 0
    predicted = output.read_bytes()
    validate = ["--mode=validate", f"--data={colors}", f"--output={disk.folder}/page.md"]
    for room in (0, 4096):
        disk.fill(room)
        line = refusal(capsys, [*predict, "--top_k=3"])
        assert line.startswith(f"error: --output={output} cannot be written: No space left on dev")
        assert output.read_bytes() == predicted
        line = refusal(capsys, ["--mode=evaluate", own])
        assert line.startswith(f"error: The reports cannot be written to {former}/evaluation/")
        assert {path: path.read_bytes() for path in reports} == reports
        line = refusal(capsys, ["--mode=export", own])
        assert f"'{former}/export'" in line and "No space left on device" in line
        if not room:
            assert f"{disk.folder}/page.md" in refusal(capsys, validate)
        assert small_disk.list_left(disk.folder) == ["ballast"]
        disk.clear()
    for before, now in zip(answers, ask(former), strict=True):
        np.testing.assert_array_equal(before, now)
    assert main.main([*predict, "--top_k=3"]) == 0
    assert main.main(["--mode=export", own]) == 0
    assert main.main(validate) == 0
    assert output.read_bytes() != predicted
    for before, now in zip(answers, ask(former), strict=True):  # of version 2
        np.testing.assert_allclose(before, now, atol=1e-6)


def numbers_without_flags(folder):
    summary, history, measured, _, weights = test_resume.numbers_of(folder)
    return summary, history, measured, weights


CACHED = ("--feature_cache=disk", "--checkpoint_secs=0.001")


@pytest.fixture(scope="module")
def cached(classifier, colors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cached")
    flags = make_flags(classifier, colors, folder / "run", *CACHED, f"--cache_dir={folder}/f")
    assert main.main(flags) == 0
    return numbers_without_flags(folder / "run")


def test_a_cache_folder_that_was_named_has_to_have_room(
    classifier, colors, cached, disk, tmp_path, capsys, monkeypatch
):
    cache = disk.folder / "features"
    flags = make_flags(classifier, colors, tmp_path / "run", *CACHED, f"--cache_dir={cache}")
    disk.fill(8192)
    line = refusal(capsys, flags)  # told before anything is computed
    assert line.startswith(f"error: --feature_cache=disk: features cannot be kept in {cache}")
    assert "wanted" in line and "make room there and run the same command again" in line
    disk.clear()

    with monkeypatch.context() as patch:
        small_disk.before(patch, shards, "write_shard", lambda: filling(disk))
        line = refusal(capsys, flags)
    assert line.startswith(f"error: --feature_cache=disk: features cannot be kept in {cache}/")
    assert "No space left on device, 0 bytes free" in line
    assert small_disk.list_left(disk.folder) == ["ballast"]
    disk.clear()
    assert main.main(flags) == 0
    assert numbers_without_flags(tmp_path / "run") == cached
    assert list(cache.rglob("*.shard"))


def test_a_cache_that_nobody_named_goes_on_in_memory_and_says_so(
    classifier, colors, cached, disk, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(disk.folder))
    flags = make_flags(classifier, colors, tmp_path / "run", *CACHED)

    with monkeypatch.context() as patch:
        small_disk.before(patch, shards, "write_shard", lambda: filling(disk))
        capsys.readouterr()
        assert main.main(flags) == 0
    found = [line for line in capsys.readouterr().out.splitlines() if "cannot be kept" in line]
    assert len(found) == 1, found
    (line,) = found
    assert line == (
        "Warning: features cannot be kept on the disk (No space left on device, 0 bytes free): "
        "from here on they stay in memory, and the next run computes them again."
    )
    assert small_disk.list_left(disk.folder) == ["ballast"]
    assert numbers_without_flags(tmp_path / "run") == cached


def test_old_features_make_room_for_new_ones(classifier, colors, disk, tmp_path, capsys):
    """A cache is there to be lost: what was not used for the longest goes first."""
    cache = disk.folder / "features"
    old = cache / ("0" * 64)
    old.mkdir(parents=True)
    (old / "lock").touch()
    (old / "0123456789abcdef.shard").write_bytes(bytes(2**20))
    disk.fill(12288)
    flags = make_flags(classifier, colors, tmp_path / "run", *CACHED, f"--cache_dir={cache}")
    assert main.main(flags) == 0
    assert not old.exists()


@pytest.mark.parametrize("arguments", [["--help"], ["--mode=inspect", "--model={model}"]])
def test_what_is_printed_goes_to_a_full_disk(classifier, arguments):
    command = [sys.executable, "-m", "tf_finetune.main"]
    command += [argument.format(model=classifier) for argument in arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "printed" in line and "No space left on device" in line


def test_a_run_that_was_killed_leaves_nothing_to_the_next(classifier, colors, whole, tmp_path):
    """Temporary files of a run that could not remove them go when it starts again."""
    folder = tmp_path / "run"
    (folder / "state").mkdir(parents=True)
    (folder / "state" / ".0123abcd.request.flags").write_text("half")
    (folder / ".0123abcd.run.flags").write_text("half")
    assert main.main(make_flags(classifier, colors, folder)) == 0
    assert small_disk.list_left(folder) == []
    assert test_resume.numbers_of(folder) == whole


def test_images_are_read_where_temporary_files_have_no_room(
    classifier, colors, disk, tmp_path, capsys, monkeypatch
):
    """A full TMPDIR is told like any other full disk, and is no fault of the model."""
    monkeypatch.setenv("TMPDIR", str(disk.folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    disk.fill()
    flags = make_flags(classifier, colors, tmp_path / "run")
    capsys.readouterr()
    code = main.main(flags)
    printed = capsys.readouterr()
    if code:
        (line,) = printed.err.splitlines()
        assert code == 2 and "No space left on device" in line
