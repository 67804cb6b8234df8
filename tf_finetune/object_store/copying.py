"""Bringing objects into a local copy.

One idea: a file of the copy has the size and the time of its object, so what has to be fetched is
told without reading anything, and an interrupted copy goes on where it was. A file is fetched
beside the copy and takes its place by a rename.
"""

import contextlib
import errno
import os
from collections.abc import Collection, Iterator, Mapping

from tf_finetune import findings, progress
from tf_finetune.object_store import mirrors, objects


def bring(mirror: mirrors.Mirror, url: str, wanted: Mapping[str, objects.Entry]) -> None:
    """Fetches those objects that a copy does not have as they are now, and says how many.

    Args:
      mirror: the copy; the caller holds its lock.
      url: of the folder that the names are relative to.
      wanted: {name: what it is}.

    Raises:
      StoreError: see `objects.download`.
      RefusedError: the copy cannot be written.
      OSError: there is no room for it.
    """
    files = mirrors.list_files(mirror.folder)
    missing = {
        name: entry
        for name, entry in wanted.items()
        if name not in files or (files[name].st_size, files[name].st_mtime_ns) != entry
    }
    if not missing:
        return
    total = sum(entry.size for entry in missing.values())
    label = f"Copying {total:,} bytes from {findings.one_line(url)}: files"
    with (
        _refusing(mirror),
        mirror.incoming() as folder,
        progress.ProgressBar(label, len(missing)) as bar,
    ):
        places = {name: os.path.join(folder, str(place)) for place, name in enumerate(missing)}
        for done, name in enumerate(objects.download(url, missing, places), start=1):
            path = os.path.join(mirror.folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(places[name], path)
            bar.update(done)


@contextlib.contextmanager
def _refusing(mirror: mirrors.Mirror) -> Iterator[None]:
    """Makes one line of what the disk refuses; that it is full is told where all else is."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = (
            f"The local copy of {findings.one_line(mirror.url)} cannot be written in "
            f"{findings.one_line(mirror.home)}: {error.strerror}. Set TFHUB_CACHE_DIR to a folder "
            "that you may write, or give objects shorter names."
        )
        raise findings.RefusedError(findings.Problem(message, path=mirror.home)) from error


def drop_others(mirror: mirrors.Mirror, names: Collection[str]) -> None:
    """Removes files of a copy that are not among those named.

    Args:
      mirror: the copy; the caller holds its lock.
      names: relative names that stay.

    Raises:
      OSError: the copy cannot be written.
    """
    for name in mirrors.list_files(mirror.folder):
        if name not in names:
            os.remove(os.path.join(mirror.folder, name))
    mirrors.remove_empty(mirror.folder)
