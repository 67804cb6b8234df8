"""Two and three real processes train one model: the history of one, and no worker left behind."""

import csv
import json
import os
import re
import signal
import time

import numpy as np
import pytest

from tests import tiny, worker_processes
from tf_finetune import checkpoints, main
from tf_finetune.feature_cache import shards

PER_CLASS = 31


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV of coloured images: a class of three, and whether the colour is warm."""
    folder = tmp_path_factory.mktemp("data")
    tiny.write_color_folder(folder / "colors", per_class=PER_CLASS)
    rows = [
        (f"colors/{name}/{number:03d}.png", name, int(name == "red"))
        for name in tiny.COLORS
        for number in range(PER_CLASS)
    ]
    with open(folder / "colors.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "color", "warm"), *rows])
    return folder / "colors.csv"


def make_flags(classifier, table, folder, *more):
    """Both kinds of heads, of examples that divide evenly among nobody."""
    return [
        f"--model={classifier}", f"--data={table}", f"--workdir={folder}", "--pixel_range=0..1",
        "--head=name=color,label=color,dropout=0", "--batch_size=12", "--split=0.6,0.3,0.1",
        "--head=name=warm,label=warm,kind=binary,dropout=0", "--strategy=multi_worker", *more,
    ]  # fmt: skip


def read_history(folder):
    with open(folder / "logs" / "history.csv") as file:
        rows = list(csv.DictReader(file))
    return list(rows[0]), [[float(row[name]) for name in list(row)[1:]] for row in rows]


def run_alone(flags, folder):
    assert main.main([*flags, "--strategy=one_device", f"--workdir={folder}"]) in (0, 3)


PHASES = (
    "--phase=name=head,epochs=40,learning_rate=0.5,schedule=constant,gradient_clip_norm=0.5",
    "--phase=name=fine,epochs=2,freeze=3,learning_rate=0.003",
    "--monitor=color/accuracy",
    "--patience_epochs=2",
)


@pytest.mark.parametrize(
    ("number", "more"),
    [
        (2, ("--feature_cache=off",)),
        (2, ("--feature_cache=memory",)),
        pytest.param(3, ("--feature_cache=off",), marks=pytest.mark.slow),
        pytest.param(
            2, ("--accumulate_steps=2", "--resample=balanced", "--augment=flip"),
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_workers_have_the_history_of_one_process(classifier, table, tmp_path, number, more):
    flags = make_flags(classifier, table, tmp_path / "run", *PHASES, *more)
    ended = worker_processes.run(flags, number, tmp_path / "logs")
    for each in ended:
        assert each.code == 0, each.error
    assert len({each.weights for each in ended}) == 1
    run_alone(flags, tmp_path / "alone")
    (names, values), (others, expected) = map(read_history, (tmp_path / "run", tmp_path / "alone"))
    assert (names, len(values)) == (others, len(expected))
    assert len(values) < 40  # stopped early
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    # What the chief leaves is what a run of one process leaves.
    assert sorted(os.listdir(tmp_path / "run")) == sorted(os.listdir(tmp_path / "alone"))
    about = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert (about["strategy"], about["replicas"]) == ("MultiWorkerMirroredStrategy", number)
    assert "--strategy=multi_worker\n" in (tmp_path / "run" / "run.flags").read_text()
    # Only the chief tells what happens.
    assert [each.out.count("\n") > 1 for each in ended] == [True] + [False] * (number - 1)


def find_features(folder):
    """Digests of the examples whose features are there; the layout is that of one vector."""
    (space,) = [path for path in folder.iterdir() if path.is_dir()]
    layout = shards.Layout({"features_0": (8,)}, {"features_0": "float32"})
    found, damaged = shards.find_shards(str(space), layout)
    assert not damaged
    assert os.listdir(space).count("about.json") == 1
    assert not [name for name in os.listdir(space) if name.endswith(".shared")]
    return [bytes(digest) for shard in found for digest in shard.digests]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_each_worker_computes_a_part_of_the_features(classifier, table, tmp_path, mode):
    cache = tmp_path / "features"
    flags = make_flags(
        classifier, table, tmp_path / "run", *PHASES[:1], *PHASES[2:], f"--feature_cache={mode}",
        "--feature_precision=float32", f"--cache_dir={cache}",
    )  # fmt: skip
    ended = worker_processes.run(flags, 3, tmp_path / "logs")
    assert [each.code for each in ended] == [0] * 3, ended
    assert len({each.weights for each in ended}) == 1
    pattern = r"Features: (\d+) computed, (\d+) by the other workers, 32 bytes each"
    own, others = map(int, re.search(pattern, ended[0].out).groups())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    total = summary["examples"]["train"] + summary["examples"]["validation"]
    assert own + others == total and own == -(-total // 3)
    run_alone(flags, tmp_path / "alone")
    (names, values), (other_names, expected) = map(
        read_history, (tmp_path / "run", tmp_path / "alone")
    )
    assert (names, len(values)) == (other_names, len(expected))
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    if mode == "memory":
        return
    # Also those that the chief measured the model on; none of them twice.
    found = find_features(cache)
    assert len(found) == len(set(found)) == total + summary["examples"]["test"]
    # Another run of the workers finds them.
    again = worker_processes.run([*flags, f"--workdir={tmp_path / 'again'}"], 2, tmp_path / "logs")
    assert [each.code for each in again] == [0] * 2, again
    assert f"Features: 0 computed, {total} were there already" in again[0].out


@pytest.mark.slow
def test_a_lost_worker_ends_the_other_and_both_go_on_when_started_again(
    classifier, table, tmp_path
):
    flags = make_flags(
        classifier, table, tmp_path / "run", "--epochs=60", "--freeze=none", "--patience_epochs=60",
        "--batch_norm=train", "--checkpoint_secs=0.5", "--learning_rate=0.001",
    )  # fmt: skip
    with worker_processes.started(flags, 2, tmp_path / "logs") as (chief, other):
        chief.wait_for("train 5/60")
        other.process.kill()
        ended = chief.end(secs=60)
    assert ended.code == 138, ended
    assert ended.error.splitlines()[-1] == (
        "error: Worker 0 of 2 has lost another one, whose log says why. Start the same command on "
        "all workers to go on from the newest checkpoint."
    )
    again = worker_processes.run(flags, 2, tmp_path / "logs")
    assert [each.code for each in again] in ([0, 0], [3, 3]), again
    assert "Going on from checkpoint" in again[0].out
    # The statistics of BatchNormalization too.
    assert again[0].weights == again[1].weights
    assert len(read_history(tmp_path / "run")[1]) == 60
    # Asked once more, both are told what became of it.
    finished = worker_processes.run(flags, 2, tmp_path / "logs")
    assert [each.code for each in finished] == [each.code for each in again]


@pytest.mark.slow
def test_a_lost_chief_ends_the_others(classifier, table, tmp_path):
    flags = make_flags(classifier, table, tmp_path / "run", "--epochs=1000", "--freeze=none")
    with worker_processes.started(flags, 3, tmp_path / "logs") as (chief, *others):
        chief.wait_for("train 3/")
        chief.process.kill()
        ended = [other.end(secs=60) for other in others]
    for each in ended:
        assert each.code == 138, each
        assert each.error.splitlines()[-1].startswith("error: Worker ")


@pytest.mark.slow
def test_a_worker_that_hangs_ends_the_other(classifier, table, tmp_path):
    flags = make_flags(classifier, table, tmp_path / "run", "--epochs=1000", "--freeze=none")
    with worker_processes.started(flags, 2, tmp_path / "logs") as (chief, other):
        chief.wait_for("train 3/")
        other.process.send_signal(signal.SIGSTOP)
        ended = chief.end(secs=60)
    assert ended.code == 138, ended


@pytest.mark.slow
def test_a_worker_that_is_terminated_ends_all_with_a_checkpoint(classifier, table, tmp_path):
    flags = make_flags(classifier, table, tmp_path / "run", "--epochs=400", "--freeze=none")
    with worker_processes.started(flags, 2, tmp_path / "logs") as (chief, other):
        chief.wait_for("train 3/")
        begin = time.monotonic()
        other.process.send_signal(signal.SIGTERM)
        ended = [chief.end(secs=60), other.end(secs=60)]
    print(f"\nended after {time.monotonic() - begin:.1f} s")
    assert [each.code for each in ended] == [143, 143], ended
    assert list((tmp_path / "run" / "state" / "checkpoints").iterdir())


# Asked to end in its second validation.
_ENDS_IN_VALIDATION = """
import os, signal
from tf_finetune import resuming

hold_metrics, held = resuming.Recorder.hold_metrics, []

def hold_and_end(self, trainer):
    hold_metrics(self, trainer)
    held.append(1)
    if len(held) == 2:
        os.kill(os.getpid(), signal.SIGTERM)

resuming.Recorder.hold_metrics = hold_and_end
"""


@pytest.mark.slow
def test_a_worker_that_is_terminated_while_all_validate(classifier, table, tmp_path):
    more = ("--epochs=4", "--freeze=none", "--patience_epochs=4", "--checkpoint_secs=1000")
    flags = make_flags(classifier, table, tmp_path / "run", *more)
    logs = tmp_path / "logs"
    with worker_processes.started(flags, 2, logs, preludes={1: _ENDS_IN_VALIDATION}) as both:
        ended = [worker.end() for worker in both]
    assert [each.code for each in ended] == [143, 143], ended
    newest, _ = checkpoints.read_newest(str(tmp_path / "run" / "state" / "checkpoints"))
    standing, rows = newest.state["standing"], newest.state["run"]["rows"]
    assert (standing["step"] > 0, len(rows)) == (True, 1)
    again = worker_processes.run(flags, 2, logs)
    whole = worker_processes.run(make_flags(classifier, table, tmp_path / "whole", *more), 2, logs)
    assert len({each.weights for each in (*again, *whole)}) == 1, (again, whole)
    assert read_history(tmp_path / "run") == read_history(tmp_path / "whole")


def test_other_flags_and_other_data_are_refused_on_all_workers(classifier, table, tmp_path):
    flags = make_flags(classifier, table, tmp_path / "run", "--epochs=1")
    places = worker_processes.make_places(2)
    workers = [
        worker_processes.Worker([*flags, f"--seed={index}"], place, tmp_path)
        for index, place in enumerate(places)
    ]
    for worker in workers:
        ended = worker.end(secs=120)
        assert ended.code == 2, ended
        assert ended.error.splitlines()[-1] == (
            "error: --strategy=multi_worker: --seed differ between the 2 workers. Start the same "
            "command on all of them."
        )
    assert not (tmp_path / "run").exists()


def test_without_tf_config(classifier, table, tmp_path, capsys, monkeypatch):
    flags = make_flags(classifier, table, tmp_path / "run", "--epochs=1")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert main.main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "error: --strategy=multi_worker reads the addresses of all workers from the environment "
        "variable TF_CONFIG, which is not set. Expected "
    )
    monkeypatch.setenv("TF_CONFIG", "{")
    assert main.main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the environment variable TF_CONFIG is no JSON (" in line


def test_what_workers_cannot_do_together(classifier, table, tmp_path, capsys):
    flags = make_flags(
        classifier, table, tmp_path / "run", "--max_minutes=1", "--dry_run", "--learning_rate=auto"
    )
    assert main.main(flags) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: --strategy=multi_worker: {flag} is for one process: each worker would measure "
        "something else. Leave it out."
        for flag in ("--dry_run", "--learning_rate=auto", "--max_minutes")
    ]
