"""The child process: what it may not do, and what its end means."""

import os
import sys
import textwrap

import pytest

from tf_finetune import findings
from tf_finetune.trust import refusals, sandbox

linux = pytest.mark.skipif(sys.platform != "linux", reason="kernel limits of Linux")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the body of an examiner in the sandbox."""

    def run(body, **limits):
        code = textwrap.indent(textwrap.dedent(body), "    ")
        (tmp_path / "probe.py").write_text(
            "import os, socket, time\n"
            "from tf_finetune import findings\n"
            f"def examine(path):\n{code}\n    return ()\n"
        )
        monkeypatch.syspath_prepend(tmp_path)  # the child gets the parent's path
        target = tmp_path / "model.h5"
        target.write_bytes(b"content")
        return sandbox.run("probe", str(target), options={}, limits=sandbox.Limits(**limits))

    return run


def test_an_answer_comes_back_escaped(run):
    (finding,) = run("return [findings.Finding('a\\nb\\x1b[2J', 'info', 'file', 'x')]")
    assert finding == findings.Finding(r"a\nb\x1b[2J", "info", "file", "x")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "os.kill(os.getpid(), 11)",
            "reading it crashed its parser (SIGSEGV). It is damaged or hostile.",
        ),
        ("os._exit(3)", "examining it ended with code 3 and no answer."),
        ("os.write(3, b'x'); os._exit(0)", "examining it ended with code 0 and no answer."),
        ("raise ValueError('bad\\n')", r"is damaged: ValueError: bad\n."),
    ],
)
def test_a_crash_is_a_refusal(run, body, message):
    assert run(body) == (refusals.broken("", message),)


@linux
@pytest.mark.parametrize("body", ["while True: pass", "time.sleep(60)"])
def test_a_hang_is_a_refusal(run, body):
    (finding,) = run(body, cpu_secs=1, wall_secs=2)
    assert finding.kind == "broken"
    assert finding.message.startswith("examining it took longer than 1 s")


@linux
def test_memory_is_bounded(run):
    (finding,) = run("bytearray(2**31)")
    message = "needs more memory to be examined than a model of its size."
    assert finding == refusals.broken("", message)


@linux
def test_nothing_is_written_and_the_network_is_out_of_reach(run):
    found = run(
        """
        found = []
        try:
            open(path, "ab").write(b"x")
            found.append("wrote")
        except OSError:
            pass
        try:
            socket.create_connection(("127.0.0.1", 9), timeout=1)
        except ConnectionRefusedError:
            found.append("reached")
        except OSError:
            pass
        return [findings.Finding(item) for item in found]
        """
    )
    assert "wrote" not in [item.message for item in found]
    # A kernel may refuse namespaces to everybody but root.
    assert os.getuid() != 0 or found == ()


def test_limits_grow_with_the_file():
    small, large = sandbox.limits_for(0), sandbox.limits_for(2**30, memory_factor=2)
    assert large.cpu_secs > small.cpu_secs
    assert large.memory_bytes == small.memory_bytes + 2**31
