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
    freezing,
    interruptions,
    monitors,
    objectives,
    optimizers,
    recipe,
    resuming,
    specs,
    token_lengths,
    trainer_model,
    training_cost,
    workdir,
)
from tf_finetune.data import batching, pipeline, preprocessing, resampling
from tf_finetune.data import loading as data_loading
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


@dataclasses.dataclass(frozen=True)
class Task:
    """Everything `fit` needs beside the model: data, heads and options.

    Attributes:
      splits: the data.
      preprocessing: how images become pixels; a TextSpec for texts.
      heads: one spec per head, named as in `splits.heads`.
      train: the options, as `recipe.settle_options` leaves them.
      phases: the phases, from `recipe.plan_phases`.
      batch_norm: "frozen" or "train".
      seed: feeds the order of examples.
      precision: "float32", "bfloat16" or "float16".
      augment: how the images of training vary; none for texts.
    """

    splits: data_loading.Splits
    preprocessing: preprocessing.InputSpec
    heads: tuple[specs.HeadSpec, ...]
    train: specs.TrainSpec
    phases: tuple[specs.PhaseSpec, ...]
    batch_norm: str = "frozen"
    seed: int = 0
    precision: str = "float32"
    augment: specs.AugmentSpec = dataclasses.field(default_factory=specs.AugmentSpec)


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

    Attributes:
      run: what is known so far: history and best weights.
      deadline: `time.monotonic()` seconds after which training ends.
      num_frozen_layers: frozen layers of the backbone in the last phase.
    """

    def __init__(
        self,
        model: keras.Model,
        backbone: model_loading.Backbone,
        task: Task,
        *,
        strategy: Any,
        workdir_path: str | None,
        features: caching.FeatureCache,
        recorder: resuming.Recorder,
    ):
        self._recorder = recorder
        self._features = features
        self.deadline = math.inf
        self._model = model
        self._backbone = backbone
        self._task = task
        self._strategy = strategy or tf.distribute.get_strategy()
        self._workdir = workdir_path
        self._takes_strings = any(tensor.dtype == "string" for tensor in model.inputs)
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._train: data_loading.Split
        self._train_data: tf.data.Dataset
        self._validation = task.splits.validation
        if len(self._validation):
            self._validation = token_lengths.sort_split(self._validation, backbone.model)
        self._validation_data: tf.data.Dataset | None = None
        self._cached: caching.CachedPhase | None = None
        distribution.check_steps(self._strategy, steps_per_execution=task.train.steps_per_execution)
        sizes = batching.plan_batches(
            len(task.splits.train),
            batch_size=task.train.step_examples,
            num_replicas=self._strategy.num_replicas_in_sync,
        )
        self._steps = len(sizes)
        self._steps_at_once = min(task.train.steps_per_execution, self._steps)
        monitor = task.train.monitor or monitors.name_total(task.splits.heads)
        monitors.check_monitor(monitor, task.splits.heads)
        metric = monitor.rpartition("/")[2]
        self.run = callbacks.Progress(monitor, monitors.HIGHER_IS_BETTER[metric])
        self.run.start(model)
        recorder.begin(self.run, model)
        self.num_frozen_layers = 0

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
        self.num_frozen_layers = plan.num_frozen
        announce(self._describe_phase(phase, plan))
        if self._workdir is not None:
            path = os.path.join(self._workdir, workdir.FREEZE_PLAN)
            workdir.write_atomic(path, freezing.format_plan(plan))
        cached = self._read_data(phase, dry_run=dry_run)
        with self._strategy.scope():
            trainer = (
                trainer_model.TrainerModel(self._model.input, self._model.output)
                if cached is None
                else cached.split.make_suffix(trainer_model.SuffixTrainer)
            )
            trainer.use_plain_batch(self._train_data)
            trainer.use_accumulation(task.train.accumulate_steps)
            infos, labelled = task.splits.heads, task.splits.train
            trainer.compile(
                optimizer=optimizers.make_optimizer(
                    phase,
                    num_steps=self._steps * (phase.epochs or 1),
                    weight_decay=task.train.weight_decay or 0.0,
                    variables=trainer.trainable_variables,
                    precision=task.precision,
                ),
                loss=objectives.make_losses(
                    task.heads, infos, labelled.labels, counts=labelled.count_positions()
                ),
                loss_weights={head.name: head.loss_weight for head in task.heads},
                metrics=objectives.make_metrics(infos),
                auto_scale_loss=False,
                steps_per_execution=self._steps_at_once,
                # XLA has no strings, and Keras only asks the layers whether it may compile them.
                # Nor has it slices of a size that is only known when it runs.
                jit_compile=False
                if self._takes_strings or task.train.accumulate_steps > 1
                else "auto",
            )
            trainer.optimizer.build(trainer.trainable_variables)
        return trainer

    def _describe_phase(self, phase: specs.PhaseSpec, plan: freezing.FreezePlan) -> str:
        train = self._task.train
        parts = ""
        if train.accumulate_steps > 1:
            parts = f" (each of {train.accumulate_steps} batches of {train.batch_size})"
        decay = f", weight decay {train.weight_decay:g}" if train.weight_decay else ""
        return (
            f"Phase {phase.name}: {plan.num_frozen} of {plan.num_layers} {plan.unit} frozen "
            f"({plan.rule}), {count_numbers(self._model.trainable_weights):,} of "
            f"{count_numbers(self._model.weights):,} parameters train, {phase.epochs} epochs of "
            f"{self._steps} steps{parts}, Adam {phase.learning_rate:g} {phase.schedule}, warm-up "
            f"{phase.warmup_fraction:g}, clip norm {phase.gradient_clip_norm:g}{decay}."
        )

    def _read_data(self, phase: specs.PhaseSpec, *, dry_run: bool) -> caching.CachedPhase | None:
        """Makes the phase's data sets, of features where they are computed ahead."""
        train, validation = self._task.splits.train, self._validation
        if dry_run:  # as many as are timed
            num_timed = max(training_cost.TIMED_STEPS, self._steps_at_once)
            train = train.head(self._task.train.step_examples * num_timed)
            validation = validation.head(self._task.train.batch_examples)
        cached = self._features.start_phase(
            train,
            validation,
            is_first=phase is self._task.phases[0],
            num_epochs=phase.epochs,
            dry_run=dry_run,
            deadline=self.deadline,
        )
        if cached is not None:
            train, validation = cached.train, cached.validation
        self._train, self._cached = train, cached
        self._train_data = self._make_dataset(train, shuffle=True)
        self._validation_data = (
            self._make_dataset(validation, shuffle=False) if len(validation) else None
        )
        return cached

    def evaluate_start(self, trainer: keras.Model) -> tuple[float | None, float]:
        """Measures where a phase starts.

        Args:
          trainer: from `prepare`.

        Returns:
          (the monitor before the first step, how long a validation pass takes in seconds).

        Raises:
          callbacks.DivergedError: the monitor is no finite number.
        """
        if self._validation_data is None:
            return None, 0.0
        logs = trainer.evaluate(self._validation_data, return_dict=True, verbose=0)
        start = time.monotonic()
        trainer.evaluate(self._validation_data.take(1), return_dict=True, verbose=0)
        batch_secs = time.monotonic() - start
        value = self._read_logs({f"val_{name}": number for name, number in logs.items()})
        monitored = value[f"val_{self.run.monitor}"]
        if not math.isfinite(monitored):
            raise callbacks.DivergedError(
                f"val_{self.run.monitor} is {monitored} before the first step. Expected a finite "
                "number: the pretrained weights or --pixel_range do not fit the data."
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
        timer = training_cost.StepTimer()
        # The first steps trace the graph; the last ones tell the cost.
        timed = self._train_data.take(training_cost.TIMED_STEPS)
        if self._steps_at_once > 1:
            timed = self._train_data.take(self._steps_at_once).repeat(2)
        with training_cost.undoing(trainer):
            trainer.fit(timed, verbose=0, shuffle=False, callbacks=[timer])
        step_secs = timer.secs_per_step()
        epoch_secs = step_secs * self._steps + validation_secs
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
        size = batch_size * self._task.train.accumulate_steps
        split = self._task.splits.train.head(2 * size)
        data = self._make_dataset(split, shuffle=True, batch_size=size)
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
        writers = self._make_writers()
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
        lines = callbacks.EpochLines(
            self.run,
            label=phase.name,
            first_epoch=first_epoch,
            num_epochs=phase.epochs or 1,
            steps=self._steps,
        )
        self._fit_epochs(trainer, keeper, stopper, lines, phase=phase.name, last=last_epoch)
        for writer in writers.values():
            writer.close()
        stopped_by = "patience" if keeper.out_of_patience else "schedule"
        return PhaseResult(
            name=phase.name,
            epochs_run=len(self.run.rows) - first_epoch,
            improved=keeper.improved,
            stopped_by="time" if stopper.reached else stopped_by,
            best_value=self.run.best_value,
        )

    def _fit_epochs(
        self,
        trainer: keras.Model,
        keeper: callbacks.Keeper,
        stopper: callbacks.StopAtDeadline,
        lines: callbacks.EpochLines,
        *,
        phase: str,
        last: int,
    ) -> None:
        """Runs `fit` up to the run's epoch `last`; the rest of an epoch that goes on first."""
        if self._recorder.standing.step:
            # Keras builds the metrics on their first batch; before that they have no sums.
            trainer.evaluate(self._train_data.take(1), verbose=0)
        order, non_finite = callbacks.ExampleOrder(self._epoch), callbacks.StopOnNonFinite(phase)
        with interruptions.postponed() as interruption:
            saver = resuming.CheckpointWriter(
                self._recorder, keeper, steps=self._steps, interruption=interruption
            )
            while len(self.run.rows) < last and not (keeper.out_of_patience or stopper.reached):
                step = self._recorder.standing.step
                lines.first_step = non_finite.first_step = step
                data = self._train_data
                if step:
                    data = self._make_dataset(self._train, shuffle=True, first_batch=step)
                trainer.fit(
                    data,
                    validation_data=self._validation_data,
                    initial_epoch=len(self.run.rows),
                    # `fit` takes the number of steps of all epochs from the first.
                    epochs=len(self.run.rows) + 1 if step else last,
                    shuffle=False,
                    verbose=0,
                    callbacks=[order, non_finite, stopper, keeper, lines, saver],
                )

    def finish(self) -> None:
        """Leaves the best weights in the model and undoes what a plan did to its layers."""
        self._model.set_weights(self.run.best_weights)
        freezing.release_plan(self._backbone.model)
        self._features.close()

    def _make_dataset(
        self,
        split: data_loading.Split,
        *,
        shuffle: bool,
        first_batch: int = 0,
        batch_size: int | None = None,
    ) -> tf.data.Dataset:
        train = self._task.train
        usual = train.step_examples if shuffle else train.batch_examples
        dataset = pipeline.make_dataset(
            split,
            self._task.preprocessing,
            batch_size=batch_size or usual,
            shuffle_seed=self._task.seed if shuffle else None,
            epoch=self._epoch if shuffle else None,
            with_weights=True,
            num_replicas=self._strategy.num_replicas_in_sync,
            views=(self._task.augment.steps or None) if shuffle else None,
            num_views=self._task.augment.augment_views if shuffle else None,
            strata=self._find_strata(split) if shuffle else None,
            first_batch=first_batch,
        )
        if self._cached is None:
            return dataset
        return self._cached.map_batches(dataset, num_repeated=None if shuffle else len(split))

    def _find_strata(self, split: data_loading.Split) -> np.ndarray | None:
        task = self._task
        if task.train.resample == "none":
            return None
        head = resampling.find_head(task.heads, task.splits.heads)
        return resampling.find_strata(head, split.labels)

    def _make_writers(self) -> dict[str, Any]:
        if self._workdir is None:
            return {}
        logs = os.path.join(self._workdir, workdir.LOGS_DIR)
        return {
            name: tf.summary.create_file_writer(os.path.join(logs, name))
            for name in ("train", "validation")
        }

    def _path(self, name: str) -> str | None:
        return None if self._workdir is None else os.path.join(self._workdir, name)

    def _read_logs(self, logs: dict[str, float]) -> dict[str, float]:
        return monitors.read_logs(logs, self._task.heads, self._task.splits.heads)


def count_numbers(weights: Sequence[Any]) -> int:
    """How many numbers weights hold.

    Args:
      weights: of a model.

    Returns:
      The sum of their sizes.
    """
    return sum(int(np.prod(weight.shape)) for weight in weights)
