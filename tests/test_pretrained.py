"""The embedded network: its file, its provenance, and that its features are worth moving."""

import hashlib
import importlib.util
import re

import keras
import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf

PER_CLASS = 5


@pytest.fixture(scope="module")
def folder(repository):
    return repository / "configs" / "pretrained"


@pytest.fixture(scope="module")
def network(folder):
    return keras.saving.load_model(folder / "mnist_cnn.h5", compile=False)


@pytest.fixture(scope="module")
def provenance(folder):
    """The rows of the page's table, by their first cell."""
    text = (folder / "PROVENANCE.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", text, re.MULTILINE))


@pytest.fixture(scope="module")
def digits():
    """The first 60 of each class as the fine-tuner shows them: (float32 [n, 28, 28, 1], [n])."""
    bunch = sklearn.datasets.load_digits()
    chosen = np.concatenate([np.flatnonzero(bunch.target == c)[:60] for c in range(10)])
    small = np.round(bunch.images[chosen] * 255 / 16)[..., None].astype(np.float32)
    large = tf.image.resize(small, [28, 28], "bilinear", antialias=True)
    return np.round(large.numpy()), bunch.target[chosen]


def nearest_mean_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """PER_CLASS examples of each class give its mean direction; the others are tested."""
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    order = np.random.default_rng(0).permutation(len(labels))
    train = np.concatenate([order[labels[order] == c][:PER_CLASS] for c in range(10)])
    test = np.setdiff1d(order, train)
    means = np.stack([directions[train][labels[train] == c].mean(0) for c in range(10)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return float(np.mean((directions[test] @ means.T).argmax(1) == labels[test]))


def test_file_is_the_one_of_the_provenance(folder, network, provenance):
    contents = (folder / "mnist_cnn.h5").read_bytes()
    assert len(contents) < 500_000
    assert provenance["sha256"] == f"`{hashlib.sha256(contents).hexdigest()}`"
    assert provenance["bytes"] == f"{len(contents):,}"
    assert provenance["parameters"] == f"{network.count_params():,}"


def test_is_a_whole_classifier_of_raw_pixels(network):
    assert network.input_shape == (None, 28, 28, 1)
    assert network.output_shape == (None, 10)
    assert [type(layer).__name__ for layer in network.layers[:2]] == ["InputLayer", "Rescaling"]
    classifier = network.layers[-1]
    assert isinstance(classifier, keras.layers.Dense)
    assert classifier.activation is keras.activations.softmax


def test_old_classifier_reads_the_digits_unseen(network, digits):
    images, labels = digits
    answers = network.predict(images, batch_size=200, verbose=0).argmax(1)
    assert np.mean(answers == labels) > 0.9


def test_features_of_five_examples_per_class_separate_the_rest(network, digits):
    images, labels = digits
    body = keras.Model(network.input, network.get_layer("classifier").input)
    features = body.predict(images, batch_size=200, verbose=0)
    accuracy = nearest_mean_accuracy(features, labels)
    assert accuracy > 0.94
    # What the pixels themselves give, with the same examples: the network is what helps.
    assert accuracy > nearest_mean_accuracy(images.reshape(len(images), -1), labels) + 0.05


@pytest.fixture(scope="module")
def tool(repository):
    path = repository / "tools" / "pretrain_digits.py"
    spec = importlib.util.spec_from_file_location("pretrain_digits", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tool_builds_the_architecture_of_the_file(tool, network):
    built = tool.make_network(tool.Recipe())
    assert [layer.name for layer in built.layers] == [layer.name for layer in network.layers]
    assert [w.shape for w in built.weights] == [w.shape for w in network.weights]


def test_simulated_scans_fill_the_box_and_repeat_with_their_seed(tool):
    images = np.zeros((8, 28, 28, 1), np.uint8)
    images[:, 6:22, 8:20] = 255
    boxes = tool.find_boxes(images)
    np.testing.assert_array_equal(boxes, [[6, 8, 16, 12]] * 8)
    pixels = tf.cast(images, tf.float32)
    scans = tool.make_scans(pixels, tf.constant(boxes), tf.constant([0, 100], tf.int64)).numpy()
    assert scans.shape == (8, 28, 28, 1)
    assert scans.min() >= 0 and scans.max() <= 255
    # Ink in the top and the bottom tenth, none at the left and right edges of most.
    middle = scans[:, :, 10:18, 0]
    assert (middle[:, :3].max((1, 2)) > 64).all() and (middle[:, -3:].max((1, 2)) > 64).all()
    assert np.median(scans[:, :, 0]) == 0
    again = tool.make_scans(pixels, tf.constant(boxes), tf.constant([0, 100], tf.int64)).numpy()
    other = tool.make_scans(pixels, tf.constant(boxes), tf.constant([0, 200], tf.int64)).numpy()
    np.testing.assert_array_equal(scans, again)
    assert not np.array_equal(scans, other)
