"""Features by the digest of what they were made of, in shards on the disk or in memory.

One idea: a store does not know splits, orders or epochs. It is asked for digests, says which are
missing, takes them as they are computed, and gives rows back in whatever order is wanted.
"""

import os
import time
from collections.abc import Callable, Mapping

import numpy as np

from tf_finetune import disk_room, findings
from tf_finetune.data import loaders
from tf_finetune.feature_cache import keys, shards

_MAX_SHARD_BYTES = 64 * 2**20
# What a killed run has to repeat; longer in long passes, so that a million examples are not
# thousands of files.
_FLUSH_SECS, _FLUSH_PART = 5.0, 0.02
_DIGEST = f"S{keys.DIGEST_BYTES}"


class _Block:
    """Features that are kept in memory, with the digests of their examples."""

    def __init__(self, digests: np.ndarray, arrays: dict[str, np.ndarray]):
        self.digests = digests
        self.arrays = arrays


class FeatureStore:
    """The features of one prefix.

    Args:
      layout: what a row is.
      folder: of the space; None: in memory only.
      announce: takes a line where something is noticed.
      insists: features that cannot be kept in the folder end the run; else they stay in memory.
    """

    def __init__(
        self,
        layout: shards.Layout,
        *,
        folder: str | None,
        announce: Callable[[str], None],
        insists: bool = False,
    ):
        self.layout = layout
        self._insists = insists
        self._folder = folder
        self._announce = announce
        self._blocks: list[shards.Shard | _Block] = []
        self._waiting: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        self._waiting_bytes = 0
        self._start = self._flushed = time.monotonic()
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None
        self.look_again()

    @property
    def is_kept(self) -> bool:
        """Whether features outlive the run."""
        return self._folder is not None

    @property
    def folder(self) -> str | None:
        """Where features are kept; None: in memory."""
        return self._folder

    def look_again(self) -> None:
        """Finds what is in the folder, whoever has put it there."""
        if self._folder is None:
            return
        found, damaged = shards.find_shards(self._folder, self.layout)
        self._blocks, self._sorted = list(found), None
        if damaged:
            count = "1 damaged file" if len(damaged) == 1 else f"{len(damaged)} damaged files"
            self._announce(f"Feature cache: {count} removed, those features are computed again.")

    def find_missing(self, digests: np.ndarray) -> np.ndarray:
        """Examples whose features are not there.

        Args:
          digests: uint8 [n, 16].

        Returns:
          int64 [k], increasing: of equal examples the first.
        """
        names = _as_names(digests)
        block, _ = self._locate(names)
        missing = np.flatnonzero(block < 0)
        _, first = np.unique(names[missing], return_index=True)
        return np.sort(missing[first])

    def add(self, digests: np.ndarray, features: Mapping[str, np.ndarray]) -> None:
        """Takes the features of some examples; writes them out now and then.

        Args:
          digests: uint8 [b, 16].
          features: {name: [b, ...]} of the layout.
        """
        arrays = {name: features[name] for name in self.layout.shapes}
        self._waiting.append((digests, arrays))
        self._waiting_bytes += len(digests) * self.layout.row_bytes
        now = time.monotonic()
        secs = max(_FLUSH_SECS, _FLUSH_PART * (now - self._start))
        if self._waiting_bytes >= _MAX_SHARD_BYTES or now - self._flushed >= secs:
            self.flush()

    def flush(self) -> None:
        """Makes what was added safe, and findable.

        Raises:
          findings.RefusedError: it cannot be kept on the disk, on which somebody insists.
        """
        self._flushed = time.monotonic()
        if not self._waiting:
            return
        digests = np.concatenate([part for part, _ in self._waiting])
        arrays = {
            name: np.concatenate([part[name] for _, part in self._waiting])
            for name in self.layout.shapes
        }
        self._waiting, self._waiting_bytes, self._sorted = [], 0, None
        if self._folder is not None:
            try:
                self._blocks.append(shards.write_shard(self._folder, digests, arrays, self.layout))
                return
            except OSError as error:
                if self._insists:
                    raise refuse_unwritable(self._folder, error) from error
                # The features are there: losing an hour's pass for a full disk helps nobody.
                self._folder = None
                self._announce(
                    f"Warning: features cannot be kept on the disk ({error.strerror}): from here "
                    "on they stay in memory, and the next run computes them again."
                )
        self._blocks.append(_Block(digests, arrays))

    def read(self, digests: np.ndarray) -> dict[str, np.ndarray]:
        """Features in memory.

        Args:
          digests: uint8 [n, 16], all of them in the store.

        Returns:
          {name: [n, ...]}, in memory that TensorFlow can use as it is.
        """
        blocks, rows = self._locate(_as_names(digests))
        found = {}
        for name, shape in self.layout.shapes.items():
            dtype = shards.dtype_of(self.layout.dtypes[name])
            array = loaders.make_aligned((len(digests), *shape), dtype)
            for number in np.unique(blocks):
                chosen = np.flatnonzero(blocks == number)
                array[chosen] = self._open(int(number), name)[rows[chosen]]
            found[name] = array
        return found

    def make_reader(self, digests: np.ndarray) -> Callable[[np.ndarray], list[np.ndarray]]:
        """A function that reads some rows from the disk and keeps none.

        Args:
          digests: uint8 [n, 16], all of them in the store.

        Returns:
          Function of positions (int64 [b], 0 to n - 1) to a list of [b, ...], in the layout's
          order.
        """
        blocks, rows = self._locate(_as_names(digests))

        def read(positions: np.ndarray) -> list[np.ndarray]:
            return [
                np.stack(
                    [
                        self._read_row(int(blocks[position]), int(rows[position]), name)
                        for position in positions
                    ]
                )
                for name in self.layout.shapes
            ]

        return read

    def _locate(self, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(number of the block or -1, row in it) of each name."""
        if self._sorted is None:
            every = [_as_names(block.digests) for block in self._blocks]
            sizes = [len(part) for part in every]
            joined = np.concatenate(every) if every else np.empty(0, _DIGEST)
            order = np.argsort(joined, kind="stable")
            places = np.stack(
                [
                    np.repeat(np.arange(len(sizes)), sizes),
                    np.concatenate([np.arange(size) for size in sizes] or [np.empty(0, int)]),
                ],
                axis=1,
            ).astype(np.int64)
            self._sorted = joined[order], places[order]
        known, places = self._sorted
        if not len(known):
            return np.full(len(names), -1), np.zeros(len(names), np.int64)
        place = np.minimum(np.searchsorted(known, names), len(known) - 1)
        found = known[place] == names
        return np.where(found, places[place, 0], -1), places[place, 1]

    def _open(self, number: int, name: str) -> np.ndarray:
        block = self._blocks[number]
        if isinstance(block, _Block):
            return block.arrays[name]
        shape = (len(block.digests), *self.layout.shapes[name])
        dtype = shards.dtype_of(self.layout.dtypes[name])
        return np.memmap(block.path, dtype, "r", block.offsets[name], shape)

    def _read_row(self, number: int, row: int, name: str) -> np.ndarray:
        block = self._blocks[number]
        if isinstance(block, _Block):
            return block.arrays[name][row]
        shape, dtype = self.layout.shapes[name], shards.dtype_of(self.layout.dtypes[name])
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        # Not mapped: what is mapped counts as this process's memory.
        descriptor = os.open(block.path, os.O_RDONLY)
        try:
            content = os.pread(descriptor, size, block.offsets[name] + row * size)
        finally:
            os.close(descriptor)
        return np.frombuffer(content, dtype).reshape(shape)


def refuse_unwritable(folder: str, error: OSError) -> findings.RefusedError:
    """What a user is told who insists on a folder that features cannot be kept in.

    Args:
      folder: of features.
      error: what came of the attempt.

    Returns:
      The error to raise.
    """
    advice = "Choose a --cache_dir that you may write"
    if isinstance(error, disk_room.FullDiskError):
        advice = (
            "What was kept before is whole: make room there and run the same command again, which "
            "computes the rest"
        )
    message = (
        f"--feature_cache=disk: features cannot be kept in {findings.one_line(folder)}: "
        f"{error.strerror}. {advice}. --feature_cache=auto would go on in memory."
    )
    return findings.RefusedError(findings.Problem(message, path=folder, flag="--cache_dir"))


def _as_names(digests: np.ndarray) -> np.ndarray:
    # NumPy sorts and compares texts of bytes; that it drops zeros at their end makes no two equal.
    return np.ascontiguousarray(digests).view(_DIGEST).reshape(-1)
