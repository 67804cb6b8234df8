"""Loss, class weights and training metrics of each head, on logits.

Every loss is a sum of per-example losses; the data carry the weight 1 / examples in the batch.
The mean is then exact for a partial last batch and for any number of replicas, which Keras's own
"sum_over_batch_size" is not.
"""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from tf_finetune import head_kinds, specs

CROSS_ENTROPY = "cross_entropy"
ACCURACY = "accuracy"
# Rare classes may count this much more than the mean class, no more: beyond it a handful of
# examples, mislabelled ones among them, would steer the training.
_MAX_CLASS_WEIGHT = 10.0


def per_example_cross_entropy(
    labels: object, logits: object, *, kind: str, label_smoothing: float = 0.0
) -> object:
    """Cross-entropy of each example.

    Args:
      labels: encoded as `head_kinds.encode_labels` does, [batch] or [batch, classes].
      logits: float32 [batch, units].
      kind: a key of HEAD_KINDS.
      label_smoothing: part of the label's mass spread over all classes, 0 to 1.

    Returns:
      float32 [batch], in nats; for multilabel the mean over classes.

    Reference:
      Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7 (smoothing),
      https://arxiv.org/abs/1512.00567
    """
    if kind == "multiclass":
        units = logits.shape[-1]  # type: ignore[attr-defined]
        targets = ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), units)
        targets = targets * (1.0 - label_smoothing) + label_smoothing / units
        return ops.categorical_crossentropy(targets, logits, from_logits=True)
    return ops.mean(_binary_terms(labels, logits, label_smoothing), axis=-1)


def _binary_terms(labels: object, logits: object, label_smoothing: float) -> object:
    targets = ops.cast(labels, "float32") * (1.0 - label_smoothing) + label_smoothing / 2
    return ops.binary_crossentropy(targets, logits, from_logits=True)


class HeadLoss(keras.losses.Loss):
    """Weighted cross-entropy of one head, summed over the batch.

    Args:
      kind: a key of HEAD_KINDS.
      label_smoothing: 0 to 1.
      class_weights: float32 [classes] for exclusive kinds, [2, classes] (absent, present) for
        multilabel, or None.
    """

    def __init__(
        self,
        kind: str,
        *,
        label_smoothing: float = 0.0,
        class_weights: np.ndarray | None = None,
        name: str = "head_loss",
    ):
        super().__init__(name=name, reduction="sum")
        self._kind = kind
        self._label_smoothing = label_smoothing
        self._class_weights = class_weights

    def call(self, y_true: object, y_pred: object) -> object:
        """Weighted losses, float32 [batch]."""
        if self._kind == "multilabel" and self._class_weights is not None:
            present = ops.cast(y_true, "float32")
            absent_weights, present_weights = self._class_weights
            weights = absent_weights * (1.0 - present) + present_weights * present
            terms = _binary_terms(y_true, y_pred, self._label_smoothing)
            return ops.mean(weights * terms, axis=-1)
        losses = per_example_cross_entropy(
            y_true, y_pred, kind=self._kind, label_smoothing=self._label_smoothing
        )
        if self._class_weights is None:
            return losses
        index = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        return losses * ops.take(ops.convert_to_tensor(self._class_weights), index)


class CrossEntropy(keras.metrics.Mean):
    """Mean cross-entropy, unsmoothed and unweighted: what early stopping looks at."""

    def __init__(self, kind: str, name: str = CROSS_ENTROPY):
        super().__init__(name=name)
        self._kind = kind

    def update_state(self, y_true: object, y_pred: object, sample_weight: object = None) -> None:
        """Adds a batch; labels and logits as in `per_example_cross_entropy`."""
        super().update_state(per_example_cross_entropy(y_true, y_pred, kind=self._kind))


class Accuracy(keras.metrics.Mean):
    """Part of right predictions; for multilabel, part of examples with every class right."""

    def __init__(self, kind: str, name: str = ACCURACY):
        super().__init__(name=name)
        self._kind = kind

    def update_state(self, y_true: object, y_pred: object, sample_weight: object = None) -> None:
        """Adds a batch; labels and logits as in `per_example_cross_entropy`."""
        if self._kind == "multiclass":
            labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
            right = ops.equal(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), labels)
        else:
            predicted = ops.greater_equal(y_pred, 0.0)  # probability of 0.5 or more
            right = ops.all(ops.equal(predicted, ops.cast(y_true, "bool")), axis=-1)
        super().update_state(ops.cast(right, "float32"))


def make_losses(
    heads: Sequence[specs.HeadSpec],
    infos: Sequence[head_kinds.HeadInfo],
    labels: Mapping[str, np.ndarray],
) -> dict[str, HeadLoss]:
    """The loss of every head.

    Args:
      heads: one spec per head.
      infos: the same heads with their classes.
      labels: encoded training labels per head, for class weights.

    Returns:
      {HEAD: loss}.
    """
    losses = {}
    for head, info in zip(heads, infos, strict=True):
        weights = None
        if head.class_weight == "balanced":
            weights = balanced_weights(
                labels[head.name], kind=info.kind, num_classes=len(info.classes)
            )
        losses[head.name] = HeadLoss(
            info.kind, label_smoothing=head.label_smoothing, class_weights=weights
        )
    return losses


def make_metrics(infos: Sequence[head_kinds.HeadInfo]) -> dict[str, list[keras.metrics.Metric]]:
    """The metrics shown while training; the full set is `evaluation`'s.

    Args:
      infos: the heads.

    Returns:
      {HEAD: [cross-entropy, accuracy]}.
    """
    return {info.name: [CrossEntropy(info.kind), Accuracy(info.kind)] for info in infos}


def balanced_weights(labels: np.ndarray, *, kind: str, num_classes: int) -> np.ndarray:
    """Inverse class frequencies, with mean 1 over the examples and at most 10.

    Args:
      labels: encoded training labels (`head_kinds.encode_labels`).
      kind: a key of HEAD_KINDS.
      num_classes: number of class names.

    Returns:
      float32 [classes], or for multilabel [2, classes]: weights of absent and present. A class
      without an example weighs 1.

    Reference:
      King and Zeng 2001, "Logistic Regression in Rare Events Data",
      https://doi.org/10.1093/oxfordjournals.pan.a004868
    """
    if kind == "multilabel":
        present = labels.sum(axis=0)
        return np.stack(
            [_inverse_weights(np.array([len(labels) - count, count])) for count in present], axis=1
        )
    counts = np.bincount(labels.reshape(-1).astype(np.int64), minlength=num_classes)
    return _inverse_weights(counts)


def _inverse_weights(counts: np.ndarray) -> np.ndarray:
    seen = counts > 0
    weights = np.ones(len(counts))
    # Sum over examples of n / (classes * count) is n: the mean over examples is 1.
    weights[seen] = counts.sum() / (seen.sum() * counts[seen])
    return np.minimum(weights, _MAX_CLASS_WEIGHT).astype(np.float32)
