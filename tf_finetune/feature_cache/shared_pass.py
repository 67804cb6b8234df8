"""The feature pass of several workers: each computes a part, all have the whole.

One idea: what is missing anywhere is dealt out one by one, and no worker computes what another
does. Where all look into one folder, what each puts there is found by the others; otherwise the
batches are exchanged as they are computed, so that a pass that ends early is not in vain.
"""

import contextlib
import os
import secrets
from collections.abc import Mapping

import numpy as np

from tf_finetune import workers
from tf_finetune.feature_cache import store


class SharedPass:
    """One worker's view of a pass. A process that is alone computes all.

    Every worker calls the same methods in the same order, `give` excepted, of which each makes as
    many calls as it has batches before it calls `finish`.

    Args:
      team: who computes.
      features: this worker's store.
      digests: uint8 [n, 16] of all that is wanted, the same on all workers.
    """

    def __init__(self, team: workers.Workers, features: store.FeatureStore, digests: np.ndarray):
        self._team = team
        self._store = features
        self._digests = digests
        self._in_one_folder = team.is_joined and self._see_one_folder()
        # Of the examples, what others computed.
        self.num_received = 0

    def deal(self, missing: np.ndarray) -> np.ndarray:
        """This worker's part.

        Args:
          missing: int64 [k], increasing: what this worker does not have.

        Returns:
          int64 [about k' / workers], increasing: its part of what any worker does not have.
        """
        if not self._team.is_joined:
            return missing
        lacks = np.zeros(len(self._digests), np.int64)
        lacks[missing] = 1
        united = np.flatnonzero(self._team.add_up(lacks))
        return united[self._team.index :: self._team.number]

    def has_room_everywhere(self, has_room: bool) -> bool:
        """Asks all workers.

        Args:
          has_room: whether this one has.

        Returns:
          Whether all have.
        """
        return not self._team.vote(not has_room)[0]

    def give(self, rows: np.ndarray, features: Mapping[str, np.ndarray], *, has_room: bool) -> bool:
        """Gives the others a batch, and takes theirs.

        Args:
          rows: int64 [b], of the digests.
          features: {name: [b, ...]} of the layout.
          has_room: whether this worker has room for all features.

        Returns:
          Whether all workers have.
        """
        if not self._team.is_joined:
            return has_room
        if self._in_one_folder:
            return True  # whoever runs out of room is asked at the end
        content = [rows.astype(np.int64).tobytes()]
        for name in self._store.layout.shapes:
            content.append(np.ascontiguousarray(features[name]).tobytes())
        return self._exchange(b"".join(content), has_room=has_room)[0]

    def finish(self, *, has_room: bool) -> bool:
        """Waits until all have everything.

        Args:
          has_room: whether this worker has room for all features.

        Returns:
          Whether all workers have.
        """
        if not self._team.is_joined:
            return has_room
        if not self._in_one_folder:
            has_more = True
            while has_more and has_room:
                has_room, has_more = self._exchange(b"", has_room=has_room)
            return has_room
        self._store.flush()
        self._team.vote(False)  # from here on all is on the disk
        before = len(self._store.find_missing(self._digests))
        self._store.look_again()
        after = len(self._store.find_missing(self._digests))
        self.num_received += before - after
        return not self._team.vote(after > 0)[0]

    def _exchange(self, content: bytes, *, has_room: bool) -> tuple[bool, bool]:
        """(whether all have room, whether any worker gave something)."""
        (lacks,) = self._team.vote(not has_room)
        if lacks:
            return False, False
        parts = self._team.gather(content)
        for index, part in enumerate(parts):
            if index != self._team.index and part:
                self._take(part)
        return True, any(parts)

    def _take(self, content: bytes) -> None:
        count = len(content) // (8 + self._store.layout.row_bytes)
        rows = np.frombuffer(content, np.int64, count)
        self._store.add(
            self._digests[rows], self._store.layout.unpack(content, count=count, offset=8 * count)
        )
        self.num_received += count

    def _see_one_folder(self) -> bool:
        """Whether what one worker puts into its folder is in the others'."""
        folder, name = self._store.folder, self._team.share(f"{secrets.token_hex(8)}.shared")
        made = None
        if folder is not None and self._team.is_chief:
            with contextlib.suppress(OSError), open(os.path.join(folder, name), "x") as file:
                made = file.name
        self._team.vote(False)  # the file is there
        sees = folder is not None and os.path.exists(os.path.join(folder, name))
        (blind,) = self._team.vote(not sees)
        if made is not None:
            with contextlib.suppress(OSError):
                os.remove(made)
        return not blind
