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
