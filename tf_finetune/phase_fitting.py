"""One phase of training: apply the freeze plan, compile, fit.

One idea: `trainable` has no effect after `compile`, so only this module applies a plan, right
before its own compile, and on what: the whole model, or what is behind the cut, on features.
"""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune import (
    callbacks,
    distribution,
    epoch_fitting,
    event_writers,
    freezing,
    monitors,
    objectives,
    optimizers,
    phase_data,
    range_steps,
    rate_range,
    recipe,
    resuming,
    specs,
    step_precision,
    trainer_model,
    training_cost,
    workdir,
    workers,
)
from tf_finetune.data import mixed_spec
from tf_finetune.feature_cache import caching
from tf_finetune.models import loading as model_loading


@dataclasses.dataclass(frozen=True)
class PhaseResult:
    """How a phase went.

    Attributes:
      name: the phase's name.
      epochs_run: finished epochs.
      improved: its best weights are better than those it started from.
      stopped_by: "schedule", "patience" or "time".
      best_value: the run's best monitor after the phase, None without validation data.
    """

    name: str
    epochs_run: int
    improved: bool
    stopped_by: str
    best_value: float | None


class Fitter:
    """The state that the phases of one run share.

    Args:
      model: from `heads.attach_heads`, made in the strategy's scope.
      backbone: the model's backbone.
      task: data, heads and options.
      strategy: a tf.distribute strategy; None: one device.
      workdir_path: folder for history.csv, TensorBoard events and freeze_plan.txt, or None.
      features: of the run, after `choose`.
      recorder: of the run's checkpoints.
      note_phases: takes the phases whenever something of one has been found.

    Attributes:
      run: what is known so far: history and best weights.
      deadline: `time.monotonic()` seconds after which training ends.
    """

    def __init__(
        self,
        model: keras.Model,
        backbone: model_loading.Backbone,
        task: phase_data.Task,
        *,
        strategy: Any,
        workdir_path: str | None,
        features: caching.FeatureCache,
        recorder: resuming.Recorder,
        note_phases: Callable[[tuple[specs.PhaseSpec, ...]], None] | None = None,
    ):
        self._recorder = recorder
        self._note_phases = note_phases
        self.deadline = math.inf
        self._model = model
        self._backbone = backbone
        self._task = task
        self._strategy = strategy or tf.distribute.get_strategy()
        self._team = workers.Workers(self._strategy)
        self._workdir = workdir_path
        distribution.check_steps(self._strategy, steps_per_execution=task.train.steps_per_execution)
        # XLA has no strings, and Keras only asks the layers whether it may compile them. Nor has it
        # slices of a size that is only known when it runs. A TPU's strategy compiles by itself.
        self._may_compile = not (
            any(tensor.dtype == "string" for tensor in model.inputs)
            or task.train.accumulate_steps > 1
            or isinstance(self._strategy, tf.distribute.TPUStrategy)
        )
        self._data = phase_data.PhaseData(task, backbone, features, strategy=self._strategy)
        monitor = task.train.monitor or monitors.name_total(task.splits.heads)
        monitors.check_monitor(monitor, task.splits.heads)
        metric = monitor.rpartition("/")[2]
        self.run = callbacks.Progress(monitor, monitors.HIGHER_IS_BETTER[metric])
        self.run.start(model)
        recorder.begin(self.run, model)

    def prepare(
        self, phase: specs.PhaseSpec, announce: Callable[[str], None], *, dry_run: bool
    ) -> keras.Model:
        """Applies the phase's plan to the best weights so far and compiles.

        Args:
          phase: resolved.
          announce: takes the line that says what will train.
          dry_run: only as many examples are read as are timed.

        Returns:
          The compiled model, on features where they are computed ahead.

        Raises:
          RefusedError: a freeze rule does not fit, or a file of the data is gone.
          feature_pass.OutOfTimeError: the deadline was over before the features were computed.
        """
        task = self._task
        self._model.set_weights(self.run.best_weights)
        plan = freezing.plan_freeze(
            phase.freeze or "all", self._backbone.table, batch_norm=task.batch_norm
        )
        freezing.apply_plan(plan, self._backbone.model)
        self._recorder.move(
            num_frozen_layers=plan.num_frozen,
            num_trainable=count_numbers(self._model.trainable_weights),
        )
        announce(self._describe_phase(phase, plan))
        if self._workdir is not None:
            path = os.path.join(self._workdir, workdir.FREEZE_PLAN)
            workdir.write_atomic(path, freezing.format_plan(plan))
        cached = self._data.start_phase(phase, deadline=self.deadline, dry_run=dry_run)
        if phase.learning_rate == specs.AUTO:
            default = recipe.default_rate(
                all_frozen=plan.num_frozen == plan.num_layers,
                is_first=phase is task.phases[0],
                input_kind=self._backbone.input_kind,
            )
            phase = dataclasses.replace(phase, learning_rate=default)
            ranges = rate_range.plan_test(default, is_cheap=cached is not None and cached.is_kept)
            if dry_run:
                announce(rate_range.describe_plan(ranges))
            else:
                phase = self._find_rate(phase, cached, ranges, announce)
        trainer = self._make_trainer(phase, cached)
        trainer.use_bfloat16(is_on=phase.training_precision == step_precision.BFLOAT16)
        if phase.training_precision == step_precision.AUTO and not dry_run:
            self._find_precision(phase, trainer, announce)
        return trainer

    def _make_trainer(
        self,
        phase: specs.PhaseSpec,
        cached: caching.CachedPhase | None,
        *,
        tried: rate_range.Plan | None = None,
    ) -> keras.Model:
        """The compiled model of a phase, or of the test of its learning rate."""
        task = self._task
        with self._strategy.scope():
            trainer = (
                trainer_model.TrainerModel(self._model.input, self._model.output)
                if cached is None
                else cached.split.make_suffix(trainer_model.SuffixTrainer)
            )
            trainer.use_plain_batch(self._data.train)
            num_batches = math.ceil(len(task.splits.train) / task.train.batch_examples)
            trainer.use_accumulation(min(task.train.accumulate_steps, num_batches))
            infos, labelled = task.splits.heads, task.splits.train
            trainer.compile(
                optimizer=optimizers.make_optimizer(
                    phase,
                    num_steps=self._data.steps * (phase.epochs or 1),
                    weight_decay=task.train.weight_decay or 0.0,
                    variables=trainer.trainable_variables,
                    precision=task.precision,
                    schedule=range_steps.make_schedule(tried) if tried else None,
                ),
                loss=objectives.make_losses(
                    task.heads, infos, labelled.labels, counts=labelled.count_positions()
                ),
                loss_weights={head.name: head.loss_weight for head in task.heads},
                metrics=None if tried else objectives.make_metrics(infos),
                auto_scale_loss=False,
                steps_per_execution=1 if tried else self._data.steps_at_once,
                jit_compile="auto" if self._may_compile else False,
            )
            trainer.optimizer.build(trainer.trainable_variables)
        return trainer

    def _find_rate(
        self,
        phase: specs.PhaseSpec,
        cached: caching.CachedPhase | None,
        plan: rate_range.Plan,
        announce: Callable[[str], None],
    ) -> specs.PhaseSpec:
        """The phase, which has the recipe's rate, with the one that a test finds."""
        start = time.monotonic()
        trainer = self._make_trainer(phase, cached, tried=plan)
        tried = range_steps.try_rates(trainer, self._data, plan, deadline=self.deadline)
        if tried.is_late:  # the phase will not start
            return phase
        found = rate_range.make_test(phase, tried.rates, tried.losses)
        self._recorder.move(ranges=(*self._recorder.standing.ranges, found))
        announce(found.describe(num_steps=tried.num_steps, secs=time.monotonic() - start))
        ranges = self._recorder.standing.ranges
        if self._workdir is not None:
            path = os.path.join(self._workdir, workdir.LR_RANGE)
            workdir.write_atomic(path, rate_range.format_tests(ranges))
        self._note_settled()
        return dataclasses.replace(phase, learning_rate=found.rate)

    def _find_precision(
        self, phase: specs.PhaseSpec, trainer: Any, announce: Callable[[str], None]
    ) -> None:
        """Has the steps computed in bfloat16 where that is found better."""
        task, found = self._task, step_precision.Decision(step_precision.FLOAT32)
        if step_precision.may_try(
            precision=task.train.precision,
            input_kind=self._backbone.input_kind,
            has_columns=mixed_spec.find_mixed(task.preprocessing) is not None,
            num_replicas=self._strategy.num_replicas_in_sync,
        ):
            found = step_precision.decide(
                trainer,
                self._data.make_timed(),
                num_steps=self._data.steps * (phase.epochs or 1),
                max_secs=self.deadline - time.monotonic(),
            )
            step_precision.describe(phase.name, found, announce)
        precisions = {**self._recorder.standing.precisions, phase.name: found.precision}
        self._recorder.move(precisions=precisions)
        self._note_settled(is_costly=bool(found.reason))

    def _note_settled(self, *, is_costly: bool = True) -> None:
        if is_costly:  # a run that is ended from here on need not try again
            self._recorder.write(None)
        if self._note_phases is not None:
            self._note_phases(self._recorder.standing.settle_phases(self._task.phases))

    def _describe_phase(self, phase: specs.PhaseSpec, plan: freezing.FreezePlan) -> str:
        train = self._task.train
        is_open = phase.learning_rate == specs.AUTO
        rate = specs.AUTO if is_open else f"{phase.peak_rate:g}"
        parts = ""
        if train.accumulate_steps > 1:
            parts = f" (each of {train.accumulate_steps} batches of {train.batch_size})"
        decay = f", weight decay {train.weight_decay:g}" if train.weight_decay else ""
        return (
            f"Phase {phase.name}: {plan.num_frozen} of {plan.num_layers} {plan.unit} frozen "
            f"({plan.rule}), {count_numbers(self._model.trainable_weights):,} of "
            f"{count_numbers(self._model.weights):,} parameters train, {phase.epochs} epochs of "
            f"{self._data.steps} steps{parts}, Adam {rate} {phase.schedule}, "
            f"warm-up {phase.warmup_fraction:g}, clip norm {phase.gradient_clip_norm:g}{decay}."
        )

    def evaluate_start(self, trainer: keras.Model) -> tuple[float | None, float]:
        """Measures where a phase starts.

        Args:
          trainer: from `prepare`.

        Returns:
          (the monitor before the first step, how long a validation pass takes in seconds).

        Raises:
          callbacks.DivergedError: the monitor is no finite number.
        """
        if self._data.validation is None:
            return None, 0.0
        logs = trainer.evaluate(self._data.validation, return_dict=True, verbose=0)
        start = time.monotonic()
        trainer.evaluate(self._data.validation.take(1), return_dict=True, verbose=0)
        batch_secs = time.monotonic() - start
        value = self._read_logs({f"val_{name}": number for name, number in logs.items()})
        monitored = value[f"val_{self.run.monitor}"]
        if not math.isfinite(monitored):
            raise callbacks.DivergedError(
                f"val_{self.run.monitor} is {monitored} before the first step. Expected a finite "
                "number: the pretrained weights, --pixel_range or the size of the labels' numbers "
                "do not fit."
            )
        self.run.offer(monitored, epoch=len(self.run.rows), model=self._model)
        batches = math.ceil(len(self._task.splits.validation) / self._task.train.batch_examples)
        return monitored, batch_secs * batches

    def estimate_cost(
        self, trainer: keras.Model, validation_secs: float
    ) -> training_cost.CostEstimate:
        """Times a few real steps, then puts every variable back as it was.

        Args:
          trainer: from `prepare`.
          validation_secs: from `evaluate_start`.

        Returns:
          The estimate for all phases.
        """
        timer = training_cost.time_steps(trainer, self._data.make_timed())
        step_secs = timer.secs_per_step()
        epoch_secs = step_secs * self._data.steps + validation_secs
        return training_cost.estimate_cost(
            self._task.phases, epoch_secs=epoch_secs, num_timed=timer.num_timed()
        )

    def try_steps(self, trainer: keras.Model, *, batch_size: int) -> None:
        """Runs two steps of another batch size, then puts every variable back as it was.

        Args:
          trainer: from `prepare`, not on features.
          batch_size: in place of the options'.

        Raises:
          tf.errors.ResourceExhaustedError: the device has too little memory.
        """
        data = self._data.make_steps(2, batch_size=batch_size)
        with training_cost.undoing(trainer):
            trainer.fit(data, verbose=0, shuffle=False)

    def run_phase(self, trainer: keras.Model, phase: specs.PhaseSpec) -> PhaseResult:
        """Fits one phase, from where the recorder says that it stands.

        Args:
          trainer: from `prepare`.
          phase: the same as there.

        Returns:
          How it went.

        Raises:
          callbacks.DivergedError: the loss became NaN or infinite.
          RefusedError: a checkpoint cannot be written.
        """
        standing = self._recorder.standing
        first_epoch, last_epoch = standing.first_epoch, standing.first_epoch + (phase.epochs or 1)
        writers = event_writers.make_writers(self._path(workdir.LOGS_DIR))
        keeper = callbacks.Keeper(
            self.run,
            phase=phase.name,
            read_logs=self._read_logs,
            patience=recipe.patience_epochs(
                self._task.train, num_validation_examples=len(self._task.splits.validation)
            ),
            history_path=self._path(workdir.HISTORY),
            writers=writers,
            waited=standing.waited,
            improved=standing.improved,
        )
        stopper = callbacks.StopAtDeadline(self.deadline)
        stopper.look()
        lines = callbacks.EpochLines(
            self.run,
            label=phase.name,
            first_epoch=first_epoch,
            num_epochs=phase.epochs or 1,
            steps=self._data.steps,
        )
        epoch_fitting.fit_epochs(
            trainer,
            self._data,
            self._recorder,
            keeper=keeper,
            stopper=stopper,
            lines=lines,
            team=self._team,
            run=self.run,
            phase=phase.name,
            last=last_epoch,
        )
        for writer in writers.values():
            writer.close()
        stopped_by = "patience" if keeper.out_of_patience else "schedule"
        return self.end_phase(phase, stopped_by="time" if stopper.reached else stopped_by)

    def end_phase(self, phase: specs.PhaseSpec, *, stopped_by: str) -> PhaseResult:
        """What a phase that has begun has come to; writes history.csv.

        Args:
          phase: the phase.
          stopped_by: "schedule", "patience" or "time".

        Returns:
          How it went.
        """
        if self._workdir is not None and self.run.rows:
            path = os.path.join(self._workdir, workdir.HISTORY)
            workdir.write_atomic(path, callbacks.format_history(self.run.rows))
        standing = self._recorder.standing
        return PhaseResult(
            name=phase.name,
            epochs_run=len(self.run.rows) - standing.first_epoch,
            improved=standing.improved,
            stopped_by=stopped_by,
            best_value=self.run.best_value,
        )

    def finish(self) -> None:
        """Leaves the best weights in the model and undoes what a plan did to its layers."""
        self._model.set_weights(self.run.best_weights)
        freezing.release_plan(self._backbone.model)
        self._data.close()

    def _path(self, name: str) -> str | None:
        return None if self._workdir is None else os.path.join(self._workdir, name)

    def _read_logs(self, logs: dict[str, float]) -> dict[str, float]:
        # What is decided by them is decided alike on all workers.
        return self._team.share(monitors.read_logs(logs, self._task.heads, self._task.splits.heads))


def count_numbers(weights: Sequence[Any]) -> int:
    """How many numbers weights hold.

    Args:
      weights: of a model.

    Returns:
      The sum of their sizes.
    """
    return sum(int(np.prod(weight.shape)) for weight in weights)
