"""One run at a time in a workdir.

One idea: the kernel holds the lock for the process, and lets go of it however the process ends, so
a crash leaves nothing that a user must remove.

Reference: flock(2).
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator

from tf_finetune import disk_room, findings, workdir

NAME = "lock"
_NUM_TRIES = 10


@contextlib.contextmanager
def hold(folder: str, *, announce: Callable[[str], None] = print) -> Iterator[None]:
    """Keeps other runs out of a workdir while the block runs.

    Args:
      folder: the workdir; made where it is missing, and removed again where nothing else is in it
        at the end.
      announce: takes a warning where the file system has no locks.

    Yields:
      None.

    Raises:
      RefusedError: another process holds it, or the folder cannot be written.
    """
    path = os.path.join(folder, workdir.STATE_DIR, NAME)
    with contextlib.ExitStack() as stack:
        num_missing = 0
        while True:
            try:
                with disk_room.naming(folder):
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                with disk_room.naming(path):
                    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                # Perhaps a run that ends has removed the folder meanwhile; but not every time.
                num_missing += 1
                if not isinstance(error, FileNotFoundError) or num_missing == _NUM_TRIES:
                    raise refuse_unwritable(folder, error) from error
                continue
            stack.callback(os.close, descriptor)
            _lock(descriptor, folder, announce)
            if _is_at(descriptor, path):
                break
        stack.callback(_remove_empty, folder, path)
        try:
            with disk_room.naming(path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise refuse_unwritable(folder, error) from error
        yield


def refuse_unwritable(folder: str, error: OSError) -> findings.RefusedError:
    """What a user is told of a workdir that cannot be written.

    Args:
      folder: the workdir.
      error: what came of the attempt.

    Returns:
      The error to raise.
    """
    shown = findings.one_line(folder)
    advice = "Choose a folder that you may write."
    if isinstance(error, disk_room.FullDiskError):
        advice = "Make room, and run the same command again, or choose another folder."
    message = f"--workdir={shown} cannot be written: {error.strerror}. {advice}"
    return _refused(message, folder)


def _lock(descriptor: int, folder: str, announce: Callable[[str], None]) -> None:
    shown = findings.one_line(folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        who = f" (process {holder})" if holder.isdigit() else ""
        message = (
            f"--workdir={shown} is used by a run that has not ended{who}. Wait for its end, or "
            "choose another --workdir."
        )
        raise _refused(message, folder) from error
    except OSError as error:
        announce(
            f"Warning: --workdir={shown} lies on a file system without locks ({error.strerror}): a "
            "second run in it would not be refused. Start none."
        )


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_empty(folder: str, path: str) -> None:
    # Of a run that was refused before it wrote anything.
    state = os.path.dirname(path)
    with contextlib.suppress(OSError):
        if os.listdir(folder) == [workdir.STATE_DIR] and os.listdir(state) == [NAME]:
            os.remove(path)
            os.rmdir(state)
            os.rmdir(folder)


def _refused(message: str, folder: str) -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(message, path=folder, flag="--workdir"))
