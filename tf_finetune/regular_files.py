"""Opening files that strangers named: regular ones only, and without waiting.

One idea: a FIFO is waited for without end and a device may do anything when it is opened, so a
path is asked what it is first, and what was opened is asked once more.
"""

import io
import os
import stat
from typing import AnyStr

# Follows "... is".
LINK_OUT = (
    "a link that leads out of the data folder (--follow_links reads such images, if you made the "
    "links yourself)"
)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotRegularError(OSError):
    """A path leads to something that is not opened; `strerror` says what, to follow a name."""

    def __init__(self, reason: str):
        super().__init__(0, reason)


def open_regular(path: str | bytes) -> io.BufferedReader:
    """Opens a regular file for reading.

    Args:
      path: any path; links are followed.

    Returns:
      The open file, buffered.

    Raises:
      NotRegularError: it is a folder, pipe, socket or device; nothing was opened.
      OSError: the system cannot open it.
    """
    _check(os.stat(path).st_mode)
    # O_NONBLOCK: the path may have become a FIFO since.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        _check(os.fstat(descriptor).st_mode)
    except NotRegularError:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def read_regular(path: str, *, limit: int) -> bytes:
    """Reads a regular file that is not larger than it should be.

    Args:
      path: any path; links are followed.
      limit: most bytes.

    Returns:
      Its content.

    Raises:
      NotRegularError: it is a folder, pipe, socket or device, or larger.
      OSError: the system cannot open or read it.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise NotRegularError(f"has more than {limit:,} bytes")
    return content


def _check(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "no file")
        raise NotRegularError(f"is {kind}, not a file")


def leads_outside(path: AnyStr, root: AnyStr) -> bool:
    """Whether a path leads out of a folder, by "..", by a link or by a link of a parent.

    Args:
      path: any path; nothing is opened.
      root: the folder, as `os.path.realpath` gives it.

    Returns:
      True where the path's target lies elsewhere.
    """
    target, inside = os.fsencode(os.path.realpath(path)), os.fsencode(root)
    return target != inside and not target.startswith(inside.rstrip(b"/") + b"/")
