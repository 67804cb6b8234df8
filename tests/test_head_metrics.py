"""The numbers, by hand on six examples and against scikit-learn and SciPy."""

import math
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from tf_finetune import head_kinds, head_metrics

ABC = head_kinds.HeadInfo("label", "multiclass", ("a", "b", "c"))
BINARY = head_kinds.HeadInfo("sick", "binary", ("no", "yes"), thresholds=(0.5,))
TAGS = head_kinds.HeadInfo("tags", "multilabel", ("p", "q", "r"), thresholds=(0.5,) * 3)
CHANCES = np.array(
    [
        [0.7, 0.2, 0.1],
        [0.3, 0.6, 0.1],
        [0.2, 0.5, 0.3],
        [0.1, 0.8, 0.1],
        [0.1, 0.1, 0.8],
        [0.5, 0.1, 0.4],
    ]
)
LABELS = np.array([0, 0, 1, 1, 2, 2], np.int32)


def evaluate(logits, labels, head):
    # No warning of scikit-learn may reach a user.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return head_metrics.evaluate_head(np.asarray(logits, np.float32), labels, head=head)


def make_multiclass(*, num_examples, num_classes, seed, num_present=None):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_present or num_classes, num_examples).astype(np.int32)
    logits = generator.normal(size=(num_examples, num_classes))
    logits[np.arange(num_examples), labels] += 1.5
    head = head_kinds.HeadInfo(
        "label", "multiclass", tuple(f"class {number}" for number in range(num_classes))
    )
    return logits.astype(np.float32), labels, head


def test_multiclass_by_hand_on_six_examples():
    report = evaluate(np.log(CHANCES) + 5.0, LABELS, ABC)
    assert report.num_examples == 6
    assert report.num_correct == 4
    assert report.metrics == pytest.approx(
        {
            "accuracy": 4 / 6,
            "precision_macro": (1 / 2 + 2 / 3 + 1) / 3,
            "recall_macro": (1 / 2 + 1 + 1 / 2) / 3,
            "f1_macro": (1 / 2 + 4 / 5 + 2 / 3) / 3,
            "roc_auc": (7 / 8 + 7 / 8 + 1) / 3,
            "log_loss": -math.log(0.7 * 0.3 * 0.5 * 0.8 * 0.8 * 0.4) / 6,
        },
        rel=1e-6,
    )
    assert list(report.metrics) == list(head_metrics.list_metrics(ABC))
    assert report.undefined == {}
    assert report.confusion.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert report.confused_pairs == (
        head_metrics.ConfusedPair("a", "b", 1),
        head_metrics.ConfusedPair("c", "a", 1),
    )
    assert report.per_class == (
        head_metrics.ClassReport("a", 1 / 2, 1 / 2, 1 / 2, 2, 2),
        head_metrics.ClassReport("b", 2 / 3, 1.0, 4 / 5, 2, 3),
        head_metrics.ClassReport("c", 1.0, 1 / 2, 2 / 3, 2, 1),
    )
    assert report.num_classes_without_examples == 0


def test_binary_by_hand_on_six_examples():
    positive = np.array([0.9, 0.6, 0.2, 0.7, 0.4, 0.1])
    labels = np.array([[1], [1], [1], [0], [0], [0]], np.float32)
    report = evaluate(np.log(positive / (1 - positive))[:, np.newaxis], labels, BINARY)
    # Predicted yes: 0.9, 0.6 (right) and 0.7 (wrong).
    assert report.confusion.tolist() == [[2, 1], [1, 2]]
    assert report.metrics == pytest.approx(
        {
            "accuracy": 4 / 6,
            "precision": 2 / 3,
            "recall": 2 / 3,
            "f1": 2 / 3,
            "precision_macro": 2 / 3,
            "recall_macro": 2 / 3,
            "f1_macro": 2 / 3,
            # 0.9 beats three, 0.6 two, 0.2 one of the negatives.
            "roc_auc": 6 / 9,
            # Ranked: 0.9 yes, 0.7, 0.6 yes, 0.4, 0.2 yes, 0.1.
            "average_precision": (1 + 2 / 3 + 3 / 5) / 3,
            "log_loss": -math.log(0.9 * 0.6 * 0.2 * 0.3 * 0.6 * 0.9) / 6,
        },
        rel=1e-6,
    )


def test_binary_threshold_decides():
    logits = np.log(np.array([[0.3], [0.2]]) / np.array([[0.7], [0.8]]))
    head = head_kinds.HeadInfo("sick", "binary", ("no", "yes"), thresholds=(0.25,))
    assert head_metrics.predict_classes(logits, head).tolist() == [1, 0]
    assert head_metrics.predict_classes(logits, BINARY).tolist() == [0, 0]


def test_multilabel_by_hand():
    logits = np.array([[2.0, -2.0, -2.0], [2.0, 2.0, -2.0]])
    labels = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    report = evaluate(logits, labels, TAGS)
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    assert report.metrics == pytest.approx(
        {
            "accuracy": 1 / 2,
            "precision_macro": (1 / 2 + 1) / 2,
            "recall_macro": 1.0,
            "f1_macro": (2 / 3 + 1) / 2,
            "f1_micro": 2 * 2 / (2 + 3),
            "roc_auc": (1 / 2 + 1) / 2,
            "average_precision": (1 / 2 + 1) / 2,
            "hamming_loss": 1 / 6,
            "log_loss": (5 * right + wrong) / 6,
        }
    )
    assert report.confusion is None
    assert report.confused_pairs == ()
    assert report.num_classes_without_examples == 1
    assert report.per_class[2] == head_metrics.ClassReport("r", None, None, None, 0, 0)


def test_multilabel_thresholds_are_per_class():
    logits = np.log(np.array([[0.4, 0.4, 0.4]]) / 0.6)
    head = head_kinds.HeadInfo("tags", "multilabel", ("p", "q", "r"), thresholds=(0.3, 0.5, 0.35))
    assert head_metrics.predict_classes(logits, head).tolist() == [[True, False, True]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("num_classes", "num_present"), [(3, 3), (12, 12), (12, 7)])
def test_multiclass_agrees_with_scikit_learn(seed, num_classes, num_present):
    logits, labels, head = make_multiclass(
        num_examples=150, num_classes=num_classes, num_present=num_present, seed=seed
    )
    report = evaluate(logits, labels, head)
    predicted = logits.argmax(axis=1)
    wide = logits.astype(np.float64)
    chances = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
    present = np.unique(labels)
    macro = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=present, average="macro", zero_division=0
    )
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "precision_macro": macro[0],
        "recall_macro": macro[1],
        "f1_macro": macro[2],
        "roc_auc": np.mean(
            [sklearn.metrics.roc_auc_score(labels == c, chances[:, c]) for c in present]
        ),
        "log_loss": sklearn.metrics.log_loss(labels, chances, labels=range(num_classes)),
    }
    if num_classes > 5:
        expected["top_5_accuracy"] = sklearn.metrics.top_k_accuracy_score(
            labels, chances, k=5, labels=range(num_classes)
        )
    assert report.metrics == pytest.approx(expected, rel=1e-9)
    assert report.num_classes_without_examples == num_classes - num_present
    matrix = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(num_classes))
    assert report.confusion.tolist() == matrix.tolist()
    if num_present == num_classes:
        ovr = sklearn.metrics.roc_auc_score(labels, chances, multi_class="ovr", average="macro")
        assert report.metrics["roc_auc"] == pytest.approx(ovr, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_binary_agrees_with_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, (80, 1)).astype(np.float32)
    logits = (generator.normal(size=(80, 1)) + labels).astype(np.float32)
    report = evaluate(logits, labels, BINARY)
    flags, predicted = labels[:, 0], logits[:, 0] >= 0
    chances = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))
    assert report.metrics == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(flags, predicted),
            "precision": sklearn.metrics.precision_score(flags, predicted),
            "recall": sklearn.metrics.recall_score(flags, predicted),
            "f1": sklearn.metrics.f1_score(flags, predicted),
            "precision_macro": sklearn.metrics.precision_score(flags, predicted, average="macro"),
            "recall_macro": sklearn.metrics.recall_score(flags, predicted, average="macro"),
            "f1_macro": sklearn.metrics.f1_score(flags, predicted, average="macro"),
            "roc_auc": sklearn.metrics.roc_auc_score(flags, chances),
            "average_precision": sklearn.metrics.average_precision_score(flags, chances),
            "log_loss": sklearn.metrics.log_loss(flags, chances),
        },
        rel=1e-9,
    )


@pytest.mark.parametrize("seed", range(3))
def test_multilabel_agrees_with_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    labels = (generator.random((90, 3)) < 0.4).astype(np.float32)
    logits = (generator.normal(size=(90, 3)) + labels).astype(np.float32)
    report = evaluate(logits, labels, TAGS)
    predicted = logits >= 0
    chances = 1 / (1 + np.exp(-logits.astype(np.float64)))
    entropies = [sklearn.metrics.log_loss(labels[:, c], chances[:, c]) for c in range(3)]
    assert report.metrics == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
            "precision_macro": sklearn.metrics.precision_score(labels, predicted, average="macro"),
            "recall_macro": sklearn.metrics.recall_score(labels, predicted, average="macro"),
            "f1_macro": sklearn.metrics.f1_score(labels, predicted, average="macro"),
            "f1_micro": sklearn.metrics.f1_score(labels, predicted, average="micro"),
            "roc_auc": sklearn.metrics.roc_auc_score(labels, chances, average="macro"),
            "average_precision": sklearn.metrics.average_precision_score(labels, chances),
            "hamming_loss": sklearn.metrics.hamming_loss(labels, predicted),
            "log_loss": np.mean(entropies),
        },
        rel=1e-9,
    )


def test_log_loss_of_huge_logits_is_finite_and_exact():
    logits = np.array([[1000.0, 0.0, -1000.0], [3e38, 0.0, 0.0]])
    report = evaluate(logits, np.array([1, 0], np.int32), ABC)
    assert report.metrics["log_loss"] == pytest.approx(500.0)
    report = evaluate(np.array([[-1000.0], [800.0]]), np.array([[1.0], [1.0]], np.float32), BINARY)
    assert report.metrics["log_loss"] == pytest.approx(500.0)


def test_ranking_survives_probabilities_that_round_to_one():
    # As float32 all three probabilities of "yes" are 1.0, and the ROC AUC would be 0.5.
    logits, labels = np.array([[20.0], [30.0], [40.0]]), np.array([[0], [1], [1]], np.float32)
    assert evaluate(logits, labels, BINARY).metrics["roc_auc"] == 1.0
    two = head_kinds.HeadInfo("label", "multiclass", ("no", "yes"))
    pairs = np.concatenate([np.zeros((3, 1)), logits], axis=1)
    report = evaluate(pairs, np.array([0, 1, 1], np.int32), two)
    assert report.metrics["roc_auc"] == 1.0


def test_one_class_in_the_split_defines_no_roc_auc():
    report = evaluate(np.log(CHANCES[:2]), LABELS[:2], ABC)
    assert "roc_auc" not in report.metrics
    assert report.undefined == {"roc_auc": "every example is of the same class"}
    # b and c have no example: only a counts, and the wrongly predicted b does not.
    assert report.num_classes_without_examples == 2
    assert report.metrics["recall_macro"] == 0.5
    assert report.metrics["precision_macro"] == 1.0
    assert report.per_class[1] == head_metrics.ClassReport("b", None, None, None, 0, 1)


def test_binary_without_a_positive_example():
    report = evaluate(np.array([[1.0], [-1.0]]), np.zeros((2, 1), np.float32), BINARY)
    no_positive = "no example is of the positive class"
    assert report.undefined == {
        "precision": no_positive,
        "recall": no_positive,
        "f1": no_positive,
        "roc_auc": "every example is of the same class",
        "average_precision": no_positive,
    }
    assert report.metrics["accuracy"] == 0.5


def test_multilabel_without_any_label():
    report = evaluate(np.ones((2, 3)), np.zeros((2, 3), np.float32), TAGS)
    assert report.undefined == {
        "precision_macro": "no class has an example",
        "recall_macro": "no class has an example",
        "f1_macro": "no class has an example",
        "f1_micro": "no class has an example",
        "roc_auc": "no class has both an example and a counterexample",
        "average_precision": "no class has an example",
    }
    assert report.metrics["hamming_loss"] == 1.0


def test_class_that_is_never_predicted_has_precision_zero():
    report = evaluate(np.array([[1.0, 0, 0], [1.0, 0, 0]]), np.array([0, 1], np.int32), ABC)
    assert report.per_class[1] == head_metrics.ClassReport("b", 0.0, 0.0, 0.0, 1, 0)
    assert report.metrics["precision_macro"] == 0.25


@pytest.mark.parametrize(("num_classes", "exists"), [(5, False), (6, True)])
def test_top_5_exists_above_five_classes(num_classes, exists):
    logits, labels, head = make_multiclass(num_examples=20, num_classes=num_classes, seed=0)
    assert ("top_5_accuracy" in evaluate(logits, labels, head).metrics) is exists
    assert ("top_5_accuracy" in head_metrics.list_metrics(head)) is exists


def test_ties_go_to_the_first_class_in_accuracy_and_top_5():
    head = head_kinds.HeadInfo("label", "multiclass", tuple("abcdefgh"))
    report = evaluate(np.zeros((8, 8)), np.arange(8, dtype=np.int32), head)
    assert report.metrics["accuracy"] == 1 / 8
    assert report.metrics["top_5_accuracy"] == 5 / 8


def test_above_200_classes_pairs_replace_the_matrix():
    logits, labels, head = make_multiclass(num_examples=300, num_classes=200, seed=0)
    assert evaluate(logits, labels, head).confusion.sum() == 300
    logits, labels, head = make_multiclass(num_examples=300, num_classes=201, seed=0)
    logits[:40] = 0.0
    logits[:40, 7] = 9.0
    labels[:40] = 3
    report = evaluate(logits, labels, head)
    assert report.confusion is None
    assert len(report.confused_pairs) == head_metrics.NUM_CONFUSED_PAIRS == 20
    assert report.confused_pairs[0] == head_metrics.ConfusedPair("class 3", "class 7", 40)
    counts = [pair.count for pair in report.confused_pairs]
    assert counts == sorted(counts, reverse=True)


def test_more_rows_than_a_chunk():
    logits, labels, head = make_multiclass(num_examples=9001, num_classes=4, seed=5)
    expected = scipy.special.logsumexp(logits.astype(np.float64), axis=1)
    expected = (expected - logits[np.arange(9001), labels]).mean()
    assert evaluate(logits, labels, head).metrics["log_loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("num_correct", "num_examples", "low", "high"),
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_of_newcombe(num_correct, num_examples, low, high):
    received = head_metrics.wilson_interval(num_correct, num_examples)
    assert received == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_agrees_with_scipy():
    generator = np.random.default_rng(0)
    for _ in range(200):
        total = int(generator.integers(1, 2000))
        hits = int(generator.choice([0, total, generator.integers(0, total + 1)]))
        low, high = head_metrics.wilson_interval(hits, total)
        expected = scipy.stats.binomtest(hits, total).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert 0.0 <= low <= hits / total <= high <= 1.0


def test_every_listed_metric_has_a_direction():
    for kind in head_kinds.HEAD_KINDS:
        head = head_kinds.HeadInfo("x", kind, tuple("abcdef"))
        assert set(head_metrics.list_metrics(head)) <= set(head_metrics.METRICS)
    lower = {
        name for name, higher_is_better in head_metrics.METRICS.items() if not higher_is_better
    }
    errors = {"mean_squared_error", "root_mean_squared_error", "mean_absolute_error"}
    assert lower == {"log_loss", "hamming_loss", "loss", *errors}


NUMBER = head_kinds.HeadInfo("age", "regression", (), mean=2.0, deviation=3.0)


def test_regression_by_hand():
    report = evaluate([[1.0], [4.0], [9.0]], np.array([[2], [4], [6]], np.float32), NUMBER)
    assert report.metrics == pytest.approx(
        {
            "mean_squared_error": 10 / 3,
            "root_mean_squared_error": math.sqrt(10 / 3),
            "mean_absolute_error": 4 / 3,
            "r2": 1 - 10 / 8,
        }
    )
    assert report.loss == pytest.approx(10 / 27)
    assert (report.num_correct, report.interval, report.confusion) == (None, None, None)
    same = evaluate([[1.0], [4.0]], np.array([[5], [5]], np.float32), NUMBER)
    assert same.undefined == {"r2": "every label is the same number"}


def test_regression_agrees_with_scikit_learn():
    generator = np.random.default_rng(4)
    labels = generator.normal(1000, 3, (200, 1)).astype(np.float32)
    logits = labels + generator.normal(0, 2, (200, 1)).astype(np.float32)
    labels[::7] = np.nan
    known = ~np.isnan(labels[:, 0])
    report = evaluate(logits, labels, NUMBER)
    assert report.metrics == pytest.approx(
        {
            "mean_squared_error": sklearn.metrics.mean_squared_error(labels[known], logits[known]),
            "root_mean_squared_error": sklearn.metrics.root_mean_squared_error(
                labels[known], logits[known]
            ),
            "mean_absolute_error": sklearn.metrics.mean_absolute_error(
                labels[known], logits[known]
            ),
            "r2": sklearn.metrics.r2_score(labels[known], logits[known]),
        },
        rel=1e-6,
    )
    assert (report.num_examples, report.num_missing) == (171, 29)


@pytest.mark.parametrize("seed", range(3))
def test_multilabel_with_missing_labels_and_own_thresholds_agrees_with_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    labels = (generator.random((80, 3)) < 0.4).astype(np.float32)
    logits = generator.normal(labels * 1.5, 1, (80, 3)).astype(np.float32)
    labels[generator.random((80, 3)) < 0.3] = np.nan
    labels[:5] = np.nan
    head = head_kinds.HeadInfo("tags", "multilabel", ("p", "q", "r"), thresholds=(0.3, 0.5, 0.8))
    report = evaluate(logits, labels, head)
    chances = 1 / (1 + np.exp(-logits.astype(np.float64)))
    known = ~np.isnan(labels)
    columns = [
        (labels[rows, k], chances[rows, k] >= head.thresholds[k], chances[rows, k])
        for k, rows in enumerate(known.T)
    ]
    true, predicted, scores = (np.concatenate(part) for part in zip(*columns, strict=True))
    f1 = [sklearn.metrics.f1_score(*column[:2]) for column in columns]
    expected = {
        "f1_macro": np.mean(f1),
        "precision_macro": np.mean([sklearn.metrics.precision_score(t, p) for t, p, _ in columns]),
        "recall_macro": np.mean([sklearn.metrics.recall_score(t, p) for t, p, _ in columns]),
        "f1_micro": sklearn.metrics.f1_score(true, predicted),
        "hamming_loss": sklearn.metrics.hamming_loss(true, predicted),
        "log_loss": sklearn.metrics.log_loss(true, scores),
        "roc_auc": np.mean([sklearn.metrics.roc_auc_score(t, s) for t, _, s in columns]),
        "average_precision": np.mean(
            [sklearn.metrics.average_precision_score(t, s) for t, _, s in columns]
        ),
    }
    measured = {name: report.metrics[name] for name in expected}
    assert measured == pytest.approx(expected, rel=1e-6)
    wrong = ((chances >= head.thresholds) != (labels == 1)) & known
    has_label = known.any(axis=1)
    assert report.num_examples == has_label.sum() and report.num_missing >= 5
    assert report.num_correct == (~wrong.any(axis=1) & has_label).sum()
    assert report.per_class[1].support == (labels[:, 1] == 1).sum()


@pytest.mark.parametrize("head", [ABC, BINARY])
def test_examples_without_a_label_count_nowhere(head):
    generator = np.random.default_rng(0)
    units = head_kinds.num_logits(head.kind, len(head.classes))
    logits = generator.normal(size=(40, units))
    labels = generator.integers(0, 2, 40)
    encoded = labels.astype(np.int32)
    if head is BINARY:
        encoded = labels[:, np.newaxis].astype(np.float32)
    gaps = encoded.copy()
    gaps[::3] = -1 if head is ABC else np.nan
    rows = np.arange(40) % 3 > 0
    report, expected = evaluate(logits, gaps, head), evaluate(logits[rows], encoded[rows], head)
    assert report.metrics == expected.metrics
    assert report.interval == expected.interval
    assert report.per_class == expected.per_class
    assert (report.num_examples, report.num_missing) == (26, 14)


@pytest.mark.parametrize("head", [ABC, BINARY, TAGS, NUMBER])
def test_without_any_label_every_metric_is_undefined(head):
    units = head_kinds.num_logits(head.kind, len(head.classes))
    labels = np.full((2, units), np.nan, np.float32)
    if head is ABC:
        labels = np.full(2, -1, np.int32)
    report = evaluate(np.ones((2, units)), labels, head)
    assert report.metrics == {} and report.loss == 0.0 and report.interval is None
    assert report.undefined == dict.fromkeys(
        head_metrics.list_metrics(head), "no example has a label"
    )
