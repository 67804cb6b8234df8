"""Runs a command and says how long it took and how much memory it had at most."""

import dataclasses
import os
import pathlib
import re
import resource
import subprocess
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
_POLL_SECS = 0.05
_TAIL_LINES = 15


@dataclasses.dataclass(frozen=True)
class Finished:
    """A process that has ended.

    Attributes:
      seconds: from before its start to its end.
      cpu_seconds: of all processors, its own processes included.
      peak_mb: its largest resident memory in MiB; None where the system has no /proc.
      code: exit code.
      tail: the end of what it printed.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: int | None
    code: int
    tail: str


def run(command: list[str], *, log: pathlib.Path) -> Finished:
    """Runs a command in the repository's folder and waits for it.

    Args:
      command: program and arguments.
      log: gets all that it prints.

    Returns:
      How it went; a child of the process is not in its memory.
    """
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    peak = None
    with open(log, "wb") as output:
        start, cpu_start = time.perf_counter(), _read_cpu_seconds()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=REPOSITORY
        )
        try:
            while True:
                # The last reading before the end counts: the kernel's own high-water mark.
                peak = _read_peak_mb(process.pid) or peak
                try:
                    code = process.wait(_POLL_SECS)
                    break
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:  # also Ctrl-C: no process stays behind
            process.kill()
            process.wait()
            raise
        seconds, cpu_seconds = time.perf_counter() - start, _read_cpu_seconds() - cpu_start
    lines = log.read_text(errors="replace").splitlines()
    return Finished(seconds, cpu_seconds, peak, code, "\n".join(lines[-_TAIL_LINES:]))


def _read_cpu_seconds() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _read_peak_mb(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            found = re.search(r"VmHWM:\s+(\d+)", file.read())
    except OSError:
        return None
    return round(int(found[1]) / 1024) if found else None
