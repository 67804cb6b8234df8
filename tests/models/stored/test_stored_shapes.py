"""Every rule against the shape that Keras itself derives."""

import keras
import pytest

from tf_finetune.models.stored import stored_shapes

L = keras.layers
IMAGE, SERIES, VOLUME = (9, 11, 4), (10, 6), (7, 8, 9, 2)


def _layers():
    for padding in ("valid", "same"):
        yield L.Conv1D(5, 3, strides=2, padding=padding), SERIES
        yield L.Conv2D(5, (3, 2), strides=(2, 1), padding=padding), IMAGE
        yield L.Conv2D(5, 3, dilation_rate=2, padding=padding), IMAGE
        yield L.Conv3D(5, 2, padding=padding), VOLUME
        yield L.SeparableConv1D(5, 3, padding=padding), SERIES
        yield L.SeparableConv2D(5, 3, strides=2, padding=padding, depth_multiplier=2), IMAGE
        yield L.DepthwiseConv1D(3, strides=2, padding=padding), SERIES
        yield L.DepthwiseConv2D(3, strides=2, padding=padding, depth_multiplier=3), IMAGE
        yield L.Conv1DTranspose(5, 4, strides=3, padding=padding), SERIES
        yield L.Conv2DTranspose(5, (4, 2), strides=3, padding=padding), IMAGE
        yield L.Conv2DTranspose(5, 5, strides=3, output_padding=1, padding=padding), IMAGE
        yield L.Conv2DTranspose(5, 3, dilation_rate=2, padding=padding), IMAGE
        yield L.Conv3DTranspose(5, 3, strides=2, padding=padding), VOLUME
        yield L.MaxPooling1D(3, padding=padding), SERIES
        yield L.MaxPooling2D((3, 2), strides=2, padding=padding), IMAGE
        yield L.AveragePooling2D(2, padding=padding), IMAGE
        yield L.AveragePooling3D(2, strides=1, padding=padding), VOLUME
        yield L.ConvLSTM1D(3, 2, padding=padding, return_sequences=True), (4, 9, 3)
        yield L.ConvLSTM2D(3, 2, padding=padding), (4, 9, 8, 3)
    yield L.Conv1D(5, 3, padding="causal"), SERIES
    yield L.GlobalAveragePooling1D(), SERIES
    yield L.GlobalMaxPooling2D(keepdims=True), IMAGE
    yield L.GlobalAveragePooling3D(), VOLUME
    yield L.GlobalAveragePooling2D(data_format="channels_first"), IMAGE
    yield L.AdaptiveAveragePooling2D((3, 4)), IMAGE
    yield L.ZeroPadding1D(2), SERIES
    yield L.ZeroPadding1D((1, 2)), SERIES
    yield L.ZeroPadding2D(((1, 2), (0, 3))), IMAGE
    yield L.ZeroPadding2D((1, 2)), IMAGE
    yield L.ZeroPadding2D(1, data_format="channels_first"), IMAGE
    yield L.ZeroPadding3D(1), VOLUME
    yield L.Cropping1D((1, 2)), SERIES
    yield L.Cropping2D(((1, 2), (0, 3))), IMAGE
    yield L.Cropping3D(1), VOLUME
    yield L.UpSampling1D(3), SERIES
    yield L.UpSampling2D((2, 3)), IMAGE
    yield L.UpSampling3D(2), VOLUME
    yield L.Dense(7), SERIES
    yield L.EinsumDense("abc,cde->abde", output_shape=(None, 3, 2)), SERIES
    yield L.EinsumDense("ab,bc->ac", output_shape=3), (5,)
    yield L.Flatten(), IMAGE
    yield L.Flatten(), ()
    yield L.Reshape((-1, 4)), IMAGE
    yield L.Reshape((11, 36)), IMAGE
    yield L.Permute((3, 1, 2)), IMAGE
    yield L.RepeatVector(3), (5,)
    yield L.Embedding(9, 3), (5,)
    yield L.LSTM(3), SERIES
    yield L.LSTM(3, return_sequences=True, return_state=True), SERIES
    yield L.GRU(3, return_state=True), SERIES
    yield L.SimpleRNN(3, return_sequences=True), SERIES
    yield L.RNN([L.LSTMCell(3), L.LSTMCell(4)], return_sequences=True), SERIES
    yield L.RNN(L.GRUCell(3)), SERIES
    for mode in ("concat", "sum", None):
        yield L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode=mode), SERIES
        yield L.Bidirectional(L.GRU(3, return_state=True), merge_mode=mode), SERIES
    yield L.TimeDistributed(L.Conv2D(3, 2)), (4, *IMAGE)
    yield L.TimeDistributed(L.Dense(3)), SERIES
    yield L.SpectralNormalization(L.Conv2D(3, 2)), IMAGE
    yield L.Resizing(5, 6), IMAGE
    yield L.CenterCrop(5, 6), IMAGE
    yield L.RandomCrop(5, 6), IMAGE
    for layer in (L.ReLU(), L.Activation("tanh"), L.Softmax(), L.Dropout(0.5), L.PReLU()):
        yield layer, IMAGE
    for layer in (L.BatchNormalization(), L.LayerNormalization(), L.GroupNormalization(2)):
        yield layer, IMAGE
    for layer in (L.Rescaling(2.0), L.Normalization(), L.RandomFlip(), L.RandomRotation(0.1)):
        yield layer, IMAGE


def _compare(layer, shapes, outputs):
    given = [(None, *shape) for shape in shapes]
    made = stored_shapes.output_shapes(type(layer).__name__, layer.get_config(), given)
    expected = [tuple(output.shape) for output in keras.tree.flatten(outputs)]
    return [] if made == expected else [(layer.get_config(), made, expected)]


def test_layers_of_one_input():
    wrong = []
    for layer, shape in _layers():
        wrong += _compare(layer, [shape], layer(keras.Input(shape)))
    assert wrong == []


@pytest.mark.parametrize(
    ("make_layer", "shapes"),
    [
        (lambda: L.Add(), [(4, 5), (4, 5)]),
        (lambda: L.Multiply(), [(4, 5, 3), (1, 1, 3)]),
        (lambda: L.Average(), [(4, 5), (4, 5), (4, 5)]),
        (lambda: L.Maximum(), [(4, 1), (1, 5)]),
        (lambda: L.Subtract(), [(4, 5), (4, 5)]),
        (lambda: L.Concatenate(), [(4, 5), (4, 6), (4, 1)]),
        (lambda: L.Concatenate(axis=1), [(4, 5), (2, 5)]),
        (lambda: L.Dot(axes=1), [(4, 5), (4, 6)]),
        (lambda: L.Dot(axes=(2, 1)), [(4, 5), (5, 6)]),
        (lambda: L.Attention(), [(4, 5), (3, 5)]),
        (lambda: L.AdditiveAttention(), [(4, 5), (3, 5)]),
    ],
)
def test_layer_of_several_inputs(make_layer, shapes):
    layer = make_layer()
    assert _compare(layer, shapes, layer([keras.Input(shape) for shape in shapes])) == []


@pytest.mark.parametrize("output_shape", [None, 7])
def test_multi_head_attention(output_shape):
    layer = L.MultiHeadAttention(2, 3, output_shape=output_shape)
    output = layer(keras.Input((4, 5)), keras.Input((6, 8)))
    assert _compare(layer, [(4, 5), (6, 8)], output) == []


def test_free_sizes():
    layers = [L.Conv2D(3, 3, strides=2), L.Conv2DTranspose(3, 3), L.MaxPooling2D(), L.Dense(2)]
    layers += [L.ZeroPadding2D(1), L.UpSampling2D(), L.Flatten(), L.Reshape((-1,))]
    wrong = []
    for layer in [*layers, L.GlobalAveragePooling2D(), L.Cropping2D(1)]:
        wrong += _compare(layer, [(None, 8, 3)], layer(keras.Input((None, 8, 3))))
    assert wrong == []


@pytest.mark.parametrize(
    ("class_name", "config", "inputs", "expected"),
    [
        ("MyLayer", {}, [(None, 4)], [None]),
        ("Conv2D", {"filters": 3}, [(None, 4, 4, 3)], [None]),
        ("Conv2D", {"filters": 3, "kernel_size": "x"}, [(None, 4, 4, 3)], [None]),
        ("Dense", {"units": 3}, [None], [None]),
        ("LSTM", {"units": 3, "return_state": True}, [None], [None, None, None]),
        ("Bidirectional", {}, [(None, 4, 4)], [None]),
    ],
)
def test_what_no_rule_derives_is_unknown(class_name, config, inputs, expected):
    assert stored_shapes.output_shapes(class_name, config, inputs) == expected


def test_an_operation_is_not_the_layer_of_its_name():
    made = stored_shapes.output_shapes("Add", {}, [(None, 4)], is_operation=True)
    assert made == [None]
