"""The compiled twin of a model, with what Keras 3.15 lacks under a tf.distribute strategy.

The twin shares every layer with the model that is saved, which stays uncompiled and so opens
without our losses.
"""

from typing import Any

import keras
import tensorflow as tf

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


class TrainerModel(_PlainBatch, keras.Model):
    """The twin of a whole functional model."""


class SuffixTrainer(_PlainBatch, splitting.SuffixModel):
    """The twin of what is behind the cut: it takes features."""
