"""The compiled twin of a model, with what Keras 3.15 lacks: uneven batches and mixed labels.

The twin shares every layer with the model that is saved, which stays uncompiled and so opens
without our losses.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tf_finetune import graph_precision, pointwise_strides, workers
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


class _ManyWorkers:
    """A model whose steps run on several workers.

    Keras 3.15 averages what a step returns over all of them, along the first axis of numbers that
    have none (`keras/src/backend/tensorflow/trainer.py`, `reduce_per_replica`), and fails. Here
    each worker takes its own; the metrics of an epoch are added up over all where they are read.
    """

    def _make_function(self: Any, step_function: Any) -> Any:
        strategy = self.distribute_strategy
        if not workers.is_of_workers(strategy):
            return super()._make_function(step_function)  # type: ignore[misc]

        def run_step(iterator: Any) -> Any:
            outputs = strategy.run(step_function, args=(next(iterator),))
            own = {
                name: strategy.experimental_local_results(value)[0]
                for name, value in outputs.items()
            }
            # All stop at the same step where one worker's loss is no number any more.
            mean = strategy.reduce(tf.distribute.ReduceOp.MEAN, outputs["loss"], axis=None)
            return own | {"loss": mean}

        return tf.function(run_step, reduce_retracing=True, autograph=False)


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


class _RoundedStep:
    """A model whose steps of training may compute in bfloat16; what it tells of itself does not."""

    train_function: Any
    _is_rounded = False

    def use_bfloat16(self, *, is_on: bool) -> None:
        """Decides in what the following steps compute.

        Args:
          is_on: convolutions and products in bfloat16; variables stay as they are.
        """
        self._is_rounded = is_on

    def make_train_function(self, force: bool = False) -> None:
        """See `keras.Model`; a function that is there keeps following `use_bfloat16`.

        Args:
          force: make it again.
        """
        if self.train_function is not None and not force:
            return
        super().make_train_function(force=force)  # type: ignore[misc]
        function = self.train_function

        def call(iterator: Any) -> Any:
            with graph_precision.rounding(is_on=self._is_rounded):
                return function(iterator)

        self.train_function = call


class _AccumulatedStep:
    """A model whose steps of training may go through their examples part by part.

    The gradients of the parts are added up, and the optimizer sees their sum. The data carry the
    weight 1 / examples of the whole step, so the sum is the gradient of all its examples at once,
    however unevenly the last step of an epoch is cut. The `gradient_accumulation_steps` of Keras
    3.15 instead average over a fixed number of batches, weigh a smaller one like the others, and
    carry what is left at the end of an epoch into the next.
    """

    _accumulate_steps = 1
    # Part of the step's examples that is being computed.
    _share: Any = None

    def use_accumulation(self, num_parts: int) -> None:
        """Cuts each step into parts.

        Args:
          num_parts: how many, at least 1. On each device the parts differ by at most an example.
        """
        self._accumulate_steps = num_parts

    def train_step(self, data: Any) -> Any:
        """One step of the optimizer.

        Args:
          data: a batch of the data set, on one device.

        Returns:
          {metric: value so far}.

        Raises:
          ValueError: there are parts, and the batch has no weights.
        """
        if self._accumulate_steps == 1:
            return super().train_step(data)  # type: ignore[misc]
        if len(data) != 3:
            raise ValueError(
                "Accumulated steps need weights: make the data set with with_weights=True."
            )
        return self._accumulate(data)

    def _accumulate(self: Any, data: tuple[Any, Any, Any]) -> Any:
        num_parts, variables = self._accumulate_steps, self.trainable_weights
        num_examples = tf.shape(keras.tree.flatten(data[0])[0])[0]
        is_connected = [False] * len(variables)

        def add_part(number: Any, loss_sum: Any, sums: list[Any]) -> tuple[Any, Any, list[Any]]:
            # One part after another: side by side they would need the memory of all.
            with tf.control_dependencies([loss_sum, *sums]):
                bounds = [place * num_examples // num_parts for place in (number, number + 1)]
                loss, gradients = self._compute_part(data, *bounds, num_examples=num_examples)
            for place, gradient in enumerate(gradients):
                if gradient is not None:
                    is_connected[place] = True
                    sums[place] += tf.convert_to_tensor(gradient)
            return number + 1, loss_sum + loss, sums

        state = (tf.constant(0), tf.constant(0.0), [tf.zeros(v.shape, v.dtype) for v in variables])
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            state = tf.while_loop(
                lambda number, *_: number < num_parts, add_part, state, parallel_iterations=1
            )
        else:  # replicas cannot meet inside of a loop, as BatchNormalization in training does
            for _ in range(num_parts):
                state = add_part(*state)
        _, loss_sum, sums = state
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._loss_tracker.update_state(loss_sum * replicas, sample_weight=num_examples)
        gradients = [one if known else None for one, known in zip(sums, is_connected, strict=True)]
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return self.get_metrics_result()

    def _compute_part(
        self: Any, data: tuple[Any, Any, Any], first: Any, last: Any, *, num_examples: Any
    ) -> tuple[Any, list[Any]]:
        """(loss, gradients by variable) of the examples from `first` to before `last`."""
        # Of fewer examples than parts some parts have none, and layers fail on no example: then
        # one is computed that counts nothing.
        end = tf.maximum(last, first + 1)
        x, y, weights = keras.tree.map_structure(lambda values: values[first:end], data)
        is_some = tf.cast(last > first, tf.float32)
        weights = keras.tree.map_structure(lambda values: values * is_some, weights)
        self._share = tf.cast((last - first) / num_examples, tf.float32)
        try:
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = self._compute_loss(
                    x=x, y=y, y_pred=y_pred, sample_weight=weights, training=True
                )
                scaled = self.optimizer.scale_loss(loss)
        finally:
            self._share = None
        gradients = tape.gradient(scaled, self.trainable_weights)
        y, y_pred, weights = keras.tree.map_structure(
            lambda values: values[: last - first], (y, y_pred, weights)
        )
        self.compute_metrics(x, y, y_pred, sample_weight=weights)
        return loss, gradients

    def _aggregate_additional_loss(self, loss: Any) -> Any:
        # What layers add is of weights, or a mean over examples: each part adds its share of it.
        loss = super()._aggregate_additional_loss(loss)  # type: ignore[misc]
        return loss if self._share is None else loss * self._share


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


class _TrainerModel(
    _PlainBatch, _ManyWorkers, _RoundedStep, _SlicedStep, _AccumulatedStep, _MixedLoss
):
    """All of that."""


class TrainerModel(_TrainerModel, keras.Model):
    """The twin of a whole functional model."""


class SuffixTrainer(_TrainerModel, splitting.SuffixModel):
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
