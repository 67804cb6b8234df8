"""When a phase writes checkpoints: between steps, at ends of epochs, where it is asked to end."""

from typing import Any

import keras

from tf_finetune import callbacks, interruptions, resuming


class CheckpointWriter(keras.callbacks.Callback):
    """Writes checkpoints between steps and epochs, and ends the run there when it is asked to.

    Args:
      recorder: of the run; its standing is kept up to date.
      keeper: of the phase; it comes before this in the list of callbacks.
      steps: of an epoch.
      interruption: see `interruptions.postponed`.
    """

    def __init__(
        self,
        recorder: resuming.Recorder,
        keeper: callbacks.Keeper,
        *,
        steps: int,
        interruption: interruptions.Interruption,
    ):
        super().__init__()
        self._recorder = recorder
        self._keeper = keeper
        self._steps = steps
        self._interruption = interruption
        self._first_step = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Takes the sums of an epoch that goes on."""
        self._first_step = self._recorder.standing.step
        self._recorder.restore_metrics(self.model)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the step; behind the last one of an epoch comes its end."""
        step = self._first_step + batch + 1
        self._recorder.move(step=step)
        if step < self._steps:
            self._write(epoch_ended=False)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Ends at once: an epoch that is not validated cannot be told of yet."""
        self._interruption.obey()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Notes what the epoch was worth."""
        self._recorder.move(step=0, waited=self._keeper.waited, improved=self._keeper.improved)
        self._write(epoch_ended=True)

    def _write(self, *, epoch_ended: bool) -> None:
        if self._interruption.is_asked or self._recorder.is_due(epoch_ended=epoch_ended):
            self._recorder.write(self.model)
        self._interruption.obey()
