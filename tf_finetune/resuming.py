"""Where a run stands while it trains: written down now and then, and gone on from.

One idea: what a run will do next depends on a place in it, (phase, epoch, step), and on numbers:
weights, optimizer, the sums of the epoch's metrics, the best so far. The order of the examples,
their views and the schedule follow from the place; so whoever has both goes on as if nothing had
been.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tf_finetune import (
    callbacks,
    checkpoints,
    findings,
    freezing,
    interruptions,
    training_cost,
)

# Of the time that passes, so much goes into checkpoints at the ends of epochs.
_LARGEST_SHARE = 0.02
_BEST, _MODEL, _OPTIMIZER, _METRICS = "best", "model", "optimizer", "metrics"
# What a model has beside its weights: the seeds of dropout, which go on from phase to phase.
_SEEDS = "seeds"


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
      phase: 0-based number of the phase that runs; the number of phases where all have ended.
      first_epoch: epochs of the run before that phase.
      step: finished steps of the epoch that runs.
      start_value: the monitor before the phase's first step, None without validation data.
      waited: epochs of the phase since the last improvement.
      improved: whether an epoch of the phase was the best.
      results: a dict for each phase that has ended.
      cost: the estimate made before training; None before it was made.
      secs: spent on training so far, over all runs.
    """

    phase: int = 0
    first_epoch: int = 0
    step: int = 0
    start_value: float | None = None
    waited: int = 0
    improved: bool = False
    results: tuple[dict[str, Any], ...] = ()
    cost: training_cost.CostEstimate | None = None
    secs: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Saved:
    standing: Standing
    arrays: dict[str, np.ndarray]


class Recorder:
    """Writes checkpoints of a run, and goes on from the newest.

    Args:
      folder: of the run's checkpoints; None: none is read or written.
      every_secs: the longest time without one, in seconds; 0: none is written.
      keep: how many stay.
      inputs: what a run must find unchanged to go on, {what it is: a hash}.
      announce: takes the lines that tell the user what happens.

    Attributes:
      standing: where the run stands.
    """

    def __init__(
        self,
        folder: str | None,
        *,
        every_secs: float = 0.0,
        keep: int = 1,
        inputs: Mapping[str, str | None] | None = None,
        announce: Callable[[str], None] = print,
    ):
        self._folder = folder
        self._every_secs = 0.0 if folder is None else every_secs
        self._keep = keep
        self._inputs = dict(inputs or {})
        self._announce = announce
        self._run: callbacks.Progress
        self._start: list[np.ndarray] = []
        self._seeds: list[Any] = []
        self._saved: _Saved | None = None
        self._began = time.monotonic()
        self._written = self._began
        self._write_secs = 0.0
        self.standing = Standing()

    def begin(self, run: callbacks.Progress, model: keras.Model) -> None:
        """Takes the run's progress, which stands where it starts, to where its checkpoint is.

        Args:
          run: holds the weights that the run starts from.
          model: the whole model.

        Raises:
          RefusedError: the newest checkpoint is of other data or of another pretrained model.
        """
        self._run = run
        self._start = run.best_weights
        weights = {id(variable) for variable in model.weights}
        self._seeds = [variable for variable in model.variables if id(variable) not in weights]
        if self._folder is None:
            return
        checkpoints.remove_unfinished(self._folder)
        found, problems = checkpoints.read_newest(self._folder)
        for problem in problems:
            self._announce(f"Warning: {problem.message}")
        if found is None:
            return
        self._compare_inputs(found.state.get("inputs"))
        try:
            progress, values = found.state["run"], found.state["standing"]
            cost = training_cost.read_estimate(values.get("cost"))
            results = tuple(values["results"])
            self.standing = Standing(**{**values, "results": results, "cost": cost})
            run.rows[:] = progress["rows"]
            run.best_value, run.best_epoch = progress["best_value"], progress["best_epoch"]
            run.best_weights = [
                _like(weight, found.arrays.get(f"{_BEST}/{place}", weight))
                for place, weight in enumerate(self._start)
            ]
            self._began -= self.standing.secs
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._made_by_another() from error
        self._saved = _Saved(self.standing, found.arrays)
        self._assign(self._seeds, _SEEDS)
        self._announce(
            f"Going on from checkpoint {found.number}: {len(run.rows)} epochs are done"
            + (f", and {self.standing.step} steps of the next." if self.standing.step else ".")
        )

    def restore(self, trainer: keras.Model, phase: int) -> bool:
        """Gives a compiled model its numbers back, where the checkpoint is of its phase.

        Args:
          trainer: compiled, its optimizer built.
          phase: 0-based number of the phase.

        Returns:
          False where the phase starts anew.
        """
        saved = self._saved
        if saved is None or saved.standing.phase != phase or not _is_inside(saved.arrays):
            return False
        for group in (_MODEL, _OPTIMIZER):
            self._assign(_list_variables(trainer)[group], group)
        return True

    def restore_metrics(self, trainer: keras.Model) -> None:
        """Gives the sums of the metrics back, once, at the beginning of the epoch that goes on.

        Args:
          trainer: the model that `fit` has built.
        """
        if self._saved is not None and self._saved.standing.step:
            self._assign(trainer.metrics_variables, _METRICS)
        self._saved = None

    def move(self, **changes: Any) -> None:
        """Notes where the run stands.

        Args:
          **changes: fields of `Standing`.
        """
        self.standing = dataclasses.replace(self.standing, **changes)

    def start_phase(self, phase: int, *, first_epoch: int, value: float | None) -> None:
        """Notes that a phase starts anew.

        Args:
          phase: its 0-based number.
          first_epoch: epochs of the run before it.
          value: the monitor before its first step.
        """
        self.move(
            phase=phase,
            first_epoch=first_epoch,
            step=0,
            start_value=value,
            waited=0,
            improved=False,
        )

    def end_phase(self, phase: int, results: tuple[dict[str, Any], ...]) -> None:
        """Notes that a phase has ended, and writes a checkpoint.

        Args:
          phase: its 0-based number.
          results: a dict for each phase that has ended.

        Raises:
          RefusedError: see `write`.
        """
        self.move(phase=phase + 1, step=0, results=results)
        self.write(None)

    def is_due(self, *, epoch_ended: bool) -> bool:
        """Whether it is time for a checkpoint.

        Args:
          epoch_ended: whether an epoch has just ended: then one is written unless epochs are so
            short that writing would take more than a fiftieth of the time.

        Returns:
          True if one should be written now.
        """
        if not self._every_secs:
            return False
        passed = time.monotonic() - self._written
        if epoch_ended and passed * _LARGEST_SHARE >= self._write_secs:
            return True
        return passed >= self._every_secs

    def write(self, trainer: keras.Model | None) -> None:
        """Writes a checkpoint of where the run stands.

        Args:
          trainer: the phase's compiled model; None between phases.

        Raises:
          RefusedError: the disk is full or cannot be written; former checkpoints are untouched.
        """
        if not self._every_secs or self._folder is None:
            return
        start = time.monotonic()
        self.move(secs=start - self._began)
        arrays = {
            f"{_BEST}/{place}": weight
            for place, (weight, first) in enumerate(
                zip(self._run.best_weights, self._start, strict=True)
            )
            if weight is not first and not np.array_equal(weight, first)
        }
        groups = _list_variables(trainer) if trainer else {}
        groups[_SEEDS] = self._seeds
        for group, variables in groups.items():
            if group != _METRICS or self.standing.step:
                for number, variable in enumerate(variables):
                    arrays[f"{group}/{number}"] = np.array(variable)
        state = {
            "inputs": self._inputs,
            "standing": dataclasses.asdict(self.standing),
            "run": {
                "rows": self._run.rows,
                "best_value": self._run.best_value,
                "best_epoch": self._run.best_epoch,
            },
        }
        try:
            checkpoints.write(self._folder, state, arrays, keep=self._keep)
        except OSError as error:
            message = (
                f"{findings.one_line(self._folder)}: a checkpoint cannot be written: "
                f"{error.strerror}. The former ones are whole: make room, and run the same command "
                "again to go on from the newest."
            )
            raise findings.RefusedError(findings.Problem(message, path=self._folder)) from error
        self._written = time.monotonic()
        self._write_secs = self._written - start

    def _assign(self, variables: list[Any], group: str) -> None:
        saved = list(_select(group, self._saved.arrays)) if self._saved else []
        if len(saved) != len(variables):
            raise self._made_by_another()
        for variable, array in zip(variables, saved, strict=True):
            try:
                variable.assign(_like(variable, array))
            except ValueError as error:
                raise self._made_by_another() from error

    def _made_by_another(self) -> findings.RefusedError:
        message = (
            f"{findings.one_line(self._folder)}: the newest checkpoint is of another program or "
            "model. Expected one that this version wrote for these flags. Remove the workdir to "
            "start again."
        )
        return findings.RefusedError(findings.Problem(message, flag="--resume"))

    def _compare_inputs(self, saved: Any) -> None:
        if not isinstance(saved, dict):
            raise self._made_by_another()
        changed = [what for what, value in self._inputs.items() if saved.get(what) != value]
        if changed:
            message = (
                f"{findings.one_line(self._folder)}: {' and '.join(changed)} changed since this "
                "run was interrupted, and going on would mix both. Put back what was there, or "
                "remove the workdir to start again."
            )
            raise findings.RefusedError(findings.Problem(message, flag="--resume"))


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
        recorder: Recorder,
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


def _is_inside(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether a checkpoint was written within a phase."""
    return any(name.startswith(f"{_OPTIMIZER}/") for name in arrays)


def _list_variables(trainer: keras.Model) -> dict[str, list[Any]]:
    """What training changes; the rest of the model comes from where it came from before."""
    fixed = {
        id(variable)
        for layer in trainer._flatten_layers(include_self=False)
        if freezing.is_fixed(layer)
        for variable in layer.variables
    }
    return {
        _MODEL: [variable for variable in trainer.variables if id(variable) not in fixed],
        _OPTIMIZER: list(trainer.optimizer.variables),
        _METRICS: list(trainer.metrics_variables),
    }


def _like(expected: Any, array: np.ndarray) -> np.ndarray:
    """The array, if it may take the other's place."""
    if tuple(expected.shape) != array.shape:
        raise ValueError(f"expected shape {tuple(expected.shape)}, received {array.shape}")
    return array


def _select(group: str, arrays: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    number = 0
    while (name := f"{group}/{number}") in arrays:
        yield arrays[name]
        number += 1
