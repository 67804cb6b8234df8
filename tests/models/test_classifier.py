import keras
import pytest

from tf_finetune.models import classifier, surgery

L = keras.layers


def _end(*layers, size=8, filters=6):
    """The output of a feature map that goes through layers."""
    inputs = keras.Input((size, size, 3))
    x = L.Conv2D(filters, 3, padding="same", activation="relu", name="body")(inputs)
    for layer in layers:
        x = layer(x)
    return x


def _pool():
    return L.GlobalAveragePooling2D(name="pool")


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [_pool(), L.Dense(5, activation="softmax", name="old")],
        lambda: [_pool(), L.Dense(5, activation="sigmoid", name="old"), L.Dropout(0.1)],
        lambda: [_pool(), L.Dense(5, name="old")],
        lambda: [_pool(), L.Dense(5, name="old"), L.Activation("softmax")],
        lambda: [_pool(), L.Dense(5, name="old"), L.Softmax()],
        lambda: [_pool(), L.Dense(5, name="old"), L.BatchNormalization(), L.Softmax()],
        lambda: [
            L.Flatten(),
            L.Dense(7, activation="relu"),
            L.Dropout(0.5),
            L.Dense(5, name="old"),
        ],
        lambda: [L.Dense(5, name="old"), L.GlobalAveragePooling2D()],
    ],
)
def test_last_dense_of_scores_is_the_classifier(layers):
    found = classifier.find_classifier(_end(*layers()), surgery.step_back)
    assert (found.layer, found.class_name, found.units) == ("old", "Dense", 5)


@pytest.mark.parametrize(
    "layers",
    [
        # As MobileNet, MobileNetV3 without activation, SqueezeNet and mini-Xception end.
        lambda: [
            L.GlobalAveragePooling2D(keepdims=True),
            L.Dropout(0.1),
            L.Conv2D(5, 1, name="old"),
            L.Reshape((5,)),
            L.Activation("softmax"),
        ],
        lambda: [
            L.GlobalAveragePooling2D(keepdims=True),
            L.Conv2D(9, 1, activation="relu"),
            L.Conv2D(5, 1, name="old"),
            L.Flatten(),
        ],
        lambda: [L.Conv2D(5, 3, name="old"), L.GlobalAveragePooling2D(), L.Softmax()],
        lambda: [L.Conv2D(5, 3, activation="sigmoid", name="old"), L.GlobalMaxPooling2D()],
    ],
)
def test_last_convolution_of_scores_is_the_classifier(layers):
    found = classifier.find_classifier(_end(*layers()), surgery.step_back)
    assert (found.layer, found.class_name, found.units) == ("old", "Conv2D", 5)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [],
        lambda: [_pool()],
        lambda: [L.Conv2D(5, 1, activation="softmax")],
        lambda: [L.Conv2D(5, 3), L.GlobalAveragePooling2D()],
        lambda: [_pool(), L.Dense(5, activation="relu")],
        lambda: [_pool(), L.Dense(5), L.ReLU()],
        lambda: [_pool(), L.Dense(5), L.BatchNormalization()],
        lambda: [_pool(), L.Dense(5), L.LayerNormalization()],
    ],
)
def test_features_are_no_classifier(layers):
    assert classifier.find_classifier(_end(*layers()), surgery.step_back) is None


def test_dense_inside_squeeze_and_excitation_is_no_classifier():
    x = _end()
    weight = L.Dense(6, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(x))
    output = L.GlobalAveragePooling2D()(L.Multiply()([x, weight]))
    assert classifier.find_classifier(output, surgery.step_back) is None


@pytest.mark.parametrize(
    ("layers", "pooling", "shape"),
    [
        (lambda: [], None, (None, 8, 8, 6)),
        (lambda: [L.Dropout(0.1), L.SpatialDropout2D(0.2)], None, (None, 8, 8, 6)),
        (lambda: [_pool()], "avg", (None, 8, 8, 6)),
        (lambda: [L.Dropout(0.1), _pool(), L.Dropout(0.1)], "avg", (None, 8, 8, 6)),
        (lambda: [_pool(), L.Flatten()], "avg", (None, 8, 8, 6)),
        (lambda: [_pool(), L.Reshape((6,))], "avg", (None, 8, 8, 6)),
        (lambda: [L.GlobalMaxPooling2D()], "max", (None, 8, 8, 6)),
        (lambda: [L.Flatten()], "flatten", (None, 8, 8, 6)),
        (lambda: [L.Reshape((384,))], "flatten", (None, 8, 8, 6)),
        (lambda: [L.GlobalAveragePooling2D(keepdims=True)], "avg", (None, 8, 8, 6)),
        (lambda: [L.GlobalAveragePooling2D(keepdims=True), L.Flatten()], "avg", (None, 8, 8, 6)),
        (lambda: [L.AveragePooling2D(8), L.Flatten()], None, (None, 1, 1, 6)),
        (lambda: [L.AveragePooling2D(4), L.Flatten()], "flatten", (None, 2, 2, 6)),
        (lambda: [_pool(), L.BatchNormalization()], None, (None, 6)),
        (lambda: [L.Reshape((64, 6))], None, (None, 64, 6)),
    ],
)
def test_strip_tail_finds_the_pooling(layers, pooling, shape):
    features, found = classifier.strip_tail(_end(*layers()), surgery.step_back)
    assert found == pooling
    assert features.shape == shape


def test_strip_tail_can_keep_the_pooling():
    features, found = classifier.strip_tail(
        _end(_pool(), L.Dropout(0.5)), surgery.step_back, keep_pooling=True
    )
    assert found is None
    assert features.shape == (None, 6)


def test_strip_tail_stops_at_the_input():
    inputs = keras.Input((8, 8, 3))
    features, found = classifier.strip_tail(L.Flatten()(inputs), surgery.step_back)
    assert features is inputs
    assert found == "flatten"
