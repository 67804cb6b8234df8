"""Which example is for training, validation or test.

One idea: an example's place follows from (seed, key) alone. Per class, keys are ranked by a hash
and the ranking is cut, so that the order of files on a disk, other classes and the number of
examples read before change nothing.
"""

import hashlib
import math
from collections.abc import Iterator

import numpy as np

TRAIN, VALIDATION, TEST = range(3)
LEFT_OUT = -1
_CHUNK_ROWS = 2**14


def plan_fractions(
    fractions: tuple[float, ...], *, own: frozenset[int], given: frozenset[int]
) -> tuple[float, float, float]:
    """The fractions for examples whose split is still open.

    Args:
      fractions: train, validation and test parts of --split, summing to 1.
      own: splits that the data brings in folders of its own; the others keep their ratio.
      given: splits that --validation_data and --test_data provide; their part goes to train.

    Returns:
      Train, validation and test parts that sum to 1; 0 for every split of `own` and `given`
      except train.
    """
    parts = list(fractions)
    for split in given:
        parts[TRAIN] += parts[split]
        parts[split] = 0.0
    for split in own - {TRAIN}:
        parts[split] = 0.0
    total = sum(parts)
    return parts[TRAIN] / total, parts[VALIDATION] / total, parts[TEST] / total


def assign(
    keys: np.ndarray,
    strata: np.ndarray,
    *,
    fractions: tuple[float, float, float],
    seed: int,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """Assigns each example to a split, stratified.

    In each stratum the counts are the fractions' largest remainders, with at least one example for
    training, and from 3 examples on at least one for each split whose fraction is above 0. The
    keys first in rank go to training. Known assignments stay; new examples fill what they lack.

    Args:
      keys: object [n] of str, sorted and unique.
      strata: object [n], what tells the class of each example: str, or tuples of str.
      fractions: train, validation and test parts, summing to 1.
      seed: of the ranking.
      known: int8 [n], TRAIN, VALIDATION, TEST or LEFT_OUT for still unknown; None: all unknown.

    Returns:
      int8 [n], TRAIN, VALIDATION or TEST.

    Reference:
      Largest remainder method: Hamilton, 1792, https://en.wikipedia.org/wiki/Quota_method.
    """
    codes = np.full(len(keys), LEFT_OUT, np.int8) if known is None else known.copy()
    for rows in _group_by_rank(keys, strata, seed):
        targets = count_parts(len(rows), fractions)
        new = rows[codes[rows] == LEFT_OUT]
        if len(new) < len(rows):
            present = np.bincount(codes[rows][codes[rows] != LEFT_OUT], minlength=3)
            targets = fill_up(len(new), targets=targets, present=present)
        codes[new] = np.repeat(np.arange(3, dtype=np.int8), targets)
    return codes


def follow(codes: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    """Puts examples of the same content into one split, where one of them has a split already.

    Args:
      codes: int8 [n], TRAIN, VALIDATION, TEST or LEFT_OUT for still unknown.
      repeats: int64 [n], row of the first example with the same content.

    Returns:
      int8 [n]: what is known stays; what is unknown takes the code of the first that is known.
    """
    known = np.flatnonzero(codes != LEFT_OUT)
    of_group = np.full(len(codes), LEFT_OUT, np.int8)
    # The last of repeated assignments stays: so in reverse, for the first.
    of_group[repeats[known[::-1]]] = codes[known[::-1]]
    return np.where(codes == LEFT_OUT, of_group[repeats], codes)


def limit_per_class(
    codes: np.ndarray,
    keys: np.ndarray,
    labels: np.ndarray,
    *,
    limit: int,
    seed: int,
    rest: int,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """Few-shot: keeps the first `limit` examples of each class for training and for validation.

    First in rank, so that 5 of a class are among the 10 of a larger limit. Of several classes, one
    for which an example is among the first keeps it: each class has its `limit`, or all it has,
    and one that others bring along has more.

    Args:
      codes: int8 [n] of `assign`.
      keys: object [n] of str, sorted and unique.
      labels: object [n] of str, or of tuples of str, the classes of each example.
      limit: examples per class, at least 1.
      seed: of the ranking.
      rest: TEST or LEFT_OUT, where the others go.
      known: int8 [n] as in `assign`; what is known is kept before what is new.

    Returns:
      int8 [n], a copy.
    """
    order = np.argsort(hash_keys(keys, seed), kind="stable")
    if known is not None:
        order = order[np.argsort(known[order] == LEFT_OUT, kind="stable")]
    counts: dict[tuple[int, str], int] = {}
    limited = codes.copy()
    for row in order.tolist():
        split = int(codes[row])
        if split not in (TRAIN, VALIDATION):
            continue
        names = labels[row] if isinstance(labels[row], tuple) else (labels[row],)
        places = [counts.get((split, name), 0) for name in names]
        counts.update({(split, name): at + 1 for name, at in zip(names, places, strict=True)})
        if min(places) >= limit:
            limited[row] = rest
    return limited


def count_parts(total: int, fractions: tuple[float, float, float]) -> np.ndarray:
    """How many of a class's examples each split gets.

    Args:
      total: examples of the class.
      fractions: train, validation and test parts, summing to 1.

    Returns:
      int64 [3], summing to `total`.
    """
    counts = _largest_remainder(total, fractions)
    wanted = [TRAIN] if total < 3 else [split for split in range(3) if fractions[split] > 0]
    for split in wanted:
        if total and not counts[split]:
            counts[np.argmax(counts)] -= 1
            counts[split] += 1
    return counts


def fill_up(total: int, *, targets: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Shares out new examples so that the splits come near their targets.

    Args:
      total: new examples, at most what the targets lack.
      targets: int64 [3], examples that each split should have in the end.
      present: int64 [3], examples that it has already.

    Returns:
      int64 [3], summing to `total`.
    """
    lacking = np.maximum(targets - present, 0)
    if lacking.sum() <= total:
        return lacking
    return _largest_remainder(total, tuple(lacking / lacking.sum()))


def hash_keys(keys: np.ndarray, seed: int) -> np.ndarray:
    """The numbers that keys are ranked by.

    Args:
      keys: object [n] of str.
      seed: any whole number.

    Returns:
      uint64 [n], the same in every process and for every order of the keys.
    """
    # Python's own hash differs between processes; blake2b is fast and keyed by the seed.
    start = hashlib.blake2b(digest_size=8, key=str(seed).encode())
    hashes = np.empty(len(keys), np.uint64)
    for first in range(0, len(keys), _CHUNK_ROWS):
        digests = bytearray()
        for key in keys[first : first + _CHUNK_ROWS]:
            digest = start.copy()
            digest.update(key.encode())
            digests += digest.digest()
        hashes[first : first + _CHUNK_ROWS] = np.frombuffer(digests, ">u8")
    return hashes


def _group_by_rank(keys: np.ndarray, strata: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """The rows of each stratum, in rank; strata in the order of their names."""
    names = {name: number for number, name in enumerate(sorted(set(strata)))}
    numbers = np.fromiter((names[name] for name in strata), np.int32, len(strata))
    hashes = hash_keys(keys, seed)
    # One stratum after the other: ranking all at once takes three times the memory.
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers, minlength=len(names))).tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        rows = order[start:end]
        yield rows[np.argsort(hashes[rows], kind="stable")]


def _largest_remainder(total: int, fractions: tuple[float, ...]) -> np.ndarray:
    # Rounded, because 0.1 * 30 is 3.0000000000000004 and must not win a remainder.
    quotas = [round(total * fraction, 9) for fraction in fractions]
    counts = np.array([math.floor(quota) for quota in quotas])
    remainders = [round(quota % 1, 9) for quota in quotas]
    for split in np.argsort([-remainder for remainder in remainders], kind="stable"):
        if counts.sum() < total:
            counts[split] += 1
    return counts
