"""What happens between steps and epochs of `fit`: order, progress, records, and reasons to stop.

Keras's own EarlyStopping, ModelCheckpoint and CSVLogger forget across phases what the best was;
these share one `Progress` that spans the whole run.
"""

import csv
import dataclasses
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune import event_writers, findings, progress, workdir

# Flushing a file to the disk takes longer than an epoch on a few examples.
_HISTORY_SECS = 1.0


class DivergedError(ArithmeticError):
    """The loss is NaN or infinite; the command line ends with exit code 4.

    Args:
      message: what became of which number, and where.
      place: for summary.json: "phase", "epoch" (1-based), "step" (1-based) and "keys" of the
        examples, as far as they are known.
    """

    def __init__(self, message: str, *, place: Mapping[str, Any] | None = None):
        super().__init__(message)
        self.place = dict(place or {})


@dataclasses.dataclass
class Progress:
    """What a run knows about itself while it trains.

    Attributes:
      monitor: name of the validation metric, for example "cross_entropy" or "breed/accuracy".
      higher_is_better: direction of the monitor.
      rows: a dict per finished epoch: history.csv.
      best_value: best monitor so far, None before the first evaluation.
      best_epoch: 1-based epoch of the best weights; 0 is before the first.
      best_weights: arrays in the order of the whole model's weights.
      places: {id of a variable: its place in that order}.
    """

    monitor: str
    higher_is_better: bool
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_value: float | None = None
    best_epoch: int = 0
    best_weights: list[np.ndarray] = dataclasses.field(default_factory=list)
    places: dict[int, int] = dataclasses.field(default_factory=dict)

    def start(self, model: keras.Model) -> None:
        """Takes the weights that a run starts from.

        Args:
          model: the whole model.
        """
        self.best_weights = model.get_weights()
        self.places = {id(variable): place for place, variable in enumerate(model.weights)}

    def keep(self, *, epoch: int, model: keras.Model) -> None:
        """Takes a model's weights as the best.

        Args:
          epoch: 1-based epoch, 0 before the first.
          model: the whole model, or the part of it whose weights may have changed.
        """
        self.best_epoch = epoch
        # A new list: what it shares with the last are the weights that nothing trains.
        self.best_weights = list(self.best_weights)
        for variable in model.weights:
            place = self.places.get(id(variable))
            if place is not None:
                self.best_weights[place] = np.array(variable)

    def offer(self, value: float, *, epoch: int, model: keras.Model) -> bool:
        """Keeps the model's weights if they are the best so far.

        Args:
          value: the monitor, finite.
          epoch: 1-based epoch, 0 before the first.
          model: the model that reached it.

        Returns:
          True if it was better than all before.
        """
        if self.best_value is not None:
            better = value > self.best_value if self.higher_is_better else value < self.best_value
            if not better:
                return False
        self.best_value = value
        self.keep(epoch=epoch, model=model)
        return True


class ExampleOrder(keras.callbacks.Callback):
    """Tells the data pipeline which epoch it is: the order is a function of seed and epoch.

    Args:
      epoch: int64 variable that the pipeline reads when an iterator is made.
    """

    def __init__(self, epoch: tf.Variable):
        super().__init__()
        self._epoch = epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Sets the variable before Keras asks for the epoch's iterator."""
        self._epoch.assign(epoch)


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends training at the first NaN or infinite loss.

    Args:
      phase: the phase's name, for the error's text.
      list_keys: (0-based epoch of the run, first step, the step behind the last) to the keys of
        the examples of those steps; None: nobody knows them.

    Attributes:
      first_step: steps of the epoch that an earlier run has done.
    """

    def __init__(
        self, phase: str, list_keys: Callable[[int, int, int], Sequence[str]] | None = None
    ):
        super().__init__()
        self._phase = phase
        self._list_keys = list_keys
        self._epoch = self._done = 0
        self.first_step = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remembers the epoch."""
        self._epoch, self._done = epoch + 1, self.first_step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Raises DivergedError that names phase, epoch, step and examples."""
        loss = float((logs or {}).get("loss", 0.0))
        # Of several steps at once, Keras counts also those behind the end of the epoch.
        step = self.first_step + min(batch + 1, self.params["steps"] or batch + 1)
        first, self._done = self._done, step
        if math.isfinite(loss):
            return
        place: dict[str, Any] = {"phase": self._phase, "epoch": self._epoch, "step": step}
        text = ""
        if self._list_keys is not None:
            place["keys"] = list(self._list_keys(self._epoch - 1, first, step))
            lead = "Its batch"
            if step > first + 1:
                lead = f"The batches of steps {first + 1} to {step}"
            text = f" {lead}: {findings.list_first(place['keys'])}."
        raise DivergedError(
            f"The loss became {loss} in phase {self._phase!r}, epoch {self._epoch}, "
            f"step {step}. Expected a finite number.{text} The best weights "
            "so far are kept; try a smaller --learning_rate or --gradient_clip_norm=1.",
            place=place,
        )


class StopAtDeadline(keras.callbacks.Callback):
    """Ends training after the step in which the time is over.

    Args:
      deadline: `time.monotonic()` seconds.

    Attributes:
      reached: whether it had passed when the clock was looked at.
    """

    def __init__(self, deadline: float):
        super().__init__()
        self._deadline = deadline
        self.reached = False

    def look(self) -> None:
        """Looks at the clock."""
        self.reached = time.monotonic() >= self._deadline

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stops Keras's loop once the deadline has passed."""
        self.look()
        if self.reached:
            self.model.stop_training = True


class Keeper(keras.callbacks.Callback):
    """Keeps the best weights, ends a phase that no longer improves, and writes the history.

    Args:
      run: the run's progress.
      phase: the phase's name.
      read_logs: Keras's logs to {metric: value}, validation metrics as "val_METRIC".
      patience: epochs without improvement that end the phase; None: never.
      learning_rate: epoch (0-based, of the run) to the rate at its end.
      history_path: history.csv, or None.
      waited: epochs since the last improvement, of a phase that goes on.
      improved: whether an epoch of such a phase was the best.
      writers: {"train": ..., "validation": ...}, of `event_writers.make_writers`; may be empty.
    """

    def __init__(
        self,
        run: Progress,
        *,
        phase: str,
        read_logs: Callable[[dict[str, float]], dict[str, float]],
        patience: int | None,
        history_path: str | None,
        writers: Mapping[str, event_writers.EventWriter],
        waited: int = 0,
        improved: bool = False,
    ):
        super().__init__()
        self._run = run
        self._phase = phase
        self._read_logs = read_logs
        self._patience = patience
        self._history_path = history_path
        self._writers = writers
        self._written = -math.inf
        self.waited = waited
        self.improved = improved
        self.out_of_patience = patience is not None and waited >= patience

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Records the epoch and decides whether the next one is worth its time."""
        values = self._read_logs(dict(logs or {}))
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row = {"phase": self._phase, "epoch": epoch + 1, "learning_rate": rate, **values}
        self._run.rows.append(row)
        self._write(row)
        value = values.get(f"val_{self._run.monitor}")
        if value is None or math.isfinite(value):
            self._check_weights(epoch + 1)
        if value is None:  # no validation data: the newest weights are the best known
            self._run.keep(epoch=epoch + 1, model=self.model)
            self.improved = True
            return
        if not math.isfinite(value):
            self._write_history()
            raise DivergedError(
                f"val_{self._run.monitor} became {value} in phase {self._phase!r}, epoch "
                f"{epoch + 1}. Expected a finite number. The best weights so far are kept; try a "
                "smaller --learning_rate.",
                place={"phase": self._phase, "epoch": epoch + 1},
            )
        if self._run.offer(value, epoch=epoch + 1, model=self.model):
            self.improved = True
            self.waited = 0
            return
        self.waited += 1
        if self._patience is not None and self.waited >= self._patience:
            self.out_of_patience = True
            self.model.stop_training = True

    def _check_weights(self, epoch: int) -> None:
        """The loss of a step is that before its update: the last one of an epoch is not seen."""
        for variable in self.model.trainable_variables:
            if not np.isfinite(np.array(variable)).all():
                self._write_history()
                raise DivergedError(
                    f"The weights {variable.path} are no finite numbers any more at the end of "
                    f"epoch {epoch}, in phase {self._phase!r}. The best weights so far are kept; "
                    "try a smaller --learning_rate or --gradient_clip_norm=1.",
                    place={"phase": self._phase, "epoch": epoch},
                )

    def _write_history(self) -> None:
        if self._history_path is not None and self._run.rows:
            workdir.write_atomic(self._history_path, format_history(self._run.rows))

    def _write(self, row: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._written >= _HISTORY_SECS:
            self._written = now
            self._write_history()
        for name, value in row.items():
            if name in ("phase", "epoch"):
                continue
            split = "validation" if name.startswith("val_") else "train"
            if split in self._writers:
                self._writers[split].write(name.removeprefix("val_"), value, step=row["epoch"])


class EpochLines(keras.callbacks.Callback):
    """Progress: a bar within an epoch, a line at its end.

    Args:
      run: the run's progress; its last row is shown.
      label: for example "head".
      first_epoch: 0-based epoch of the run at which the phase begins.
      num_epochs: epochs of the phase.
      steps: steps in an epoch.

    Attributes:
      first_step: steps of the epoch that an earlier run has done.
    """

    def __init__(self, run: Progress, *, label: str, first_epoch: int, num_epochs: int, steps: int):
        super().__init__()
        self._run = run
        self._label = label
        self._first_epoch = first_epoch
        self._num_epochs = num_epochs
        self._steps = steps
        self._bar: progress.ProgressBar | None = None
        self.first_step = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Opens the epoch's bar."""
        number = epoch - self._first_epoch + 1
        self._bar = progress.ProgressBar(f"{self._label} {number}/{self._num_epochs}", self._steps)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Moves the bar."""
        if self._bar is not None:
            # Of several steps at once, Keras counts also those behind the end of the epoch.
            self._bar.update(min(self.first_step + batch + 1, self._steps))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Replaces the bar by the epoch's numbers; a star marks the best so far."""
        if self._bar is None:
            return
        row = self._run.rows[-1]
        numbers = "  ".join(
            f"{name} {value:.4f}"
            for name, value in row.items()
            if name not in ("phase", "epoch", "learning_rate")
        )
        star = " *" if self._run.best_epoch == row["epoch"] else ""
        self._bar.close(numbers + star)


def format_history(rows: Sequence[dict[str, Any]]) -> str:
    """The text of history.csv.

    Args:
      rows: a dict per epoch, all with the same keys.

    Returns:
      CSV with a header; numbers are written so that reading them gives the same number.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: repr(value) if isinstance(value, float) else value
                for name, value in row.items()
            }
        )
    return text.getvalue()
