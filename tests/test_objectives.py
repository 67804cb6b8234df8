import keras
import numpy as np
import pytest

from tf_finetune import head_kinds, objectives, specs


def exact_softmax_loss(logits, labels, smoothing=0.0):
    logits = logits.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = np.eye(logits.shape[1])[labels] * (1 - smoothing) + smoothing / logits.shape[1]
    return -(targets * log_p).sum(1)


def exact_sigmoid_loss(logits, labels, smoothing=0.0):
    logits = logits.astype(np.float64)
    p = 1 / (1 + np.exp(-logits))
    targets = labels * (1 - smoothing) + smoothing / 2
    return -(targets * np.log(p) + (1 - targets) * np.log(1 - p))


@pytest.fixture
def logits():
    return np.random.default_rng(1).normal(0, 2, (6, 4)).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_each_kind(logits, smoothing):
    classes = np.array([0, 1, 2, 3, 1, 0], np.int32)
    several = np.random.default_rng(2).integers(0, 2, (6, 4)).astype(np.float32)
    values = {
        "multiclass": (classes, logits, exact_softmax_loss(logits, classes, smoothing)),
        "multilabel": (several, logits, exact_sigmoid_loss(logits, several, smoothing).mean(1)),
        "binary": (
            several[:, :1],
            logits[:, :1],
            exact_sigmoid_loss(logits[:, :1], several[:, :1], smoothing)[:, 0],
        ),
    }
    for kind, (labels, given, expected) in values.items():
        computed = objectives.per_example_cross_entropy(
            labels, given, kind=kind, label_smoothing=smoothing
        )
        np.testing.assert_allclose(np.array(computed), expected, rtol=1e-5)


def test_the_loss_is_the_weighted_mean_that_the_data_ask_for(logits):
    labels = np.array([0, 1, 2, 3, 1, 0], np.int32)
    weights = np.array([0.5, 1.0, 2.0, 4.0], np.float32)
    loss = objectives.HeadLoss("multiclass", class_weights=weights)
    value = loss(labels, logits, sample_weight=np.full(6, 1 / 6, np.float32))
    expected = (weights[labels] * exact_softmax_loss(logits, labels)).mean()
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_multilabel_class_weights_tell_absent_from_present(logits):
    labels = np.random.default_rng(2).integers(0, 2, (6, 4)).astype(np.float32)
    weights = np.array([[0.5, 1, 1, 2], [3, 1, 4, 1]], np.float32)
    loss = objectives.HeadLoss("multilabel", class_weights=weights)
    value = loss(labels, logits, sample_weight=np.full(6, 1 / 6, np.float32))
    per_cell = np.where(labels == 1, weights[1], weights[0]) * exact_sigmoid_loss(logits, labels)
    assert float(value) == pytest.approx(per_cell.mean(), rel=1e-5)


def test_balanced_weights_have_mean_one_over_the_examples():
    labels = np.array([0] * 6 + [1] * 3 + [2], np.int32)
    weights = objectives.balanced_weights(labels, kind="multiclass", num_classes=4)
    np.testing.assert_allclose(weights, [10 / 18, 10 / 9, 10 / 3, 1.0], rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1.0)
    rare = np.array([0] * 999 + [1], np.int32)
    assert objectives.balanced_weights(rare, kind="multiclass", num_classes=2)[1] == 10.0


def test_balanced_weights_of_multilabel_are_per_class():
    labels = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], np.float32)
    weights = objectives.balanced_weights(labels, kind="multilabel", num_classes=2)
    np.testing.assert_allclose(weights, [[2.0, 2 / 3], [2 / 3, 2.0]], rtol=1e-6)


def test_metrics_count_each_example_once(logits):
    labels = np.array([0, 1, 2, 3, 1, 0], np.int32)
    cross_entropy, accuracy = objectives.make_metrics(
        [head_kinds.HeadInfo("a", "multiclass", ("a", "b", "c", "d"))]
    )["a"]
    for part in (slice(0, 4), slice(4, 6)):  # a last batch of another size
        for metric in (cross_entropy, accuracy):
            metric.update_state(labels[part], logits[part], sample_weight=np.full(2, 9.0))
    assert float(cross_entropy.result()) == pytest.approx(
        exact_softmax_loss(logits, labels).mean(), rel=1e-5
    )
    assert float(accuracy.result()) == pytest.approx((logits.argmax(1) == labels).mean())


def test_accuracy_of_sigmoid_heads():
    several = objectives.Accuracy("multilabel")
    several.update_state(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[3.0, -1.0], [2.0, -0.1]]))
    assert float(several.result()) == 0.5
    binary = objectives.Accuracy("binary")
    binary.update_state(np.array([[1.0], [0.0], [1.0]]), np.array([[0.0], [0.5], [-1.0]]))
    assert float(binary.result()) == pytest.approx(1 / 3)


def test_make_losses_weighs_where_a_head_asks_for_it():
    heads = [specs.HeadSpec(name="a", class_weight="balanced"), specs.HeadSpec(name="b")]
    infos = [head_kinds.HeadInfo(name, "multiclass", ("x", "y")) for name in "ab"]
    labels = {"a": np.array([0, 0, 0, 1], np.int32), "b": np.array([0, 0, 0, 1], np.int32)}
    losses = objectives.make_losses(heads, infos, labels)
    logits = keras.ops.zeros((4, 2))
    ones = np.ones(4, np.float32)
    assert float(losses["b"](labels["b"], logits, sample_weight=ones)) == pytest.approx(
        4 * np.log(2), rel=1e-5
    )
    rare = losses["a"](labels["a"][3:], logits[3:], sample_weight=ones[3:])
    assert float(rare) == pytest.approx(2 * np.log(2), rel=1e-5)
