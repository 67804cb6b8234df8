"""A run whose images are read by the workers of a tf.data service is the run that reads them."""

import os
import subprocess
import sys
import time

import pytest

from tests import service_processes
from tf_finetune import main
from tf_finetune.data import data_service

PHASES = (
    "--phase=name=head,epochs=3,learning_rate=0.03",
    "--phase=name=fine,epochs=2,freeze=3",
)
FILES = ("logs/history.csv", "evaluation/test/report.json", "evaluation/validation/report.json")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with service_processes.started(2, tmp_path_factory.mktemp("service")) as started:
        yield started


def make_flags(classifier, colors, folder, *more):
    return [
        f"--model={classifier}", f"--data={colors}", f"--workdir={folder}", "--pixel_range=0..1",
        "--batch_size=12", "--feature_precision=float32", *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        ("--augment=flip,rotate:20,color", "--feature_cache=off", "--epochs=2", "--freeze=3"),
        ("--feature_cache=disk", "--epochs=3", "--freeze=all"),
        pytest.param(
            ("--augment=flip,rotate:20", "--augment_views=2", "--feature_cache=memory", *PHASES),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--feature_cache=disk", "--resample=balanced", *PHASES), marks=pytest.mark.slow
        ),
        pytest.param(
            ("--augment=flip,mixup", "--feature_cache=off", "--strategy=mirrored", *PHASES),
            marks=pytest.mark.slow,
        ),
    ],
    ids=" ".join,
)
def test_the_run_is_the_same(service, classifier, colors, tmp_path, capsys, more):
    for name, flag in (("own", ()), ("served", (f"--data_service={service.address}",))):
        cache = f"--cache_dir={tmp_path / 'cache' / name}"
        flags = make_flags(classifier, colors, tmp_path / name, *more, cache, *flag)
        assert main.main(flags) in (0, 3)
    out = capsys.readouterr().out
    assert f"Data service {service.address}: 2 workers read the images." in out
    for name in FILES:
        assert (tmp_path / "served" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
    # Who reads is no part of what was asked: the run of the other is found, finished.
    assert "data_service" not in (tmp_path / "served" / "run.flags").read_text()
    assert main.main(make_flags(classifier, colors, tmp_path / "served", *more, cache)) in (0, 3)


@pytest.mark.slow
def test_a_lost_worker_costs_nothing_but_time(classifier, colors, tmp_path):
    flags = make_flags(
        classifier, colors, tmp_path / "run", "--augment=flip,rotate:20", "--feature_cache=off",
        "--phase=name=head,epochs=6,learning_rate=0.03",
    )  # fmt: skip
    with service_processes.started(2, tmp_path) as service:
        lost = service.workers[0]
        process = subprocess.Popen(
            [sys.executable, "-m", "tf_finetune.main", *flags, f"--data_service={service.address}"],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "head 2/6" in line:
                lost.kill()
        assert process.wait(120) in (0, 3), lines
        assert lost.poll() is not None  # in the middle of the run
    flags[2] = f"--workdir={tmp_path / 'own'}"
    assert main.main(flags) in (0, 3)
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()


_IMPATIENT = """
import sys
from tf_finetune import main
from tf_finetune.data import service_patience
service_patience.PATIENCE_SECS = 8.0
main.run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["dispatcher", "workers"])
def test_a_lost_service_ends_the_run_which_goes_on_without(classifier, colors, tmp_path, lost):
    flags = make_flags(
        classifier, colors, tmp_path / "run", "--augment=flip,rotate:20", "--feature_cache=off",
        "--phase=name=head,epochs=6,learning_rate=0.03",
    )  # fmt: skip
    with service_processes.started(2, tmp_path) as service:
        process = subprocess.Popen(
            [sys.executable, "-c", _IMPATIENT, *flags, f"--data_service={service.address}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        for line in process.stdout:
            if "head 2/6" in line:
                gone = (service.dispatcher,) if lost == "dispatcher" else service.workers
                for each in gone:
                    each.kill()
                begin = time.monotonic()
        assert process.wait(60) == 138
        print(f"\nended after {time.monotonic() - begin:.1f} s")
        (*_, last) = process.stderr.read().splitlines()
        process.stderr.close()
    assert last == (
        f"error: --data_service={service.address}: nothing has come for 8 s. Start the "
        "dispatcher and its workers again, then the same command: it goes on from the newest "
        "checkpoint."
    )
    assert main.main(flags) in (0, 3)
    flags[2] = f"--workdir={tmp_path / 'own'}"
    assert main.main(flags) in (0, 3)
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()


def test_no_dispatcher(classifier, colors, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data_service, "REACH_SECS", 0.5)
    (port,) = service_processes.find_ports(1)
    flags = make_flags(classifier, colors, tmp_path / "run")
    assert main.main([*flags, f"--data_service=grpc://127.0.0.1:{port}"]) == 138
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: --data_service=grpc://127.0.0.1:{port}: there is no dispatcher (Connection "
        "refused). Waited for 0 s. Start it, or correct the address."
    )
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_served(classifier, colors, tmp_path, capsys):
    flags = make_flags(classifier, colors, tmp_path / "run")
    assert main.main([*flags, "--data_service=localhost:5000"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --data_service expects the address of a dispatcher, grpc://HOST:PORT, for example "
        "grpc://10.0.0.5:5000. Received 'localhost:5000'."
    ]
    service = "--data_service=grpc://127.0.0.1:9"
    digits = [flags[0], "--data=sklearn:digits", *flags[2:], service]
    assert main.main([*flags, "--strategy=multi_worker", service]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --strategy=multi_worker: --data_service is for one process. Leave one of them out."
    ]
    assert main.main(digits) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --data_service: its workers read images that are files of their own, and "
        "--data=sklearn:digits holds images in this process's memory. Leave --data_service out, or "
        "give a folder of images or a table of their paths."
    ]
    assert main.main(["--mode=evaluate", flags[2], service]) == 2
