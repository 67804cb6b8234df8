import numpy as np
import pytest

from tf_finetune.data import examples, iterative_splits, splits

FRACTIONS = (0.8, 0.1, 0.1)


def make_keys(total: int) -> np.ndarray:
    return examples.object_array([f"{number:05d}" for number in range(total)])


def make_tags(total: int, num_classes: int, seed: int) -> np.ndarray:
    """Classes of falling frequency that come along with each other, ("",) for none."""
    random = np.random.default_rng(seed)
    rates = np.minimum(1.2 / np.arange(1, num_classes + 1) ** 1.2, 0.5)
    mood = random.normal(size=(total, 1)) * 0.8
    odds = np.log(rates / (1 - rates)) + mood * np.where(np.arange(num_classes) % 2, 1, -1)
    present = random.random((total, num_classes)) < 1 / (1 + np.exp(-odds))
    return examples.object_array(
        [tuple(f"c{number:02d}" for number in np.flatnonzero(row)) or ("",) for row in present]
    )


def assign(tags, *, seed=0, known=None, fractions=FRACTIONS) -> np.ndarray:
    return iterative_splits.assign(
        make_keys(len(tags)), tags, fractions=fractions, seed=seed, known=known
    )


def count_tags(codes, tags) -> dict[str, np.ndarray]:
    counts: dict[str, np.ndarray] = {}
    for code, row in zip(codes, tags, strict=True):
        for tag in row:
            counts.setdefault(tag, np.zeros(3, int))[code] += 1
    return counts


def label_error(codes, tags) -> float:
    """Mean distance, in examples, of each split's part of a class from what it should have."""
    counts = np.array(list(count_tags(codes, tags).values()))
    return float(np.abs(counts - counts.sum(axis=1, keepdims=True) * FRACTIONS).mean())


@pytest.mark.parametrize("seed", range(4))
def test_one_tag_each_is_split_as_classes_are(seed):
    random = np.random.default_rng(seed)
    names = examples.object_array([f"c{n}" for n in random.integers(0, 1 + 9 * seed, 80)])
    tags = examples.object_array([(name,) for name in names])
    known = None
    if seed % 2:
        known = random.integers(-1, 3, 80).astype(np.int8)
        known[0:60] = splits.LEFT_OUT
        known[names == "c3"] = splits.LEFT_OUT
    expected = splits.assign(make_keys(80), names, fractions=FRACTIONS, seed=seed, known=known)
    got = assign(tags, seed=seed, known=known)
    if known is None:
        assert got.tolist() == expected.tolist()
    else:  # the same but for a class of which all known examples are outside of training
        for name in set(names):
            rows = names == name
            if (known[rows] == splits.TRAIN).any() or (known[rows] == splits.LEFT_OUT).all():
                assert got[rows].tolist() == expected[rows].tolist()


def test_every_class_has_its_part_in_every_split():
    for seed in range(3):
        tags = make_tags(1500, 20, seed)
        codes = assign(tags, seed=seed)
        assert np.abs(np.bincount(codes, minlength=3) / 1500 - FRACTIONS).max() < 0.01
        counts = count_tags(codes, tags)
        assert all(parts.min() > 0 for parts in counts.values() if parts.sum() >= 5)
        # The rarest class alone as stratum, which was the rule before: two to three examples.
        assert label_error(codes, tags) < 0.8


def test_it_is_better_than_the_rarest_class_as_stratum():
    tags = make_tags(1500, 20, 0)
    counts = {tag: parts.sum() for tag, parts in count_tags(np.zeros(1500, int), tags).items()}
    rarest = examples.object_array([min(row, key=lambda tag: (counts[tag], tag)) for row in tags])
    codes = splits.assign(make_keys(1500), rarest, fractions=FRACTIONS, seed=0)
    assert label_error(assign(tags), tags) < label_error(codes, tags) / 2


def test_a_hundredth_more_examples_move_few_others():
    tags = make_tags(1500, 20, 1)
    before, after = assign(tags[:1485]), assign(tags)
    assert (before != after[:1485]).mean() < 0.04


def test_known_examples_stay():
    tags = make_tags(600, 8, 2)
    before = assign(tags[:500])
    known = np.full(600, splits.LEFT_OUT, np.int8)
    known[:500] = before
    after = assign(tags, known=known)
    assert after[:500].tolist() == before.tolist()
    assert np.abs(np.bincount(after, minlength=3) / 600 - FRACTIONS).max() < 0.025
    assert np.bincount(after[500:], minlength=3).min() > 3


def test_the_order_of_names_changes_nothing_and_the_seed_does():
    tags = make_tags(200, 6, 3)
    turned = examples.object_array([row[::-1] for row in tags])
    assert assign(tags).tolist() == assign(turned).tolist()
    assert assign(tags).tolist() != assign(tags, seed=1).tolist()


def test_training_gets_the_only_open_example_of_a_class():
    tags = examples.object_array([("a",)] * 8 + [("a", "b")] * 5)
    known = np.full(13, splits.LEFT_OUT, np.int8)
    known[8:12] = splits.TEST
    assert assign(tags, known=known)[12] == splits.TRAIN


def test_a_split_without_fraction_stays_empty():
    codes = assign(make_tags(100, 5, 0), fractions=(0.5, 0.5, 0.0))
    assert np.bincount(codes, minlength=3)[2] == 0
    assert assign(examples.object_array([])).tolist() == []
