import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.data import example_order, resampling

STRATA = np.repeat([0, 1], [7, 2])


def read(dataset):
    return [tuple(np.atleast_1d(item)) for item in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("strata", [None, STRATA])
def test_turns_are_the_positions_and_how_often_each_came(strata):
    epoch = tf.Variable(3, dtype=tf.int64)
    seeds = example_order.make_seeds(5, epoch)
    positions = [row for (row,) in read(example_order.make_positions(9, seeds, strata))]
    turns = read(example_order.make_turns(9, seeds, strata))
    seen = {}
    for row, turn in zip(positions, turns, strict=True):
        assert turn == (row, seen.get(row, 0))
        seen[row] = seen.get(row, 0) + 1
    assert len(positions) == 9 and (max(seen.values()) > 1) == (strata is not None)
    if strata is not None:
        assert positions == resampling.draw_epoch(strata, seed=5, epoch=3).tolist()


def test_an_order_belongs_to_a_seed_and_an_epoch():
    epoch = tf.Variable(0, dtype=tf.int64)
    orders = []
    for seed, number in ((5, 0), (5, 1), (6, 0), (5, 0)):
        epoch.assign(number)
        seeds = example_order.make_seeds(seed, epoch)
        orders.append([row for (row,) in read(example_order.make_positions(50, seeds, None))])
        assert sorted(orders[-1]) == list(range(50))
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_without_a_seed_there_is_no_order_to_draw():
    assert example_order.make_seeds(None, None) is None
    assert read(example_order.make_positions(3, None, None)) == [(0,), (1,), (2,)]
    for make in (example_order.make_positions, example_order.make_turns):
        with pytest.raises(ValueError) as caught:
            make(9, None, STRATA)
        assert str(caught.value) == "Strata need a shuffle_seed: only training is resampled."


def test_a_seed_may_be_any_whole_number():
    for seed in (-1, 2**70):
        ((first, epoch),) = read(example_order.make_seeds(seed, None))
        assert (first, epoch) == (seed % 2**63, 0)
