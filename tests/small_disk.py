"""A disk of a few megabytes that a test fills, or a limit that stands in for one."""

import contextlib
import os
import pathlib
import re
import resource
import subprocess

import pytest

_SIZE = "48m"
_LEFT = re.compile(r"\.[0-9a-f]{8}\..+|incomplete-.+|.+\.tmp|ballast")


class Disk:
    """A mounted tmpfs.

    Args:
      folder: where it is mounted.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._ballast = folder / "ballast"

    def free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, room: int = 0) -> None:
        """Leaves so many bytes, in whole pages."""
        size = self.free_bytes() - room
        assert size > 0, "the disk is fuller than that"
        with open(self._ballast, "ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), size)

    def clear(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def set_read_only(self, *, is_on: bool) -> None:
        """Also while files are open: by another mount over this one."""
        folder = str(self.folder)
        if is_on:
            subprocess.run(["mount", "--bind", folder, folder], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        elif not os.access(folder, os.W_OK):
            subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def mounted(folder: pathlib.Path):
    """Lends a disk; skips the test where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"mount: {error.strerror}")
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def limited(size: int):
    """No file can grow beyond a size: a write fails half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def list_left(folder: pathlib.Path) -> list[str]:
    """What a write has left behind that did not come to its end; and ballast."""
    found = folder.rglob("*")
    return sorted(str(path.relative_to(folder)) for path in found if _LEFT.fullmatch(path.name))


def before(patch, module, name, action, *, call=1):
    """Has a function of ours do its work in a disturbance that begins right before it.

    Args:
      patch: pytest's monkeypatch.
      module: where the function is looked up.
      name: of the function.
      action: makes a context manager.
      call: the disturbed call, from 1.

    Returns:
      List of the calls, for the test to see that there were so many.
    """
    original, calls = getattr(module, name), []

    def do(*arguments, **options):
        calls.append(name)
        with action() if len(calls) == call else contextlib.nullcontext():
            return original(*arguments, **options)

    patch.setattr(module, name, do)
    return calls
