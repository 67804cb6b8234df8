"""One run at a time in a workdir.

One idea: the kernel holds the lock for the process, and lets go of it however the process ends, so
a crash leaves nothing that a user must remove.

Reference: flock(2).
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from tf_finetune import findings, workdir

NAME = "lock"


@contextlib.contextmanager
def hold(folder: str) -> Iterator[None]:
    """Keeps other runs out of a workdir while the block runs.

    Args:
      folder: the workdir; made where it is missing.

    Yields:
      None.

    Raises:
      RefusedError: another process holds it, or the folder cannot be written.
    """
    path = os.path.join(folder, workdir.STATE_DIR, NAME)
    shown = findings.one_line(folder)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        message = (
            f"--workdir={shown} cannot be written: {error.strerror}. Choose a folder that you may "
            "write."
        )
        raise _refused(message, folder) from error
    try:
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
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _refused(message: str, folder: str) -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(message, path=folder, flag="--workdir"))
