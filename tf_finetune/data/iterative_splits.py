"""Splits of examples that have several classes each, or labels of several heads.

One idea: the rarest class is shared out first, while every split can still get its part of it, and
the next one takes into account what came along. Unlike the algorithm referred to, which gives one
example after the other to the split that lacks most, a class's examples are ranked by hash and
the ranking is cut: the error of the label distribution is the same, and a hundredth more examples
move one or two of a hundred others instead of sixteen.

Reference: Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification of Multi-label Data",
https://doi.org/10.1007/978-3-642-23808-6_10.
"""

import heapq

import numpy as np

from tf_finetune.data import splits


def assign(
    keys: np.ndarray,
    tags: np.ndarray,
    *,
    fractions: tuple[float, float, float],
    seed: int,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """Assigns each example to a split so that each has its part of every tag.

    Where each example has one tag, the splits are those of `splits.assign`.

    Args:
      keys: object [n] of str, sorted and unique.
      tags: object [n] of tuples of str, each at least one.
      fractions: train, validation and test parts, summing to 1.
      seed: of the ranking.
      known: int8 [n], TRAIN, VALIDATION, TEST or LEFT_OUT for still unknown; None: all unknown.

    Returns:
      int8 [n], TRAIN, VALIDATION or TEST; what is known stays.
    """
    codes = np.full(len(keys), splits.LEFT_OUT, np.int8) if known is None else known.copy()
    numbers = {tag: number for number, tag in enumerate(sorted({t for row in tags for t in row}))}
    tags_of = [[numbers[tag] for tag in row] for row in tags]
    rows_of: list[list[int]] = [[] for _ in numbers]
    for row in np.argsort(splits.hash_keys(keys, seed), kind="stable").tolist():
        for tag in tags_of[row]:
            rows_of[tag].append(row)
    present = np.zeros((len(numbers), 3), np.int64)
    for row in np.flatnonzero(codes != splits.LEFT_OUT):
        present[tags_of[row], codes[row]] += 1
    num_open = [len(rows) - int(present[tag].sum()) for tag, rows in enumerate(rows_of)]
    queue = [(count, tag) for tag, count in enumerate(num_open)]
    heapq.heapify(queue)
    while queue:
        count, tag = heapq.heappop(queue)
        if not count or count != num_open[tag]:
            continue  # an entry from before some of its examples were assigned
        new = [row for row in rows_of[tag] if codes[row] == splits.LEFT_OUT]
        targets = splits.count_parts(len(rows_of[tag]), fractions)
        codes[new] = np.repeat(np.arange(3, dtype=np.int8), _share(count, targets, present[tag]))
        changed = set()
        for row in new:
            present[tags_of[row], codes[row]] += 1
            for other in tags_of[row]:
                num_open[other] -= 1
                changed.add(other)
        for other in changed:
            heapq.heappush(queue, (num_open[other], other))
    return codes


def _share(total: int, targets: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Parts of the new examples of a tag; training gets one if it has none yet."""
    parts = splits.fill_up(total, targets=targets, present=present)
    if not parts[splits.TRAIN] and not present[splits.TRAIN]:
        parts[np.argmax(parts)] -= 1
        parts[splits.TRAIN] += 1
    return parts
