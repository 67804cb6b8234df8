"""The process that is kept ready: taken once, replaced, gone with its owner."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap
import time

import pytest

from tf_finetune.trust import sandbox

PROBE = """
import os
from tf_finetune import findings

def examine(path):
    return [findings.Finding(str(os.getpid()))]
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def run_program(body, folder):
    """What a program prints that examines with probe.py, as JSON."""
    (folder / "probe.py").write_text(PROBE)
    (folder / "model.h5").write_bytes(b"content")
    program = """
    import json, os, sys, time
    from tf_finetune.trust import examiner_process, sandbox

    def ask():
        path = os.path.abspath("model.h5")
        (found,) = sandbox.run("probe", path, options={}, limits=sandbox.Limits())
        return found.message
    """
    package = pathlib.Path(sandbox.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program) + textwrap.dedent(body)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout)


def test_each_process_examines_one_file_and_the_next_one_waits(tmp_path):
    seen = run_program(
        """
        examiner_process.keep_ready()
        examiner_process.keep_ready()
        pids = []
        for _ in range(2):
            while examiner_process._ready.process is None:
                time.sleep(0.05)
            pids.append(str(examiner_process._ready.process.pid))
            pids.append(ask())
        pids.append(ask())  # the next one is not there yet
        print(json.dumps(pids))
        """,
        tmp_path,
    )
    assert seen[0:3:2] == seen[1:4:2]  # the one that waited is the one that answered
    assert len(set(seen)) == 3


def test_a_ready_process_that_died_is_replaced(tmp_path):
    dead, answered = run_program(
        """
        examiner_process.keep_ready()
        process = examiner_process._ready.process
        process.kill()
        process.wait()
        print(json.dumps([str(process.pid), ask()]))
        """,
        tmp_path,
    )
    assert dead != answered


def test_a_forked_process_does_not_use_its_parents(tmp_path):
    waiting, in_child = run_program(
        """
        examiner_process.keep_ready()
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, ask().encode())
            os._exit(0)
        os.wait()
        print(json.dumps([str(examiner_process._ready.process.pid), os.read(read, 99).decode()]))
        """,
        tmp_path,
    )
    assert waiting != in_child


def test_none_is_kept_unless_it_is_asked_for(tmp_path):
    seen = run_program(
        "ask(); print(json.dumps(examiner_process._ready.process is None))", tmp_path
    )
    assert seen is True


@linux
def test_it_ends_with_its_owner_however_that_ends(tmp_path):
    pid = run_program(
        """
        examiner_process.keep_ready()
        print(json.dumps(examiner_process._ready.process.pid), flush=True)
        os._exit(0)
        """,
        tmp_path,
    )
    deadline = time.monotonic() + 30
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(pid)


def _is_running(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
