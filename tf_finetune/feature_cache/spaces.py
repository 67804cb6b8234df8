"""The folder of kept features: one subfolder per prefix, bounded in size, shared between runs.

One idea: a space in use is locked by the operating system for as long as its run lives, so making
room never takes away what another run reads, and a killed run leaves no lock.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping

from tf_finetune import findings, workdir
from tf_finetune.models.origins import model_cache

_SPACE = re.compile(r"[0-9a-f]{64}")
# A space on its way out: nobody opens it any more.
_REMOVED = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{8}\.removed")
_LOCK, _ABOUT = "lock", "about.json"
_MAX_ABOUT_BYTES = 2**16


def check_root(cache_dir: str | None) -> None:
    """Refuses a folder that the user named and that features cannot be kept in; makes nothing.

    Args:
      cache_dir: of --cache_dir; None: the private cache, about which nothing is asked.

    Raises:
      findings.RefusedError: something else has its name, or it cannot be written.
    """
    if cache_dir is None:
        return
    path = os.path.abspath(cache_dir)
    existing = path
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        reason = f"{findings.one_line(existing)} is no folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f"{findings.one_line(existing)} cannot be written"
    else:
        return
    message = (
        f"--cache_dir={findings.one_line(path)}: {reason}. Expected a folder for features: choose "
        "another, or --feature_cache=memory."
    )
    raise findings.RefusedError(findings.Problem(message, path=path, flag="--cache_dir"))


def find_root(cache_dir: str | None) -> str:
    """Where features are kept.

    Args:
      cache_dir: of --cache_dir; None: "features" in the private cache of models.

    Returns:
      An existing folder's absolute path.

    Raises:
      OSError: it cannot be made.
    """
    try:
        path = os.path.abspath(cache_dir or os.path.join(model_cache.cache_dir(), "features"))
    except findings.RefusedError as error:
        raise OSError(0, str(error)) from error
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def read_about(cache_dir: str | None, name: str) -> dict[str, object]:
    """What a space says about itself; makes nothing.

    Args:
      cache_dir: of --cache_dir; None: the private cache.
      name: of the space.

    Returns:
      What `open_space` was told when the space was made; {} where there is none, or it is damaged.
    """
    root = cache_dir or os.path.join(model_cache.locate(), "features")
    try:
        with open(os.path.join(root, name, _ABOUT), encoding="utf-8") as file:
            about = json.loads(file.read(_MAX_ABOUT_BYTES))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


@contextlib.contextmanager
def open_space(root: str, name: str, *, about: Mapping[str, object]) -> Iterator[str]:
    """Lends a space's folder; while it is lent no run removes it.

    Args:
      root: from `find_root`.
      name: of the space, 64 hex digits.
      about: for people who look into the folder.

    Yields:
      The folder.

    Raises:
      OSError: it cannot be made or written.
    """
    folder = os.path.join(root, name)
    path = os.path.join(folder, _LOCK)
    with contextlib.ExitStack() as stack:
        while True:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, mode=0o700)
            try:
                lock = stack.enter_context(open(path, "a", encoding="utf-8"))
            except FileNotFoundError:  # another run has removed the folder between the two calls
                continue
            fcntl.flock(lock, fcntl.LOCK_SH)
            if _is_same_file(lock.fileno(), path):
                break
            # That run had the lock: this one is of a folder that is gone.
            lock.close()
        os.utime(path)
        if not os.path.exists(os.path.join(folder, _ABOUT)):
            workdir.write_atomic(
                os.path.join(folder, _ABOUT), json.dumps(dict(about), indent=2) + "\n"
            )
        yield folder


def make_room(root: str, *, max_bytes: int) -> int:
    """Removes the spaces that were not used for the longest, until the others fit.

    Args:
      root: from `find_root`.
      max_bytes: what all spaces may take together.

    Returns:
      Bytes that are taken then: more than `max_bytes` where runs are using them.
    """
    found = []
    for name in os.listdir(root):
        folder = os.path.join(root, name)
        if _REMOVED.fullmatch(name):  # by a run that was killed meanwhile
            shutil.rmtree(folder, ignore_errors=True)
        elif _SPACE.fullmatch(name):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                used = os.stat(os.path.join(folder, _LOCK)).st_mtime
                found.append((used, _size(folder), folder))
    total = sum(size for _, size, _ in found)
    for _, size, folder in sorted(found):
        if total <= max_bytes:
            break
        if _remove(folder):
            total -= size
    return total


def _remove(folder: str) -> bool:
    """Removes a space, unless a run is using it."""
    removed = f"{folder}.{secrets.token_hex(4)}.removed"
    path = os.path.join(folder, _LOCK)
    try:
        with open(path, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_same_file(lock.fileno(), path):
                return False  # removed by another run, and a third has made it anew since
            # At once: a run that comes now finds all of the space or nothing.
            os.rename(folder, removed)
    except OSError:
        return False
    shutil.rmtree(removed, ignore_errors=True)
    return True


def _is_same_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _size(folder: str) -> int:
    total = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            total += entry.stat().st_size
    return total
