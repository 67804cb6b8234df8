"""From which probability on a class is predicted: the threshold with the best F1 on validation.

One idea: a threshold of its own must be earned. 0.5 stays where no other is better, and where
validation has too few positives to tell. What is tuned on validation looks better there than on new
examples, so only the test split tells what it is worth.

Reference: Lipton, Elkan and Naryanaswamy 2014, "Optimal Thresholding of Classifiers to Maximize F1
Measure", https://arxiv.org/abs/1402.1892
"""

import dataclasses

import numpy as np

from tf_finetune import findings, head_kinds

MIN_POSITIVES = 20
DEFAULT = 0.5
_MAX_LISTED = 20


def has_enough(labels: np.ndarray) -> bool:
    """Whether a threshold of some class can be tuned.

    Args:
      labels: encoded, float32 [n, units]; some may miss.

    Returns:
      True if a class has MIN_POSITIVES positives.
    """
    return bool((np.nansum(labels, axis=0) >= MIN_POSITIVES).any())


def tune_head(
    logits: np.ndarray, labels: np.ndarray, head: head_kinds.HeadInfo
) -> tuple[head_kinds.HeadInfo, str]:
    """Chooses the thresholds of a head.

    Args:
      logits: float32 [n, num_logits] on validation; n may be 0.
      labels: encoded; some may miss.
      head: a head whose kind has thresholds.

    Returns:
      (the head with its thresholds, a sentence that tells them and what kept 0.5).
    """
    flags = np.nan_to_num(labels) > 0.5
    labelled = head_kinds.find_labelled(labels)
    # One column of scores for each threshold: those of the positive class.
    scores = head_kinds.probabilities(logits, head.kind)[:, -flags.shape[1] :]
    names = head.classes[-flags.shape[1] :]
    values, told, kept = [], [], []
    for name, column, positive, known in zip(names, scores.T, flags.T, labelled.T, strict=True):
        shown, count = findings.one_line(name), int(positive[known].sum())
        if count < MIN_POSITIVES:
            values.append(DEFAULT)
            kept.append(f"{shown} ({count})")
            continue
        values.append(find_best(column[known], positive[known]))
        told.append(f"{shown} {values[-1]:.3g}")
    texts = []
    if told:
        texts.append(f"the best F1 on validation: {findings.list_values(told, limit=_MAX_LISTED)}")
    if kept:
        rare = findings.list_values(kept, limit=_MAX_LISTED)
        texts.append(
            f"{DEFAULT} for classes with fewer than {MIN_POSITIVES} positives there: {rare}"
        )
    text = f"Thresholds of head '{head.name}': {'; '.join(texts)}."
    return dataclasses.replace(head, thresholds=tuple(values)), text


def find_best(scores: np.ndarray, positives: np.ndarray) -> float:
    """The threshold with the best F1.

    Args:
      scores: float32 [n], probabilities.
      positives: bool [n], at least one True.

    Returns:
      A float32 number: 0.5 if no other has a better F1; else, between the lowest probability that
      counts as positive and the next lower one, the middle. Of several that are equally good the
      one nearest to 0.5.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(positives[order])
    # A threshold lies between two different probabilities, or below all of them.
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    f1 = 2 * hits[ends] / (ends + 1 + positives.sum())
    reached = scores >= np.float32(DEFAULT)
    own = 2 * int((reached & positives).sum()) / (int(reached.sum()) + int(positives.sum()))
    if own >= f1.max():
        return DEFAULT
    best = ends[f1 == f1.max()]
    lowest = ranked[best].astype(np.float32)
    following = np.append(ranked, np.float32(0.0))[best + 1].astype(np.float32)
    middle = ((lowest.astype(np.float64) + following) / 2).astype(np.float32)
    # Between neighbours among float32 numbers there is no middle.
    candidates = np.where(middle > following, middle, lowest)
    return float(candidates[np.argmin(np.abs(candidates - DEFAULT))])
