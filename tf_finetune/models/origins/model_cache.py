"""The private folder of downloaded and extracted models.

One idea: content is prepared under a temporary name and takes its place by one rename, named by
its digest and listed with the digests of its files, which are compared before it is used again. So
a killed run leaves only temporary files, which the next one removes, and content that was damaged
since is noticed and fetched again. A lock of the operating system, which ends with its process,
keeps two runs from doing the same work.

The folder is TFHUB_CACHE_DIR/tf_finetune, else ~/.cache/tf_finetune, readable by its owner only.
tensorflow_hub's own cache beside it is neither used nor touched: its entries have no digest.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import typing
from collections.abc import Iterator

from tf_finetune import disk_room, findings, workdir

ENVIRONMENT_VARIABLE = "TFHUB_CACHE_DIR"
_LIST = "files.json"
_CONTENT = "content"
_KEY = re.compile("(folder-)?[0-9a-f]{64}")


def locate() -> str:
    """Where the cache folder is, or would be.

    Returns:
      An absolute path; nothing is made.
    """
    base = os.path.expanduser(os.environ.get(ENVIRONMENT_VARIABLE) or "~/.cache")
    return os.path.join(os.path.abspath(base), "tf_finetune")


def cache_dir() -> str:
    """The cache folder, made if it is missing, with mode 0700.

    Returns:
      An absolute path.

    Raises:
      findings.RefusedError: it cannot be made, is no folder, or belongs to another user.
    """
    path = locate()
    base = os.path.dirname(path)
    try:
        if not os.path.isdir(base):
            os.makedirs(base, mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, mode=0o700)
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise _refused(path, "is no folder of yours")
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.chmod(path, 0o700)
    except OSError as error:
        raise _refused(path, f"cannot be used: {error.strerror}") from error
    return path


def key_of(text: str) -> str:
    """Names a handle's entry.

    Args:
      text: a handle.

    Returns:
      64 hex digits.
    """
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


@contextlib.contextmanager
def locked(key: str, *, what: str) -> Iterator[None]:
    """Holds an entry for this process, waiting for another run that has it.

    Args:
      key: of a handle or of a content.
      what: for the line that says what is waited for.

    Yields:
      None.

    Raises:
      findings.RefusedError: the cache cannot be written.
    """
    with _open_lock(key) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                f"Waiting for another run that fetches {findings.one_line(what)}", file=sys.stderr
            )
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def workspace(key: str) -> Iterator[str]:
    """Lends an empty folder for preparing content, on the cache's own disk.

    Args:
      key: what is prepared; the caller holds its lock, so that what an earlier, killed run left
        under this key can be removed.

    Yields:
      The folder; it is removed at the end.

    Raises:
      findings.RefusedError: the cache cannot be written.
    """
    folder = _subfolder("unfinished")
    for name in os.listdir(folder):
        if name.startswith(f"{key}."):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
    with disk_room.naming(folder):
        own = tempfile.mkdtemp(prefix=f"{key}.", dir=folder)
    try:
        with disk_room.naming(folder):
            yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def find_content(key: str) -> str | None:
    """Looks a content up by the digests of its files, and removes one that is damaged.

    Args:
      key: digest of the content; the caller holds its lock.

    Returns:
      Its folder, or None where it is absent, half-filled or damaged.

    Raises:
      findings.RefusedError: the cache cannot be used.
    """
    folder = os.path.join(_subfolder("models"), key)
    content = os.path.join(folder, _CONTENT)
    try:
        listed = workdir.read_json(os.path.join(folder, _LIST))
        if listed and listed == _digests(content):
            return content
    except (OSError, ValueError):
        pass  # half-filled: fetched again
    shutil.rmtree(folder, ignore_errors=True)
    return None


def install(folder: str, key: str) -> str:
    """Moves prepared content to its place, whole or not at all.

    Args:
      folder: what was prepared, in a workspace of the key.
      key: digest of the content; the caller holds its lock, and `find_content` found nothing.

    Returns:
      The folder of the content in its place.

    Raises:
      findings.RefusedError: the cache cannot be written.
    """
    place = os.path.join(_subfolder("models"), key)
    try:
        with tempfile.TemporaryDirectory(dir=os.path.dirname(folder)) as staging:
            os.rename(folder, os.path.join(staging, _CONTENT))
            digests = _digests(os.path.join(staging, _CONTENT))
            for name in digests:
                workdir.sync_path(os.path.join(staging, _CONTENT, name))
            workdir.write_json(os.path.join(staging, _LIST), digests)
            inner = os.path.join(staging, "whole")
            os.mkdir(inner, mode=0o700)
            for name in (_CONTENT, _LIST):
                os.rename(os.path.join(staging, name), os.path.join(inner, name))
            os.rename(inner, place)
        workdir.sync_path(os.path.dirname(place))
    except OSError as error:
        raise _refused(place, f"cannot be written: {error.strerror}") from error
    return os.path.join(place, _CONTENT)


def read_record(handle: str) -> dict[str, typing.Any] | None:
    """What was fetched for a handle.

    Args:
      handle: a value of --model.

    Returns:
      The record, or None where nothing was fetched.

    Raises:
      findings.RefusedError: the cache cannot be used.
    """
    path = os.path.join(_subfolder("handles"), f"{key_of(handle)}.json")
    try:
        record = workdir.read_json(path)
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("handle") != handle:
        return None
    # The key becomes part of a path, which may be removed.
    return record if _KEY.fullmatch(str(record.get("key"))) else None


def write_record(handle: str, record: dict[str, typing.Any]) -> None:
    """Notes what was fetched for a handle.

    Args:
      handle: a value of --model.
      record: what JSON can hold, with the content's "key".

    Raises:
      findings.RefusedError: the cache cannot be written.
    """
    path = os.path.join(_subfolder("handles"), f"{key_of(handle)}.json")
    try:
        workdir.write_atomic(path, json.dumps({"handle": handle, **record}))
    except OSError as error:
        raise _refused(path, f"cannot be written: {error.strerror}") from error


def _open_lock(key: str) -> typing.IO[bytes]:
    path = os.path.join(_subfolder("locks"), key)
    try:
        return open(path, "ab")
    except OSError as error:
        raise _refused(path, f"cannot be written: {error.strerror}") from error


def _subfolder(name: str) -> str:
    path = os.path.join(cache_dir(), name)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise _refused(path, f"cannot be written: {error.strerror}") from error
    return path


def _digests(folder: str) -> dict[str, str]:
    found = {}
    for here, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(here, name)
            if not stat.S_ISREG(os.lstat(path).st_mode):
                found[os.path.relpath(path, folder)] = ""  # none that was put here
                continue
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[os.path.relpath(path, folder)] = digest
    return dict(sorted(found.items()))


def _refused(path: str, reason: str) -> findings.RefusedError:
    message = (
        f"The cache folder {findings.one_line(path)} {reason}. Set {ENVIRONMENT_VARIABLE} to a "
        "folder of your own."
    )
    return findings.RefusedError(findings.Problem(message, path=path))
