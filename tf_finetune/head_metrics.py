"""The numbers of one head: arithmetic on its logits and labels, without TensorFlow.

One idea: counts (accuracy, precision, recall, F1, confusion) are made from integers here, sums
in float64; the ranking metrics are scikit-learn's. What the names mean, by kind of head:

- `accuracy`: part of the examples that are right; multilabel: right in every class (the subset
  accuracy). The Wilson interval is about this number.
- `top_5_accuracy`: multiclass with more than 5 classes (with 5 it is always 1).
- `precision`, `recall`, `f1`: binary only, of the positive class.
- `precision_macro`, `recall_macro`, `f1_macro`: means of the per-class numbers over the classes
  that have an example in the split. A class that is never predicted has precision 0.
- `f1_micro`, `hamming_loss`: multilabel, over all pairs of an example and a class.
- `roc_auc`: binary: of the positive class; else one class against the rest, the mean over the
  classes with both an example and a counterexample.
- `average_precision`: binary: of the positive class; multilabel: the mean over the classes with
  an example (mAP).
- `log_loss`: cross-entropy in nats, unweighted, without label smoothing; multilabel: the mean
  over classes too.
- `mean_squared_error`, `root_mean_squared_error`, `mean_absolute_error`, `r2`: regression, in the
  labels' unit (squared, as it is, as it is, none). `r2` is 0 for the mean of the split's labels.

- `mean_iou`, `pixel_accuracy`, `token_accuracy`, `entity_f1`: of positions, see
  `position_metrics`, which measures them.

Missing labels count nowhere: an example without a label is passed over, and of a multilabel
example the classes that are unknown.

A metric that the split does not define (ROC AUC when every example is of one class) is absent
from `metrics` and has its reason in `undefined`.
"""

import dataclasses
import math

import numpy as np

from tf_finetune import entity_tags as tags
from tf_finetune import head_kinds, metric_values

# Whether more is better. `loss` is the whole report's, the others are a head's.
METRICS: dict[str, bool] = {
    "accuracy": True,
    "top_5_accuracy": True,
    "precision": True,
    "recall": True,
    "f1": True,
    "precision_macro": True,
    "recall_macro": True,
    "f1_macro": True,
    "f1_micro": True,
    "roc_auc": True,
    "average_precision": True,
    "hamming_loss": False,
    "log_loss": False,
    "mean_squared_error": False,
    "root_mean_squared_error": False,
    "mean_absolute_error": False,
    "r2": True,
    "mean_iou": True,
    "pixel_accuracy": True,
    "token_accuracy": True,
    "entity_f1": True,
    "loss": False,
}
MAX_MATRIX_CLASSES = 200
NUM_CONFUSED_PAIRS = 20

_MACRO = ("precision_macro", "recall_macro", "f1_macro")
_KIND_METRICS = {
    "multiclass": ("accuracy", "top_5_accuracy", *_MACRO, "roc_auc", "log_loss"),
    "binary": (
        *("accuracy", "precision", "recall", "f1", *_MACRO),
        *("roc_auc", "average_precision", "log_loss"),
    ),
    "multilabel": (
        *("accuracy", *_MACRO, "f1_micro", "roc_auc", "average_precision"),
        *("hamming_loss", "log_loss"),
    ),
    "regression": (
        *("mean_squared_error", "root_mean_squared_error", "mean_absolute_error", "r2"),
    ),
    "segmentation": ("mean_iou", "pixel_accuracy", "log_loss"),
    "token_classification": ("token_accuracy", "f1_macro", "f1_micro", "entity_f1", "log_loss"),
}
_NO_POSITIVE = "no example is of the positive class"
_NO_EXAMPLE = "no class has an example"
_NO_LABEL = "no example has a label"
# 97.5 % quantile of the normal distribution: a two-sided 95 % interval.
_Z95 = 1.959963984540054


@dataclasses.dataclass(frozen=True)
class ClassReport:
    """One class against the rest.

    Attributes:
      name: class name.
      precision: right among those predicted, 0 to 1, 0 when never predicted; None when the
        split has no example of the class.
      recall: found among those there are, 0 to 1; None likewise.
      f1: harmonic mean of both; None likewise.
      support: examples of the class.
      num_predicted: examples predicted as the class.
      iou: of positions only: intersection over union, 0 to 1; None where nothing is of the class
        or predicted as it, and of other kinds of heads.

    Of a head of positions, `support` and `num_predicted` count positions.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    num_predicted: int
    iou: float | None = None


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """`count` examples of class `true` that were predicted as class `predicted`."""

    true: str
    predicted: str
    count: int


@dataclasses.dataclass(frozen=True)
class HeadReport:
    """How good one head is.

    Attributes:
      kind: a key of `head_kinds.HEAD_KINDS`.
      classes: class names by index.
      thresholds: what decided, see `head_kinds.HeadInfo`.
      num_examples: examples in the split that have a label.
      num_missing: those that have none.
      num_correct: examples that `accuracy` counts as right; None for regression and positions.
      loss: `log_loss`, or the squared error in the variance of the training labels; 0 without a
        label.
      metrics: finite numbers by name; see the module's docstring.
      undefined: {metric: why the split does not define it}.
      interval: (low, high), the 95 % Wilson interval of accuracy; None for regression and
        positions, and without a label.
      per_class: a row for each class, in the order of `classes`.
      confusion: int64 [num_classes, num_classes], rows true, columns predicted; None above
        MAX_MATRIX_CLASSES classes and for multilabel.
      confused_pairs: the NUM_CONFUSED_PAIRS most frequent confusions, most frequent first; empty
        for multilabel.
      num_classes_without_examples: classes left out of the macro averages.
    """

    kind: str
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    num_examples: int
    num_missing: int
    num_correct: int | None
    loss: float
    metrics: dict[str, float]
    undefined: dict[str, str]
    interval: tuple[float, float] | None
    per_class: tuple[ClassReport, ...] = ()
    confusion: np.ndarray | None = None
    confused_pairs: tuple[ConfusedPair, ...] = ()
    num_classes_without_examples: int = 0


def list_metrics(head: head_kinds.HeadInfo) -> tuple[str, ...]:
    """The metrics that exist for a head, whether or not a split defines them.

    Args:
      head: the head.

    Returns:
      Keys of METRICS, in the order of a report.
    """
    names = _KIND_METRICS[head.kind]
    if not tags.are_bio(head.classes):
        names = tuple(name for name in names if name != "entity_f1")
    if len(head.classes) <= metric_values.TOP_K:
        names = tuple(name for name in names if name != "top_5_accuracy")
    return names


def wilson_interval(num_correct: int, num_examples: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion.

    Unlike the textbook's p +- 1.96 s it stays inside 0 to 1 and is honest for few examples.

    Args:
      num_correct: successes, 0 to `num_examples`.
      num_examples: trials, at least 1.

    Returns:
      (low, high), 0 to 1.

    Reference:
      Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference",
      https://doi.org/10.1080/01621459.1927.10502953; Brown, Cai and DasGupta 2001, "Interval
      Estimation for a Binomial Proportion", https://doi.org/10.1214/ss/1009213286.
    """
    part = num_correct / num_examples
    z_squared = _Z95**2 / num_examples
    center = part + z_squared / 2
    half = _Z95 * math.sqrt((part * (1 - part) + z_squared / 4) / num_examples)
    low, high = (center - half) / (1 + z_squared), (center + half) / (1 + z_squared)
    # Exact at the ends, where rounding would leave 1e-17.
    return (0.0 if num_correct == 0 else low, 1.0 if num_correct == num_examples else high)


def predict_classes(logits: np.ndarray, head: head_kinds.HeadInfo) -> np.ndarray:
    """The answer of a head, as evaluation counts it and prediction writes it.

    Args:
      logits: float32 [n, num_logits].
      head: kind, classes and thresholds (none: 0.5); the kind has classes.

    Returns:
      multiclass and binary: int64 [n], class indices; multilabel: bool [n, num_classes].
    """
    row = head_kinds.HEAD_KINDS[head.kind]
    if not row.has_thresholds:
        return logits.argmax(axis=1)
    # Compared in float32, as the exported graph does.
    thresholds = np.array(head.thresholds or (0.5,), np.float32)
    reached = head_kinds.probabilities(logits, "multilabel") >= thresholds
    return reached[:, 0].astype(np.int64) if row.exclusive else reached


def evaluate_head(
    logits: np.ndarray, labels: np.ndarray, *, head: head_kinds.HeadInfo
) -> HeadReport:
    """Measures the logits of one head.

    Args:
      logits: float32 [n, num_logits], finite, n at least 1.
      labels: as `head_kinds.encode_labels` gives them: multiclass int32 [n], binary and
        regression float32 [n, 1], multilabel float32 [n, num_classes].
      head: kind, classes and thresholds (none: 0.5).

    Returns:
      The report; without a label every metric is undefined.
    """
    labelled = head_kinds.find_labelled(labels)
    rows = labelled.reshape(len(labels), -1).any(axis=1)
    num_missing = len(labels) - int(rows.sum())
    if num_missing == len(labels):
        undefined = dict.fromkeys(list_metrics(head), _NO_LABEL)
        return _make_report(head, {}, num_missing=num_missing, undefined=undefined)
    logits, labels, labelled = logits[rows], labels[rows], labelled[rows]
    if head_kinds.HEAD_KINDS[head.kind].has_classes:
        report = _evaluate_classes(logits, labels, labelled, head=head)
    else:
        values = metric_values.measure_numbers(logits[:, 0], labels[:, 0])
        loss = values["mean_squared_error"]
        report = _make_report(
            head, values, num_examples=len(labels), loss=float(loss) / head.deviation**2
        )
    return dataclasses.replace(report, num_missing=num_missing)


def _make_report(
    head: head_kinds.HeadInfo,
    values: dict[str, float | str],
    *,
    num_examples: int = 0,
    num_missing: int = 0,
    num_correct: int | None = None,
    loss: float = 0.0,
    undefined: dict[str, str] | None = None,
) -> HeadReport:
    measured = {name: values[name] for name in list_metrics(head) if name in values}
    reasons = {name: value for name, value in measured.items() if isinstance(value, str)}
    return HeadReport(
        kind=head.kind,
        classes=head.classes,
        thresholds=head.thresholds,
        num_examples=num_examples,
        num_missing=num_missing,
        num_correct=num_correct,
        loss=loss,
        metrics={k: v for k, v in measured.items() if not isinstance(v, str)},
        undefined=reasons | (undefined or {}),
        interval=None if num_correct is None else wilson_interval(num_correct, num_examples),
    )


def _evaluate_classes(
    logits: np.ndarray, labels: np.ndarray, labelled: np.ndarray, *, head: head_kinds.HeadInfo
) -> HeadReport:
    exclusive = head_kinds.HEAD_KINDS[head.kind].exclusive
    true: np.ndarray = labels.reshape(-1).astype(np.int64) if exclusive else labels > 0.5
    predicted = predict_classes(logits, head)
    if not exclusive:
        # What is unknown is neither found nor missed.
        predicted &= labelled
    per_class = _make_class_reports(true, predicted, head.classes)
    correct = predicted == true if exclusive else (predicted == true).all(axis=1)
    values = _measure(
        logits, true, head=head, predicted=predicted, labelled=labelled, per_class=per_class
    )
    values["accuracy"] = float(correct.mean())
    num_classes = len(head.classes)
    show_matrix = exclusive and num_classes <= MAX_MATRIX_CLASSES
    report = _make_report(
        head,
        values,
        num_examples=len(labels),
        num_correct=int(correct.sum()),
        loss=float(values["log_loss"]),
    )
    return dataclasses.replace(
        report,
        per_class=per_class,
        confusion=_count_confusion(true, predicted, num_classes) if show_matrix else None,
        confused_pairs=_find_confused(true, predicted, head.classes) if exclusive else (),
        num_classes_without_examples=sum(row.support == 0 for row in per_class),
    )


def _make_class_reports(
    true: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]
) -> tuple[ClassReport, ...]:
    if true.ndim == 1:
        support, num_predicted, hits = (
            np.bincount(numbers, minlength=len(classes))
            for numbers in (true, predicted, true[predicted == true])
        )
    else:
        support, num_predicted, hits = (
            flags.sum(axis=0) for flags in (true, predicted, true & predicted)
        )
    rows = []
    for name, *counts in zip(classes, support, num_predicted, hits, strict=True):
        examples, claimed, right = (int(count) for count in counts)
        if examples:
            precision = right / claimed if claimed else 0.0
            f1 = 2 * right / (examples + claimed)
            rows.append(ClassReport(name, precision, right / examples, f1, examples, claimed))
        else:
            rows.append(ClassReport(name, None, None, None, 0, claimed))
    return tuple(rows)


def _measure(
    logits: np.ndarray,
    true: np.ndarray,
    *,
    head: head_kinds.HeadInfo,
    predicted: np.ndarray,
    labelled: np.ndarray,
    per_class: tuple[ClassReport, ...],
) -> dict[str, float | str]:
    """Each metric's number, or why there is none; all but accuracy."""
    present = [row for row in per_class if row.support]
    values: dict[str, float | str] = {}
    for name in ("precision", "recall", "f1"):
        numbers = [getattr(row, name) for row in present]
        values[f"{name}_macro"] = sum(numbers) / len(numbers) if numbers else _NO_EXAMPLE
    if head.kind == "binary":
        for name in ("precision", "recall", "f1"):
            values[name] = getattr(per_class[1], name) if per_class[1].support else _NO_POSITIVE
    measured = metric_values.measure_classes(
        logits, true, kind=head.kind, predicted=predicted, labelled=labelled
    )
    return values | measured


def _count_confusion(true: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    cells = np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def _find_confused(
    true: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]
) -> tuple[ConfusedPair, ...]:
    wrong = true != predicted
    cells, counts = np.unique(true[wrong] * len(classes) + predicted[wrong], return_counts=True)
    # Stable, so that equal counts stay in the order of the classes.
    first = np.argsort(-counts, kind="stable")[:NUM_CONFUSED_PAIRS]
    return tuple(
        ConfusedPair(classes[cell // len(classes)], classes[cell % len(classes)], int(count))
        for cell, count in zip(cells[first], counts[first], strict=True)
    )
