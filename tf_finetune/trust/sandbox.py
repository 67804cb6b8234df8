"""Runs an examiner in a fresh, confined Python process and believes nothing but its answer's form.

One idea: libhdf5 may crash, hang or be made to do worse by the bytes of a file, and a child process
is where that costs nothing. A crash, a hang, a limit and an answer that is none are all refusals.

The parent never opens the file. The child imports the standard library, NumPy, h5py and this
folder, then confines itself (see `confinement`), and only then opens it.
"""

import dataclasses
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import typing

from tf_finetune import findings
from tf_finetune.trust import confinement, examiner_process, refusals

_MAX_ANSWER_BYTES = 2**20
MAX_FINDINGS = 50
_BASE_MEMORY_BYTES = 2**30
_BASE_CPU_SECS, _CPU_BYTES_PER_SEC = 8, 40 * 2**20
_BASE_WALL_SECS, _WALL_BYTES_PER_SEC = 40, 4 * 2**20


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an examination may use.

    Attributes:
      memory_bytes: address space.
      cpu_secs: of the processor.
      wall_secs: until the parent ends it.
    """

    memory_bytes: int = _BASE_MEMORY_BYTES
    cpu_secs: int = _BASE_CPU_SECS
    wall_secs: float = _BASE_WALL_SECS


def limits_for(size: int, *, memory_factor: int = 0) -> Limits:
    """Limits that grow with the file.

    Args:
      size: of the file or of all files of a folder, in bytes.
      memory_factor: how many times its size may be held in memory: 0 where it is read in pieces.

    Returns:
      The limits: about ten times what a good file of that size needs.
    """
    return Limits(
        memory_bytes=_BASE_MEMORY_BYTES + memory_factor * size,
        cpu_secs=_BASE_CPU_SECS + size // _CPU_BYTES_PER_SEC,
        wall_secs=_BASE_WALL_SECS + size / _WALL_BYTES_PER_SEC,
    )


def run(
    module: str,
    path: str,
    *,
    entry: str = "examine",
    options: typing.Mapping[str, typing.Any],
    limits: Limits,
    readable: typing.Sequence[str] = (),
) -> tuple[findings.Finding, ...]:
    """Runs an examiner in a child process.

    Args:
      module: its full name, for example "tf_finetune.trust.hdf5_file".
      path: absolute, of a regular file or a folder.
      entry: its function, which takes the path and the options and yields findings.
      options: plain values.
      limits: of the child.
      readable: further files and folders that the child may read.

    Returns:
      Its findings; one of kind "broken" where it crashed, hung or exceeded a limit.
    """
    request = {
        "module": module,
        "entry": entry,
        "path": path,
        "options": dict(options),
        "memory_bytes": limits.memory_bytes,
        "cpu_secs": limits.cpu_secs,
        "readable": [path, *readable],
        "sys_path": [item for item in sys.path if os.path.isabs(item)],
    }
    try:
        child = examiner_process.start()
    except OSError as error:
        message = f"cannot be examined: no second Python process starts ({error.strerror})."
        return (refusals.broken("", message, advice="Free some memory and try again."),)
    with child as process:
        try:
            text, ended = _talk(process, json.dumps(request).encode(), limits.wall_secs)
        finally:
            process.kill()
    examiner_process.replenish()
    return _read_answer(text, ended, process.returncode, limits)


def answer(request: dict[str, typing.Any]) -> None:
    """What the child does: confine, examine, print the findings as JSON.

    Args:
      request: as made by `run`.
    """
    # The path may have changed since a process that was kept ready has started.
    places = request["sys_path"]
    sys.path[:] = [*places, *(item for item in sys.path if item not in places)]
    module = importlib.import_module(request["module"])
    # Whatever a library prints must not mix with the answer.
    pipe = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    confinement.apply(
        memory_bytes=request["memory_bytes"],
        cpu_secs=request["cpu_secs"],
        readable=[*request["readable"], *(item for item in sys.path if os.path.exists(item))],
    )
    found = list(collect(getattr(module, request["entry"]), request["path"], request["options"]))
    text = json.dumps([dataclasses.asdict(finding) for finding in found])
    with os.fdopen(pipe, "wb") as stream:
        stream.write(text.encode())


def collect(
    examiner: typing.Callable[..., typing.Iterable[findings.Finding]],
    path: str,
    options: typing.Mapping[str, typing.Any],
) -> typing.Iterator[findings.Finding]:
    """Runs an examiner and turns whatever stops it into a finding.

    Args:
      examiner: takes the path and the options, yields findings.
      path: for the examiner.
      options: for the examiner.

    Yields:
      At most `MAX_FINDINGS` findings.
    """
    try:
        for count, finding in enumerate(examiner(path, **options), start=1):
            yield finding
            if count >= MAX_FINDINGS:
                return
    except refusals.BrokenFileError as error:
        yield error.finding
    except MemoryError:
        yield refusals.broken("", "needs more memory to be examined than a model of its size.")
    # A parser met something that no good file has; which error it is depends on the parser.
    except Exception as error:
        reason = findings.one_line(f"{type(error).__name__}: {error}")[:200]
        yield refusals.broken("", f"is damaged: {reason.rstrip('.')}.")


def _talk(process: subprocess.Popen[bytes], request: bytes, secs: float) -> tuple[bytes, str]:
    deadline = time.monotonic() + secs
    stdin = typing.cast(typing.IO[bytes], process.stdin)
    stdout = typing.cast(typing.IO[bytes], process.stdout)
    try:
        stdin.write(request)
        stdin.close()
    except BrokenPipeError:
        return b"", "crash"
    received = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return received, "hang"
            piece = os.read(stdout.fileno(), 65536)
            if not piece:
                break
            received += piece
            if len(received) > _MAX_ANSWER_BYTES:
                return b"", "crash"
    try:
        process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return received, "hang"
    return received, "exit"


def _read_answer(
    text: bytes, ended: str, code: int | None, limits: Limits
) -> tuple[findings.Finding, ...]:
    if ended == "exit" and code == 0:
        try:
            return tuple(_read_finding(item) for item in json.loads(text))
        except (ValueError, TypeError, KeyError):
            ended = "crash"
    if ended == "hang" or code in (-getattr(signal, "SIGXCPU", 0), -getattr(signal, "SIGKILL", 9)):
        message = (
            f"examining it took longer than {limits.cpu_secs} s, or more memory than "
            f"{limits.memory_bytes // 2**20:,} MB. It is damaged or hostile."
        )
    elif code is not None and code < 0:
        message = (
            f"reading it crashed its parser ({_signal_name(-code)}). It is damaged or hostile."
        )
    else:
        message = f"examining it ended with code {code} and no answer."
    return (refusals.broken("", message),)


def _read_finding(item: dict[str, typing.Any]) -> findings.Finding:
    values = {key: item[key] for key in ("message", "severity", "kind", "where")}
    if not all(isinstance(value, str) for value in values.values()):
        raise TypeError("a finding holds text")
    # The child may have been taken over: what it says is printed escaped.
    return findings.Finding(**{key: findings.one_line(value) for key, value in values.items()})


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
