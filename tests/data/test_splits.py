import numpy as np
import pytest

from tf_finetune.data import examples, splits

DEFAULT = (0.8, 0.1, 0.1)


def make_keys(total: int, label: str) -> np.ndarray:
    return examples.object_array([f"{label}/{number:05d}.jpg" for number in range(total)])


def make_data(**totals: int) -> tuple[np.ndarray, np.ndarray]:
    keys = np.concatenate([make_keys(total, label) for label, total in sorted(totals.items())])
    return keys, examples.object_array([key.split("/")[0] for key in keys])


def assign(keys, labels, *, seed=0, fractions=DEFAULT, known=None) -> dict[str, int]:
    codes = splits.assign(keys, labels, fractions=fractions, seed=seed, known=known)
    return dict(zip(keys, codes.tolist(), strict=True))


@pytest.mark.parametrize(
    ("total", "fractions", "expected"),
    [
        (0, DEFAULT, [0, 0, 0]),
        (1, DEFAULT, [1, 0, 0]),
        (2, DEFAULT, [2, 0, 0]),
        (3, DEFAULT, [1, 1, 1]),
        (4, DEFAULT, [2, 1, 1]),
        (5, DEFAULT, [3, 1, 1]),
        (10, DEFAULT, [8, 1, 1]),
        (15, DEFAULT, [12, 2, 1]),
        (30, DEFAULT, [24, 3, 3]),
        (206, DEFAULT, [165, 21, 20]),
        (10, (0.9, 0.1, 0.0), [9, 1, 0]),
        (3, (0.9, 0.1, 0.0), [2, 1, 0]),
        (3, (0.9, 0.0, 0.1), [2, 0, 1]),
        (3, (1.0, 0.0, 0.0), [3, 0, 0]),
        (1, (0.1, 0.1, 0.8), [1, 0, 0]),
        (3, (0.05, 0.05, 0.9), [1, 1, 1]),
        (100, (0.29, 0.01, 0.7), [29, 1, 70]),
    ],
)
def test_count_parts_by_hand(total, fractions, expected):
    assert splits.count_parts(total, fractions).tolist() == expected


def test_assign_is_stratified():
    keys, labels = make_data(cat=100, dog=37, owl=3)
    codes = splits.assign(keys, labels, fractions=DEFAULT, seed=0)
    counts = {
        name: np.bincount(codes[labels == name], minlength=3).tolist()
        for name in ("cat", "dog", "owl")
    }
    assert counts == {"cat": [80, 10, 10], "dog": [29, 4, 4], "owl": [1, 1, 1]}


def test_assign_follows_the_seed_and_nothing_else():
    keys, labels = make_data(cat=50, dog=50)
    first = assign(keys, labels)
    assert assign(keys, labels) == first
    assert assign(keys, labels, seed=1) != first
    # Another class beside it moves no example.
    more_keys, more_labels = make_data(ant=20, cat=50, dog=50)
    assert {key: assign(more_keys, more_labels)[key] for key in keys} == first


def test_nothing_is_assigned_to_nothing():
    assert assign(*make_data(cat=0)) == {}


def test_assign_golden():
    # A change here silently moves test examples into training for everybody who upgrades.
    keys, labels = make_data(cat=10)
    codes = splits.assign(keys, labels, fractions=DEFAULT, seed=0)
    assert codes.tolist() == [1, 0, 2, 0, 0, 0, 0, 0, 0, 0]


def test_assign_gives_the_first_in_rank_to_training():
    keys, labels = make_data(cat=40)
    small = assign(keys, labels, fractions=(0.25, 0.25, 0.5))
    large = assign(keys, labels, fractions=(0.5, 0.25, 0.25))
    train_of_small = {key for key, code in small.items() if code == splits.TRAIN}
    assert all(large[key] == splits.TRAIN for key in train_of_small)


def test_known_examples_stay_when_others_come():
    keys, labels = make_data(cat=50)
    before = assign(keys, labels)
    keys, labels = make_data(cat=120)
    known = np.array([before.get(key, splits.LEFT_OUT) for key in keys], np.int8)
    after = assign(keys, labels, known=known)
    assert {key: after[key] for key in before} == before
    assert np.bincount(list(after.values())).tolist() == [96, 12, 12]


def test_known_examples_stay_when_others_go():
    keys, labels = make_data(cat=50)
    before = assign(keys, labels)
    keys, labels = keys[10:], labels[10:]
    known = np.array([before[key] for key in keys], np.int8)
    assert assign(keys, labels, known=known) == {key: before[key] for key in keys}


def test_new_examples_share_what_lacks_when_a_split_is_too_full():
    keys, labels = make_data(cat=20)
    known = np.array([splits.TEST] * 10 + [splits.LEFT_OUT] * 10, np.int8)
    codes = splits.assign(keys, labels, fractions=(0.5, 0.25, 0.25), seed=0, known=known)
    assert np.bincount(codes).tolist() == [7, 3, 10]


def test_limit_keeps_few_of_each_class_and_sends_the_rest_to_test():
    keys, labels = make_data(cat=50, dog=30)
    codes = splits.assign(keys, labels, fractions=DEFAULT, seed=0)
    limited = {
        limit: splits.limit_per_class(codes, keys, labels, limit=limit, seed=0, rest=splits.TEST)
        for limit in (2, 4, 100)
    }
    assert np.bincount(limited[2][labels == "cat"]).tolist() == [2, 2, 46]
    assert np.bincount(limited[2][labels == "dog"]).tolist() == [2, 2, 26]
    assert np.array_equal(limited[100], codes)
    assert set(keys[limited[2] == 0]) < set(keys[limited[4] == 0])
    left_out = splits.limit_per_class(codes, keys, labels, limit=2, seed=0, rest=splits.LEFT_OUT)
    assert (left_out == splits.LEFT_OUT).sum() == 38 + 3 + 22 + 1


def test_limit_prefers_known_examples():
    keys, labels = make_data(cat=30)
    known = np.full(30, splits.LEFT_OUT, np.int8)
    known[[3, 17]] = splits.TRAIN
    codes = splits.assign(keys, labels, fractions=DEFAULT, seed=0, known=known)
    limited = splits.limit_per_class(
        codes, keys, labels, limit=2, seed=0, rest=splits.TEST, known=known
    )
    assert np.flatnonzero(limited == splits.TRAIN).tolist() == [3, 17]


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [
        ((), (), (0.8, 0.1, 0.1)),
        ((), (1,), (0.9, 0.0, 0.1)),
        ((), (1, 2), (1.0, 0.0, 0.0)),
        ((0, 2), (), (8 / 9, 1 / 9, 0.0)),
        ((0, 1, 2), (), (1.0, 0.0, 0.0)),
        ((0, 2), (1,), (1.0, 0.0, 0.0)),
    ],
)
def test_plan_fractions(own, given, expected):
    parts = splits.plan_fractions(DEFAULT, own=frozenset(own), given=frozenset(given))
    assert parts == pytest.approx(expected)


def test_limit_keeps_the_first_of_every_class():
    keys = make_keys(60, "x")
    labels = examples.object_array(
        [("a", "b") if n % 3 == 0 else ("a",) if n % 3 == 1 else ("",) for n in range(60)]
    )
    codes = np.full(60, splits.TRAIN, np.int8)
    kept = {}
    for limit in (1, 4, 9):
        limited = splits.limit_per_class(codes, keys, labels, limit=limit, seed=3, rest=splits.TEST)
        kept[limit] = np.flatnonzero(limited == splits.TRAIN).tolist()
        counts = {name: sum(name in labels[row] for row in kept[limit]) for name in ("a", "b", "")}
        # "b" is filled with examples that are "a" too, which has more than its limit then.
        assert counts["b"] == counts[""] == limit <= counts["a"] <= 2 * limit
    assert set(kept[1]) < set(kept[4]) < set(kept[9])


def test_many_keys_are_cut_exactly():
    keys = examples.object_array([f"c{number % 100:02d}/{number:06d}" for number in range(200_000)])
    labels = examples.object_array([key[:3] for key in keys])
    order = np.argsort(keys)
    codes = splits.assign(keys[order], labels[order], fractions=DEFAULT, seed=0)
    assert np.bincount(codes).tolist() == [160_000, 20_000, 20_000]
