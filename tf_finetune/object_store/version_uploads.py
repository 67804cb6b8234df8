"""Versions for TF Serving in a store, complete from the moment they can be loaded.

One idea: a version is built and checked on this machine as always, sent under a name that no server
reads, incomplete-N-TOKEN, and renamed there object by object, saved_model.pb last: without that
file nothing is a version. While such a folder is there its number is nobody else's.

Reference: TensorFlow Serving, "Configuration", version policy,
https://www.tensorflow.org/tfx/serving/serving_config; Google, "Cloud Storage, consistency",
https://cloud.google.com/storage/docs/consistency.
"""

import contextlib
import os
import random
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator

from tf_finetune import remote_paths
from tf_finetune.object_store import mirrors, objects

_PREFIX = "incomplete-"
_OWNER = "owner.txt"
_LAST = "saved_model.pb"
_HELD = re.compile(r"incomplete-([0-9]+)-[0-9a-f]{16}")
_PAUSE_SECS = 1.0
# TF Serving reads a version as int64.
_LARGEST_VERSION = 2**63 - 1

# A folder of versions on this machine to that in the store: (path and number of the version there).
Publisher = Callable[[str], tuple[str, int]]


def find_url(export_dir: str) -> str | None:
    """Where in a store a folder of versions is.

    Args:
      export_dir: --export_dir, or the folder export/ of a workdir, which may be a local copy.

    Returns:
      Its URL; None of a folder on this machine.
    """
    if remote_paths.is_remote(export_dir):
        return export_dir.rstrip("/")
    folder, name = os.path.split(os.path.abspath(export_dir))
    url = mirrors.find_url(folder)
    return None if url is None else remote_paths.join(url, name)


def check_writable(url: str) -> None:
    """Tries out, before any training, whether versions can be written.

    Args:
      url: of the folder of versions.

    Raises:
      StoreError: they cannot.
    """
    probe = remote_paths.join(url, f"{_PREFIX}{secrets.token_hex(8)}")
    objects.list_names(url)
    objects.write(probe, "")
    objects.remove(probe)


@contextlib.contextmanager
def staged(export_dir: str, *, owner: str) -> Iterator[tuple[str, Publisher | None]]:
    """Lends the folder in which a version is built.

    Args:
      export_dir: see `find_url`.
      owner: the workdir; its next export removes what an interrupted one has left in the store.

    Yields:
      (folder of versions on this machine, what sends a version that was built there; None where
      that is the place itself).

    Raises:
      RefusedError: the cache cannot be written.
    """
    url = find_url(export_dir)
    if url is None:
        yield export_dir, None
        return
    mirror = mirrors.Mirror(url)
    workdir_url = mirrors.find_url(owner)
    name = workdir_url or f"{socket.gethostname()}:{os.path.abspath(owner)}"
    with mirror.locked(), mirror.incoming() as folder:
        yield folder, lambda path: _publish(path, url, owner=name)


def _publish(path: str, url: str, *, owner: str) -> tuple[str, int]:
    _remove_left(url, owner)
    version, held = _take_number(url, owner)
    target = remote_paths.join(url, str(version))
    names = sorted(mirrors.list_files(path), key=lambda name: name == _LAST)
    for name in names:
        objects.upload(os.path.join(path, name), remote_paths.join(held, name))
    for name in names:
        objects.rename(remote_paths.join(held, name), remote_paths.join(target, name))
    objects.remove(remote_paths.join(held, _OWNER))
    return target, version


def _take_number(url: str, owner: str) -> tuple[int, str]:
    """(a number that nobody else gets while the folder is there, the folder incomplete-N-TOKEN).

    Of two that are made for one number at once, each writer lists behind its own writing, so at
    least one sees the other's, and whoever does steps back.
    """
    while True:
        _, folders = objects.list_names(url)
        taken = [_HELD.sub(r"\1", name) for name in folders]
        numbers = [int(name) for name in taken if re.fullmatch(r"[0-9]+", name)]
        version = max((number for number in numbers if number < _LARGEST_VERSION), default=0) + 1
        name = f"{_PREFIX}{version}-{secrets.token_hex(8)}"
        held = remote_paths.join(url, name)
        objects.write(remote_paths.join(held, _OWNER), owner)
        _, folders = objects.list_names(url)
        others = [
            other for other in folders if other != name and _HELD.sub(r"\1", other) == str(version)
        ]
        if not others:
            return version, held
        objects.remove(remote_paths.join(held, _OWNER))
        time.sleep(_PAUSE_SECS * random.random())


def _remove_left(url: str, owner: str) -> None:
    """Removes what an export of the same run has left that was interrupted."""
    _, folders = objects.list_names(url)
    for name in folders:
        found = _HELD.fullmatch(name)
        held = remote_paths.join(url, name)
        if not found or objects.read(remote_paths.join(held, _OWNER)) != owner:
            continue
        target = remote_paths.join(url, found[1])
        if _LAST not in objects.list_names(target)[0]:
            _remove_tree(target)
        _remove_tree(held)


def _remove_tree(url: str) -> None:
    """Removes a folder; the mark of its owner last, so that the owner finds what is left of it."""
    for name in sorted(objects.list_tree(url), key=lambda name: name == _OWNER):
        objects.remove(remote_paths.join(url, name))
