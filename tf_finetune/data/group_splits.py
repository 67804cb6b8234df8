"""Splits that keep groups together: no patient, site or session is in two of them.

One idea: groups are ranked by hash and the ranking is cut, class by class, as single examples are;
then each group in turn may change its split where that brings the parts of the classes nearer to
the fractions. The cut makes the result stable, the changes make it even.

Reference: Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification of Multi-label Data",
https://doi.org/10.1007/978-3-642-23808-6_10 (the rarest class first).
"""

import collections
import dataclasses
import heapq

import numpy as np

from tf_finetune.data import examples, splits

# Two or three rounds settle nearly everything; the bound is for time.
_MAX_ROUNDS = 5
# Sums of floats in another order must not choose another split.
_DIGITS = 9


def join_groups(groups: np.ndarray, repeats: np.ndarray | None) -> np.ndarray:
    """What has to stay together: examples of a group, and examples of the same content.

    Args:
      groups: object [n] of str.
      repeats: int64 [n], row of the first example with the same content; None: all differ.

    Returns:
      object [n] of str: the name of each example's group, of groups that content joins the first.
    """
    if repeats is None:
        return groups
    parents: dict[str, str] = {}

    def find(name: str) -> str:
        root = name
        while parents.get(root, root) != root:
            root = parents[root]
        while parents.get(name, name) != root:
            parents[name], name = root, parents[name]
        return root

    for row, other in enumerate(repeats.tolist()):
        first, second = sorted((find(groups[row]), find(groups[other])))
        parents[second] = first
    return examples.object_array([find(name) for name in groups])


def assign(
    groups: np.ndarray,
    tags: np.ndarray,
    *,
    fractions: tuple[float, float, float],
    seed: int,
    required: frozenset[str] = frozenset(),
    known: np.ndarray | None = None,
) -> np.ndarray:
    """Assigns each group to a split so that each split has its part of the examples of every tag.

    Every split whose fraction is above 0 gets a group where there are enough.

    Args:
      groups: object [n] of str.
      tags: object [n] of tuples of str, each at least one; see `strata.find_tags`.
      fractions: train, validation and test parts of the examples, summing to 1.
      seed: of the ranking.
      required: tags that training must not lack, even if another split stays empty.
      known: int8 [n], TRAIN, VALIDATION, TEST or LEFT_OUT for still unknown; None: all unknown.

    Returns:
      int8 [n], TRAIN, VALIDATION or TEST; what is known stays, and new examples of a group follow
      its first known one.
    """
    if not len(groups):
        return np.empty(0, np.int8)
    names, places = np.unique(groups, return_inverse=True)
    codes = np.full(len(groups), splits.LEFT_OUT, np.int8) if known is None else known
    of_group = np.full(len(names), splits.LEFT_OUT, np.int8)
    rows = np.flatnonzero(codes != splits.LEFT_OUT)[::-1]
    of_group[places[rows]] = codes[rows]  # the last of repeated assignments stays: the first row
    table = _Table.count(places, tags, of_group, fractions=fractions)
    rank = np.argsort(splits.hash_keys(names, seed), kind="stable")
    movable = [group for group in rank.tolist() if of_group[group] == splits.LEFT_OUT]
    _cut(table, movable)
    _even_out(table, movable)
    needed = [number for tag, number in table.numbers.items() if tag in required]
    _cover_training(table, movable, needed)
    _fill_empty(table, movable, needed)
    found = np.array(table.codes, np.int8)[places]
    return np.where(codes == splits.LEFT_OUT, found, codes).astype(np.int8)


@dataclasses.dataclass
class _Table:
    """Examples of each tag, in each group and in each split. Tag 0 is that of every example.

    Attributes:
      numbers: {tag: its number}, from 1.
      counts: for each group {number of a tag: examples}.
      codes: the split of each group, LEFT_OUT while it has none.
      targets: for each tag the examples that each split should have.
      present: for each tag those that it has.
      wanted: splits whose fraction is above 0.
    """

    numbers: dict[str, int]
    counts: list[dict[int, int]]
    codes: list[int]
    targets: list[list[float]]
    present: list[list[int]]
    wanted: list[int]

    @classmethod
    def count(
        cls,
        places: np.ndarray,
        tags: np.ndarray,
        codes: np.ndarray,
        *,
        fractions: tuple[float, float, float],
    ) -> "_Table":
        """The table of some examples; groups whose split is known are in `present`."""
        ordered = sorted({tag for row in tags for tag in row})
        numbers = {tag: number for number, tag in enumerate(ordered, 1)}
        counts: list[dict[int, int]] = [collections.Counter() for _ in codes]
        for group, row in zip(places.tolist(), tags, strict=True):
            counts[group][0] += 1
            for tag in row:
                counts[group][numbers[tag]] += 1
        totals: dict[int, int] = collections.Counter()
        for found in counts:
            totals.update(found)
        targets = [
            [totals[number] * part for part in fractions] for number in range(len(numbers) + 1)
        ]
        wanted = [split for split in range(3) if fractions[split] > 0]
        table = cls(
            numbers,
            counts,
            [splits.LEFT_OUT] * len(counts),
            targets,
            [[0, 0, 0] for _ in targets],
            wanted,
        )
        for group, code in enumerate(codes.tolist()):
            if code != splits.LEFT_OUT:
                table.move(group, code)
        return table

    def move(self, group: int, split: int) -> None:
        """Puts a group into a split, out of the one that it is in."""
        before = self.codes[group]
        for tag, count in self.counts[group].items():
            if before != splits.LEFT_OUT:
                self.present[tag][before] -= count
            self.present[tag][split] += count
        self.codes[group] = split

    def cost(self, group: int, split: int) -> float:
        """What a group adds to the error (chi-square) of a split that does not have it."""
        is_inside = self.codes[group] == split
        cost = 0.0
        for tag, count in self.counts[group].items():
            target = self.targets[tag][split]
            present = self.present[tag][split] - count * is_inside
            cost += count * (2 * (present - target) + count) / target
        return round(cost, _DIGITS)

    def lack(self, tag: int, split: int) -> float:
        """How many examples of a tag a split still lacks."""
        return self.targets[tag][split] - self.present[tag][split]


def _cut(table: _Table, movable: list[int]) -> None:
    """The rarest tag first: its groups in rank, to the first split that lacks half a group."""
    groups_of: dict[int, list[int]] = collections.defaultdict(list)
    num_open: dict[int, int] = collections.Counter()
    for group in movable:
        for tag, count in table.counts[group].items():
            groups_of[tag].append(group)
            num_open[tag] += count
    queue = [(count, tag) for tag, count in num_open.items()]
    heapq.heapify(queue)
    while queue:
        number, tag = heapq.heappop(queue)
        if not number or number != num_open[tag]:
            continue  # an entry from before some of its groups were assigned
        changed = set()
        for group in groups_of[tag]:
            if table.codes[group] != splits.LEFT_OUT:
                continue
            count = table.counts[group][tag]
            fitting = [s for s in table.wanted if table.lack(tag, s) >= count / 2]
            fullest = max(table.wanted, key=lambda s: round(table.lack(tag, s), _DIGITS))
            table.move(group, fitting[0] if fitting else fullest)
            for other, others in table.counts[group].items():
                num_open[other] -= others
                changed.add(other)
        for other in changed:
            heapq.heappush(queue, (num_open[other], other))


def _even_out(table: _Table, movable: list[int]) -> None:
    """Each group in rank to the split where it costs least, as long as something moves."""
    for _ in range(_MAX_ROUNDS):
        has_moved = False
        for group in movable:
            here = table.codes[group]
            costs = {split: table.cost(group, split) for split in table.wanted}
            best = min(costs, key=lambda split: costs[split])
            if costs[best] < costs[here]:
                table.move(group, best)
                has_moved = True
        if not has_moved:
            return


def _cover_training(table: _Table, movable: list[int], needed: list[int]) -> None:
    """Gives training the group of a tag that it lacks for which this costs least."""
    for tag in needed:
        holders = [group for group in movable if tag in table.counts[group]]
        if holders and not table.present[tag][splits.TRAIN]:
            table.move(_cheapest(table, holders, splits.TRAIN), splits.TRAIN)


def _fill_empty(table: _Table, movable: list[int], needed: list[int]) -> None:
    """Gives a split without example the group that costs least, if no other is spoilt."""
    for split in table.wanted:
        if table.present[0][split]:
            continue
        num_groups = collections.Counter(table.codes)
        able = [
            group
            for group in movable
            if num_groups[table.codes[group]] > 1
            and not (table.codes[group] == splits.TRAIN and _leaves_gap(table, group, needed))
        ]
        if able:
            table.move(_cheapest(table, able, split), split)


def _leaves_gap(table: _Table, group: int, needed: list[int]) -> bool:
    counts = table.counts[group]
    return any(tag in counts and table.present[tag][splits.TRAIN] == counts[tag] for tag in needed)


def _cheapest(table: _Table, groups: list[int], split: int) -> int:
    return min(groups, key=lambda g: table.cost(g, split) - table.cost(g, table.codes[g]))
