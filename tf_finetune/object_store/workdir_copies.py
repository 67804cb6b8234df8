"""A workdir in a store: brought down before a run or a verb, sent up after each whole write.

One idea: beside the copy stands what both sides were when they were last the same. Where the store
is still so, the copy is what counts (it may be ahead: an upload was interrupted); where it is not,
somebody else has gone on, and the store counts as a whole. Files are sent in an order in which a
run goes on from what is in the store at any moment, and removed there last.
"""

import os
import re

from tf_finetune import findings, remote_paths, run_lock, workdir
from tf_finetune.object_store import copying, mirrors, objects

_SYNCED = "synced.json"
_LOCK = f"{workdir.STATE_DIR}/{run_lock.NAME}"
# As `workdir.replace_file` names what is not whole yet.
_UNFINISHED = re.compile(r"\.[0-9a-f]{8}\..+")
_CHECKPOINTS = f"{workdir.CHECKPOINTS_DIR}/"
# All that runs ever remove from a workdir.
_REMOVED = (_CHECKPOINTS, f"{workdir.LOGS_DIR}/")
# What says whose folder it is comes first, and last what says that the run has ended.
_FIRST, _LAST = (workdir.REQUEST, workdir.RUN_FLAGS), (workdir.MODEL_INFO, workdir.SUMMARY)


class WorkdirCopy:
    """The local copy of a workdir in a store.

    Args:
      url: gs://BUCKET/PATH.

    Attributes:
      url: without a slash at its end.
      folder: the copy, a workdir like any other.

    Raises:
      RefusedError: the cache cannot be written.
    """

    def __init__(self, url: str):
        self._mirror = mirrors.Mirror(url)
        self.url = self._mirror.url
        self.folder = self._mirror.folder
        self._path = os.path.join(self._mirror.home, _SYNCED)
        # {name: (size and time in the store, size and time of the file)}
        self._synced: dict[str, tuple[objects.Entry, objects.Entry]] = {}

    def bring(self) -> None:
        """Makes the copy what a run or a verb starts from; nobody else of this machine uses it.

        Raises:
          RefusedError: a run of this machine uses it, or the store cannot be read.
          OSError: the copy cannot be written.
        """
        with self._mirror.locked(), run_lock.hold(self.folder):
            found = objects.list_tree(self.url, without=(workdir.EXPORT_DIR,))
            found.pop(_LOCK, None)  # that of this machine is held here
            if workdir.RUN_FLAGS not in found and found.keys() <= {workdir.REQUEST}:
                found = {}  # of a run that came no further
            self._read()
            known = {name: remote for name, (remote, _) in self._synced.items()}
            files = self._list_files()
            if found == known and self._is_whole(files):
                return
            same = {
                name
                for name in found
                if known.get(name) == found[name] and self._is_sent(name, files)
            }
            copying.drop_others(self._mirror, same | {_LOCK})
            wanted = {name: entry for name, entry in found.items() if name not in same}
            copying.bring(self._mirror, self.url, wanted)
            files = self._list_files()
            self._synced = {name: (entry, files[name]) for name, entry in found.items()}
            self._write()

    def send(self) -> None:
        """Makes the store what the copy is; the caller holds the run's lock.

        Raises:
          StoreError: the store cannot be written; the copy is whole and is named.
        """
        try:
            self._send()
        except objects.StoreError as error:
            shown = findings.one_line(self.folder)
            problems = [
                findings.Problem(
                    f"{problem.message} The run's folder is whole in {shown}.", path=problem.path
                )
                for problem in error.problems
            ]
            raise objects.StoreError(*problems) from error

    def _send(self) -> None:
        files = self._list_files()
        changed = [name for name in files if not self._is_sent(name, files)]
        for name in sorted(changed, key=_rank):
            path = os.path.join(self.folder, name)
            remote = objects.upload(path, remote_paths.join(self.url, name))
            self._synced[name] = (remote, files[name])
            self._write()
        for name in sorted(self._synced.keys() - files.keys()):
            if not name.startswith(_REMOVED):
                continue
            objects.remove(remote_paths.join(self.url, name))
            del self._synced[name]
            self._write()

    def _list_files(self) -> dict[str, objects.Entry]:
        """What of the copy belongs into the store; versions go there by `version_uploads`."""
        own = f"{workdir.EXPORT_DIR}/"
        return {
            name: objects.Entry(status.st_size, status.st_mtime_ns)
            for name, status in mirrors.list_files(self.folder).items()
            if name != _LOCK
            and not name.startswith(own)
            and not _UNFINISHED.fullmatch(os.path.basename(name))
        }

    def _is_sent(self, name: str, files: dict[str, objects.Entry]) -> bool:
        return name in self._synced and self._synced[name][1] == files.get(name)

    def _is_whole(self, files: dict[str, objects.Entry]) -> bool:
        """Whether the copy lacks only what runs remove: what cleans up caches takes what is old."""
        kept = {name for name in self._synced if not name.startswith(_REMOVED)}
        could_go_on = any(name.startswith(_CHECKPOINTS) for name in self._synced)
        can_go_on = any(name.startswith(_CHECKPOINTS) for name in files)
        is_over = workdir.SUMMARY in files
        return kept <= files.keys() and (can_go_on or is_over or not could_go_on)

    def _read(self) -> None:
        try:
            values = workdir.read_json(self._path)
            self._synced = {
                name: (objects.Entry(*remote), objects.Entry(*local))
                for name, (remote, local) in values.items()
            }
        except (OSError, ValueError, TypeError, AttributeError):
            self._synced = {}  # nothing is known: the store counts

    def _write(self) -> None:
        workdir.write_json(self._path, self._synced)


def _rank(name: str) -> tuple[int, str]:
    if name in _FIRST:
        return _FIRST.index(name) - len(_FIRST), name
    return _LAST.index(name) + 1 if name in _LAST else 0, name
