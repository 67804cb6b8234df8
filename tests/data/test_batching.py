import numpy as np
import pytest

from tf_finetune import specs
from tf_finetune.data import batching


def plan(num_examples, batch_size, num_replicas=1):
    return batching.plan_batches(num_examples, batch_size=batch_size, num_replicas=num_replicas)


def parts(size, num_replicas):
    """What tf.distribute gives each replica of a batch."""
    part = -(-size // num_replicas)
    return [max(0, min(part, size - part * replica)) for replica in range(num_replicas)]


def test_one_device_keeps_the_rest():
    assert plan(7, 3) == (3, 3, 1)
    assert plan(6, 3) == (3, 3)
    assert plan(2, 3) == (2,)
    assert plan(0, 3) == ()


def test_a_single_example_joins_the_last_full_batch():
    assert plan(29, 14, 2) == (14, 15)
    assert plan(31, 14, 2) == (14, 14, 3)


@pytest.mark.parametrize("num_replicas", [2, 3, 4, 8])
def test_every_example_once_and_no_device_idle(num_replicas):
    batch_size = 4 * num_replicas
    for num_examples in range(num_replicas, 6 * batch_size):
        try:
            sizes = plan(num_examples, batch_size, num_replicas)
        except specs.SpecError:
            assert num_examples < 2 * batch_size
            continue
        assert sum(sizes) == num_examples
        assert all(0 not in parts(size, num_replicas) for size in sizes)
        assert all(size < 3 * batch_size for size in sizes)


def test_what_no_plan_can_help_is_refused():
    with pytest.raises(specs.SpecError) as error:
        plan(60, 6, 4)
    assert str(error.value) == (
        "A step of 6 examples leaves one of 4 devices without any. Expected a --batch_size that "
        "is a multiple of 4."
    )
    with pytest.raises(specs.SpecError) as error:
        plan(1, 8, 2)
    assert str(error.value) == (
        "1 examples leave one of 2 devices without any. Expected at least 2: use "
        "--strategy=one_device."
    )


@pytest.mark.parametrize("number", [1, 2, 3])
def test_shares_are_disjoint_and_cover(number):
    sizes = plan(53, 12, number)
    shares = [batching.Share(index, number) for index in range(number)]
    counts = np.array([share.count(sizes) for share in shares])
    assert counts.sum(axis=0).tolist() == list(sizes)
    assert counts.min() > 0 and (counts.max(axis=0) - counts.min(axis=0)).max() <= 1
    chosen = np.array([share.choose(sizes) for share in shares])
    assert (chosen.sum(axis=0) == 1).all()
    # Each has its own part of every batch, not one end of the epoch.
    assert (
        shares[-1].choose((5, 4)).tolist()
        == {
            1: [True] * 9,
            2: [False, False, True, True, True, False, False, True, True],
            3: [False, False, False, True, True, False, False, True, True],
        }[number]
    )
