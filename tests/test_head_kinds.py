import numpy as np
import pytest

from tf_finetune import head_kinds


def test_encode_labels():
    labels = np.array(["b", "a"], object)
    multiclass = head_kinds.encode_labels(labels, kind="multiclass", classes=("a", "b"))
    assert multiclass.tolist() == [1, 0]
    assert multiclass.dtype == np.int32
    binary = head_kinds.encode_labels(labels, kind="binary", classes=("a", "b"))
    assert binary.tolist() == [[1.0], [0.0]]
    several = np.empty(3, object)
    several[:] = [("a", "c"), (), ("b",)]
    multilabel = head_kinds.encode_labels(several, kind="multilabel", classes=("a", "b", "c"))
    assert multilabel.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_encode_labels_refuses_an_unknown_class():
    with pytest.raises(KeyError, match="c"):
        head_kinds.encode_labels(np.array(["c"], object), kind="multiclass", classes=("a",))


def test_probabilities_against_float64():
    logits = np.array([[-800.0, 3.0, 800.0], [0.1, 0.2, -0.3]], np.float32)
    exact = logits.astype(np.float64)
    softmax = np.exp(exact - exact.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    np.testing.assert_allclose(head_kinds.probabilities(logits, "multiclass"), softmax, rtol=1e-6)
    sigmoid = np.where(exact > 0, 1 / (1 + np.exp(-np.abs(exact))), 0)
    sigmoid = np.where(exact > 0, sigmoid, 1 - 1 / (1 + np.exp(-np.abs(exact))))
    np.testing.assert_allclose(
        head_kinds.probabilities(logits, "multilabel"), sigmoid, rtol=1e-5, atol=1e-12
    )
    binary = head_kinds.probabilities(np.array([[20.0], [-1.0]], np.float32), "binary")
    assert binary.shape == (2, 2)
    np.testing.assert_allclose(binary[0], [2.0611537e-9, 1.0], rtol=1e-5)
    np.testing.assert_allclose(binary.sum(1), 1.0, rtol=1e-6)


def test_num_logits():
    assert head_kinds.num_logits("binary", 2) == 1
    assert head_kinds.num_logits("multiclass", 2) == 2
    assert head_kinds.num_logits("multilabel", 4) == 4


def test_missing_labels():
    labels = np.array(["b", "", "a"], object)
    multiclass = head_kinds.encode_labels(labels, kind="multiclass", classes=("a", "b"))
    assert multiclass.tolist() == [1, -1, 0]
    assert head_kinds.find_labelled(multiclass).tolist() == [True, False, True]
    binary = head_kinds.encode_labels(labels, kind="binary", classes=("a", "b"))
    np.testing.assert_array_equal(binary, [[1], [np.nan], [0]])
    assert head_kinds.find_labelled(binary).tolist() == [[True], [False], [True]]
    numbers = head_kinds.encode_labels(
        np.array(["1.5", "", "-2"], object), kind="regression", classes=()
    )
    np.testing.assert_array_equal(numbers, np.array([[1.5], [np.nan], [-2]], np.float32))


def test_counts_leave_missing_labels_out():
    def count(labels, kind, num_classes=2):
        return head_kinds.count_labels(np.array(labels), kind=kind, num_classes=num_classes)

    nan = np.nan
    assert count([0, -1, 1, 1, -1], "multiclass", 3) == [1, 2, 0]
    assert count([[0.0], [nan], [1.0], [1.0]], "binary") == [1, 2]
    assert count([[0.0, 1.0], [nan, 1.0], [1.0, nan]], "multilabel") == [1, 2]
    assert count([[0.0], [nan]], "regression", 0) == []


def test_statistics_of_numbers():
    info = head_kinds.HeadInfo("age", "regression", ())
    labels = np.array([[1.0], [np.nan], [5.0]], np.float32)
    measured = head_kinds.with_statistics(info, labels)
    assert (measured.mean, measured.deviation) == (3.0, 2.0)
    assert head_kinds.with_statistics(info, labels[:1]).deviation == 1.0
    classes = head_kinds.HeadInfo("a", "binary", ("x", "y"))
    assert head_kinds.with_statistics(classes, labels) is classes


def test_regression_is_what_the_model_gives():
    assert head_kinds.num_logits("regression", 0) == 1
    logits = np.array([[3.5], [-2.0]], np.float32)
    np.testing.assert_array_equal(head_kinds.probabilities(logits, "regression"), logits)


@pytest.mark.parametrize(
    ("kind", "expected"), [("multiclass", 0), ("binary", 1), ("multilabel", 4), ("regression", 0)]
)
def test_number_of_thresholds(kind, expected):
    assert head_kinds.HEAD_KINDS[kind].num_thresholds(4) == expected
