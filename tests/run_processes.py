"""Runs of the command line as processes of their own, which tests end."""

import os
import subprocess
import sys


def start(flags):
    """A run whose lines, errors among them, come as they are printed."""
    return subprocess.Popen(
        [sys.executable, "-m", "tf_finetune.main", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def wait_for(process, beginning):
    """Until the run has printed a line that begins so."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(beginning):
            return
    raise AssertionError("".join(lines))
