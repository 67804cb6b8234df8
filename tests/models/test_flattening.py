import keras
import numpy as np
import pytest

from tests import tiny
from tf_finetune import findings
from tf_finetune.models import flattening


def _pixels(count: int = 4, *, size: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, size, size, channels)).astype(np.float32)


def _block(name: str, *, filters: int = 4, channels: int = 3, size: int = 8) -> keras.Sequential:
    return keras.Sequential(
        [
            keras.Input((size, size, channels)),
            keras.layers.Conv2D(filters, 3, padding="same", name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(name="relu"),
        ],
        name=name,
    )


def _flat(model: keras.Model) -> keras.Model:
    graph = flattening.flatten_graph(model)
    return keras.Model(graph.input, graph.outputs[0])


def _check_equal(model: keras.Model, names: list[str], *, pixels: np.ndarray | None = None):
    """Flattens, and compares outputs, weights and what a saved copy gives."""
    tiny.randomize_statistics(model, seed=3)
    pixels = _pixels() if pixels is None else pixels
    weights = {id(weight) for weight in model.weights}
    before = np.asarray(model(pixels))
    assert before.std() > 0
    flat = _flat(model)
    after = flat(pixels)
    np.testing.assert_array_equal(np.asarray(after), before)
    assert [layer.name for layer in flat.layers[1:]] == names
    assert flat.inputs[0].shape[0] is None
    assert {id(weight) for weight in flat.weights} == weights
    return flat


def test_sequential():
    _check_equal(_block("block"), ["conv", "norm", "relu"])


def test_functional_with_branches(tmp_path):
    inputs = keras.Input((8, 8, 3))
    a = keras.layers.Conv2D(4, 1, name="a")(inputs)
    b = keras.layers.BatchNormalization(name="b")(keras.layers.Conv2D(4, 3, padding="same")(inputs))
    c = keras.layers.Concatenate(name="join")([a, b, a])
    model = keras.Model(inputs, keras.layers.Add(name="sum")([c, c]))
    names = [layer.name for layer in model.layers[1:]]
    flat = _check_equal(model, names)
    flat.save(tmp_path / "flat.keras")
    loaded = keras.models.load_model(tmp_path / "flat.keras")
    np.testing.assert_array_equal(loaded(_pixels()), flat(_pixels()))


def test_sequential_in_functional_in_sequential_with_clashing_names(tmp_path):
    inputs = keras.Input((8, 8, 3), name="pixels")
    x = keras.layers.Conv2D(5, 1, name="conv")(inputs)
    x = _block("inner", channels=5)(x)
    middle = keras.Model(inputs, keras.layers.BatchNormalization(name="norm")(x), name="middle")
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), middle, keras.layers.Conv2D(2, 1, name="conv")]
    )
    flat = _check_equal(model, ["conv", "conv_1", "norm", "relu", "norm_1", "conv_2"])
    flat.save(tmp_path / "flat.keras")
    loaded = keras.models.load_model(tmp_path / "flat.keras")
    np.testing.assert_array_equal(loaded(_pixels()), flat(_pixels()))


def test_renamed_layers_and_the_outputs_of_opened_models_are_known():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), _block("first"), _block("second", channels=4)]
    )
    graph = flattening.flatten_graph(model)
    assert graph.renamed == {"conv_1": "conv", "norm_1": "norm", "relu_1": "relu"}
    assert graph.by_name["first"] is graph.by_name["relu"]
    assert graph.by_name["second"] is graph.outputs[0]


def test_nested_model_called_twice_shares_its_weights():
    block = _block("shared")
    inputs = keras.Input((8, 8, 3))
    flipped = keras.layers.UpSampling2D(1, name="up")(inputs)
    model = keras.Model(
        inputs, keras.layers.Subtract(name="minus")([block(inputs), block(2 * flipped)])
    )
    pixels = _pixels()
    tiny.randomize_statistics(model)
    before = np.asarray(model(pixels))
    flat = _flat(model)
    np.testing.assert_array_equal(np.asarray(flat(pixels)), before)
    assert sorted(layer.name for layer in flat.layers[1:]) == [
        "conv",
        "minus",
        "norm",
        "relu",
        "up",
    ]


def test_fixed_batch_becomes_free():
    inputs = keras.Input(batch_shape=(4, 8, 8, 3))
    x = _block("block")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(x))
    flat = _check_equal(model, ["conv", "norm", "relu", "pool"])
    assert flat(_pixels(7)).shape == (7, 4)


def test_layer_that_needs_the_fixed_batch_is_refused():
    class Fixed(keras.layers.Layer):
        def call(self, x):
            return keras.ops.reshape(x, (x.shape[0] * 2, 4, 8, 3))

    inputs = keras.Input(batch_shape=(4, 8, 8, 3))
    model = keras.Model(inputs, Fixed(name="fixed")(inputs))
    with pytest.raises(findings.RefusedError) as caught:
        flattening.flatten_graph(model)
    message = str(caught.value)
    assert message.startswith("Layer 'fixed' cannot be called with a free batch size: ")
    assert message.endswith(" Save the model again with batch size None.")
    assert "\n" not in message


def test_wrapper_stays_one_layer():
    inputs = keras.Input(batch_shape=(4, 8, 8, 3))
    x = keras.layers.Reshape((2, 4, 8, 3), name="rows")(inputs)
    wrapped = keras.Sequential([keras.Input((4, 8, 3)), keras.layers.Conv2D(2, 3, name="conv")])
    x = keras.layers.TimeDistributed(wrapped, name="each")(x)
    model = keras.Model(inputs, keras.layers.Flatten(name="flat")(x))
    _check_equal(model, ["rows", "each", "flat"])


class Doubled(keras.Model):
    """A subclassed model with a functional graph, and a call that does something else."""

    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training)


def test_model_with_its_own_call_stays_whole():
    inputs = keras.Input((8, 8, 3))
    own = Doubled(inputs, keras.layers.Conv2D(2, 1, name="conv")(inputs), name="own")
    model = keras.Sequential([keras.Input((8, 8, 3)), own, keras.layers.ReLU(name="relu")])
    _check_equal(model, ["own", "relu"])


@pytest.mark.filterwarnings("ignore:.*mask information:UserWarning")
def test_model_called_with_a_mask_stays_whole_everywhere():
    block = _block("block")
    inputs = keras.Input((8, 8, 3))
    mask = keras.layers.Conv2D(1, 1, name="mask")(inputs)
    outputs = keras.layers.Add(name="sum")([block(inputs), block(inputs, mask=mask)])
    _check_equal(keras.Model(inputs, outputs), ["mask", "block", "sum"])


def test_recorded_training_is_dropped_since_fit_and_predict_override_it():
    block = _block("block")
    inputs = keras.Input((8, 8, 3))
    x = block(inputs, training=False)
    model = keras.Model(inputs, keras.layers.Dropout(0.5, name="drop")(x, training=True))
    tiny.randomize_statistics(model)
    before = model.predict(_pixels(), verbose=0)
    flat = _flat(model)
    np.testing.assert_array_equal(flat.predict(_pixels(), verbose=0), before)
    arguments = [
        node.arguments.kwargs for layer in flat.layers[1:] for node in layer._inbound_nodes
    ]
    assert not any(kwargs.get("training") for kwargs in arguments)


def test_nested_model_of_two_inputs_is_opened():
    a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 4))
    join = keras.Model([a, b], keras.layers.Concatenate(name="join")([b, a]), name="two")
    inputs = keras.Input((8, 8, 3))
    wide = keras.layers.Conv2D(4, 1, name="wide")(inputs)
    _check_equal(keras.Model(inputs, join([inputs, wide])), ["wide", "join"])


def test_nested_model_of_named_inputs_stays_whole():
    a, b = keras.Input((8, 8, 3), name="a"), keras.Input((8, 8, 3), name="b")
    minus = keras.Model({"a": a, "b": b}, keras.layers.Subtract(name="minus")([a, b]), name="two")
    inputs = keras.Input((8, 8, 3))
    wide = keras.layers.Conv2D(3, 1, name="wide")(inputs)
    _check_equal(keras.Model(inputs, minus({"b": inputs, "a": wide})), ["wide", "two"])


def test_layer_output_means_the_new_graph():
    flat = _flat(keras.Sequential([keras.Input(batch_shape=(2, 8, 8, 3)), _block("block")]))
    probe = keras.Model(flat.inputs[0], flat.get_layer("norm").output)
    assert probe(_pixels(3)).shape == (3, 8, 8, 4)


def test_flattening_twice_changes_nothing():
    model = _block("block")
    tiny.randomize_statistics(model)
    once = _flat(model)
    before = np.asarray(once(_pixels()))
    np.testing.assert_array_equal(np.asarray(_flat(once)(_pixels())), before)


def test_subclassed_model_has_no_graph():
    class Plain(keras.Model):
        pass

    assert flattening.functional_of(Plain()) is None
    assert flattening.functional_of(keras.layers.Dense(1)) is None
    assert flattening.functional_of(keras.Sequential([keras.layers.Dense(1)])) is None
    with pytest.raises(ValueError, match="expected a functional or sequential model"):
        flattening.flatten_graph(Plain())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_changes_what_is_computed_but_not_the_variables(precision):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255, name="scale"), _block("block")]
    )
    tiny.randomize_statistics(model)
    pixels = 50 * _pixels() + 100
    before = np.asarray(model(pixels))
    graph = flattening.flatten_graph(model, precision=precision)
    half = keras.Model(graph.input, graph.outputs[0])
    after = half(pixels)
    assert keras.backend.standardize_dtype(after.dtype) == precision
    conv = half.get_layer("conv")
    assert conv.compute_dtype == precision
    assert conv.kernel.dtype == "float32"
    assert half.get_layer("scale").compute_dtype == "float32"
    after = np.asarray(after).astype(np.float32)
    assert 0 < np.abs(after - before).max() < 0.05


def test_file_of_mixed_precision_computes_in_float32():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, dtype="mixed_float16", name="conv")(inputs)
    model = keras.Model(inputs, x)
    flat = _flat(model)
    assert flat.get_layer("conv").compute_dtype == "float32"
    assert flat.outputs[0].dtype == "float32"
    pixels = _pixels()
    kernel, bias = flat.get_layer("conv").get_weights()
    expected = np.einsum("bhwijc,ijcf->bhwf", _windows(pixels), kernel) + bias
    np.testing.assert_allclose(flat(pixels), expected, rtol=1e-4, atol=1e-5)


def _windows(pixels: np.ndarray) -> np.ndarray:
    view = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3), axis=(1, 2))
    return view.transpose(0, 1, 2, 4, 5, 3)
