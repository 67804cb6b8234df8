import numpy as np
import pytest

from tf_finetune.data import examples, group_splits, splits

FRACTIONS = (0.8, 0.1, 0.1)


def make_groups(num_groups: int, num_classes: int, seed: int, *, mean: float = 6.0):
    """(group of each example, its tags): groups of very different sizes and classes."""
    random = np.random.default_rng(seed)
    sizes = np.maximum(1, (random.lognormal(0, 0.8, num_groups) * mean).astype(int))
    groups, tags = [], []
    for number, size in enumerate(sizes):
        rates = random.dirichlet(np.full(num_classes, 0.7))
        groups += [f"p{number:04d}"] * int(size)
        tags += [(f"c{name}",) for name in random.choice(num_classes, size, p=rates)]
    return examples.object_array(groups), examples.object_array(tags)


def assign(groups, tags, *, seed=0, fractions=FRACTIONS, **options) -> np.ndarray:
    return group_splits.assign(groups, tags, fractions=fractions, seed=seed, **options)


def splits_of(groups, codes) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for group, code in zip(groups, codes.tolist(), strict=True):
        found.setdefault(group, set()).add(code)
    return found


@pytest.mark.parametrize("seed", range(60))
def test_properties_of_random_cases(seed):
    random = np.random.default_rng(seed)
    num_groups = int(random.integers(1, 40))
    parts = random.dirichlet([4, 1, 1]) * (1, random.random() < 0.8, random.random() < 0.8)
    fractions = tuple(parts / parts.sum())
    groups, tags = make_groups(num_groups, int(random.integers(1, 6)), seed)
    required = frozenset({"c0", "c1"})
    codes = assign(groups, tags, seed=seed, fractions=fractions, required=required)
    # Every example is in one split, every group too.
    assert codes.shape == groups.shape and set(codes.tolist()) <= {0, 1, 2}
    found = splits_of(groups, codes)
    assert all(len(where) == 1 for where in found.values())
    sizes = np.bincount(codes, minlength=3)
    # No split goes without while one could spare a group, and none is filled unasked.
    assert not any(sizes[split] for split in range(3) if fractions[split] == 0)
    assert {tag for (tag,) in tags[codes == 0]} >= required & {tag for (tag,) in tags}
    if num_groups >= 12:
        assert all(sizes[split] for split in range(3) if fractions[split] > 0)
    # No further from the fractions than the largest group is large.
    largest = max(np.unique(groups, return_counts=True)[1])
    assert np.abs(sizes - np.array(fractions) * len(groups)).max() <= largest + 1
    # The order of the rows is nothing.
    order = random.permutation(len(groups))
    again = assign(groups[order], tags[order], seed=seed, fractions=fractions, required=required)
    assert again.tolist() == codes[order].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_known_groups_stay_and_new_examples_follow(seed):
    random = np.random.default_rng(seed)
    groups, tags = make_groups(30, 3, seed)
    is_new = random.random(len(groups)) < 0.3
    before = assign(groups[~is_new], tags[~is_new], seed=seed)
    known = np.full(len(groups), splits.LEFT_OUT, np.int8)
    known[~is_new] = before
    after = assign(groups, tags, seed=seed, known=known)
    assert after[~is_new].tolist() == before.tolist()
    assert all(len(where) == 1 for where in splits_of(groups, after).values())


def test_many_groups_are_near_the_fractions_in_every_class():
    groups, tags = make_groups(400, 5, 0)
    codes = assign(groups, tags)
    assert np.abs(np.bincount(codes) / len(codes) - FRACTIONS).max() < 0.002
    names = np.array([tag for (tag,) in tags])
    for name in np.unique(names):
        parts = np.bincount(codes[names == name], minlength=3) / (names == name).sum()
        assert np.abs(parts - FRACTIONS).max() < 0.01


def test_a_hundredth_more_groups_move_few_others():
    groups, tags = make_groups(400, 4, 1)
    is_old = groups < "p0396"
    before, after = assign(groups[is_old], tags[is_old]), assign(groups, tags)
    moved = np.unique(groups[is_old][before != after[is_old]])
    assert len(moved) < 400 * 0.15
    assert assign(groups, tags, seed=1).tolist() != after.tolist()


def test_classes_of_one_group_each_are_for_training():
    groups = examples.object_array(["a"] * 5 + ["b"] * 5 + ["c"] * 5)
    tags = examples.object_array([(name,) for name in groups])
    required = frozenset("abc")
    assert assign(groups, tags, required=required).tolist() == [0] * 15
    assert np.unique(assign(groups, tags)).tolist() == [0, 1, 2]


def test_golden():
    # A change here silently moves test patients into training for everybody who upgrades.
    groups, tags = make_groups(12, 2, 7, mean=3.0)
    found = splits_of(groups, assign(groups, tags))
    assert [found[f"p{number:04d}"].pop() for number in range(12)] == [
        0,
        0,
        0,
        1,
        0,
        2,
        1,
        0,
        0,
        0,
        0,
        2,
    ]


def test_nothing_is_assigned_to_nothing():
    assert assign(examples.object_array([]), examples.object_array([])).tolist() == []


def test_content_joins_groups():
    groups = examples.object_array(["c", "b", "b", "a", "d", "e"])
    repeats = np.array([0, 1, 0, 3, 3, 5])
    assert group_splits.join_groups(groups, repeats).tolist() == ["b", "b", "b", "a", "a", "e"]
    assert group_splits.join_groups(groups, None) is groups
    chain = examples.object_array([f"{number:02d}" for number in range(50)])
    joined = group_splits.join_groups(chain, np.maximum(np.arange(50) - 1, 0))
    assert set(joined) == {"00"}
