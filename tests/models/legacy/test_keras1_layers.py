import keras
import numpy as np
import pytest

from tf_finetune.models.legacy import keras1_layers, locally_connected

RANDOM = np.random.default_rng(0)
OWN = [
    (keras1_layers.Highway("relu"), (5,)),
    (keras1_layers.Highway(use_bias=False, kernel_regularizer="l2"), (5,)),
    (keras1_layers.MaxoutDense(3, 2), (5,)),
    (keras1_layers.ParametricSoftplus(shared_axes=[1]), (4, 5)),
    (keras1_layers.SReLU(), (4, 5)),
    (keras1_layers.SampleNormalization(1e-2), (5,)),
    (keras1_layers.CurrentBatchNormalization(1), (3, 4, 5)),
    (locally_connected.LocallyConnected1D(3, 2, 2, activation="tanh"), (7, 4)),
    (locally_connected.LocallyConnected2D(3, (2, 3), data_format="channels_first"), (2, 5, 6)),
]


def randomise(model):
    for weight in model.weights:
        weight.assign(RANDOM.normal(0, 0.5, weight.shape))


@pytest.mark.parametrize(("layer", "shape"), OWN, ids=lambda value: getattr(value, "name", ""))
def test_they_save_and_load(tmp_path, layer, shape):
    model = keras.Sequential([keras.Input(shape), layer])
    randomise(model)
    inputs = RANDOM.normal(size=(3, *shape)).astype("float32")
    expected = np.asarray(model(inputs))
    assert model.output_shape == (None, *expected.shape[1:])
    path = tmp_path / "model.keras"
    model.save(path)
    np.testing.assert_array_equal(np.asarray(keras.models.load_model(path)(inputs)), expected)


def test_highway_mixes_its_input():
    layer = keras1_layers.Highway("tanh")
    layer.build((None, 4))
    randomise(layer)
    inputs = RANDOM.normal(size=(3, 4))
    gate = 1 / (1 + np.exp(-(inputs @ layer.gate_kernel.numpy() + layer.gate_bias.numpy())))
    values = np.tanh(inputs @ layer.kernel.numpy() + layer.bias.numpy())
    expected = gate * values + (1 - gate) * inputs
    np.testing.assert_allclose(np.asarray(layer(inputs)), expected, rtol=1e-4, atol=1e-6)


def test_maxout_takes_the_largest_piece():
    layer = keras1_layers.MaxoutDense(3, 2)
    layer.build((None, 4))
    randomise(layer)
    inputs = RANDOM.normal(size=(5, 4))
    pieces = [inputs @ layer.kernel.numpy()[n] + layer.bias.numpy()[n] for n in range(2)]
    np.testing.assert_allclose(np.asarray(layer(inputs)), np.maximum(*pieces), rtol=1e-4, atol=1e-6)


def test_a_prediction_by_the_current_batch_does_not_need_training():
    layer = keras1_layers.CurrentBatchNormalization(epsilon=0.0)
    inputs = RANDOM.normal(3, 2, (50, 4)).astype("float32")
    outputs = np.asarray(layer(inputs, training=False))
    np.testing.assert_allclose(outputs.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(outputs.std(0), 1, atol=1e-4)


def test_the_cosine_of_vectors():
    left, right = RANDOM.normal(size=(2, 3, 4)).astype("float32")
    cosine = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    outputs = np.asarray(keras1_layers.CosineMerge(1)([left, right]))
    np.testing.assert_allclose(outputs, cosine[:, None, None], rtol=1e-5)


def test_a_kernel_that_is_the_same_everywhere_is_a_convolution():
    local = locally_connected.LocallyConnected2D(3, (2, 3), (1, 2))
    plain = keras.layers.Conv2D(3, (2, 3), (1, 2))
    inputs = RANDOM.normal(size=(2, 5, 7, 4)).astype("float32")
    local(inputs), plain(inputs)
    randomise(plain)
    kernel = plain.kernel.numpy().reshape(1, -1, 3)
    local.kernel.assign(np.repeat(kernel, local.kernel.shape[0], 0))
    local.bias.assign(np.broadcast_to(plain.bias.numpy(), local.bias.shape))
    np.testing.assert_allclose(np.asarray(local(inputs)), np.asarray(plain(inputs)), atol=1e-5)


def test_only_valid_padding():
    with pytest.raises(ValueError, match=r"padding: expected 'valid'\. Received 'same'\."):
        locally_connected.LocallyConnected1D(3, 2, padding="same")
