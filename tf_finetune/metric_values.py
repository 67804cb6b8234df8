"""The metrics of a head that are not counted class by class; see `head_metrics` for their names.

A metric is a number, or the reason why the examples do not define it.
"""

import math

import numpy as np

TOP_K = 5

_NO_POSITIVE = "no example is of the positive class"
_NO_EXAMPLE = "no class has an example"
_ONE_CLASS = "every example is of the same class"
_ONE_SIDED = "no class has both an example and a counterexample"
_ONE_NUMBER = "every label is the same number"
_CHUNK_ROWS = 4096


def measure_classes(
    logits: np.ndarray,
    true: np.ndarray,
    *,
    kind: str,
    predicted: np.ndarray,
    labelled: np.ndarray,
) -> dict[str, float | str]:
    """Ranking and loss of a head that has classes.

    Args:
      logits: float32 [n, num_logits], n at least 1.
      true: int64 [n], class indices; multilabel: bool [n, num_classes].
      kind: a key of `head_kinds.HEAD_KINDS` that has classes.
      predicted: multilabel: bool [n, num_classes].
      labelled: multilabel: bool [n, num_classes], False where the label is missing.

    Returns:
      {metric: number or reason}.
    """
    if kind == "multiclass":
        return _measure_multiclass(logits, true)
    if kind == "binary":
        return _measure_binary(logits, true)
    return _measure_multilabel(logits, true, predicted=predicted, labelled=labelled)


def measure_numbers(predicted: np.ndarray, true: np.ndarray) -> dict[str, float | str]:
    """Errors of a regression head.

    Args:
      predicted: float32 [n], n at least 1.
      true: float32 [n].

    Returns:
      {metric: number or reason}.
    """
    errors = predicted.astype(np.float64) - true
    squared = float((errors**2).mean())
    variance = float(true.astype(np.float64).var())
    return {
        "mean_squared_error": squared,
        "root_mean_squared_error": math.sqrt(squared),
        "mean_absolute_error": float(np.abs(errors).mean()),
        "r2": 1 - squared / variance if variance else _ONE_NUMBER,
    }


def _measure_multiclass(logits: np.ndarray, true: np.ndarray) -> dict[str, float | str]:
    normalizer = _log_normalizer(logits)
    areas = []
    for number in np.flatnonzero(np.bincount(true)):
        # Ranked by log probability: probabilities near 1 would round to ties.
        scores = logits[:, number].astype(np.float64) - normalizer
        areas.append(_roc_auc(scores, true == number))
    return {
        "top_5_accuracy": _top_k_accuracy(logits, true),
        "roc_auc": _mean_defined(areas, or_else=_ONE_CLASS),
        "log_loss": float((normalizer - logits[np.arange(len(true)), true]).mean()),
    }


def _measure_binary(logits: np.ndarray, true: np.ndarray) -> dict[str, float | str]:
    scores, flags = logits[:, 0], true == 1
    return {
        "roc_auc": _mean_defined([_roc_auc(scores, flags)], or_else=_ONE_CLASS),
        "average_precision": _mean_defined(
            [_average_precision(scores, flags)], or_else=_NO_POSITIVE
        ),
        "log_loss": _binary_log_loss(scores, flags),
    }


def _measure_multilabel(
    logits: np.ndarray, true: np.ndarray, *, predicted: np.ndarray, labelled: np.ndarray
) -> dict[str, float | str]:
    columns = [
        (scores[known], flags[known])
        for scores, flags, known in zip(logits.T, true.T, labelled.T, strict=True)
    ]
    hits, claimed = int((true & predicted).sum()), int(predicted.sum())
    num_labels = int(true.sum())
    return {
        "f1_micro": 2 * hits / (num_labels + claimed) if num_labels else _NO_EXAMPLE,
        "roc_auc": _mean_defined([_roc_auc(*column) for column in columns], or_else=_ONE_SIDED),
        "average_precision": _mean_defined(
            [_average_precision(*column) for column in columns], or_else=_NO_EXAMPLE
        ),
        "hamming_loss": float((predicted != true)[labelled].mean()),
        "log_loss": _binary_log_loss(logits[labelled], true[labelled]),
    }


def _mean_defined(numbers: list[float | None], *, or_else: str) -> float | str:
    defined = [number for number in numbers if number is not None]
    return sum(defined) / len(defined) if defined else or_else


def _roc_auc(scores: np.ndarray, flags: np.ndarray) -> float | None:
    # Imported here: scikit-learn takes a second, and validation needs METRICS only.
    import sklearn.metrics

    if flags.all() or not flags.any():
        return None
    return float(sklearn.metrics.roc_auc_score(flags, scores))


def _average_precision(scores: np.ndarray, flags: np.ndarray) -> float | None:
    import sklearn.metrics

    return float(sklearn.metrics.average_precision_score(flags, scores)) if flags.any() else None


def _log_normalizer(logits: np.ndarray) -> np.ndarray:
    """float64 [n], log of the sum of exp over classes; in chunks, to hold one copy only."""
    parts = []
    for start in range(0, len(logits), _CHUNK_ROWS):
        chunk = logits[start : start + _CHUNK_ROWS].astype(np.float64)
        top = chunk.max(axis=1)
        parts.append(top + np.log(np.exp(chunk - top[:, np.newaxis]).sum(axis=1)))
    return np.concatenate(parts)


def _binary_log_loss(logits: np.ndarray, flags: np.ndarray) -> float:
    wide = logits.astype(np.float64)
    # log(1 + exp(z)) - y z, with no exp of a large number.
    return float((np.logaddexp(0, wide) - np.where(flags, wide, 0)).mean())


def _top_k_accuracy(logits: np.ndarray, true: np.ndarray) -> float:
    own = logits[np.arange(len(true)), true][:, np.newaxis]
    # Ties go to the lower index, as argmax decides them.
    tied_before = (logits == own) & (np.arange(logits.shape[1]) < true[:, np.newaxis])
    rank = ((logits > own) | tied_before).sum(axis=1)
    return float((rank < TOP_K).mean())
