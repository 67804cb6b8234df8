import keras
import numpy as np
import tensorflow as tf

from tests import tiny, tiny_text
from tf_finetune import freezing
from tf_finetune.feature_cache import prefix
from tf_finetune.models import splitting

L = keras.layers


def cut(backbone, *, count):
    """The model of a head on a backbone whose first layers are frozen."""
    x = keras.Input(backbone.input_shape[1:], dtype=backbone.inputs[0].dtype, name="given")
    whole = keras.Model({"given": x}, {"label": L.Dense(2)(L.Dense(3)(backbone(x)))})
    for layer in backbone.layers[:count]:
        layer.trainable = False
        for inner in layer._flatten_layers():
            freezing._silence(inner)
    return splitting.split_model(whole, freezing.is_fixed, opened=[backbone])


def pixels(count=5):
    values = np.random.default_rng(0).uniform(0, 1, (count, 12, 12, 3)).astype(np.float32)
    return {"given": tf.constant(values)}


def test_the_compiled_prefix_gives_the_same_features():
    split = cut(tiny.make_classifier(), count=6)
    compiled = prefix.compile_prefix(split, precision="float32")
    assert compiled.is_constant
    for count in (5, 1, 32):  # the last batch of a pass is smaller
        found, expected = compiled(pixels(count)), split.run_prefix(pixels(count))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def test_its_weights_are_those_at_the_time():
    split = cut(tiny.make_classifier(), count=6)
    compiled = prefix.compile_prefix(split, precision="float32")
    before = compiled(pixels())["features_0"]
    for weight in split.prefix_layers[0].weights:
        weight.assign(weight + 1.0)
    np.testing.assert_array_equal(compiled(pixels())["features_0"], before)
    assert np.abs(split.run_prefix(pixels())["features_0"] - before).max() > 0.1


def test_bfloat16_is_near_and_leaves_no_option_behind():
    split = cut(tiny.make_classifier(), count=6)
    before = tf.config.optimizer.get_experimental_options()
    found = prefix.compile_prefix(split, precision="bfloat16")(pixels())["features_0"]
    name = "auto_mixed_precision_onednn_bfloat16"
    after = tf.config.optimizer.get_experimental_options()
    assert bool(after.get(name)) == bool(before.get(name)) is False
    assert found.dtype == tf.float32
    expected = split.run_prefix(pixels())["features_0"]
    np.testing.assert_allclose(found, expected, atol=0.05 * float(np.std(expected)) + 1e-3)


def test_a_prefix_with_tables_stays_on_its_variables():
    backbone = tiny_text.make_classifier()
    split = cut(backbone, count=4)
    compiled = prefix.compile_prefix(split, precision="float32")
    assert not compiled.is_constant
    given = {"given": tf.constant(["lovely film", "dull music in town"])}
    expected = split.run_prefix(given)
    for name, value in compiled(given).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6)


def test_masks_come_along():
    ids = keras.Input((6,), dtype="int32")
    backbone = keras.Model(ids, L.LSTM(3)(L.Embedding(9, 4, mask_zero=True)(ids)))
    split = cut(backbone, count=2)
    given = {"given": tf.constant([[1, 2, 0, 0, 0, 0], [3, 4, 5, 6, 7, 8]])}
    expected = split.run_prefix(given)
    found = prefix.compile_prefix(split, precision="float32")(given)
    assert found.keys() == expected.keys()
    assert any(value.dtype == tf.bool for value in found.values())
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_numbers_as_they_are_kept():
    features = {
        "a": tf.constant([1.00390625, 2.0]),
        "b": tf.constant([True, False]),
        "c": tf.constant([1.5], tf.float16),
        "d": tf.constant([7]),
    }
    exact = prefix.as_numbers(features, precision="float32")
    assert {name: value.dtype.name for name, value in exact.items()} == {
        "a": "float32", "b": "bool", "c": "float32", "d": "int32",
    }  # fmt: skip
    rounded = prefix.as_numbers(features, precision="bfloat16")
    assert rounded["a"].dtype.name == rounded["c"].dtype.name == "bfloat16"
    assert rounded["a"].astype(np.float32).tolist() == [1.0, 2.0]
    assert rounded["b"].dtype == bool and rounded["d"].dtype == np.int32
