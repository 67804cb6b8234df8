import numpy as np
import pytest
import sklearn.metrics

from tf_finetune import head_kinds, head_metrics, thresholds

TAGS = head_kinds.HeadInfo("tags", "multilabel", ("p", "q"), thresholds=(0.5, 0.5))
SICK = head_kinds.HeadInfo("sick", "binary", ("no", "yes"), thresholds=(0.5,))


def f1(scores, positives, threshold):
    return sklearn.metrics.f1_score(positives, scores >= np.float32(threshold))


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_better_f1(seed):
    generator = np.random.default_rng(seed)
    positives = generator.random(300) < 0.1
    scores = (generator.random(300) * 0.4 + positives * 0.1).astype(np.float32)
    scores = np.round(scores, 2)  # ties
    chosen = thresholds.find_best(scores, positives)
    others = [f1(scores, positives, value) for value in np.unique(scores)]
    assert f1(scores, positives, chosen) == pytest.approx(max(others), rel=1e-12)
    assert chosen == np.float32(chosen)


def test_a_half_stays_where_nothing_is_better():
    positives = np.array([False, False, True, True])
    assert thresholds.find_best(np.array([0.1, 0.2, 0.7, 0.9], np.float32), positives) == 0.5
    assert thresholds.find_best(np.ones(4, np.float32), positives) == 0.5


def test_the_middle_of_the_gap_is_taken():
    scores = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    positives = np.array([False, False, True, True])
    assert thresholds.find_best(scores, positives) == pytest.approx(0.25)
    lower = np.float32(0.3)
    upper = np.nextafter(lower, np.float32(1))  # no number between them
    close = np.array([lower, upper], np.float32)
    assert thresholds.find_best(close, np.array([False, True])) == float(upper)


def test_classes_with_few_positives_keep_a_half():
    labels = np.zeros((100, 2), np.float32)
    labels[:20, 0] = 1.0
    labels[:19, 1] = 1.0
    logits = np.where(labels == 1, -1.0, -3.0).astype(np.float32)
    head, text = thresholds.tune_head(logits, labels, TAGS)
    assert head.thresholds == (pytest.approx(0.158, abs=1e-3), 0.5)
    assert text == (
        "Thresholds of head 'tags': the best F1 on validation: p 0.158; 0.5 for classes with fewer "
        "than 20 positives there: q (19)."
    )
    assert head_metrics.predict_classes(logits, head).sum(axis=0).tolist() == [20, 0]


def test_missing_labels_are_passed_over():
    labels = np.array([[1.0]] * 25 + [[0.0]] * 25, np.float32)
    logits = np.where(labels == 1, -1.0, -3.0).astype(np.float32)
    gaps = np.concatenate([labels, np.full((50, 1), np.nan, np.float32)])
    noise = np.concatenate([logits, np.full((50, 1), 5.0, np.float32)])
    assert thresholds.tune_head(noise, gaps, SICK) == thresholds.tune_head(logits, labels, SICK)
    assert thresholds.tune_head(logits, labels, SICK)[1] == (
        "Thresholds of head 'sick': the best F1 on validation: yes 0.158."
    )
    assert thresholds.has_enough(gaps) and not thresholds.has_enough(gaps[6:])


def test_no_validation_data():
    empty = np.zeros((0, 1), np.float32)
    assert thresholds.tune_head(empty, empty, SICK) == (
        SICK,
        "Thresholds of head 'sick': 0.5 for classes with fewer than 20 positives there: yes (0).",
    )
