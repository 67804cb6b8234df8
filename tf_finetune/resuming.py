"""Where a run stands while it trains: written down now and then, and gone on from.

One idea: what a run will do next depends on a place in it, (phase, epoch, step), and on numbers:
weights, optimizer, the sums of the epoch's metrics, the best so far. The order of the examples,
their views and the schedule follow from the place; so whoever has both goes on as if nothing had
been.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tf_finetune import (
    callbacks,
    checkpoints,
    findings,
    freezing,
    run_standing,
    trainer_model,
    workers,
)

# Of the time that passes, so much goes into checkpoints at the ends of epochs.
_LARGEST_SHARE = 0.02
_BEST, _MODEL, _OPTIMIZER, _METRICS = "best", "model", "optimizer", "metrics"
# What a model has beside its weights: the seeds of dropout, which go on from phase to phase.
_SEEDS = "seeds"
# What a phase trains on, by the class of its compiled model.
_KINDS = {
    trainer_model.TrainerModel.__name__: "on the inputs themselves",
    trainer_model.SuffixTrainer.__name__: "on features",
}


class Recorder:
    """Writes checkpoints of a run, and goes on from the newest.

    Args:
      folder: of the run's checkpoints; None: none is read or written.
      every_secs: the longest time without one, in seconds; 0: none is written.
      keep: how many stay.
      must_go_on: refuse to start anew where none of the checkpoints can be read.
      announce: takes the lines that tell the user what happens.
      team: the processes that train together: the chief writes, all read; None: this one is alone.

    Attributes:
      standing: where the run stands.
      settled: {option: what was measured for it} before the run was interrupted; empty where it
        starts.
      note_written: called after each whole checkpoint; its time counts as that of writing.
    """

    def __init__(
        self,
        folder: str | None,
        *,
        every_secs: float = 0.0,
        keep: int = 1,
        must_go_on: bool = False,
        announce: Callable[[str], None] = print,
        team: workers.Workers | None = None,
    ):
        self._team = team or workers.Workers()
        self._folder = folder
        self._every_secs = 0.0 if folder is None else every_secs
        self._keep = keep
        self._must_go_on = must_go_on
        self._announce = announce
        self._inputs: dict[str, str | None] = {}
        self._run: callbacks.Progress
        self._start: list[np.ndarray] = []
        self._seeds: list[Any] = []
        self._saved: checkpoints.Checkpoint | None = None
        self._held: list[np.ndarray] | None = None
        self._began = time.monotonic()
        self._written = self._began
        self._write_secs = 0.0
        self.settled: dict[str, Any] = {}
        self.note_written: Callable[[], None] = lambda: None
        self.standing = run_standing.Standing()

    @property
    def goes_on(self) -> bool:
        """Whether there is a checkpoint that is not given back yet."""
        return self._saved is not None

    def read(self, inputs: Mapping[str, str | None]) -> None:
        """Reads the newest checkpoint; nothing of the run is changed.

        Args:
          inputs: what must be unchanged to go on, {what it is: a hash}.

        Raises:
          RefusedError: it is of other inputs or of another program; the folder cannot be read;
            none of the checkpoints is whole, and the run must go on.
        """
        self._inputs = dict(inputs)
        if self._folder is None:
            return
        try:
            if self._team.is_chief:
                checkpoints.remove_unfinished(self._folder)
            found, problems = checkpoints.read_newest(self._folder)
        except OSError as error:
            raise self._refused(
                f"checkpoints cannot be read: {error.strerror}. Make them readable, or remove the "
                "workdir to start again."
            ) from error
        for problem in problems:
            self._announce(f"Warning: {problem.message}")
        self._team.check_same(
            {"the newest checkpoints": str(found.number) if found else None},
            hint=f"{findings.one_line(self._folder)} must be one folder that all of them see.",
        )
        if found is None:
            if problems and self._must_go_on:
                raise self._refused(
                    "no checkpoint is whole, so the run cannot go on as --resume=must asks. Leave "
                    "--resume out to start again."
                )
            if problems:
                self._announce("No checkpoint is whole: the run starts again.")
            return
        state = found.state
        # Other machines' copies of the data have other times.
        self._team.ask_chief(lambda: self._compare("inputs", self._inputs, state))
        try:
            self.standing = run_standing.read_standing(state["standing"])
            self.settled = dict(state["settled"])
            self._began -= self.standing.secs
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._made_by_another() from error
        self._saved = found

    def settle(self, options: Mapping[str, Any]) -> None:
        """Notes what was measured or decided before training.

        Args:
          options: {option: its value}.

        Raises:
          RefusedError: the run was begun with other values.
        """
        if self._saved is not None:
            self._compare("settled", options, self._saved.state)
        self.settled = dict(options)

    def begin(self, run: callbacks.Progress, model: keras.Model) -> None:
        """Takes the run's progress, which stands where it starts, to where its checkpoint is.

        Args:
          run: holds the weights that the run starts from.
          model: the whole model.

        Raises:
          RefusedError: the checkpoint is of another program or model.
        """
        self._run = run
        self._start = run.best_weights
        weights = {id(variable) for variable in model.weights}
        self._seeds = [variable for variable in model.variables if id(variable) not in weights]
        if self._saved is None:
            return
        try:
            progress, arrays = self._saved.state["run"], self._saved.arrays
            run.rows[:] = progress["rows"]
            run.best_value, run.best_epoch = progress["best_value"], progress["best_epoch"]
            run.best_weights = [
                _like(weight, arrays.get(f"{_BEST}/{place}", weight))
                for place, weight in enumerate(self._start)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise self._made_by_another() from error
        self._assign(self._seeds, _SEEDS)
        done, step = len(run.rows), self.standing.step
        self._announce(
            f"Going on from checkpoint {self._saved.number}: epochs done: {done}"
            + (f", steps of the next: {step}." if step else ".")
        )

    def is_inside(self, phase: int) -> bool:
        """Whether the run was interrupted within a phase.

        Args:
          phase: its 0-based number.

        Returns:
          False where the phase starts anew.
        """
        return (
            self._saved is not None
            and self._saved.state.get("trainer") is not None
            and self.standing.phase == phase
        )

    def restore(self, trainer: keras.Model) -> None:
        """Gives a compiled model its numbers back, in the phase that was interrupted.

        Args:
          trainer: compiled, its optimizer built.

        Raises:
          RefusedError: the checkpoint is of another kind of training, program or model.
        """
        kind = self._saved.state.get("trainer") if self._saved else None
        if kind != type(trainer).__name__:
            raise self._refused(
                "the phase that was interrupted trained "
                f"{_KINDS.get(kind, 'otherwise')}, and now would train "
                f"{_KINDS[type(trainer).__name__]}: there is more or less room for features. Make "
                "room as there was, or remove the workdir to start again."
            )
        for group in (_MODEL, _OPTIMIZER):
            self._assign(_list_variables(trainer)[group], group)

    def restore_metrics(self, trainer: keras.Model) -> None:
        """Gives the sums of the metrics back, once, at the beginning of the epoch that goes on.

        Args:
          trainer: the model that `fit` has built.
        """
        if self._saved is not None and self.standing.step:
            self._assign(trainer.metrics_variables, _METRICS)
        self._saved = None

    def hold_metrics(self, trainer: keras.Model) -> None:
        """Keeps the sums of the metrics for checkpoints, until `release_metrics`.

        Args:
          trainer: the phase's compiled model, before its validation.
        """
        if self._every_secs:
            self._held = [np.array(variable) for variable in trainer.metrics_variables]

    def release_metrics(self) -> None:
        """From now on checkpoints have the model's sums again."""
        self._held = None

    def move(self, **changes: Any) -> None:
        """Notes where the run stands.

        Args:
          **changes: fields of `run_standing.Standing`.
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

    def end_phase(self, results: tuple[dict[str, Any], ...]) -> None:
        """Notes that the phase has ended, and writes a checkpoint.

        Args:
          results: a dict for each phase that has ended.

        Raises:
          RefusedError: see `write`.
        """
        self._saved = None  # also where nothing of the phase was left to train
        self.move(phase=self.standing.phase + 1, step=0, results=results)
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
        groups: dict[str, Sequence[Any]] = {**_list_variables(trainer)} if trainer else {}
        groups[_SEEDS] = self._seeds
        if self._held is not None:
            groups[_METRICS] = self._held
        for group, variables in groups.items():
            if group != _METRICS or self.standing.step:
                for number, variable in enumerate(variables):
                    arrays[f"{group}/{number}"] = np.array(variable)
        state = {
            "inputs": self._inputs,
            "settled": self.settled,
            "trainer": None if trainer is None else type(trainer).__name__,
            "standing": dataclasses.asdict(self.standing),
            "run": {
                "rows": self._run.rows,
                "best_value": self._run.best_value,
                "best_epoch": self._run.best_epoch,
            },
        }
        if not self._team.is_chief:
            return
        try:
            checkpoints.write(self._folder, state, arrays, keep=self._keep)
        except (OSError, checkpoints.DamagedError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"read back, {error}"
            raise self._refused(
                f"a checkpoint cannot be written: {reason}. "
                + checkpoints.describe_rest(self._folder)
            ) from error
        self.note_written()
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

    def _refused(self, message: str) -> findings.RefusedError:
        text = f"{findings.one_line(self._folder)}: {message}"
        return findings.RefusedError(
            findings.Problem(text, path=self._folder or "", flag="--resume")
        )

    def _made_by_another(self) -> findings.RefusedError:
        return self._refused(
            "the newest checkpoint is of another program or model. Expected one that this version "
            "wrote for these flags. Remove the workdir to start again."
        )

    def _compare(self, part: str, values: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        saved = state.get(part)
        if not isinstance(saved, dict):
            raise self._made_by_another()
        changed = [what for what, value in values.items() if saved.get(what) != value]
        if changed:
            raise self._refused(
                f"{' and '.join(changed)} changed since this run was interrupted, and going on "
                "would mix both. Put back what was there (of data, files with the times that they "
                "had), or remove the workdir to start again."
            )


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
