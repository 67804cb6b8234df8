import pytest

pytest.importorskip("tf_keras")
import tensorflow as tf
import tf_keras

from tests.models import keras2_files
from tf_finetune.models.legacy import keras2_layers, keras2_values

L = tf_keras.layers
IMAGE = (6, 8, 3)
SERIES = (5, 2)
VIDEO = (3, 5, 5, 2)
VOLUME = (4, 4, 4, 2)


def _nested():
    layers = [tf_keras.Input((6, 6, 2)), L.Conv2D(2, 3), L.BatchNormalization(), L.Dense(3)]
    return tf_keras.Sequential([*layers, L.BatchNormalization(), L.Flatten()])


# (layer of tf_keras, shape of its input).
LAYERS = {
    "dense": (
        lambda: L.Dense(
            3, "relu", kernel_regularizer="l2", bias_constraint=tf_keras.constraints.max_norm(2.0)
        ),
        (4,),
    ),
    "conv1d_causal": (lambda: L.Conv1D(3, 2, padding="causal", dilation_rate=2), (9, 3)),
    "conv2d_layer_activation": (lambda: L.Conv2D(4, 3, activation=L.LeakyReLU(0.2)), IMAGE),
    "conv2d_groups": (lambda: L.Conv2D(6, 3, groups=3, strides=2, padding="same"), IMAGE),
    "conv3d": (lambda: L.Conv3D(3, 2), VOLUME),
    "conv1d_transpose": (lambda: L.Conv1DTranspose(2, 3, strides=2), SERIES),
    "conv2d_transpose": (
        lambda: L.Conv2DTranspose(2, 3, strides=2, padding="same", output_padding=1),
        IMAGE,
    ),
    "conv3d_transpose": (lambda: L.Conv3DTranspose(2, 3), (3, 3, 3, 2)),
    "depthwise1d": (lambda: L.DepthwiseConv1D(3, depth_multiplier=2), (6, 3)),
    "depthwise2d": (
        lambda: L.DepthwiseConv2D(3, depth_multiplier=2, activation="relu6"),
        IMAGE,
    ),
    "separable1d": (lambda: L.SeparableConv1D(4, 3), (6, 3)),
    "separable2d": (lambda: L.SeparableConv2D(4, 3, depth_multiplier=2), IMAGE),
    "locally_connected1d": (lambda: L.LocallyConnected1D(3, 2), (6, 2)),
    "locally_connected2d": (lambda: L.LocallyConnected2D(3, 2), (5, 6, 2)),
    "lstm": (lambda: L.LSTM(3, return_sequences=True), SERIES),
    "lstm_hard_sigmoid": (
        lambda: L.LSTM(3, recurrent_activation="hard_sigmoid", go_backwards=True),
        SERIES,
    ),
    "gru": (lambda: L.GRU(3), SERIES),
    "gru_reset_before": (
        lambda: L.GRU(3, reset_after=False, recurrent_activation="hard_sigmoid"),
        SERIES,
    ),
    "simple_rnn": (lambda: L.SimpleRNN(3, unroll=True), SERIES),
    "bidirectional": (
        lambda: L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="sum"),
        SERIES,
    ),
    "bidirectional_reversed": (lambda: L.Bidirectional(L.GRU(3, go_backwards=True)), SERIES),
    "bidirectional_two_kinds": (
        lambda: L.Bidirectional(L.LSTM(3), backward_layer=L.GRU(3, go_backwards=True)),
        SERIES,
    ),
    "bidirectional_unmerged": (lambda: L.Bidirectional(L.GRU(3), merge_mode=None), SERIES),
    "conv_lstm1d": (lambda: L.ConvLSTM1D(2, 3), (3, 6, 2)),
    "conv_lstm2d": (lambda: L.ConvLSTM2D(2, 3, padding="same", return_sequences=True), VIDEO),
    "bidirectional_conv_lstm2d": (lambda: L.Bidirectional(L.ConvLSTM2D(2, 3)), VIDEO),
    "rnn_cell": (lambda: L.RNN(L.LSTMCell(3)), SERIES),
    "rnn_cells": (
        lambda: L.RNN([L.LSTMCell(3), L.GRUCell(4), L.SimpleRNNCell(2)], return_sequences=True),
        SERIES,
    ),
    "bidirectional_cells": (
        lambda: L.Bidirectional(L.RNN([L.LSTMCell(3), L.GRUCell(4)])),
        SERIES,
    ),
    "time_major": (lambda: L.LSTM(3, time_major=True, return_sequences=True), SERIES),
    "bidirectional_time_major": (lambda: L.Bidirectional(L.GRU(3, time_major=True)), SERIES),
    "causal_separable": (
        lambda: L.SeparableConv1D(4, 3, padding="causal", dilation_rate=2, depth_multiplier=2),
        (9, 3),
    ),
    "resizing_mitchell": (lambda: L.Resizing(5, 7, interpolation="mitchellcubic"), IMAGE),
    "upsampling_gaussian": (lambda: L.UpSampling2D((2, 3), interpolation="gaussian"), IMAGE),
    "sine": (lambda: L.Dense(3, activation=tf.sin), (4,)),
    "tensorflow_log_softmax": (lambda: L.Dense(3, activation=tf.nn.log_softmax), (4,)),
    "tensorflow_crelu": (lambda: L.Activation(tf.nn.crelu), (4,)),
    "einsum": (lambda: L.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d"), (3, 5)),
    "dropout": (lambda: L.Dropout(0.5, noise_shape=(None, 1, 8)), (4, 8)),
    "spatial_dropout2d": (lambda: L.SpatialDropout2D(0.5), IMAGE),
    "permute": (lambda: L.Permute((2, 1)), (4, 3)),
    "reshape": (lambda: L.Reshape((2, -1)), (4, 3)),
    "repeat": (lambda: L.RepeatVector(3), (4,)),
    "flatten": (lambda: L.Flatten(), IMAGE),
    "masking": (lambda: L.Masking(0.5), (4, 3)),
    "hard_sigmoid": (lambda: L.Activation("hard_sigmoid"), (9,)),
    "swish": (lambda: L.Activation("swish"), (9,)),
    "gelu": (lambda: L.Activation("gelu"), (9,)),
    "relu": (lambda: L.ReLU(0.5, 0.1, 0.2), (9,)),
    "leaky_relu": (lambda: L.LeakyReLU(0.2), (9,)),
    "prelu": (lambda: L.PReLU(shared_axes=[1, 2]), IMAGE),
    "thresholded_relu": (lambda: L.ThresholdedReLU(0.3), (9,)),
    "softmax_axes": (lambda: L.Softmax(axis=[1, 2]), (4, 3)),
    "batch_norm_axis": (lambda: L.BatchNormalization(axis=1), IMAGE),
    "batch_norm_plain": (lambda: L.BatchNormalization(scale=False, center=False), IMAGE),
    "batch_norm_renorm": (lambda: L.BatchNormalization(renorm=True), IMAGE),
    "batch_norm_sync": (lambda: L.BatchNormalization(synchronized=True), IMAGE),
    "layer_norm": (lambda: L.LayerNormalization(axis=[1, 2]), (4, 3)),
    "group_norm": (lambda: L.GroupNormalization(2), (4, 4)),
    "pooling": (lambda: L.MaxPool2D(2, padding="same"), (5, 5, 2)),
    "pooling1d": (lambda: L.AveragePooling1D(2), (6, 2)),
    "global_pooling": (lambda: L.GlobalAveragePooling2D(keepdims=True), IMAGE),
    "upsampling": (lambda: L.UpSampling2D((2, 3), interpolation="bilinear"), IMAGE),
    "padding": (lambda: L.ZeroPadding2D(((1, 2), (0, 1))), IMAGE),
    "cropping": (lambda: L.Cropping2D(1), IMAGE),
    "time_distributed": (lambda: L.TimeDistributed(L.Dense(3)), (4, 2)),
    "time_distributed_model": (lambda: L.TimeDistributed(_nested()), (3, 6, 6, 2)),
    "rescaling": (lambda: L.Rescaling([1.0, 2.0, 3.0], offset=0.5), IMAGE),
    "resizing": (lambda: L.Resizing(4, 5, "bicubic"), IMAGE),
    "center_crop": (lambda: L.CenterCrop(3, 4), IMAGE),
    "normalization": (lambda: L.Normalization(), IMAGE),
    "normalization_all": (lambda: L.Normalization(axis=None), IMAGE),
    "normalization_given": (
        lambda: L.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 2.0, 3.0]),
        IMAGE,
    ),
    "random_flip": (lambda: L.RandomFlip("horizontal"), IMAGE),
    "random_zoom": (lambda: L.RandomZoom(0.1, (0.1, 0.2)), IMAGE),
    "random_crop": (lambda: L.RandomCrop(4, 4), IMAGE),
    "random_height": (lambda: L.RandomHeight(0.1), IMAGE),
    "discretization": (lambda: L.Discretization([0.2, 0.5]), (4,)),
}
COMPOSITE = (
    "bidirectional",
    "rnn_cells",
    "time_distributed_model",
    "normalization",
    "conv2d_groups",
)


def _model(name):
    make, shape = LAYERS[name]
    inputs = tf_keras.Input(shape)
    return tf_keras.Model(inputs, make()(inputs))


@pytest.mark.parametrize("name", LAYERS)
def test_layer_computes_what_tf_keras_says(tmp_path, name):
    saves_again = name in (*COMPOSITE, "lstm_hard_sigmoid", "conv2d_layer_activation")
    keras2_files.check_loads(_model(name), tmp_path / "model.h5", saves_again=saves_again)


@pytest.mark.parametrize("name", COMPOSITE)
def test_archive_computes_what_tf_keras_says(tmp_path, name):
    keras2_files.check_loads(_model(name), tmp_path / "model.keras", saves_again=False)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("BatchNormalizationV1", "BatchNormalization"),
        ("BatchNormalizationV2", "BatchNormalization"),
        ("CuDNNLSTM", "LSTM"),
        ("UnifiedGRU", "GRU"),
        ("MaxPool2D", "MaxPooling2D"),
        ("efficientnet>FixedDropout", "Dropout"),
        ("Conv2D", "Conv2D"),
        ("Swirl", None),
        ("SwirlV2", None),
    ],
)
def test_plain_class(stored, expected):
    assert keras2_layers.plain_class(stored) == expected


def _translate(class_name, version="2.2.4", **config):
    return keras2_layers.translate_layer(
        {"class_name": class_name, "config": config},
        name="layer",
        version=version,
        inner_layer=lambda inner: inner,
    )["config"]


def test_missing_arguments_mean_what_their_version_meant():
    own = keras2_values.own_function("hard_sigmoid")
    assert _translate("LSTM", units=3)["recurrent_activation"] == own
    assert "recurrent_activation" not in _translate("LSTM", version="2.3.0", units=3)
    assert "recurrent_activation" not in _translate("LSTM", version="2.2.4-tf", units=3)
    assert _translate("GRU", units=3)["reset_after"] is False
    assert _translate("CuDNNGRU", units=3) == {
        "units": 3,
        "name": "layer",
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "reset_after": True,
    }


def test_values_of_old_writers():
    alpha = {"class_name": "__ndarray__", "value": 0.25}
    assert _translate("LeakyReLU", alpha=alpha)["negative_slope"] == 0.25
    assert _translate("LeakyReLU", alpha={"type": "ndarray", "value": 0.5})["negative_slope"] == 0.5
    policy = {"class_name": "PolicyV1", "config": {"name": "mixed_float16", "loss_scale": None}}
    assert _translate("Dense", units=2, dtype=policy)["dtype"] == "mixed_float16"
    assert "dtype" not in _translate("Dense", units=2, dtype={"class_name": "Policy", "config": {}})
    assert "dtype" not in _translate("Embedding", input_dim=2, output_dim=3, dtype="int32")
    axis = {"class_name": "ListWrapper", "config": [3]}
    assert _translate("BatchNormalization", axis=axis)["axis"] == 3


def test_initializers_lose_what_keras_3_lacks():
    made = _translate(
        "Dense", units=2, kernel_initializer={"class_name": "SwirlInit", "config": {}}
    )
    assert made["kernel_initializer"]["class_name"] == "Zeros"
    stored = {"class_name": "VarianceScaling", "config": {"distribution": "normal", "dtype": "f"}}
    made = _translate("Dense", units=2, kernel_initializer=stored)["kernel_initializer"]
    assert made["config"] == {"distribution": "truncated_normal"}


@pytest.mark.parametrize(
    ("class_name", "config", "reason"),
    [
        (
            "Resizing",
            {"height": 4, "interpolation": "gaussian", "crop_to_aspect_ratio": True},
            "has interpolation=gaussian with crop_to_aspect_ratio, which Keras 3 does not have. "
            "Expected interpolation=bicubic.",
        ),
        (
            "BatchNormalization",
            {"axis": [1, 2]},
            "normalizes over the axes [1, 2], which BatchNormalization of Keras 3 does not have. "
            "Expected one axis.",
        ),
        (
            "LocallyConnected2D",
            {"implementation": 2},
            "has implementation=2, which Keras 3 does not have. Expected implementation=1.",
        ),
        (
            "StringLookup",
            {"vocabulary": None},
            "has a vocabulary that the file does not hold. Expected the words in its "
            "configuration: make the layer with vocabulary=[...], or export the model as a "
            "SavedModel.",
        ),
        (
            "Conv2D",
            {"activation": {"class_name": "PReLU", "config": {}}},
            "has PReLU, which has weights, as its activation. Expected PReLU as a layer of its "
            "own: build the model so and save it again.",
        ),
    ],
)
def test_what_keras_3_cannot_express_is_refused(class_name, config, reason):
    with pytest.raises(keras2_values.UntranslatableError) as caught:
        _translate(class_name, **config)
    assert str(caught.value) == reason
