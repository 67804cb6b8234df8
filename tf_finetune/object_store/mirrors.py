"""Where the local copies of folders in a store are.

One idea: a copy's place follows from its URL alone, so every run and verb finds the same one. It
lies in the private cache of models (data: below --cache_dir, where that is given), which only its
owner can write; so a folder of that place is that URL's copy, and nobody else's claim.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator

from tf_finetune import findings, remote_paths, workdir
from tf_finetune.models.origins import model_cache

_STORES, _FILES, _INCOMING = "stores", "files", "incoming"
_ABOUT, _LOCK = "about.json", "lock"


class Mirror:
    """The local copy of a folder in a store; making one makes its folders.

    Args:
      url: gs://BUCKET/PATH.
      cache_dir: of --cache_dir; None: the private cache of models.

    Attributes:
      url: without a slash at its end.
      home: the folder of all that belongs to the copy.
      folder: the copy itself, in `home`.

    Raises:
      RefusedError: the cache cannot be written.
    """

    def __init__(self, url: str, *, cache_dir: str | None = None):
        self.url = url.rstrip("/")
        base = os.path.abspath(cache_dir) if cache_dir else model_cache.cache_dir()
        self.home = os.path.join(base, _STORES, _name(self.url))
        self.folder = os.path.join(self.home, _FILES)
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            about = os.path.join(self.home, _ABOUT)
            if not os.path.exists(about):
                workdir.write_json(about, {"url": self.url})
        except OSError as error:
            message = (
                f"The local copy of {findings.one_line(self.url)} cannot be made: "
                f"{findings.one_line(self.home)}: {error.strerror}. Set "
                f"{model_cache.ENVIRONMENT_VARIABLE} to a folder that you may write, with room."
            )
            raise findings.RefusedError(findings.Problem(message, path=self.home)) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes of this machine from bringing or sending meanwhile.

        Yields:
          None, once nobody else does.
        """
        with open(os.path.join(self.home, _LOCK), "ab") as file:
            # A file system without locks: whoever starts two runs there has been told by the run's.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def incoming(self) -> Iterator[str]:
        """Lends an empty folder on the copy's own disk, for what is not whole yet.

        Yields:
          The folder; the caller holds the lock. What a killed run has left in it is removed.
        """
        path = os.path.join(self.home, _INCOMING)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path, mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def find_url(folder: str) -> str | None:
    """Whose copy a folder is.

    Args:
      folder: a local path.

    Returns:
      The URL; None of a folder that is no copy in the private cache.
    """
    home = os.path.dirname(os.path.abspath(folder))
    if os.path.dirname(home) != os.path.join(model_cache.locate(), _STORES):
        return None
    try:
        about = workdir.read_json(os.path.join(home, _ABOUT))
    except (OSError, ValueError):
        return None
    url = about.get("url") if isinstance(about, dict) else None
    is_own = (
        isinstance(url, str)
        and remote_paths.is_remote(url)
        and os.path.abspath(folder) == os.path.join(os.path.dirname(home), _name(url), _FILES)
    )
    return url if is_own else None


def list_files(folder: str) -> dict[str, os.stat_result]:
    """All files below a folder.

    Args:
      folder: it need not exist; links are not followed.

    Returns:
      {name relative to it: status}.
    """
    found = {}
    for here, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(here, name)
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                found[os.path.relpath(path, folder)] = os.lstat(path)
    return found


def remove_empty(folder: str) -> None:
    """Removes the folders below a folder that hold nothing any more.

    Args:
      folder: it stays.
    """
    for here, _, _ in os.walk(folder, topdown=False):
        if here != folder:
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(here)


def _name(url: str) -> str:
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:32]
