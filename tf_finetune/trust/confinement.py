"""What the examining process gives up before it reads a byte of the file.

One idea: a parser may be fooled, so it runs where being fooled is useless: bounded in memory, time
and open files, unable to write, without a network and, where the kernel offers it, able to read
nothing but the file and Python's own modules.

| | Linux | macOS | Windows |
|---|---|---|---|
| CPU time, no file writing, no core dump, few open files | yes | yes | no |
| memory (RLIMIT_AS) | yes | not enforced by the kernel | no |
| wall clock (by the parent) | yes | yes | yes |
| no network | where unprivileged namespaces are allowed | no | no |
| reads only the file | kernel 5.13 with Landlock | no | no |
| ends with its parent, gains no privileges | yes | no | no |

Reference: setrlimit(2), unshare(2), prctl(2), landlock(7).
"""

import contextlib
import ctypes
import os
import stat
import struct
import sys
from collections.abc import Sequence

_MAX_OPEN_FILES = 64
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_SIGKILL = 9
# Numbers of x86-64 and AArch64 alike, as of all calls since Linux 5.0.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_ALL_ACCESS = (1 << 13) - 1  # what the first version of Landlock knows
_RULE_PATH_BENEATH = 1


def apply(*, memory_bytes: int, cpu_secs: int, readable: Sequence[str]) -> tuple[str, ...]:
    """Limits this process for good.

    What a system does not offer is left out: the limits are the second wall, the checks the first.

    Args:
      memory_bytes: address space, from 0.
      cpu_secs: after which the kernel ends the process.
      readable: files and folders that stay readable.

    Returns:
      What took effect, of "limits", "memory", "network" and "files".
    """
    done = []
    if _set_limits(cpu_secs):
        done.append("limits")
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if hasattr(libc, "prctl"):
            libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
            libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
            libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if _leave_network(libc):
            done.append("network")
        if _restrict_files(libc, readable):
            done.append("files")
    if _limit_memory(memory_bytes):
        done.append("memory")
    return tuple(done)


def _set_limits(cpu_secs: int) -> bool:
    try:
        import resource
        import signal
    except ImportError:
        return False
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for name, value in (
        ("RLIMIT_CORE", 0),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_CPU", cpu_secs),
        ("RLIMIT_NOFILE", _MAX_OPEN_FILES),
    ):
        _lower(resource, name, value)
    return True


def _limit_memory(memory_bytes: int) -> bool:
    try:
        import resource
    except ImportError:
        return False
    return sys.platform != "darwin" and _lower(resource, "RLIMIT_AS", memory_bytes)


def _lower(resource: object, name: str, value: int) -> bool:
    which = getattr(resource, name)
    _, hard = resource.getrlimit(which)  # type: ignore[attr-defined]
    unlimited = resource.RLIM_INFINITY  # type: ignore[attr-defined]
    value = value if hard == unlimited else min(value, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(which, (value, value))  # type: ignore[attr-defined]
        return True
    return False


def _leave_network(libc: ctypes.CDLL) -> bool:
    # An empty network namespace has no interface, not even loopback. Root needs no user namespace.
    if not hasattr(libc, "unshare"):
        return False
    return libc.unshare(_CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0


def _restrict_files(libc: ctypes.CDLL, readable: Sequence[str]) -> bool:
    handled = ctypes.c_uint64(_ALL_ACCESS)
    size = ctypes.c_size_t(ctypes.sizeof(handled))
    rules = libc.syscall(_LANDLOCK_CREATE, ctypes.byref(handled), size, 0)
    if rules < 0:
        return False
    try:
        for path in readable:
            _allow(libc, rules, path)
        return libc.syscall(_LANDLOCK_RESTRICT, rules, 0) == 0
    finally:
        os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, path: str) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
            access = _READ_FILE | _READ_DIR if is_folder else _READ_FILE
            rule = ctypes.create_string_buffer(struct.pack("=Qi", access, handle), 12)
            libc.syscall(_LANDLOCK_ADD, rules, _RULE_PATH_BENEATH, rule, 0)
        finally:
            os.close(handle)
