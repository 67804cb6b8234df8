import keras
import numpy as np
import pytest

from tf_finetune.models.legacy import private_layers, tensor_operations


def test_hard_sigmoid_is_that_of_keras_2_and_survives_saving(tmp_path):
    x = np.linspace(-4, 4, 9, dtype=np.float32)
    expected = np.clip(0.2 * x + 0.5, 0, 1)
    np.testing.assert_allclose(tensor_operations.hard_sigmoid(x), expected, rtol=1e-6)
    layer = keras.layers.LSTM(2, recurrent_activation=tensor_operations.hard_sigmoid)
    model = keras.Sequential([keras.Input((3, 2)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].recurrent_activation is tensor_operations.hard_sigmoid


def _operation(function, *args, **kwargs):
    return tensor_operations.TensorOperation(
        function, {"args": list(args), "kwargs": kwargs}, name="op"
    )


def test_operation_fills_places_slices_and_types():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    place = {"tensor": 0}
    part = [{"start": 1, "stop": None, "step": None}, {"class_name": "__ellipsis__"}, None, 0]
    sliced = _operation("__operators__.getitem", place, slice_spec=part)
    np.testing.assert_array_equal(sliced(x), x[1:, None, 0])
    cast = _operation("cast", place, dtype="int32")
    assert cast(x).dtype == "int32"
    added = _operation("math.add", place, y={"tensor": 1})
    np.testing.assert_array_equal(added([x, x]), 2 * x)


def test_operation_computes_in_the_precision_of_its_policy():
    layer = tensor_operations.TensorOperation(
        "math.multiply", {"args": [{"tensor": 0}], "kwargs": {"y": 2.0}}, dtype="mixed_bfloat16"
    )
    assert layer(np.ones((2, 2), np.float32)).dtype == "bfloat16"


def test_unknown_function_is_not_looked_up():
    with pytest.raises(ValueError, match=r"Unknown function 'io.read_file'\."):
        _operation("io.read_file", {"tensor": 0})


@pytest.mark.parametrize(
    "make",
    [
        lambda: private_layers.LayerScale(0.5, 3),
        lambda: private_layers.StochasticDepth(0.5),
        lambda: private_layers.ThresholdedReLU(0.2),
    ],
)
def test_private_layers_survive_saving(tmp_path, make):
    model = keras.Sequential([keras.Input((4, 3)), make()])
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x), model(x))


def test_private_layers_compute():
    x = np.array([[-1.0, 0.1, 0.5]], np.float32)
    np.testing.assert_allclose(private_layers.LayerScale(0.5, 3)(x), 0.5 * x)
    np.testing.assert_allclose(private_layers.ThresholdedReLU(0.2)(x), [[0, 0, 0.5]])
    np.testing.assert_allclose(private_layers.ScaledAdd(0.1)([x, x]), 1.1 * x, rtol=1e-6)


def test_stochastic_depth_drops_whole_examples_in_training_only():
    keras.utils.set_random_seed(0)
    layer = private_layers.StochasticDepth(0.5)
    x = np.ones((200, 3), np.float32)
    np.testing.assert_array_equal(layer(x, training=False), x)
    dropped = np.asarray(layer(x, training=True))
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert (dropped == dropped[:, :1]).all()
    assert 60 < (dropped[:, 0] == 0).sum() < 140
