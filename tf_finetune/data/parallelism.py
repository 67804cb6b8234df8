"""How much of a data set is read at a time.

One idea: TensorFlow would tune these numbers while it reads, in a thread that looks again after 10
milliseconds, 20, 40 and so on; and where a data set ends while that thread sleeps, whoever reads it
may wait until it wakes. `python -m benchmarks.autotune`, 2026-11-23, two cores: epochs of 6.0 s
took another 4.0 to 4.6 s in four of five times; without the thread none, and reading was as fast.

Reference: tensorflow/core/framework/model.cc, `Model::OptimizeLoop`.
"""

import os

import tensorflow as tf

# What has some sense on machines with very many cores: a batch may be large.
_MAX_BATCHES = 4


def count_cores() -> int:
    """How many processors this process may use.

    Returns:
      At least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_batches() -> int:
    """How many batches are made at a time.

    Returns:
      At least 1.
    """
    return min(count_cores(), _MAX_BATCHES)


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """A data set that is read without the thread that tunes.

    Args:
      dataset: whose numbers are fixed.

    Returns:
      The same elements in the same order.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    return dataset.with_options(options)
