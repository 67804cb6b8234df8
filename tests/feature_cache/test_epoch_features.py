"""The compiled prefix in each epoch trains what the layers one by one train."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests import task_data, tiny
from tests.feature_cache import test_caching, test_prefix
from tf_finetune import distribution, specs
from tf_finetune.feature_cache import choosing, epoch_features, prefix

LABELS = (specs.HeadSpec(name="count", dropout=0.2),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("epochs")
    present = task_data.write_images(folder, count=90)
    task_data.write_table(folder, task_data.make_columns(present))
    tiny.make_classifier().save(folder / "tiny.h5")
    return folder


def train(folder, *, augment="flip,crop:0.4,0.9", strategy=None, **options):
    """An Outcome of a run on a new view of each image in each epoch."""
    built, backbone, task = test_caching.make_task(
        folder / "labels.csv", folder / "tiny.h5", LABELS, strategy=strategy, **options
    )
    task = dataclasses.replace(task, augment=specs.AugmentSpec(augment=augment))
    return test_caching.fit(built, backbone, task, strategy=strategy)


def check_same(off, compiled):
    (line,) = [line for line in compiled.lines if line.startswith("Feature cache: ")]
    assert line.startswith(
        "Feature cache: none; 658 frozen weights run as a compiled graph (float32) in each epoch: "
        "--augment gives each epoch its own images, and the frozen part is "
    )
    for expected, row in zip(off.result.history, compiled.result.history, strict=True):
        for name, value in expected.items():
            if name != "secs" and isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
    for path, value in off.weights.items():
        np.testing.assert_allclose(compiled.weights[path], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"augment": "flip,mixup:1,cutmix"},
        pytest.param({"phases": test_caching.TWO_PHASES}, marks=pytest.mark.slow),
        pytest.param({"resample": "balanced"}, marks=pytest.mark.slow),
    ],
)
def test_the_history_is_that_of_the_layers(folder, options):
    off, compiled = (train(folder, feature_cache=mode, **options) for mode in ("off", "compiled"))
    check_same(off, compiled)
    test_caching.check_frozen(compiled, but=("conv_b", "norm_b") if "phases" in options else ())


@pytest.mark.slow
def test_two_devices(folder):
    strategy = distribution.make_strategy("mirrored")
    off, compiled = (
        train(folder, feature_cache=mode, strategy=strategy) for mode in ("off", "compiled")
    )
    check_same(off, compiled)


def test_auto_counts_what_is_computed(folder, monkeypatch):
    outcome = train(folder, feature_cache="auto")
    expected = "Feature cache: off, --augment gives each epoch its own images."
    assert expected in outcome.lines
    monkeypatch.setattr(choosing, "_MIN_COMPILED_PRODUCTS", 1)
    check_same(outcome, train(folder, feature_cache="auto"))


def test_batches_keep_all_but_their_inputs():
    split = test_prefix.cut(tiny.make_classifier(), count=6)
    compiled = prefix.compile_prefix(split, precision="float32")
    inputs, labels = test_prefix.pixels(), {"label": tf.range(2)}
    batches = tf.data.Dataset.from_tensors((inputs, labels))
    mapped = epoch_features.map_batches(batches, compiled, split)
    ((features, own),) = mapped
    assert mapped.cardinality() == 1
    np.testing.assert_array_equal(own["label"], labels["label"])
    expected = compiled(inputs)
    assert features.keys() == expected.keys()
    for name, value in features.items():
        np.testing.assert_array_equal(value, expected[name])
        assert mapped.element_spec[0][name].shape[1:] == value.shape[1:]
