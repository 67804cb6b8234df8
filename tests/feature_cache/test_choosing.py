import numpy as np
import pytest
import tensorflow as tf

from tests import tiny
from tests.feature_cache import test_prefix
from tf_finetune import graph_precision, specs
from tf_finetune.feature_cache import choosing


@pytest.fixture(scope="module")
def split():
    return test_prefix.cut(tiny.make_classifier(), count=6)


def choose(
    split,
    *,
    num_saved=10**9,
    may_round=False,
    tried=None,
    read_batch=test_prefix.pixels,
    has_new_views=False,
    **options,
):
    return choosing.choose(
        split,
        specs.TrainSpec(**options),
        num_saved=num_saved,
        may_round=may_round,
        read_batch=read_batch,
        find_tried=lambda: tried,
        has_new_views=has_new_views,
    )


def read_nothing():
    raise AssertionError("no trial is needed, and examples are read")


def test_nothing_in_front_is_frozen():
    choice = choose(None, feature_cache="disk")
    assert (choice.mode, choice.precision, choice.compiled) == ("off", "float32", None)
    assert choice.reason == "no layer in front of all that trains is frozen"


def test_auto_is_off_where_little_is_saved(split):
    choice = choose(split, num_saved=200, read_batch=read_nothing)
    assert choice.mode == "off"
    assert choice.reason == (
        "the frozen part is 0.0 billion products in the later epochs, which are soon done"
    )
    assert choose(split, num_saved=-5).mode == "off"


def test_auto_is_the_disk_where_much_is_saved(split):
    choice = choose(split, read_batch=read_nothing)
    assert (choice.mode, choice.precision, choice.is_tried) == ("disk", "float32", False)
    assert choice.reason.startswith("the frozen part is ")


def test_new_views_are_not_kept(split):
    options = {"has_new_views": True, "read_batch": read_nothing}
    choice = choose(split, num_saved=10**12, **options)
    assert (choice.mode, choice.precision) == ("compiled", "float32")
    assert choice.reason.startswith(
        "--augment gives each epoch its own images, and the frozen part is "
    )
    # What is worth keeping may be too little for a graph that saves a part.
    few = choose(split, **options)
    assert (few.mode, few.reason) == ("off", "--augment gives each epoch its own images")
    asked = choose(split, num_saved=200, feature_cache="compiled", **options)
    assert asked.mode == "compiled"
    assert choose(split, num_saved=200, feature_cache="compiled").mode == "compiled"


@pytest.mark.skipif(not graph_precision.has_bfloat16(), reason="this processor has no bfloat16")
def test_a_trial_is_made_once(split):
    choice = choose(split, may_round=True, tried="float32", read_batch=read_nothing)
    assert (choice.precision, choice.compiled, choice.is_tried) == ("float32", None, True)
    assert choice.reason.endswith(", float32 was chosen by an earlier run's trial")


@pytest.mark.parametrize("mode", ["memory", "disk"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_asked_for_is_done(split, mode, precision):
    choice = choose(
        split, num_saved=1, may_round=True, feature_cache=mode, feature_precision=precision
    )
    assert (choice.mode, choice.precision) == (mode, precision)


@pytest.mark.skipif(not graph_precision.has_bfloat16(), reason="this processor has no bfloat16")
def test_a_trial_decides_about_bfloat16(split):
    choice = choose(split, may_round=True)
    assert "bfloat16" in choice.reason
    assert choice.is_tried
    assert choice.compiled is None or choice.compiled.precision == choice.precision
    assert choose(split, may_round=False).precision == "float32"


@pytest.mark.skipif(not graph_precision.has_bfloat16(), reason="this processor has no bfloat16")
def test_features_that_bfloat16_changes_stay_float32(split, monkeypatch):
    monkeypatch.setattr(choosing, "_MAX_CHANGE", -1.0)
    choice = choose(split, may_round=True)
    assert (choice.precision, choice.compiled, choice.is_tried) == ("float32", None, True)
    assert "in float32 because bfloat16 would change the features by " in choice.reason


def change(exact, rounded):
    return choosing._measure_change({"a": tf.constant(exact)}, {"a": tf.constant(rounded)})


def test_changes_count_by_what_tells_examples_apart():
    generator = np.random.default_rng(0)
    exact = generator.normal(5.0, 2.0, (1000, 3)).astype(np.float32)
    noise = generator.normal(0.0, 0.1, (1000, 3)).astype(np.float32)
    assert change(exact, exact) == 0.0
    assert change(exact, exact + noise) == pytest.approx(0.05, rel=0.1)
    # Equal examples tell nothing about how much a change matters.
    assert change(np.ones((4, 3), np.float32), np.ones((4, 3), np.float32)) == float("inf")
    # Tensors that are no numbers do not count.
    assert choosing._measure_change({"m": tf.constant([True])}, {"m": tf.constant([False])}) == 0.0
