"""When a phase writes checkpoints: between steps, at ends of epochs, where it is asked to end."""

import signal
from typing import Any

import keras

from tf_finetune import callbacks, interruptions, resuming, workers

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class CheckpointWriter(keras.callbacks.Callback):
    """Writes checkpoints between steps and epochs, and ends the run there when it is asked to.

    Args:
      recorder: of the run; its standing is kept up to date.
      keeper: of the phase; it comes before this in the list of callbacks.
      steps: of an epoch.
      interruption: see `interruptions.postponed`.
      team: the processes that train together. All write at once, where the chief's clock says so,
        and all end where one is asked to: reading the sums of metrics takes all of them.
    """

    def __init__(
        self,
        recorder: resuming.Recorder,
        keeper: callbacks.Keeper,
        *,
        steps: int,
        interruption: interruptions.Interruption,
        team: workers.Workers,
    ):
        super().__init__()
        self._recorder = recorder
        self._keeper = keeper
        self._steps = steps
        self._interruption = interruption
        self._team = team
        self._first_step = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Takes the sums of an epoch that goes on."""
        self._first_step = self._recorder.standing.step
        self._recorder.restore_metrics(self.model)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the step; behind the last one of an epoch comes its end."""
        self._interruption.hold()
        # Of several steps at once, Keras counts also those behind the end of the epoch.
        step = min(self._first_step + batch + 1, self._steps)
        self._recorder.move(step=step)
        if step < self._steps:
            self._write(epoch_ended=False)

    def on_test_begin(self, logs: Any = None) -> None:
        """Keeps the sums of the epoch's steps, which validation is about to reset."""
        self._recorder.hold_metrics(self.model)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Ends at once where it is asked to; the run that goes on validates anew."""
        self._vote()
        if self._interruption.is_asked:
            self._recorder.write(self.model)
        self._interruption.obey()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Notes what the epoch was worth."""
        self._recorder.release_metrics()
        self._recorder.move(step=0, waited=self._keeper.waited, improved=self._keeper.improved)
        self._write(epoch_ended=True)

    def _write(self, *, epoch_ended: bool) -> None:
        is_due = self._vote(self._recorder.is_due(epoch_ended=epoch_ended))
        if self._interruption.is_asked or is_due:
            self._recorder.write(self.model)
        self._interruption.obey()

    def _vote(self, is_due: bool = False) -> bool:
        """Whether a checkpoint is due on the chief; takes the signals that other workers got."""
        number = self._interruption.number
        is_due, *is_asked = self._team.vote(
            is_due and self._team.is_chief, *(number == each for each in _SIGNALS)
        )
        for each, asked in zip(_SIGNALS, is_asked, strict=True):
            if asked:
                self._interruption.ask(each)
        return is_due
