import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune import pointwise_strides, trainer_model

# In the strided form the weights' gradient of 32 images of 60 x 60 ends the process.
CRASHING = """
import keras, numpy as np, tensorflow as tf
from tf_finetune import trainer_model
inputs = keras.Input([60, 60, 8])
outputs = keras.layers.Conv2D(16, 1, strides=2, padding="same")(inputs)
trainer = trainer_model.TrainerModel(inputs, outputs)
trainer.compile("sgd", "mse", jit_compile=False)
x = np.random.default_rng(1).normal(size=[32, 60, 60, 8]).astype(np.float32)
data = tf.data.Dataset.from_tensors((x, np.zeros([32, 30, 30, 16], np.float32))).repeat(5)
trainer.use_plain_batch(data)
trainer.fit(data, shuffle=False, verbose=0)
print("trained")
"""


def test_a_step_survives_what_ends_the_process():
    done = subprocess.run(
        [sys.executable, "-c", CRASHING], check=False, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr[-2000:]


def _model(layer, shape):
    inputs = keras.Input(shape)
    inner = keras.Model(inputs, layer(inputs))
    outer = keras.Input(shape)
    return keras.Model(outer, inner(outer))


@pytest.mark.parametrize("use_step", [False, True], ids=["block", "step"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (keras.layers.Conv1D(8, 1, strides=4, padding="causal"), [1024, 3]),
        # With AVX2 the strided form has a wrong gradient here.
        (keras.layers.Conv2D(16, 1, strides=2, padding="same", activation="relu"), [32, 32, 4]),
        (keras.layers.Conv2D(8, 1, strides=(1, 3), padding="valid", groups=2), [7, 8, 4]),
    ],
    ids=["1d", "2d", "uneven"],
)
def test_values_and_gradients_are_those_of_numpy(layer, shape, use_step):
    keras.utils.set_random_seed(2)
    layer = type(layer).from_config({**layer.get_config(), "bias_initializer": "ones"})
    model = _model(layer, shape)
    x = np.random.default_rng(3).normal(size=[8, *shape]).astype(np.float32)
    window = (slice(None), *(slice(None, None, stride) for stride in layer.strides))
    kernel = np.array(layer.kernel).reshape(-1, layer.filters).astype(np.float64)
    groups = np.split(x[window].astype(np.float64), layer.groups, axis=-1)
    kernels = np.split(kernel, layer.groups, axis=-1)
    linear = np.concatenate([a @ b for a, b in zip(groups, kernels, strict=True)], axis=-1) + 1
    slope = np.ones_like(linear)
    expected = linear
    if layer.activation is keras.activations.relu:
        expected, slope = np.maximum(linear, 0), (linear > 0).astype(np.float64)
    slopes = np.split(slope, layer.groups, axis=-1)
    gradient = np.concatenate(
        [
            a.reshape(-1, a.shape[-1]).T @ b.reshape(-1, b.shape[-1])
            for a, b in zip(groups, slopes, strict=True)
        ],
        axis=-1,
    )
    if use_step:
        _check_step(model, layer, x, gradient)
        return
    before = np.array(model(x))
    with pointwise_strides.slice_first(model):
        assert "call" in vars(layer)
        values = np.array(model(x))
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(values, before, rtol=1e-5, atol=1e-5)


def _check_step(model, layer, x, gradient):
    """A step of plain descent on the sum of the outputs moves the kernel by the gradient."""
    trainer = trainer_model.TrainerModel(model.input, model.output)
    total = keras.losses.get(lambda y, y_pred: keras.ops.sum(y_pred))
    trainer.compile(keras.optimizers.SGD(1.0), total, jit_compile=False)
    trainer.use_plain_batch(_batches(x))
    kernel = np.array(layer.kernel)
    trainer.fit(_batches(x), shuffle=False, verbose=0)
    moved = (kernel - np.array(layer.kernel)).reshape(gradient.shape)
    np.testing.assert_allclose(moved, gradient, rtol=1e-3, atol=1e-3 * np.abs(gradient).max())


def _batches(x):
    return tf.data.Dataset.from_tensors((x, np.zeros([len(x), 1], np.float32)))


def test_layers_are_as_before_also_after_an_error():
    layer = keras.layers.Conv2D(4, 1, strides=2)
    model = _model(layer, [8, 8, 3])
    with pytest.raises(KeyError), pointwise_strides.slice_first(model):
        raise KeyError
    assert "call" not in vars(layer)
    with pointwise_strides.slice_first(model), pytest.raises(ValueError):
        layer(np.zeros([2, 8, 8, 5], np.float32))
    assert layer.strides == (2, 2)
    assert model.output_shape == (None, 4, 4, 4)


def test_a_block_inside_of_a_block_leaves_the_layers_to_the_first():
    layer = keras.layers.Conv2D(4, 1, strides=2)
    model = _model(layer, [8, 8, 3])
    x = np.ones([2, 8, 8, 3], np.float32)
    with pointwise_strides.slice_first(model):
        with pointwise_strides.slice_first(model):
            assert model(x).shape == (2, 4, 4, 4)
        assert model(x).shape == (2, 4, 4, 4)
        assert "call" in vars(layer)
    assert "call" not in vars(layer)


class _Padded(keras.layers.Conv2D):
    def call(self, inputs):
        return super().call(keras.ops.pad(inputs, [[0, 0], [1, 0], [1, 0], [0, 0]]))


@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        (keras.layers.Conv2D(4, 1, strides=2), 16),
        (keras.layers.Conv2D(4, 1), 3),
        (keras.layers.Conv2D(4, (1, 3), strides=2), 3),
        (keras.layers.Conv2D(4, 1, strides=2, trainable=False), 3),
        (keras.layers.Conv2D(4, 1, strides=2, dtype="mixed_bfloat16"), 3),
        (keras.layers.DepthwiseConv2D(1, strides=2), 3),
        (_Padded(4, 1, strides=2), 3),
    ],
    ids=["channels", "stride", "kernel", "frozen", "bfloat16", "depthwise", "own class"],
)
def test_other_layers_stay_alone(layer, channels):
    with pointwise_strides.slice_first(_model(layer, [8, 8, channels])):
        assert "call" not in vars(layer)
