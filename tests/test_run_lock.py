import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tf_finetune import findings, run_lock

HOLDER = """
import sys, time
from tf_finetune import run_lock
with run_lock.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_until_the_first_ends_even_by_a_kill(tmp_path):
    folder = str(tmp_path / "run")
    with start_holder(folder) as holder:
        with pytest.raises(findings.RefusedError) as caught, run_lock.hold(folder):
            pass
        assert caught.value.problems[0].message == (
            f"--workdir={folder} is used by a run that has not ended (process {holder.pid}). Wait "
            "for its end, or choose another --workdir."
        )
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with run_lock.hold(folder):
        pass
    with run_lock.hold(folder):  # let go of at the block's end
        pass


def test_a_program_that_the_run_starts_does_not_hold_it(tmp_path):
    folder = str(tmp_path)
    with run_lock.hold(folder):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with run_lock.hold(folder):
            pass
    finally:
        child.kill()
        child.wait()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(findings.RefusedError) as caught, run_lock.hold(str(tmp_path / "run")):
        pass
    assert "cannot be written: Permission denied" in caught.value.problems[0].message


def test_nothing_stays_of_a_run_that_wrote_nothing(tmp_path):
    with run_lock.hold(str(tmp_path / "new")):
        assert (tmp_path / "new" / "state" / "lock").is_file()
    assert not (tmp_path / "new").exists()
    with run_lock.hold(str(tmp_path / "run")):
        (tmp_path / "run" / "run.flags").write_text("")
    assert (tmp_path / "run" / "state" / "lock").is_file()


def test_a_folder_that_another_run_removes_meanwhile(tmp_path, monkeypatch):
    folder, flock, calls = tmp_path / "run", fcntl.flock, []

    def remove_and_lock(descriptor, how):
        calls.append(how)
        if len(calls) == 1:
            shutil.rmtree(folder)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    with run_lock.hold(str(folder)):
        assert (folder / "state" / "lock").is_file()
    assert len(calls) == 2


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch):
    def refuse(descriptor, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    lines = []
    with run_lock.hold(str(tmp_path), announce=lines.append):
        pass
    assert lines == [
        f"Warning: --workdir={tmp_path} lies on a file system without locks (No locks available): "
        "a second run in it would not be refused. Start none."
    ]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "state").write_text("")
    with pytest.raises(findings.RefusedError) as caught, run_lock.hold(str(tmp_path)):
        pass
    assert caught.value.problems[0].message == (
        f"--workdir={tmp_path} cannot be written: File exists. Choose a folder that you may write."
    )


def test_a_folder_that_leads_nowhere(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "that" / "is" / "gone")
    for folder in (tmp_path / "link", tmp_path / "link" / "run"):
        with pytest.raises(findings.RefusedError) as caught, run_lock.hold(str(folder)):
            pass
        (problem,) = caught.value.problems
        assert problem.message.startswith(f"--workdir={folder} cannot be written: ")
        assert problem.message.endswith(". Choose a folder that you may write.")
