"""The oracle is a hand-built twin with the channels last.

Keras 3.15 itself is none: where a channels_first convolution has as many filters as columns, its
`ops.add` adds the bias along the columns.
"""

import keras
import numpy as np
import pytest
from keras import layers

from tf_finetune.models import surgery
from tf_finetune.models.legacy import channels_first, keras1_layers

RANDOM = np.random.default_rng(0)
IMAGE = (3, 8, 9)


def randomise(model):
    for weight in model.weights:
        value = RANDOM.normal(0, 0.4, weight.shape)
        weight.assign(np.abs(value) + 0.3 if "variance" in weight.path else value)


def permute(order):
    return layers.Permute(order)


class Side:
    """Builds a model with the channels first, or what it should compute with them last."""

    def __init__(self, first):
        self.first = first
        self.format = {"data_format": "channels_first" if first else "channels_last"}
        self.axis = 1 if first else -1
        self.rows = [2, 3] if first else [1, 2]

    def image(self, shape=IMAGE, **kwargs):
        return keras.Input(shape if self.first else (*shape[1:], shape[0]), **kwargs)

    def back(self, tensor):
        return tensor if self.first else permute((3, 1, 2))(tensor)

    def to(self, tensor):
        return tensor if self.first else permute((2, 3, 1))(tensor)


def chain(side, *steps):
    image = tensor = side.image()
    for step in steps:
        tensor = step(tensor)
    return keras.Model(image, tensor)


def classifier(s):
    return chain(
        s,
        layers.ZeroPadding2D(((1, 2), (0, 1)), **s.format),
        layers.Conv2D(4, (3, 2), strides=2, activation="relu", **s.format),
        layers.BatchNormalization(axis=s.axis),
        layers.MaxPooling2D(2, **s.format),
        s.back,
        layers.Flatten(),
        layers.Dense(5),
    )


def all_kinds(s):
    return chain(
        s,
        layers.DepthwiseConv2D(3, **s.format),
        layers.SeparableConv2D(4, 3, **s.format),
        layers.PReLU(shared_axes=s.rows),
        layers.SpatialDropout2D(0.3, **s.format),
        layers.UpSampling2D(3, **s.format),
        layers.Conv2DTranspose(6, 2, strides=2, **s.format),
        layers.Cropping2D(1, **s.format),
        layers.AveragePooling2D(2, **s.format),
        layers.LayerNormalization(axis=s.axis),
        layers.GroupNormalization(2, axis=s.axis),
        layers.GlobalAveragePooling2D(**s.format),
        layers.Dense(2),
    )


def filters_equal_columns(s):
    return chain(
        s,
        layers.Conv2D(7, 3, **s.format),
        s.back,
        layers.Activation("softmax"),
        s.to,
        layers.Conv2D(2, 1, **s.format),
        layers.Softmax(axis=s.axis),
        s.back,
    )


def branches(s):
    image = s.image()
    left = layers.Conv2D(4, 3, padding="same", **s.format)(image)
    right = layers.Conv2D(4, 1, **s.format)(image)
    both = layers.Concatenate(axis=s.axis)([left, layers.Add()([left, right]), right])
    gate = layers.GlobalMaxPooling2D(keepdims=True, **s.format)(both)
    scaled = layers.BatchNormalization(axis=s.axis)(layers.Multiply()([both, gate]))
    flat = layers.Flatten()(s.back(scaled))
    return keras.Model(image, [s.back(scaled), layers.Dense(2)(flat)])


def nested(s):
    inner = s.image()
    features = layers.MaxPooling2D(2, **s.format)(layers.Conv2D(4, 3, **s.format)(inner))
    base = keras.Model(inner, features, name="base")
    head = s.image((4, 3, 3))
    logits = layers.Dense(3)(layers.Flatten()(s.back(layers.Conv2D(2, 2, **s.format)(head))))
    top = keras.Model(head, logits, name="top")
    image, other = s.image(), s.image()
    return keras.Model([image, other], layers.Add()([top(base(image)), top(base(other))]))


def without_sharing(s):
    return chain(s, layers.Conv2D(4, 3, **s.format), layers.PReLU(), s.back)


def mixed(s):
    return chain(
        s,
        layers.Conv2D(4, 3, **s.format),
        s.back,
        layers.MaxPooling2D(2, data_format="channels_last"),
        layers.LayerNormalization(axis=[1, 2, 3]),
        layers.Flatten(),
    )


CASES = [classifier, all_kinds, filters_equal_columns, branches, nested, without_sharing, mixed]


def twin_of(build):
    """The converted model, the oracle with the same weights, and inputs for both."""
    model, oracle = build(Side(first=True)), build(Side(first=False))
    randomise(model)
    for source, target in zip(model.weights, oracle.weights, strict=True):
        value = source.numpy()
        target.assign(np.moveaxis(value, 0, -1) if source.path.endswith("alpha") else value)
    inputs = [RANDOM.normal(size=(2, *IMAGE)).astype("float32") for _ in model.inputs]
    last = [np.moveaxis(value, 1, -1) for value in inputs]
    return model, oracle, inputs, last


def run(model, inputs):
    outputs = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]


@pytest.mark.parametrize("build", CASES)
def test_the_twin_computes_the_same(tmp_path, build):
    model, oracle, inputs, last = twin_of(build)
    shapes = [tensor.shape for tensor in (*model.inputs, *model.outputs)]
    names = {layer.name for layer in model.layers}
    twin = channels_first.to_channels_last(model)
    assert channels_first.find_channels_first(twin) is None
    assert [tensor.shape for tensor in (*twin.inputs, *twin.outputs)] == shapes
    assert names <= {layer.name for layer in twin.layers}
    outputs = run(twin, inputs)
    for output, expected in zip(outputs, run(oracle, last), strict=True):
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    path = tmp_path / "twin.keras"
    twin.save(path)
    for output, expected in zip(run(keras.models.load_model(path), inputs), outputs, strict=True):
        np.testing.assert_array_equal(output, expected)


def test_keras_adds_a_bias_along_the_columns_of_as_many():
    # When this fails, Keras is right and the oracle above may be the model itself.
    layer = layers.Conv2D(2, 2, data_format="channels_first", bias_initializer="ones")
    layer.build((None, 4, 3, 3))
    layer.bias.assign([0.0, 1.0])
    added = np.asarray(layer(np.zeros((1, 4, 3, 3), "float32")))[0]
    assert added[0].tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_only_permutes_at_the_borders_are_added():
    twin = channels_first.to_channels_last(classifier(Side(first=True)))
    added = [layer.name for layer in twin.layers if isinstance(layer, layers.Permute)]
    assert len(added) == 2
    assert added[0].endswith("_channels_last")
    assert added[1].endswith("_channels_first")


@pytest.mark.parametrize("wrapper", ["conv", "convlstm", "model"])
def test_frames(wrapper):
    shape, form = (4, *IMAGE), {"data_format": "channels_first"}
    inner = {
        "conv": [
            layers.TimeDistributed(layers.Conv2D(5, 3, **form)),
            layers.TimeDistributed(layers.BatchNormalization(axis=1)),
            layers.TimeDistributed(layers.ReLU()),
            layers.TimeDistributed(layers.PReLU(shared_axes=[2, 3])),
            layers.TimeDistributed(layers.GlobalAveragePooling2D(**form)),
        ],
        "convlstm": [
            layers.ConvLSTM2D(5, 3, padding="same", return_sequences=True, **form),
            layers.BatchNormalization(axis=2),
            layers.ConvLSTM2D(2, 3, **form),
            layers.Flatten(),
        ],
        "model": [
            layers.TimeDistributed(
                keras.Sequential(
                    [
                        keras.Input(IMAGE),
                        layers.Conv2D(5, 3, **form),
                        layers.GlobalMaxPooling2D(**form),
                    ]
                )
            ),
        ],
    }[wrapper]
    model = keras.Sequential([keras.Input(shape), *inner, layers.Dense(2)])
    randomise(model)
    inputs = RANDOM.normal(size=(2, *shape)).astype("float32")
    # No map here has as many columns as channels: Keras itself is right.
    expected = np.asarray(model(inputs))
    twin = channels_first.to_channels_last(model)
    assert channels_first.find_channels_first(twin) is None
    np.testing.assert_allclose(np.asarray(twin(inputs)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank):
    convolution, pooling = (
        (layers.Conv1D, layers.GlobalAveragePooling1D)
        if rank == 1
        else (layers.Conv3D, layers.GlobalMaxPooling3D)
    )
    shape, form = (2, *(7, 8, 9)[:rank]), {"data_format": "channels_first"}
    model = keras.Sequential([keras.Input(shape), convolution(4, 2, **form), pooling(**form)])
    randomise(model)
    inputs = RANDOM.normal(size=(2, *shape)).astype("float32")
    expected = np.asarray(model(inputs))
    twin = channels_first.to_channels_last(model)
    np.testing.assert_allclose(np.asarray(twin(inputs)), expected, rtol=1e-4, atol=1e-5)


def test_what_needs_nothing_stays_itself():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3)])
    assert channels_first.to_channels_last(model) is model
    assert channels_first.drop_input_permute(model) is model


def test_unknown_layers_get_what_they_got_before():
    model = keras.Sequential(
        [
            keras.Input(IMAGE),
            layers.Conv2D(4, 3, data_format="channels_first"),
            keras1_layers.CurrentBatchNormalization(1),
            layers.Reshape((4, 42)),
        ]
    )
    randomise(model)
    inputs = RANDOM.normal(size=(2, *IMAGE)).astype("float32")
    expected = np.asarray(model(inputs))
    twin = channels_first.to_channels_last(model)
    np.testing.assert_allclose(np.asarray(twin(inputs)), expected, rtol=1e-4, atol=1e-5)


def test_the_weights_of_frozen_layers_stay_frozen():
    model = classifier(Side(first=True))
    model.layers[2].trainable = False
    name = model.layers[2].name
    assert not channels_first.to_channels_last(model).get_layer(name).trainable


def test_a_backbone_takes_images_with_the_channels_last():
    model, oracle, _, last = twin_of(classifier)
    cut = surgery.cut_model(channels_first.to_channels_last(model))
    assert cut.model.input_shape == (None, 8, 9, 3)
    assert cut.pooling == "flatten"
    assert not any(isinstance(layer, layers.Permute) for layer in cut.model.layers)
    pooled = next(layer for layer in oracle.layers if isinstance(layer, layers.MaxPooling2D))
    features = keras.Model(oracle.inputs, pooled.output)
    np.testing.assert_allclose(run(cut.model, last)[0], run(features, last)[0], atol=1e-5)
