"""Steps and prefixes are computed in bfloat16 where that is asked for, and nothing else is."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from tf_finetune import graph_precision

needs_bfloat16 = pytest.mark.skipif(
    not graph_precision.has_bfloat16(), reason="this processor has no bfloat16"
)


@pytest.fixture
def product():
    """(function that multiplies, its exact value)."""
    numbers = np.random.default_rng(0).normal(size=(64, 64)).astype("f4")
    kernel = tf.Variable(numbers)
    multiply = tf.function(lambda values: tf.matmul(values, kernel))
    return lambda: multiply(numbers).numpy(), numbers.astype("f8") @ numbers.astype("f8")


def find_error(found, exact):
    return np.abs(found - exact).max() / np.abs(exact).max()


@needs_bfloat16
def test_one_function_is_computed_in_both_precisions_by_turns(product):
    multiply, exact = product
    for _ in range(2):
        assert find_error(multiply(), exact) < 1e-6
        with graph_precision.rounding(is_on=True):
            assert 1e-4 < find_error(multiply(), exact) < 1e-2
        with graph_precision.rounding(is_on=False):
            assert find_error(multiply(), exact) < 1e-6


@needs_bfloat16
def test_other_threads_and_the_options_of_the_process_are_left_alone(product):
    multiply, exact = product
    errors = []
    before = tf.config.optimizer.get_experimental_options()
    with graph_precision.rounding(is_on=True):
        assert tf.config.optimizer.get_experimental_options() == before
        # A new thread takes the options of the process when it first calls a function.
        thread = threading.Thread(target=lambda: errors.append(find_error(multiply(), exact)))
        thread.start()
        thread.join()
        assert find_error(multiply(), exact) > 1e-4
    assert errors[0] < 1e-6


def test_an_error_in_the_block_ends_it(product):
    multiply, exact = product
    with pytest.raises(KeyError), graph_precision.rounding(is_on=True):
        raise KeyError
    assert find_error(multiply(), exact) < 1e-6
