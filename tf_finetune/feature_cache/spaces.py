"""The folder of kept features: one subfolder per prefix, bounded in size, shared between runs.

One idea: a space in use is locked by the operating system for as long as its run lives, so making
room never takes away what another run reads, and a killed run leaves no lock.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping

from tf_finetune import findings, workdir
from tf_finetune.models.origins import model_cache

_SPACE = re.compile(r"[0-9a-f]{64}")
_LOCK, _ABOUT = "lock", "about.json"


def find_root(cache_dir: str | None) -> str:
    """Where features are kept.

    Args:
      cache_dir: of --cache_dir; None: "features" in the private cache of models.

    Returns:
      An existing folder's absolute path.

    Raises:
      findings.RefusedError: it cannot be made.
    """
    path = os.path.abspath(cache_dir or os.path.join(model_cache.cache_dir(), "features"))
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        message = (
            f"--cache_dir={findings.one_line(path)} cannot be made: {error.strerror}. Choose "
            "another folder, or --feature_cache=memory."
        )
        raise findings.RefusedError(
            findings.Problem(message, path=path, flag="--cache_dir")
        ) from error
    return path


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
    with contextlib.ExitStack() as stack:
        while True:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            lock = stack.enter_context(open(os.path.join(folder, _LOCK), "a", encoding="utf-8"))
            fcntl.flock(lock, fcntl.LOCK_SH)
            # Another run may have removed the folder between the two calls.
            if os.path.exists(os.path.join(folder, _LOCK)):
                break
        os.utime(os.path.join(folder, _LOCK))
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
        if _SPACE.fullmatch(name) and os.path.isdir(folder):
            with contextlib.suppress(FileNotFoundError):
                used = os.stat(os.path.join(folder, _LOCK)).st_mtime
                found.append((used, _size(folder), folder))
    total = sum(size for _, size, _ in found)
    for _, size, folder in sorted(found):
        if total <= max_bytes:
            break
        with contextlib.suppress(OSError), open(os.path.join(folder, _LOCK), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
            total -= size
    return total


def _size(folder: str) -> int:
    total = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            total += entry.stat().st_size
    return total
