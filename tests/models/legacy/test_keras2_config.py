import json

import h5py
import numpy as np
import pytest

pytest.importorskip("tf_keras")
import tensorflow as tf
import tf_keras

from tests.models import keras2_files
from tf_finetune import findings
from tf_finetune.models import loading
from tf_finetune.models.legacy import keras2_config

L = tf_keras.layers


def _block(name, *, is_sequential):
    layers = [L.Conv2D(4, 3, padding="same", name="a"), L.BatchNormalization(name="b"), L.ReLU()]
    layers += [L.Conv2D(3, 3, padding="same", name="c"), L.BatchNormalization(name="d")]
    if is_sequential:
        return tf_keras.Sequential(layers, name=name)
    inputs = x = tf_keras.Input((6, 6, 3))
    for layer in layers:
        x = layer(x)
    return tf_keras.Model(inputs, x, name=name)


@pytest.mark.parametrize("suffix", ["h5", "keras"])
@pytest.mark.parametrize("is_sequential", [True, False])
def test_nested_models_called_more_than_once(tmp_path, is_sequential, suffix):
    block, other = (_block(name, is_sequential=is_sequential) for name in ("one", "two"))
    inputs = tf_keras.Input((6, 6, 3))
    first = block(inputs)
    second = block(first)
    outputs = [second, first, L.Add()([second, other(first)])]
    keras2_files.check_loads(tf_keras.Model(inputs, outputs), tmp_path / f"model.{suffix}")


@pytest.mark.parametrize("frozen", ["all", "last", "none"])
@pytest.mark.parametrize("is_sequential", [True, False])
def test_flat_lists_of_nested_weights(tmp_path, is_sequential, frozen):
    block = _block("block", is_sequential=is_sequential)
    if frozen == "all":
        block.trainable = False
    elif frozen == "last":
        block.layers[-1].trainable = block.layers[-2].trainable = False
    deeper = tf_keras.Sequential([block, L.Conv2D(2, 1, name="e")], name="deeper")
    inputs = tf_keras.Input((6, 6, 3))
    model = tf_keras.Model(inputs, L.Dense(2)(deeper(inputs, training=False)))
    keras2_files.check_loads(model, tmp_path / "model.h5", saves_again=False)


def test_slashes_in_names(tmp_path):
    inputs = tf_keras.Input((4,), name="in/put")
    inner = tf_keras.Sequential(
        [tf_keras.Input((3,)), L.Dense(3, name="x/y"), L.BatchNormalization(name="x/z")],
        name="in/ner",
    )
    x = L.Dense(3, name="block/dense")(inputs)
    x = L.Dense(3, name="block_dense")(inner(x))
    loaded = keras2_files.check_loads(tf_keras.Model(inputs, x), tmp_path / "model.h5")
    names = [layer.name for layer in loaded.layers]
    assert names == ["in_put", "block_dense_1", "in_ner", "block_dense"]


def test_shared_layers(tmp_path):
    a, b = tf_keras.Input((4,)), tf_keras.Input((4,))
    shared, norm = L.Dense(4), L.BatchNormalization()
    outputs = L.Subtract()([norm(shared(a)), norm(shared(shared(b)))])
    keras2_files.check_loads(tf_keras.Model([a, b], outputs), tmp_path / "model.h5")


def test_states_between_recurrent_layers(tmp_path):
    a, b = tf_keras.Input((4, 3)), tf_keras.Input((5, 3))
    _, *states = L.LSTM(5, return_state=True)(a)
    _, *both = L.Bidirectional(L.LSTM(5, return_state=True))(a)
    outputs = [
        L.LSTM(5, return_sequences=True)(b, initial_state=states),
        L.Bidirectional(L.LSTM(5))(b, initial_state=both),
    ]
    keras2_files.check_loads(tf_keras.Model([a, b], outputs), tmp_path / "model.h5")


def test_attention_layers(tmp_path):
    a, b = tf_keras.Input((4, 3)), tf_keras.Input((4, 3))
    outputs = [
        L.Attention(use_scale=True, score_mode="concat")([a, b]),
        L.AdditiveAttention()([a, b]),
        L.Attention()([a, b], use_causal_mask=True),
        *L.MultiHeadAttention(2, 3, output_shape=5)(a, b, key=a, return_attention_scores=True),
    ]
    keras2_files.check_loads(tf_keras.Model([a, b], outputs), tmp_path / "model.h5")


def test_merging_layers(tmp_path):
    a, b = tf_keras.Input((4, 3)), tf_keras.Input((4, 3))
    layers = [L.Add(), L.Multiply(), L.Average(), L.Maximum(), L.Minimum(), L.Concatenate(axis=1)]
    outputs = [layer([a, b]) for layer in [*layers, L.Dot((1, 1), normalize=True)]]
    keras2_files.check_loads(tf_keras.Model([a, b], outputs), tmp_path / "model.h5")


def test_masks_reach_recurrent_layers(tmp_path):
    inputs = tf_keras.Input((4,), dtype="int32")
    x = L.Embedding(5, 3, mask_zero=True)(inputs)
    x = L.Bidirectional(L.LSTM(3, return_sequences=True))(x)
    model = tf_keras.Model(inputs, L.GlobalAveragePooling1D()(x))
    words = np.array([[1, 2, 0, 0], [1, 1, 1, 0]], "int32")
    keras2_files.check_loads(model, tmp_path / "model.h5", inputs=[words])


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_sequential_without_an_input(tmp_path, suffix):
    model = tf_keras.Sequential([L.Dense(3), L.BatchNormalization(), L.Dense(2)])
    model.build((None, 4))
    keras2_files.check_loads(
        model, tmp_path / f"model.{suffix}", inputs=[np.ones((2, 4), np.float32)]
    )


def test_sequential_that_begins_with_an_embedding(tmp_path):
    model = tf_keras.Sequential([L.Embedding(9, 3, input_length=4), L.GRU(3)])
    model.build((None, 4))
    path = tmp_path / "model.h5"
    loaded = keras2_files.check_loads(model, path, inputs=[np.array([[1, 2, 3, 8]], "int32")])
    assert loaded.inputs[0].shape == (None, 4)


def test_losses_and_metrics_in_the_graph_are_left_out(tmp_path):
    inputs = tf_keras.Input((4,))
    model = tf_keras.Model(inputs, L.Dense(2)(inputs))
    model.add_loss(tf.reduce_mean(model.output) * 2.0)
    model.add_metric(model.output, name="size", aggregation="mean")
    loaded = keras2_files.check_loads(model, tmp_path / "model.h5")
    assert len(loaded.layers) == 2


def test_named_inputs_and_outputs(tmp_path):
    a, b = tf_keras.Input((4,), name="a"), tf_keras.Input((3,), name="b")
    model = tf_keras.Model({"a": a, "b": b}, {"o": L.Dense(2)(a), "p": L.Dense(3)(b)})
    keras2_files.randomize(model)
    model.save(tmp_path / "model.h5")
    given = {"a": np.ones((2, 4), np.float32), "b": np.ones((2, 3), np.float32)}
    outputs = loading.load_pretrained(str(tmp_path / "model.h5"))(given)
    for name, expected in model(given).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-6)


def test_functional_subclass_is_a_functional_model(tmp_path):
    class Mine(tf_keras.Model):
        pass

    inputs = tf_keras.Input((4,))
    keras2_files.check_loads(Mine(inputs, L.Dense(2)(inputs)), tmp_path / "model.h5")


def test_vocabularies_in_the_configuration(tmp_path):
    words = tf_keras.Input((2,), dtype=tf.string)
    tf_keras.Model(words, L.StringLookup(vocabulary=["a", "b"])(words)).save(tmp_path / "m.h5")
    loaded = loading.load_pretrained(str(tmp_path / "m.h5"))
    np.testing.assert_array_equal(loaded(tf.constant([["a", "z"]])), [[1, 0]])


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_custom_layer_is_named(tmp_path, suffix):
    class Twist(L.Layer):
        def call(self, x):
            return x

    path = tmp_path / f"model.{suffix}"
    inputs = tf_keras.Input((4,))
    block = tf_keras.Sequential([tf_keras.Input((4,)), Twist(name="twist")], name="block")
    tf_keras.Model(inputs, L.Dense(2)(block(inputs))).save(path)
    message = keras2_files.refusal(path)
    assert message.startswith("layer 'block/twist' needs the custom class '")
    assert "Twist'" in message
    assert "--custom_objects=MODULE" in message


def test_custom_activation_is_named(tmp_path):
    def double(x):
        return x * 2

    inputs = tf_keras.Input((4,))
    tf_keras.Model(inputs, L.Dense(2, double, name="q")(inputs)).save(tmp_path / "model.h5")
    message = keras2_files.refusal(tmp_path / "model.h5")
    assert message.startswith("layer 'q' needs the custom function 'builtins.double'. ")


def _rewrite(path, change, *, version="2.0.8"):
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps(change(config))
        file.attrs["keras_version"] = version


def test_list_configuration_of_keras_2_0(tmp_path):
    """A Sequential was a bare list, and the models in it lost their names."""
    inner = tf_keras.Sequential([L.Dense(3, input_shape=(4,)), L.BatchNormalization()])
    model = tf_keras.Sequential([inner, L.Dense(2)])
    keras2_files.randomize(model)
    path = tmp_path / "model.h5"
    model.save(path)

    def as_lists(config):
        layers = [
            as_lists(layer) if layer["class_name"] == "Sequential" else layer
            for layer in config["config"]["layers"]
            if layer["class_name"] != "InputLayer"
        ]
        if layers[0]["class_name"] == "Dense":
            layers[0]["config"]["batch_input_shape"] = [None, 4]
        return {"class_name": "Sequential", "config": layers}

    _rewrite(path, as_lists)
    given = np.ones((2, 4), np.float32)
    loaded = loading.load_pretrained(str(path))
    np.testing.assert_allclose(loaded(given), model(given), rtol=1e-5, atol=1e-6)


def test_two_models_without_names_in_a_list_come_in_order(tmp_path):
    """Built in the other order, so that each has the name that the other one would get."""
    last = tf_keras.Sequential([L.Dense(4, input_shape=(4,)), L.BatchNormalization()])
    first = tf_keras.Sequential([L.Dense(4, input_shape=(4,)), L.BatchNormalization()])
    model = tf_keras.Sequential([first, last])
    keras2_files.randomize(model)
    path, weights = tmp_path / "model.h5", tmp_path / "w.h5"
    architecture = tmp_path / "model.json"
    model.save(path)
    model.save_weights(weights)

    def as_lists(config):
        layers = [
            as_lists(layer) for layer in config["config"]["layers"] if "layers" in layer["config"]
        ]
        if not layers:
            layers = config["config"]["layers"][1:]
            layers[0]["config"]["batch_input_shape"] = [None, 4]
        return {"class_name": "Sequential", "config": layers}

    _rewrite(path, as_lists)
    architecture.write_text(json.dumps(as_lists(json.loads(model.to_json()))))
    given = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    for loaded in (
        loading.load_pretrained(str(path)),
        loading.load_pretrained(str(architecture), weights=str(weights)),
    ):
        np.testing.assert_allclose(loaded(given), model(given), rtol=1e-5, atol=1e-6)


def test_weights_that_only_a_loss_needs_are_left_out(tmp_path):
    inputs = tf_keras.Input((4,))
    inner_input = tf_keras.Input((4,))
    inner = tf_keras.Model(inner_input, L.Dense(3, name="code")(inner_input), name="encoder")
    inner.add_loss(tf.reduce_mean(L.Dense(3, name="inside")(inner_input)))
    model = tf_keras.Model(inputs, L.Dense(2, name="out")(inner(inputs)))
    model.add_loss(tf.reduce_mean(L.Dense(2, name="aside")(inputs)))
    assert len(model.weights) == 8
    for suffix in ("h5", "keras"):
        loaded = keras2_files.check_loads(model, tmp_path / f"model.{suffix}")
        assert len(loaded.weights) == 4


@pytest.mark.parametrize("first_call", [0, 1])
def test_calls_of_nested_models_begin_at_0_or_1(first_call):
    def nested(name):
        config = {"name": name, "layers": [{"class_name": "Dense", "config": {"name": "d"}}]}
        return {"class_name": "Sequential", "name": name, "config": config}

    layers = [
        {
            "class_name": "InputLayer",
            "name": "in",
            "config": {"batch_input_shape": [None, 4], "name": "in"},
            "inbound_nodes": [],
        },
        {
            **nested("block"),
            "inbound_nodes": [[["in", 0, 0, {}]], [["block", first_call, 0, {}]]],
        },
    ]
    config = {
        "class_name": "Model",
        "config": {
            "name": "m",
            "layers": layers,
            "input_layers": [["in", 0, 0]],
            "output_layers": [["block", first_call + 1, 0]],
        },
    }
    made = keras2_config.translate_config(config, where="old.h5", version="2.1.0").config["config"]
    (first,), (second,) = (call["args"] for call in made["layers"][1]["inbound_nodes"])
    assert first["config"]["keras_history"] == ["in", 0, 0]
    assert second["config"]["keras_history"] == ["block", 0, 0]
    assert made["input_layers"] == ["in", 0, 0]
    assert made["output_layers"] == ["block", 1, 0]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            {"class_name": "Mine", "config": {}},
            "the model is of the custom class 'Mine', whose layers the file does not describe. "
            "Expected a Sequential or functional model: save its weights with save_weights, or "
            "export it as a SavedModel.",
        ),
        (
            {"class_name": "Model", "config": {"layers": [{}], "input_layers": []}},
            "its stored configuration is damaged: 'class_name'. Copy or download it again.",
        ),
    ],
)
def test_what_describes_no_model_is_refused(config, reason):
    with pytest.raises(findings.RefusedError) as caught:
        keras2_config.translate_config(config, where="old.h5", version="2.4.0")
    assert str(caught.value) == f"old.h5: {reason}"


def test_bottomless_nesting_is_refused():
    config = {"class_name": "Sequential", "config": {"layers": []}}
    for _ in range(120):
        config = {"class_name": "Sequential", "config": {"name": "s", "layers": [config]}}
    with pytest.raises(findings.RefusedError) as caught:
        keras2_config.translate_config(config, where="old.h5", version="2.4.0")
    assert str(caught.value) == "old.h5: models are nested deeper than 50."
