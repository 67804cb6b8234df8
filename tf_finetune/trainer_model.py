"""The compiled twin of a model, with what Keras 3.15 lacks: uneven batches and mixed labels.

The twin shares every layer with the model that is saved, which stays uncompiled and so opens
without our losses.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tf_finetune import pointwise_strides
from tf_finetune.data import mixing
from tf_finetune.models import splitting


class _PlainBatch:
    """A model that is built symbolically from one plain batch.

    Under a strategy Keras 3.15 builds losses and metrics from the mean over replicas of the first
    batch (`keras/src/backend/tensorflow/trainer.py`, `_maybe_symbolic_build`). Where a batch does
    not divide evenly the replicas' parts differ in shape and there is no mean: fit and evaluate
    raise InvalidArgumentError.
    """

    def use_plain_batch(self, dataset: tf.data.Dataset) -> None:
        """Takes shapes and dtypes from the first batch of an undistributed data set.

        Args:
          dataset: batches as `fit` will get them.
        """
        (batch,) = dataset.take(1)
        self._take_plain_batch = lambda: batch

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        super()._maybe_symbolic_build(  # type: ignore[misc]
            data_batch=self._take_plain_batch()
        )


class _SlicedStep:
    """A model whose steps of training keep away from a kernel of oneDNN that corrupts memory."""

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        """One step of training.

        Args:
          *args: as Keras gives them.
          **kwargs: as Keras gives them.

        Returns:
          {metric: value so far}.
        """
        with pointwise_strides.slice_first(self):  # type: ignore[arg-type]
            return super().train_step(*args, **kwargs)  # type: ignore[misc]


class _MixedLoss:
    """A model whose labels may be those of mixed images."""

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        *,
        training: bool = True,
    ) -> Any:
        """The loss; of mixed images the mean of the losses for the labels of both of a pair.

        Each head's loss is what it is for plain labels: weights of classes, smoothing, focus and
        missing labels need not know of pairs. For squared errors the slope is the one towards the
        mean of both numbers.

        Args:
          x: inputs.
          y: {HEAD: labels [batch, ...]}, or `mixing.MixedLabels`.
          y_pred: {HEAD: logits [batch, ...]}.
          sample_weight: {HEAD: float32 [batch]}; needed with mixed labels.
          training: whether this is a step of training.

        Returns:
          float32 scalar.

        Raises:
          ValueError: labels are mixed and there are no weights.
        """
        if isinstance(y, mixing.MixedLabels):
            y, y_pred, sample_weight = _unfold(y, y_pred, sample_weight)
        return super().compute_loss(  # type: ignore[misc]
            x, y, y_pred, sample_weight, training=training
        )

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The metrics; of mixed images as if each had only its own labels.

        Args:
          x: inputs.
          y: {HEAD: labels [batch, ...]}, or `mixing.MixedLabels`.
          y_pred: {HEAD: logits [batch, ...]}.
          sample_weight: {HEAD: float32 [batch]}.

        Returns:
          {metric: value so far}.
        """
        own = y.own if isinstance(y, mixing.MixedLabels) else y
        return super().compute_metrics(  # type: ignore[misc]
            x, own, y_pred, sample_weight=sample_weight
        )


class TrainerModel(_PlainBatch, _SlicedStep, _MixedLoss, keras.Model):
    """The twin of a whole functional model."""


class SuffixTrainer(_PlainBatch, _SlicedStep, _MixedLoss, splitting.SuffixModel):
    """The twin of what is behind the cut: it takes features."""


def _unfold(y: mixing.MixedLabels, y_pred: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Labels, logits and weights of twice as many examples, each with one label."""
    if weights is None:
        raise ValueError("Mixed labels need weights: make the data set with with_weights=True.")
    heads = list(y.own)
    return (
        {head: ops.concatenate([y.own[head], y.partner[head]]) for head in heads},
        {head: ops.concatenate([y_pred[head], y_pred[head]]) for head in heads},
        {
            head: ops.concatenate([weights[head] * y.share, weights[head] * (1.0 - y.share)])
            for head in heads
        },
    )
