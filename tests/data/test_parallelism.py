"""Reading without the thread that tunes gives the same, and nobody waits for that thread."""

import time

import tensorflow as tf

from tf_finetune.data import parallelism


def test_counts():
    assert parallelism.count_cores() >= 1
    assert 1 <= parallelism.count_batches() <= 4


def test_elements_and_their_order_stay():
    dataset = tf.data.Dataset.range(50).map(
        lambda number: number * number, num_parallel_calls=parallelism.count_cores()
    )
    untuned = parallelism.untuned(dataset)
    assert list(untuned.as_numpy_iterator()) == [number * number for number in range(50)]
    assert untuned.options().autotune.enabled is False
    assert untuned.options().deterministic is True


def test_an_iterator_ends_with_its_last_element():
    """What tunes may hold it up, but not each time: see benchmarks/autotune.py."""
    dataset = parallelism.untuned(tf.data.Dataset.range(140).prefetch(2))
    for _ in range(2):
        iterator = iter(dataset)
        for _ in iterator:
            time.sleep(0.01)
        last = time.perf_counter()
        del iterator
        assert time.perf_counter() - last < 0.5
