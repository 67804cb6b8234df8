"""The bound must hold for every layer that Keras builds, and be near where a lie costs much."""

import keras
import numpy as np
import pytest

from tf_finetune.trust import keras_numbers, least_weights

layers = keras.layers
# Made in the tests: a layer's first number begins to use the devices.
CASES = [
    (lambda: layers.Dense(7), (3,)),
    (lambda: layers.Embedding(11, 5), (3,)),
    (lambda: layers.Conv2D(4, (3, 5)), (8, 8, 2)),
    (lambda: layers.Conv1DTranspose(4, 3), (8, 2)),
    (lambda: layers.DepthwiseConv2D(3, depth_multiplier=4), (8, 8, 2)),
    (lambda: layers.SeparableConv1D(6, 3, depth_multiplier=4), (8, 2)),
    (lambda: layers.SimpleRNN(6), (4, 3)),
    (lambda: layers.GRU(6), (4, 3)),
    (lambda: layers.LSTM(6), (4, 3)),
    (lambda: layers.RNN(layers.StackedRNNCells([layers.LSTMCell(6), layers.GRUCell(5)])), (4, 3)),
    (lambda: layers.Bidirectional(layers.LSTM(6)), (4, 3)),
    (lambda: layers.ConvLSTM2D(4, 3), (2, 8, 8, 3)),
    (lambda: layers.EinsumDense("abc,cd->abd", output_shape=(None, 5)), (4, 3)),
    (lambda: layers.EinsumDense("...x,xyz->...yz", output_shape=(4, 5)), (3,)),
    (lambda: layers.EinsumDense("bij,jk->bik", output_shape=(1000, 6)), (1000, 3)),
    (lambda: layers.STFTSpectrogram(frame_length=32, frame_step=8, fft_length=64), (400, 1)),
    (lambda: layers.TimeDistributed(layers.Dense(9)), (4, 3)),
]


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_no_layer_has_fewer(make, shape):
    model = keras.Sequential([keras.Input(shape), make()])
    config = keras.saving.serialize_keras_object(model)
    stored = sum(int(np.prod(weight.shape)) for weight in model.weights)
    total = sum(
        least_weights.count(name, values)
        for _, name, values in keras_numbers.iterate_layers(config)
    )
    assert 0 < total <= stored
    assert not list(keras_numbers.find_excesses(config, stored_size=stored))


def test_attention_of_two_kinds():
    for layer in (
        layers.MultiHeadAttention(4, 8),
        layers.GroupQueryAttention(head_dim=8, num_query_heads=4, num_key_value_heads=2),
    ):
        layer.build((None, 5, 16), (None, 5, 16))
        stored = sum(int(np.prod(weight.shape)) for weight in layer.weights)
        assert 32 <= least_weights.count(type(layer).__name__, layer.get_config()) <= stored


@pytest.mark.parametrize(
    ("class_name", "values"),
    [
        ("EinsumDense", {"equation": "abc,cd->abd", "output_shape": [None, 2**31 - 1]}),
        ("EinsumDense", {"equation": "a,abc->bc", "output_shape": [2**16, 2**16]}),
        ("MultiHeadAttention", {"num_heads": 2**12, "key_dim": 2**16}),
        ("DepthwiseConv2D", {"kernel_size": [3, 3], "depth_multiplier": 2**29}),
        ("SeparableConv2D", {"kernel_size": [3, 3], "filters": 4, "depth_multiplier": 2**29}),
        ("STFTSpectrogram", {"frame_length": 2**16, "fft_length": 2**16}),
        ("LSTM", {"units": 2**16}),
        ("GRUCell", {"units": 2**16}),
        ("ConvLSTM2D", {"filters": 2**14, "kernel_size": [3, 3]}),
        ("Embedding", {"input_dim": 2**16, "output_dim": 2**16}),
    ],
)
def test_what_would_fill_the_memory_is_told(class_name, values):
    config = {"class_name": class_name, "config": {"name": "big", **values}}
    found = [message for _, message in keras_numbers.find_excesses(config, stored_size=1000)]
    assert "the file stores 1,000 in all" in found[-1]
