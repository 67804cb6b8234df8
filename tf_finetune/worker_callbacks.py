"""What workers that train together do between steps and epochs of `fit`."""

from typing import Any

import keras

from tf_finetune import freezing, workers


class MeanStatistics(keras.callbacks.Callback):
    """Gives the statistics of BatchNormalization that trains their mean over all workers.

    Each worker normalizes by its own part of a batch and moves its own statistics; a moving average
    of means is the mean of moving averages, so it is enough to take it once, before an epoch is
    validated.

    Args:
      team: the processes that train together.
    """

    def __init__(self, team: workers.Workers):
        super().__init__()
        self._team = team
        self._is_due = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Remembers that statistics have moved."""
        self._is_due = True

    def on_test_begin(self, logs: Any = None) -> None:
        """Takes the mean before validation."""
        self._take()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Takes the mean where there is no validation."""
        self._take()

    def _take(self) -> None:
        if self._is_due and self._team.is_joined:
            self._team.average(_list_statistics(self.model))
        self._is_due = False


def _list_statistics(model: keras.Model) -> list[Any]:
    """What training changes beside what it trains."""
    fixed = {
        id(variable)
        for layer in model._flatten_layers(include_self=False)
        if freezing.is_fixed(layer)
        for variable in layer.variables
    }
    return [
        variable
        for variable in model.non_trainable_weights
        if id(variable) not in fixed and "float" in variable.dtype
    ]
