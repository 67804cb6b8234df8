"""Numbered version folders for TF Serving, complete from the moment they bear a number.

TF Serving polls its base folder and loads the largest integer it finds there, complete or not. So
a version is built under a name that is no integer, flushed to the disk, and takes its number by
one rename. A run that dies in between leaves a folder that nobody reads.

Reference: TensorFlow Serving, "Configuration", version policy,
https://www.tensorflow.org/tfx/serving/serving_config
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator

from tf_finetune import disk_room, findings, workdir

_TEMPORARY_PREFIX = "incomplete-"
_TEMPORARY = re.compile(rf"{_TEMPORARY_PREFIX}[0-9a-f]{{16}}")
_FOLDER_MODE = 0o755
_FILE_MODE = 0o644
# TF Serving reads a version as int64; a larger number is one that it does not see.
_LARGEST_VERSION = 2**63 - 1
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def check_export_dir(path: str) -> tuple[findings.Problem, ...]:
    """Tries out, before any training, whether versions can be written below a folder.

    Makes the missing folders and a folder inside, as an export would, and removes them again.

    Args:
      path: --export_dir; it need not exist yet.

    Returns:
      One problem if the path is no local folder, a file is in its way or it cannot be written;
      else nothing.
    """
    name = findings.one_line(path)
    if not path or "://" in path:
        return (
            _problem(
                f"--export_dir expects a folder on this machine. Received '{name}'. Export to a "
                "local folder and copy it.",
                path,
            ),
        )
    made: list[str] = []
    try:
        for folder in _missing_folders(path):
            os.mkdir(folder)
            made.append(folder)
        with disk_room.naming(path), temporary_folder(path):
            pass
    except (FileExistsError, NotADirectoryError):
        return (
            _problem(
                f"--export_dir expects a folder. Received '{name}', where a file is in the way. "
                "Choose another folder.",
                path,
            ),
        )
    except OSError as error:
        return (
            _problem(
                f"--export_dir expects a folder that can be written. Received '{name}': "
                f"{error.strerror}. {_advise(error)}",
                path,
            ),
        )
    finally:
        # Somebody who has put a file into a folder meanwhile keeps both.
        with contextlib.suppress(OSError):
            for folder in reversed(made):
                os.rmdir(folder)
    return ()


def _advise(error: OSError) -> str:
    if isinstance(error, disk_room.FullDiskError):
        return "Make room there or choose another folder."
    return "Choose another folder or change its permissions."


def _problem(message: str, path: str) -> findings.Problem:
    return findings.Problem(message, path=path, flag="--export_dir")


def _missing_folders(path: str) -> list[str]:
    missing = []
    folder = os.path.abspath(path)
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing[::-1]


@contextlib.contextmanager
def temporary_folder(export_dir: str) -> Iterator[str]:
    """Lends a new folder below `export_dir` under a name that TF Serving passes over.

    While it is lent it is locked, so that what a killed run has left is known and removed.

    Args:
      export_dir: folder of versions; it and its parents are made where missing.

    Yields:
      The folder. What is still there under this name when the block ends, well or not, is removed:
      `publish` gives it another name.

    Raises:
      OSError: a file is in the way or the folder cannot be written.
    """
    os.makedirs(export_dir, exist_ok=True)
    _remove_left(export_dir)
    path, descriptor = _make_locked(export_dir)
    try:
        with workdir.begun(path):
            yield path
    finally:
        # A folder that cannot be removed does no harm and must not hide the error that led here.
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _make_locked(export_dir: str) -> tuple[str, int]:
    """(a new folder, the open file that holds its lock)."""
    while True:
        path = os.path.join(export_dir, f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        # 0777 under the umask, so that `publish` can read from it what the umask allows; tempfile
        # would make it 0700, and a rename keeps that.
        os.mkdir(path, 0o777)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another run has taken it for one that was left
            continue
        # A file system without locks removes nothing of a killed run.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.isdir(path):
            return path, descriptor
        os.close(descriptor)


def _remove_left(export_dir: str) -> None:
    """Removes what runs have left that were killed while they exported."""
    for name in os.listdir(export_dir):
        if not _TEMPORARY.fullmatch(name):
            continue
        path = os.path.join(export_dir, name)
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def publish(temporary: str, export_dir: str) -> int:
    """Gives a finished folder of `temporary_folder` the next version number.

    Folders get the mode 0755 and files 0644, both under the umask, so that a server that runs as
    another user can read them, and all of it is on the disk before the number is.

    Args:
      temporary: the folder that `temporary_folder` lent.
      export_dir: the same folder of versions.

    Returns:
      The version: 1, or the largest number there plus 1. If another writer takes the number
      first, the next one.

    Raises:
      OSError: modes or data cannot be written.
    """
    _set_modes(temporary)
    _sync_tree(temporary)
    while True:
        version = _next_version(export_dir)
        try:
            os.rename(temporary, os.path.join(export_dir, str(version)))
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        else:
            break
    workdir.sync_path(export_dir)
    return version


def _next_version(export_dir: str) -> int:
    # TF Serving takes 007 for 7, so leading zeros count; other scripts' digits do not.
    numbers = [int(name) for name in os.listdir(export_dir) if re.fullmatch(r"[0-9]+", name)]
    return max((number for number in numbers if number < _LARGEST_VERSION), default=0) + 1


def _set_modes(folder: str) -> None:
    allowed = stat.S_IMODE(os.stat(folder).st_mode)
    for root, _, files in os.walk(folder):
        for name in files:
            os.chmod(os.path.join(root, name), _FILE_MODE & allowed)
        os.chmod(root, _FOLDER_MODE & allowed)


def _sync_tree(folder: str) -> None:
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            workdir.sync_path(os.path.join(root, name))
        workdir.sync_path(root)
