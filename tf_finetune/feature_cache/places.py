"""Where features go, and how much room there is for them."""

import contextlib
import errno
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tf_finetune import disk_room, findings, specs
from tf_finetune.data import memory
from tf_finetune.feature_cache import choosing, keys, shards, spaces, store

# An example whose features are larger is as fast to compute as to read.
_MAX_ROW_BYTES = 2 * 2**20
_GB = 10**9
# In about.json: whether a trial chose the precision.
IS_TRIED = "is_tried"


class Places:
    """The places for the features of a run.

    Args:
      train: the options.
      announce: takes warnings.
    """

    def __init__(self, train: specs.TrainSpec, *, announce: Callable[[str], None]):
        self._train = train
        self._announce = announce
        self._open = contextlib.ExitStack()
        self._told: set[str] = set()

    def is_worth_keeping(self, layout: shards.Layout, needed: int, *, mode: str) -> bool:
        """Whether features fit, and are worth reading again.

        Args:
          layout: of an example.
          needed: bytes of all.
          mode: "memory" or "disk".

        Returns:
          True if they are.
        """
        is_small = layout.row_bytes <= _MAX_ROW_BYTES or self._train.feature_cache != choosing.AUTO
        return is_small and needed <= self._limit(mode)

    def check_fits(self, layout: shards.Layout, num_examples: int) -> None:
        """Refuses features for which there is no room where --feature_cache wants them.

        Args:
          layout: of an example.
          num_examples: of which features are kept.

        Raises:
          findings.RefusedError: there is less room.
        """
        mode = self._train.feature_cache
        needed, limit = layout.row_bytes * num_examples, self._limit(mode)
        if needed <= limit:
            return
        more = "--feature_cache=disk" if mode == choosing.MEMORY else "a larger --cache_max_gb"
        message = (
            f"--feature_cache={mode} would keep {describe_size(layout, needed)}, and there is "
            f"room for {limit / _GB:.2g} GB. Expected less: freeze more layers, give {more}, or "
            "--feature_cache=off."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--feature_cache"))

    def open_store(
        self,
        name: str,
        layout: shards.Layout,
        digests: np.ndarray,
        *,
        about: Mapping[str, Any],
    ) -> store.FeatureStore:
        """Features on the disk; in memory, with a warning, where there is no room.

        Args:
          name: of the space, from `keys.name_space`.
          layout: of an example.
          digests: uint8 [n, 16] of all examples that are wanted.
          about: facts of a new space.

        Returns:
          The store; on the disk nobody makes room of it until `close`.

        Raises:
          findings.RefusedError: --feature_cache=disk and --cache_dir name a place that has no room,
            or cannot be written.
        """
        root = self._train.cache_dir or ""
        try:
            root = spaces.find_root(self._train.cache_dir)
            limit = self._limit(choosing.DISK)
            for _ in range(2):
                lease = contextlib.ExitStack()
                with disk_room.naming(root):
                    folder = lease.enter_context(spaces.open_space(root, name, about=about))
                kept = store.FeatureStore(
                    layout, folder=folder, announce=self._tell, insists=self._insists
                )
                new = len(kept.find_missing(digests)) * (layout.row_bytes + keys.DIGEST_BYTES)
                taken = spaces.make_room(root, max_bytes=limit - new)
                if taken + new <= limit:
                    self._open.push(lease)
                    self._make_free(root, new, taken=taken)
                    return kept
                # Then what is in the way are features of former data in this very space.
                lease.close()
                spaces.make_room(root, max_bytes=limit - new)
            reason = "--cache_max_gb is taken up by what other runs are using"
        except OSError as error:
            if self._insists:
                raise store.refuse_unwritable(root, error) from error
            reason = str(error.strerror)
        self._tell(f"Warning: features cannot be kept on the disk ({reason}); they stay in memory.")
        return store.FeatureStore(layout, folder=None, announce=self._tell)

    def close(self) -> None:
        """Lets other runs make room."""
        self._open.close()

    def _tell(self, line: str) -> None:
        """Once: each part of a run opens the features anew, and the disk is as full as before."""
        if line not in self._told:
            self._told.add(line)
            self._announce(line)

    @property
    def _insists(self) -> bool:
        """Whether the user wants features in a folder of theirs, and nowhere else."""
        return self._train.feature_cache == choosing.DISK and self._train.cache_dir is not None

    def _make_free(self, root: str, needed: int, *, taken: int) -> None:
        """Removes older features where the disk has no room for new ones; tells before the pass."""
        free = disk_room.find_free_bytes(root)
        if free is None or free >= needed:
            return
        spaces.make_room(root, max_bytes=taken - (needed - free))
        free = disk_room.find_free_bytes(root)
        if self._insists and free is not None and free < needed:
            wanted = f"{disk_room.format_bytes(needed)} wanted"
            reason = f"{wanted}, {disk_room.format_bytes(free)} free"
            raise disk_room.FullDiskError(errno.ENOSPC, f"No space left on device, {reason}", root)

    def _limit(self, mode: str) -> int:
        """Bytes that features may take."""
        if mode == choosing.MEMORY:
            return memory.find_available_bytes() // 2
        return int(self._train.cache_max_gb * _GB)


def describe_size(layout: shards.Layout, num_bytes: int) -> str:
    """Says how large features are.

    Args:
      layout: of an example.
      num_bytes: of all.

    Returns:
      A phrase.
    """
    return f"{num_bytes / _GB:.2g} GB of features ({layout.row_bytes:,} bytes per example)"
