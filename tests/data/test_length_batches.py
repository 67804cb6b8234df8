"""Batches of like length: what is in them, in which order, and how little padding they have."""

import numpy as np
import tensorflow as tf

from tf_finetune.data import length_batches, text_store

LENGTHS = np.random.default_rng(0).integers(3, 90, 1003).astype(np.int32)


def group(order, *, batch_size):
    positions = tf.data.Dataset.from_tensor_slices(np.asarray(order, np.int64))
    grouped = length_batches.group_positions(positions, LENGTHS, batch_size=batch_size)
    return np.fromiter(grouped.as_numpy_iterator(), np.int64)


def padded(order, *, batch_size):
    return sum(
        LENGTHS[order[start : start + batch_size]].max() * batch_size
        for start in range(0, len(order), batch_size)
    )


def test_each_position_once_and_little_padding():
    order = np.random.default_rng(1).permutation(len(LENGTHS))
    grouped = group(order, batch_size=8)
    assert sorted(grouped) == list(range(len(LENGTHS)))
    assert padded(order, batch_size=8) > 1.6 * LENGTHS.sum()
    assert padded(grouped, batch_size=8) < 1.1 * LENGTHS.sum()


def test_windows_are_kept_apart_and_their_batches_shuffled():
    order = np.random.default_rng(2).permutation(len(LENGTHS))
    grouped = group(order, batch_size=8)
    size = text_store.WINDOW_BATCHES * 8
    for start in range(0, len(order), size):
        assert set(grouped[start : start + size]) == set(order[start : start + size])
    longest = LENGTHS[grouped[:size]].reshape(-1, 8).max(axis=1)
    steps = np.diff(longest)
    assert (steps > 0).sum() > 15 and (steps < 0).sum() > 15


def test_the_rest_is_of_any_length():
    order = np.random.default_rng(3).permutation(len(LENGTHS))
    grouped = group(order, batch_size=100)
    assert grouped[-3:].tolist() == order[-3:].tolist()
    assert group(order[:5], batch_size=8).tolist() == order[:5].tolist()
    assert group([], batch_size=8).tolist() == []


def test_the_same_order_gives_the_same_batches_and_another_others():
    orders = [np.random.default_rng(seed).permutation(len(LENGTHS)) for seed in (4, 4, 5)]
    first, again, other = (group(order, batch_size=8) for order in orders)
    assert first.tolist() == again.tolist() != other.tolist()
    companions = [set(map(frozenset, grouped[:1000].reshape(-1, 8))) for grouped in (first, other)]
    assert len(companions[0] & companions[1]) < 5


def test_a_text_takes_every_place_alike():
    # Where the longest of 400 texts comes among 50 batches of 8, in 150 windows.
    generator = np.random.default_rng(0)
    orders = np.concatenate([generator.permutation(400) for _ in range(150)])
    grouped = group(orders, batch_size=8).reshape(150, 400)
    places = np.argmax(grouped == int(LENGTHS[:400].argmax()), axis=1) // 40
    counts = np.bincount(places, minlength=10)
    assert ((counts - 15) ** 2 / 15).sum() < 27.9  # 9 degrees of freedom, p = 0.001


def test_rows_sorted_by_length():
    assert text_store.sort_by_length(np.array([2, 9, 2, 5])).tolist() == [1, 3, 0, 2]
    assert text_store.sort_by_length(np.array([], np.int32)).tolist() == []
