"""A full disk, told in one way: which file, how much it wanted, how much is free.

One idea: Python, TensorFlow and limits of a process report the same fault in three ways, and none
of them says which file of ours it was. Whoever writes says so here, and readers of an error see one
kind.

Reference: write(2), errors ENOSPC, EDQUOT, EFBIG.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What the whole disk says, or the system of itself: not of one file's content.
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


class FullDiskError(OSError):
    """There is no room for a file; `filename` is its name, `strerror` says how much there is."""


@contextlib.contextmanager
def naming(path: str, *, num_bytes: int | None = None) -> Iterator[None]:
    """Names the file in the error of a full disk.

    Args:
      path: the file or folder that the block writes; "": nobody knows.
      num_bytes: what it will take; None: nobody knows before.

    Yields:
      None.

    Raises:
      FullDiskError: the disk became full in the block, which wrote by Python or by TensorFlow.
    """
    try:
        yield
    except FullDiskError:
        raise
    except Exception as error:  # TensorFlow's own errors have no class here
        number = _find_number(error)
        if number is None:
            raise
        raise FullDiskError(number, _describe(number, path, num_bytes), path) from error


def is_unwritable(error: OSError) -> bool:
    """Whether an error is about a place that cannot be read or written, and not about our code.

    Args:
      error: any.

    Returns:
      True for read-only file systems, missing rights and faulty disks.
    """
    return error.errno in _UNWRITABLE


def find_free_bytes(path: str) -> int | None:
    """How much room there is.

    Args:
      path: a file or folder; it need not exist.

    Returns:
      Bytes that a user may write there; None where the system does not say.
    """
    folder = os.path.abspath(path)
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def format_bytes(count: int) -> str:
    """A size for people.

    Args:
      count: bytes.

    Returns:
      For example "12.3 MB".
    """
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _find_number(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _NO_ROOM else None
    if isinstance(error, ValueError):  # a refusal has been told already
        return None
    # tf.errors.OpError, and what libraries make of a write that failed, tell it in words only.
    text = str(error)
    return next((number for number in _NO_ROOM if os.strerror(number) in text), None)


def _describe(number: int, path: str, num_bytes: int | None) -> str:
    free = find_free_bytes(path) if path and number != errno.EFBIG else None
    facts = [] if num_bytes is None else [f"{format_bytes(num_bytes)} wanted"]
    facts += [] if free is None else [f"{format_bytes(free)} free"]
    return ", ".join([os.strerror(number), *facts])
