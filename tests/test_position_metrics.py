import re

import numpy as np
import pytest
import sklearn.metrics

from tf_finetune import head_kinds, position_metrics

HEAD = head_kinds.HeadInfo("mask", "segmentation", ("sky", "road", "car", "dog"))


def count(logits, labels, *, sizes=None):
    counter = position_metrics.PositionCounter(HEAD)
    for part_logits, part_labels in zip(
        np.split(logits, sizes or []), np.split(labels, sizes or []), strict=True
    ):
        counter.add(part_logits, part_labels)
    return counter


def to_logits(predicted, *, size=4.0):
    return (size * np.eye(4)[predicted]).astype(np.float32)


def test_six_pixels_by_hand():
    labels = np.array([[[0, 0, 0], [1, 1, -1]]])
    predicted = np.array([[[0, 0, 1], [1, 2, 3]]])
    report = count(to_logits(predicted), labels).make_report()
    # sky: 2 of 3; road: 1 right, 2 true, 2 claimed: 1 of 3; car: claimed once, never true: 0; dog:
    # only at the pixel without a class, so it is not there.
    assert [row.iou for row in report.per_class] == [2 / 3, 1 / 3, 0.0, None]
    assert report.metrics["mean_iou"] == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)
    assert report.metrics["pixel_accuracy"] == pytest.approx(3 / 5)
    right = -np.log(np.exp(4) / (np.exp(4) + 3))
    wrong = -np.log(1 / (np.exp(4) + 3))
    assert report.metrics["log_loss"] == pytest.approx((3 * right + 2 * wrong) / 5)
    assert report.confusion.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0] * 4, [0] * 4]
    assert [(pair.true, pair.predicted, pair.count) for pair in report.confused_pairs] == [
        ("sky", "road", 1),
        ("road", "car", 1),
    ]
    row = report.per_class[0]
    assert (row.precision, row.recall, row.support, row.num_predicted) == (1.0, 2 / 3, 3, 2)
    assert (report.num_examples, report.num_missing, report.interval) == (1, 0, None)


@pytest.fixture(scope="module")
def random_data():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (7, 5, 6, 4)).astype(np.float32)
    labels = generator.integers(-1, 4, (7, 5, 6))
    labels[2] = -1
    return logits, labels


def test_scikit_learn_agrees(random_data):
    logits, labels = random_data
    report = count(logits, labels).make_report()
    known = labels >= 0
    true, predicted = labels[known], logits[known].argmax(axis=-1)
    each = sklearn.metrics.jaccard_score(true, predicted, average=None)
    assert np.allclose([row.iou for row in report.per_class], each, atol=1e-12)
    assert report.metrics["mean_iou"] == pytest.approx(each.mean(), abs=1e-12)
    accuracy = sklearn.metrics.accuracy_score(true, predicted)
    assert report.metrics["pixel_accuracy"] == pytest.approx(accuracy, abs=1e-12)
    exact = logits[known].astype(np.float64)
    probabilities = np.exp(exact) / np.exp(exact).sum(axis=-1, keepdims=True)
    log_loss = sklearn.metrics.log_loss(true, probabilities)
    assert report.metrics["log_loss"] == pytest.approx(log_loss, rel=1e-6)
    assert (report.num_examples, report.num_missing) == (6, 1)


def test_batches_do_not_matter(random_data):
    whole, parts = (count(*random_data, sizes=sizes).make_report() for sizes in ([], [1, 5]))
    assert np.array_equal(whole.confusion, parts.confusion)
    assert whole.metrics == pytest.approx(parts.metrics, rel=1e-12)


def test_without_labels_nothing_is_defined():
    report = count(np.zeros((2, 3, 3, 4), np.float32), np.full((2, 3, 3), -1)).make_report()
    assert (report.metrics, report.loss, report.num_missing) == ({}, 0.0, 2)
    assert set(report.undefined) == {"mean_iou", "pixel_accuracy", "log_loss"}


def test_damaged_logits_are_counted():
    logits = np.zeros((3, 2, 2, 4), np.float32)
    logits[1, 0, 1, 2] = np.nan
    assert count(logits, np.zeros((3, 2, 2), np.int32)).num_bad == 1


def test_shapes_must_fit():
    message = "Logits of head 'mask': expected shape (3, 2, 2, 4). Received (3, 2, 2, 5)."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        count(np.zeros((3, 2, 2, 5), np.float32), np.zeros((3, 2, 2), np.int32))


TAGS = head_kinds.HeadInfo("tags", "token_classification", ("B-A", "B-B", "I-A", "O"))


def test_words_against_scikit_learn_and_by_hand():
    # Two texts; the second has two words and padding, and its logits are padded further.
    labels = np.array([[0, 2, 3, 1], [3, 0, -1, -1]])
    predicted = np.array([[0, 2, 1, 1], [3, 2, 0, 0]])
    counter = position_metrics.PositionCounter(TAGS)
    counter.add(to_logits(predicted), labels)
    metrics = counter.make_report().metrics
    true, found = labels[labels >= 0], predicted[labels >= 0]
    assert metrics["token_accuracy"] == pytest.approx(4 / 6)
    macro = sklearn.metrics.f1_score(true, found, average="macro")
    assert metrics["f1_macro"] == pytest.approx(macro)
    micro = sklearn.metrics.f1_score(true, found, average="micro", labels=[0, 1, 2])
    assert metrics["f1_micro"] == pytest.approx(micro)
    # True names: A over 0 and 1, B at 3; A at 1. Found: the first two, B at 2; A at 1 (as I-A).
    assert metrics["entity_f1"] == pytest.approx(2 * 3 / (3 + 4))


def test_labels_of_a_larger_batch_are_cut():
    whole, part = (position_metrics.PositionCounter(TAGS) for _ in range(2))
    labels = np.array([[0, 3, -1, -1]])
    whole.add(to_logits(np.array([[0, 3]])), labels)
    part.add(to_logits(np.array([[0, 3]])), labels[:, :2])
    assert whole.make_report().metrics == part.make_report().metrics


def test_nothing_but_o_leaves_f1_undefined():
    counter = position_metrics.PositionCounter(TAGS)
    counter.add(to_logits(np.array([[3, 3]])), np.array([[3, 3]]))
    report = counter.make_report()
    reason = "no word has another tag than O, and none was predicted"
    assert report.undefined == {"f1_micro": reason, "entity_f1": reason}
