"""Loss, class weights and training metrics of each head, on logits.

Every loss is a sum of per-example losses; the data carry the weight 1 / examples in the batch.
The mean is then exact for a partial last batch and for any number of replicas, which Keras's own
"sum_over_batch_size" is not. A missing label adds nothing, and the others of its head count that
much more: a constant factor, so that the mean over the labelled examples does not depend on which
of them share a batch. Labels of positions work the same way: a position without a label adds
nothing, and the sum over an example is divided by the labelled positions of the mean example.
"""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from tf_finetune import head_kinds, specs

CROSS_ENTROPY = head_kinds.CROSS_ENTROPY
ACCURACY = head_kinds.ACCURACY
# Rare classes may count this much more than the mean class, no more: beyond it a handful of
# examples, mislabelled ones among them, would steer the training.
_MAX_CLASS_WEIGHT = 10.0
# A class of which nearly every example is positive starts at this probability, 1 % or 99 %.
_MAX_START_LOGIT = 4.6
_TINY = 1e-7


def per_example_cross_entropy(
    labels: object,
    logits: object,
    *,
    kind: str,
    label_smoothing: float = 0.0,
    focal_gamma: float | None = None,
) -> object:
    """Cross-entropy of each example, or its focal form.

    Args:
      labels: encoded as `head_kinds.encode_labels` does, [batch] or [batch, classes]; none missing.
        Of positions [batch, ...].
      logits: float32 [batch, units]; of positions [batch, ..., units].
      kind: a key of HEAD_KINDS that has classes.
      label_smoothing: part of the label's mass spread over all classes, 0 to 1.
      focal_gamma: each term is multiplied by (1 - p) to this power, p the probability of what the
        term is about; None: plain cross-entropy.

    Returns:
      float32 [batch], in nats; for multilabel the mean over classes. Of positions [batch, ...].

    Reference:
      Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7 (smoothing),
      https://arxiv.org/abs/1512.00567; Lin et al. 2017, "Focal Loss for Dense Object Detection",
      equation 4 (without alpha, which class weights are), https://arxiv.org/abs/1708.02002
    """
    if head_kinds.HEAD_KINDS[kind].activation != "softmax":
        return ops.mean(_binary_terms(labels, logits, label_smoothing, focal_gamma), axis=-1)
    units = logits.shape[-1]  # type: ignore[attr-defined]
    shape = ops.shape(logits)[:-1]
    targets = ops.one_hot(ops.cast(ops.reshape(labels, shape), "int32"), units)
    targets = targets * (1.0 - label_smoothing) + label_smoothing / units
    if focal_gamma is None:
        return ops.categorical_crossentropy(targets, logits, from_logits=True)
    log_p = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    # 1 - p, not below a number whose power has a finite slope.
    others = ops.maximum(-ops.expm1(log_p), _TINY)
    return ops.sum(-targets * ops.power(others, focal_gamma) * log_p, axis=-1)


def _binary_terms(
    labels: object, logits: object, label_smoothing: float, focal_gamma: float | None = None
) -> object:
    """float32 [batch, units], a term for each class; missing labels must be replaced before."""
    targets = ops.cast(labels, "float32") * (1.0 - label_smoothing) + label_smoothing / 2
    if focal_gamma is None:
        return ops.binary_crossentropy(targets, logits, from_logits=True)
    log_present, log_absent = ops.log_sigmoid(logits), ops.log_sigmoid(-logits)  # type: ignore[operator]
    return -(
        targets * ops.exp(focal_gamma * log_absent) * log_present
        + (1.0 - targets) * ops.exp(focal_gamma * log_present) * log_absent
    )


def _find_labelled(labels: object, row: head_kinds.HeadKind) -> object:
    """bool of the shape of the labels; see `head_kinds.find_labelled`."""
    # Not by dtype: Keras hands class numbers to a loss as floats.
    if row.activation == "softmax":
        return ops.greater_equal(labels, 0)
    return ops.logical_not(ops.isnan(labels))


def _align(labels: object, logits: object) -> object:
    """Labels without the padding of a larger batch, of which a replica has a part."""
    return labels[:, : ops.shape(logits)[1]]  # type: ignore[index]


def _fill_missing(labels: object, labelled: object) -> object:
    # NaN times 0 is NaN, also in a gradient: missing labels are replaced, not only weighed 0.
    return ops.where(labelled, labels, ops.zeros_like(labels))


class HeadLoss(keras.losses.Loss):
    """Weighted loss of one head, summed over the batch.

    Args:
      kind: a key of HEAD_KINDS.
      label_smoothing: 0 to 1.
      class_weights: float32 [classes] for exclusive kinds, [2, classes] (absent, present) for
        multilabel, or None.
      focal_gamma: see `per_example_cross_entropy`.
      deviation: regression: errors are measured in it.
      labelled_fraction: part of the training labels that are there, above 0 and at most 1; at 1
        none may be missing. Of positions: how many have a label in the mean example, above 0.
    """

    def __init__(
        self,
        kind: str,
        *,
        label_smoothing: float = 0.0,
        class_weights: np.ndarray | None = None,
        focal_gamma: float | None = None,
        deviation: float = 1.0,
        labelled_fraction: float = 1.0,
        name: str = "head_loss",
    ):
        super().__init__(name=name, reduction="sum")
        self._row = head_kinds.HEAD_KINDS[kind]
        self._label_smoothing = label_smoothing
        self._class_weights = class_weights
        self._focal_gamma = focal_gamma
        self._deviation = deviation
        self._labelled_fraction = labelled_fraction

    def call(self, y_true: object, y_pred: object) -> object:
        """Weighted losses, float32 [batch]."""
        if self._row.positions:
            return self._sum_positions(y_true, y_pred)
        if self._labelled_fraction == 1.0:
            return self._weigh(y_true, y_pred, None)
        labelled = _find_labelled(y_true, self._row)
        return self._weigh(_fill_missing(y_true, labelled), y_pred, labelled)

    def _weigh(self, labels: object, logits: object, labelled: object) -> object:
        if not self._row.exclusive and (labelled is not None or self._class_weights is not None):
            terms = _binary_terms(labels, logits, self._label_smoothing, self._focal_gamma)
            if self._class_weights is not None:
                present = ops.cast(labels, "float32")
                absent_weights, present_weights = self._class_weights
                terms = terms * (absent_weights * (1.0 - present) + present_weights * present)
            return ops.mean(self._mask(terms, labelled), axis=-1)
        if not self._row.has_classes:
            errors = ops.reshape((logits - labels) / self._deviation, (-1,))  # type: ignore[operator]
            return self._mask(ops.square(errors), labelled)
        return self._mask(self._weigh_classes(labels, logits), labelled)

    def _weigh_classes(self, labels: object, logits: object) -> object:
        losses = per_example_cross_entropy(
            labels,
            logits,
            kind=self._row.name,
            label_smoothing=self._label_smoothing,
            focal_gamma=self._focal_gamma,
        )
        if self._class_weights is None:
            return losses
        index = ops.cast(ops.reshape(labels, ops.shape(losses)), "int32")
        return losses * ops.take(ops.convert_to_tensor(self._class_weights), index)

    def _sum_positions(self, labels: object, logits: object) -> object:
        labels = _align(labels, logits)
        labelled = _find_labelled(labels, self._row)
        losses = self._weigh_classes(_fill_missing(labels, labelled), logits)
        losses = self._mask(losses, labelled)
        return ops.sum(ops.reshape(losses, (ops.shape(losses)[0], -1)), axis=-1)

    def _mask(self, losses: object, labelled: object) -> object:
        if labelled is None:
            return losses
        mask = ops.cast(ops.reshape(labelled, ops.shape(losses)), "float32")
        return losses * mask / self._labelled_fraction  # type: ignore[operator]


class _LabelledMean(keras.metrics.Mean):
    """A mean over the labels that are there."""

    _row: head_kinds.HeadKind

    def _add(self, values: object, labelled: object) -> None:
        mask = ops.cast(ops.reshape(labelled, ops.shape(values)), "float32")
        if self._row.positions:
            # Keras takes the mean of a row first: a word of a batch of long texts would count less.
            values, mask = ops.reshape(values, (-1,)), ops.reshape(mask, (-1,))
        super().update_state(values, sample_weight=mask)


class CrossEntropy(_LabelledMean):
    """Mean cross-entropy, unsmoothed, unweighted and never focal: what early stopping looks at."""

    def __init__(self, kind: str, name: str = CROSS_ENTROPY):
        super().__init__(name=name)
        self._row = head_kinds.HEAD_KINDS[kind]

    def update_state(self, y_true: object, y_pred: object, sample_weight: object = None) -> None:
        """Adds a batch; labels and logits as in `per_example_cross_entropy`, labels may miss."""
        if self._row.positions:
            y_true = _align(y_true, y_pred)
        labelled = _find_labelled(y_true, self._row)
        labels = _fill_missing(y_true, labelled)
        if self._row.exclusive:
            self._add(per_example_cross_entropy(labels, y_pred, kind=self._row.name), labelled)
        else:
            self._add(_binary_terms(labels, y_pred, 0.0), labelled)


class Accuracy(_LabelledMean):
    """Part of right predictions; for multilabel, part of examples with every known class right."""

    def __init__(self, kind: str, name: str = ACCURACY):
        super().__init__(name=name)
        self._row = head_kinds.HEAD_KINDS[kind]

    def update_state(self, y_true: object, y_pred: object, sample_weight: object = None) -> None:
        """Adds a batch; labels and logits as in `per_example_cross_entropy`, labels may miss."""
        if self._row.positions:
            y_true = _align(y_true, y_pred)
        labelled = _find_labelled(y_true, self._row)
        if self._row.activation == "softmax":
            labels = ops.cast(ops.reshape(y_true, ops.shape(y_pred)[:-1]), "int32")
            right = ops.equal(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), labels)
        else:
            predicted = ops.greater_equal(y_pred, 0.0)  # probability of 0.5 or more
            matches = ops.equal(predicted, ops.cast(_fill_missing(y_true, labelled), "bool"))
            right = ops.all(ops.logical_or(matches, ops.logical_not(labelled)), axis=-1)
            labelled = ops.any(labelled, axis=-1)
        self._add(ops.cast(right, "float32"), labelled)


class NumberError(_LabelledMean):
    """Mean squared or absolute error of a regression head, in the labels' unit.

    Args:
      squared: of the squares.
      name: the metric's name.
    """

    def __init__(self, *, squared: bool, name: str):
        super().__init__(name=name)
        self._row = head_kinds.HEAD_KINDS["regression"]
        self._squared = squared

    def update_state(self, y_true: object, y_pred: object, sample_weight: object = None) -> None:
        """Adds a batch; numbers float32 [batch, 1], labels may miss."""
        labelled = _find_labelled(y_true, self._row)
        errors = y_pred - _fill_missing(y_true, labelled)  # type: ignore[operator]
        self._add(ops.square(errors) if self._squared else ops.abs(errors), labelled)


def make_losses(
    heads: Sequence[specs.HeadSpec],
    infos: Sequence[head_kinds.HeadInfo],
    labels: Mapping[str, np.ndarray],
    *,
    counts: Mapping[str, np.ndarray] | None = None,
) -> dict[str, HeadLoss]:
    """The loss of every head.

    Args:
      heads: one spec per head.
      infos: the same heads with their classes.
      labels: encoded training labels per head, for class weights and for what is missing.
      counts: of each head of positions int64 [classes], its labelled positions in training.

    Returns:
      {HEAD: loss}.
    """
    return {
        head.name: HeadLoss(
            info.kind,
            label_smoothing=head.label_smoothing,
            class_weights=_find_class_weights(
                head, info, labels[head.name], counts=(counts or {}).get(head.name)
            ),
            focal_gamma=head.focal_gamma if head.loss == "focal" else None,
            deviation=info.deviation,
            labelled_fraction=_find_labelled_part(
                labels[head.name], counts=(counts or {}).get(head.name)
            ),
        )
        for head, info in zip(heads, infos, strict=True)
    }


def _find_labelled_part(labels: np.ndarray, *, counts: np.ndarray | None) -> float:
    if counts is not None:
        return float(counts.sum()) / len(labels)
    return float(head_kinds.find_labelled(labels).mean())


def _find_class_weights(
    head: specs.HeadSpec,
    info: head_kinds.HeadInfo,
    labels: np.ndarray,
    *,
    counts: np.ndarray | None = None,
) -> np.ndarray | None:
    if head.class_weight != "balanced":
        return None
    if counts is not None:
        return _inverse_weights(counts)
    return balanced_weights(labels, kind=info.kind, num_classes=len(info.classes))


def make_metrics(infos: Sequence[head_kinds.HeadInfo]) -> dict[str, list[keras.metrics.Metric]]:
    """The metrics shown while training; the full set is `evaluation`'s.

    Args:
      infos: the heads.

    Returns:
      {HEAD: [cross-entropy, accuracy]}, of regression [mean squared error, mean absolute error].
    """
    return {info.name: _make_head_metrics(info.kind) for info in infos}


def _make_head_metrics(kind: str) -> list[keras.metrics.Metric]:
    if head_kinds.HEAD_KINDS[kind].has_classes:
        return [CrossEntropy(kind), Accuracy(kind)]
    squared, absolute = head_kinds.HEAD_KINDS[kind].train_metrics
    return [NumberError(squared=True, name=squared), NumberError(squared=False, name=absolute)]


def find_start_biases(
    heads: Sequence[specs.HeadSpec],
    infos: Sequence[head_kinds.HeadInfo],
    labels: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Output biases of sigmoid heads at which training starts: the log odds of each class.

    The first epochs then need not learn that most examples are negative. Class weights count.

    Args:
      heads: one spec per head.
      infos: the same heads with their classes.
      labels: encoded training labels per head.

    Returns:
      {HEAD: float32 [units], from -4.6 to 4.6}, of sigmoid heads only.

    Reference:
      Lin et al. 2017, "Focal Loss for Dense Object Detection", section 3.3,
      https://arxiv.org/abs/1708.02002
    """
    biases = {}
    for head, info in zip(heads, infos, strict=True):
        if head_kinds.HEAD_KINDS[info.kind].activation != "sigmoid":
            continue
        known = labels[head.name]
        present = np.nansum(known, axis=0)
        absent = head_kinds.find_labelled(known).sum(axis=0) - present
        weights = _find_class_weights(head, info, known)
        if weights is not None:
            # Binary weights are [2], multilabel ones [2, classes].
            absent, present = absent * weights[0], present * weights[1]
        odds = np.log(np.maximum(present, _TINY)) - np.log(np.maximum(absent, _TINY))
        biases[head.name] = np.clip(odds, -_MAX_START_LOGIT, _MAX_START_LOGIT).astype(np.float32)
    return biases


def balanced_weights(labels: np.ndarray, *, kind: str, num_classes: int) -> np.ndarray:
    """Inverse class frequencies, with mean 1 over the labelled examples and at most 10.

    Args:
      labels: encoded training labels (`head_kinds.encode_labels`).
      kind: a key of HEAD_KINDS that has classes.
      num_classes: number of class names.

    Returns:
      float32 [classes], or for multilabel [2, classes]: weights of absent and present. A class
      without an example weighs 1.

    Reference:
      King and Zeng 2001, "Logistic Regression in Rare Events Data",
      https://doi.org/10.1093/oxfordjournals.pan.a004868
    """
    present = head_kinds.count_labels(labels, kind=kind, num_classes=num_classes)
    if head_kinds.HEAD_KINDS[kind].exclusive:
        return _inverse_weights(np.array(present))
    known = head_kinds.find_labelled(labels).sum(axis=0)
    pairs = [
        _inverse_weights(np.array([total - count, count]))
        for total, count in zip(known, present, strict=True)
    ]
    return np.stack(pairs, axis=1)


def _inverse_weights(counts: np.ndarray) -> np.ndarray:
    weights = np.ones(len(counts))
    # What the cap takes from rare classes goes to the others, so that the mean over the examples
    # stays 1: the learning rate means the same with and without weights.
    capped = np.full(len(counts), False)
    while True:
        free = (counts > 0) & ~capped
        if not free.any():
            break
        share = counts.sum() - _MAX_CLASS_WEIGHT * counts[capped].sum()
        weights[free] = share / (free.sum() * counts[free])
        above = free & (weights > _MAX_CLASS_WEIGHT)
        if not above.any():
            break
        weights[above] = _MAX_CLASS_WEIGHT
        capped |= above
    return weights.astype(np.float32)
