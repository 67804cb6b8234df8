import keras
import numpy as np
import pytest

from tests import tiny
from tf_finetune.models import loading
from tf_finetune.models.stored import keras3_config, stored_classes, stored_model


def _arithmetic():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(inputs / 127.5 - 1.0)
    x = keras.layers.BatchNormalization()(x[:, 1:4, ...])
    x = keras.ops.einsum("bijc,bijc->bc", x, x)
    added = x + keras.layers.Dense(4)(x)
    merged = keras.layers.Add()([added, keras.layers.Softmax()(x)])
    return keras.Model(inputs, [keras.ops.softmax(merged), keras.ops.split(merged, 2, axis=-1)[1]])


def _nested():
    inputs = keras.Input((8, 8, 3))
    x = keras.ops.image.resize(inputs, (8, 8))
    return keras.Model(inputs, keras.Sequential([_inner(), keras.layers.Dense(2)])(x))


def _inner():
    inputs = keras.Input((8, 8, 3))
    x = keras.ops.mean(keras.layers.Conv2D(4, 3)(inputs), axis=[1, 2])
    return keras.Model(inputs, keras.layers.BatchNormalization()(keras.ops.relu(x)), name="inner")


def _words():
    inputs = keras.Input((7,))
    x = keras.layers.Embedding(9, 6, mask_zero=True)(inputs)
    return keras.Model(inputs, keras.layers.Bidirectional(keras.layers.LSTM(3))(x))


@pytest.mark.parametrize("make", [_arithmetic, _nested, _words])
def test_operations_in_an_h5(tmp_path, make):
    keras.utils.set_random_seed(1)
    model = make()
    tiny.randomize_statistics(model)
    path = str(tmp_path / "model.h5")
    model.save(path)
    loaded = loading.load_pretrained(path)
    given = np.random.default_rng(0).uniform(0, 8, (2, *model.inputs[0].shape[1:]))
    for output, expected in zip(
        keras.tree.flatten(loaded(given)), keras.tree.flatten(model(given)), strict=True
    ):
        np.testing.assert_array_equal(output, expected)
    stored_classes.check_classes(stored_model.read_stored_model(path), where=path)


def test_layers_and_operations_of_one_name_are_told_apart():
    layer = {"class_name": "Add", "config": {"name": "a", "trainable": True}, "inbound_nodes": []}
    operation = {"class_name": "Add", "config": {"name": "b"}, "inbound_nodes": []}
    custom = {"class_name": "my>Add", "config": {"name": "c"}, "inbound_nodes": []}
    assert not keras3_config.has_operations([layer, custom])
    assert keras3_config.has_operations({"config": {"layers": [layer, operation]}})
    made = keras3_config.add_modules([layer, operation, custom])
    assert [(one["module"], one["registered_name"]) for one in made] == [
        ("keras.layers", None),
        ("keras.src.ops", None),
        (None, "my>Add"),
    ]
    assert "module" not in operation


def test_a_layer_that_keras_exports_under_another_name(tmp_path):
    inputs = keras.Input((5, 8))
    attended = keras.layers.GroupQueryAttention(4, 2, 2)(inputs, inputs)
    plain = keras.Model(inputs, keras.layers.Dense(2)(attended))
    scaled = keras.Model(inputs, keras.layers.Dense(2)(attended) * 2.0)
    given = np.random.default_rng(0).normal(0, 1, (2, 5, 8)).astype(np.float32)
    for model in (plain, scaled):
        path = str(tmp_path / "model.h5")
        model.save(path)
        assert "GroupedQueryAttention" in str(stored_model.read_header(path)[0])
        np.testing.assert_array_equal(loading.load_pretrained(path)(given), model(given))
