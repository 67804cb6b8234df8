"""The second Python process in which a file is examined: how it starts, and the one kept ready.

One idea: starting Python and importing NumPy and h5py takes longer than examining a model of 100 MB
does, and needs no file. Where models are loaded by a program that lives on (a notebook), the next
process is started ahead; it waits for its request and ends with whoever started it. Each examines
one file only, so that nothing a file did to it can reach the next one.
"""

import atexit
import gc
import importlib
import json
import os
import subprocess
import sys
import threading
import typing

_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_START = (
    "import sys, json; r = json.loads(sys.stdin.buffer.readline());"
    "sys.path += [p for p in r['sys_path'] if p not in sys.path];"
    "from tf_finetune.trust import examiner_process; examiner_process.wait(r['ahead'])"
)
_ENVIRONMENT = {
    # Threads of the linear algebra reserve address space and would outlive nothing.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # No filter is loaded from a folder, whatever a file asks for.
    "HDF5_PLUGIN_PRELOAD": "::",
    "HDF5_USE_FILE_LOCKING": "FALSE",
}
_KEPT_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
_REPLENISH_SECS = 2.0
# What a process that waits imports meanwhile.
_MODULES = ("sandbox", "hdf5_file", "zip_file", "saved_model_file")


class _Ready:
    """The process that waits, if one is kept; it belongs to the process that started it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wanted_by: int | None = None
        self.process: subprocess.Popen[bytes] | None = None


_ready = _Ready()


def start() -> "subprocess.Popen[bytes]":
    """Starts a process, or takes the one that is ready.

    Returns:
      A process that reads one request from its standard input, see `sandbox.run`.

    Raises:
      OSError: no process starts.
    """
    with _ready.lock:
        process, _ready.process = _ready.process, None
        # After a fork both would talk to the same process.
        if process is not None and _ready.wanted_by == os.getpid() and process.poll() is None:
            return process
    return _start_new(ahead=())


def keep_ready() -> None:
    """From now on keeps a process ready, so that an examination need not wait for its start.

    Does nothing where no process starts: the examination will say so.
    """
    with _ready.lock:
        if _ready.wanted_by != os.getpid():
            _ready.wanted_by, _ready.process = os.getpid(), None
            atexit.register(_end)
            # A thread of the parent may hold the lock at that moment, and nobody would free it.
            os.register_at_fork(after_in_child=_forget)
    _fill()


def replenish() -> None:
    """Starts the next process, where one is kept ready and the last was taken, a little later."""
    with _ready.lock:
        if _ready.wanted_by != os.getpid() or _ready.process is not None:
            return
    # Whoever examined a file is about to load it, and needs the processor.
    timer = threading.Timer(_REPLENISH_SECS, _fill)
    timer.daemon = True
    timer.start()


def wait(ahead: typing.Sequence[str]) -> None:
    """What the process does: imports what it may need, then waits for its request.

    Ends without a word where the pipe is closed first: whoever started it has ended.

    Args:
      ahead: modules of this folder.
    """
    # A short life makes little garbage: collecting it takes a tenth of the time.
    gc.disable()
    for name in ahead:
        importlib.import_module(f"{__package__}.{name}")
    request = sys.stdin.buffer.read()
    if request:
        sandbox = importlib.import_module(f"{__package__}.sandbox")
        sandbox.answer(json.loads(request))


def _fill() -> None:
    with _ready.lock:
        if _ready.wanted_by != os.getpid() or _ready.process is not None:
            return
        try:
            _ready.process = _start_new(ahead=_MODULES)
        except OSError:
            return


def _start_new(*, ahead: typing.Sequence[str]) -> "subprocess.Popen[bytes]":
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    process = subprocess.Popen(
        # -I: no user's folders and variables; -S: sys.path is told; -B: no writing.
        [sys.executable, "-I", "-S", "-B", "-c", _START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environment, **_ENVIRONMENT},
        cwd=os.path.abspath(os.sep),
        start_new_session=True,
    )
    places = [_PACKAGE_PARENT, *(item for item in sys.path if os.path.isabs(item))]
    first = {"sys_path": places, "ahead": list(ahead)}
    stdin = typing.cast(typing.IO[bytes], process.stdin)
    try:
        stdin.write(json.dumps(first).encode() + b"\n")
        stdin.flush()
    except BrokenPipeError:
        pass  # it has ended already: reading its answer tells how
    return process


def _forget() -> None:
    _ready.lock, _ready.process = threading.Lock(), None


def _end() -> None:
    with _ready.lock:
        process, _ready.process = _ready.process, None
        if process is not None and _ready.wanted_by == os.getpid():
            process.kill()
            process.communicate()
