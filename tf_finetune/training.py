"""The phases of a run: one after another, the best weights of the whole run are kept.

One idea: a phase is (freeze line, epochs, learning rate). Each starts from the best weights so far
and is judged by the same monitor, so a phase that makes things worse costs time and nothing else.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import keras

from tf_finetune import (
    callbacks,
    phase_data,
    phase_fitting,
    resuming,
    specs,
    training_cost,
)
from tf_finetune.data import augmentation
from tf_finetune.feature_cache import caching, feature_pass
from tf_finetune.models import loading as model_loading

# What `fit` is given, and what it says of a phase.
Task = phase_data.Task
PhaseResult = phase_fitting.PhaseResult


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What `fit` did; the model holds the best weights.

    Attributes:
      phases: a result per phase that ran.
      history: a dict per epoch, the rows of history.csv.
      best_epoch: 1-based epoch of the best weights, 0 if no epoch improved on the start.
      best_value: the best monitor, None without validation data.
      monitor: the monitor's name.
      cost: the estimate made before training; None without a phase.
      num_frozen_layers: frozen layers of the backbone in the last phase.
      num_trainable: trainable parameters in the last phase.
      num_parameters: all parameters.
    """

    phases: tuple[PhaseResult, ...]
    history: tuple[dict[str, Any], ...]
    best_epoch: int
    best_value: float | None
    monitor: str
    cost: training_cost.CostEstimate | None
    num_frozen_layers: int
    num_trainable: int
    num_parameters: int


def fit(
    model: keras.Model,
    backbone: model_loading.Backbone,
    task: Task,
    *,
    strategy: Any = None,
    workdir_path: str | None = None,
    deadline: float | None = None,
    dry_run: bool = False,
    features: caching.FeatureCache | None = None,
    recorder: resuming.Recorder | None = None,
    note_phases: Callable[[tuple[specs.PhaseSpec, ...]], None] | None = None,
    announce: Callable[[str], None] = print,
) -> TrainResult:
    """Trains the heads and what the phases unfreeze; leaves the best weights in the model.

    Args:
      model: from `heads.attach_heads`, made in the strategy's scope.
      backbone: the model's backbone.
      task: data, heads and options.
      strategy: a tf.distribute strategy; default: one device.
      workdir_path: folder for history.csv, TensorBoard events and freeze_plan.txt, or None.
      deadline: `time.monotonic()` seconds after which training ends with the best weights so far.
      dry_run: estimate the cost and stop; the model is left as it was.
      features: from `plan_features`; None: it is called here.
      recorder: writes checkpoints, and goes on from the newest; None: neither.
      note_phases: takes the phases whenever something of one has been found.
      announce: takes the lines that tell the user what happens.

    Returns:
      The result.

    Raises:
      SpecError, RefusedError: the monitor, a freeze rule or the size of features does not fit.
      DivergedError: the loss became NaN or infinite; the model holds the best weights.
    """
    features = features or plan_features(model, backbone, task, announce=announce)
    recorder = recorder or resuming.Recorder(None)
    task = dataclasses.replace(task, phases=recorder.standing.settle_phases(task.phases))
    fitter = phase_fitting.Fitter(
        model,
        backbone,
        task,
        strategy=strategy,
        workdir_path=workdir_path,
        features=features,
        recorder=recorder,
        note_phases=note_phases,
    )
    fitter.deadline = math.inf if deadline is None else deadline - recorder.standing.secs
    results = [PhaseResult(**result) for result in recorder.standing.results]
    try:
        cost = _run_phases(fitter, task, recorder, results, announce=announce, dry_run=dry_run)
    finally:
        fitter.finish()
    return TrainResult(
        phases=tuple(results),
        history=tuple(fitter.run.rows),
        best_epoch=fitter.run.best_epoch,
        best_value=fitter.run.best_value,
        monitor=fitter.run.monitor,
        cost=cost,
        num_frozen_layers=recorder.standing.num_frozen_layers,
        num_trainable=recorder.standing.num_trainable,
        num_parameters=phase_fitting.count_numbers(model.weights),
    )


def plan_features(
    model: keras.Model,
    backbone: model_loading.Backbone,
    task: Task,
    *,
    settled: str | None = None,
    announce: Callable[[str], None] = print,
) -> caching.FeatureCache:
    """Decides whether the frozen part is computed ahead, by a trial where options leave it open.

    Args:
      model: from `heads.attach_heads`.
      backbone: the model's backbone.
      task: data, heads and options.
      settled: the precision that this very run chose before it was interrupted.
      announce: takes the line that says what was decided.

    Returns:
      The features of the run, for `fit`.
    """
    steps, number = task.augment.steps, task.augment.augment_views
    views = augmentation.KeptViews(steps, task.seed, number) if number else None
    features = caching.FeatureCache(
        model,
        backbone,
        task.preprocessing,
        task.train,
        fingerprint=task.splits.info.fingerprint,
        announce=announce,
        views=views,
    )
    features.choose(
        task.phases,
        task.splits,
        batch_norm=task.batch_norm,
        has_new_views=bool(steps) and views is None,
        settled=settled,
    )
    return features


def _run_phases(
    fitter: phase_fitting.Fitter,
    task: Task,
    recorder: resuming.Recorder,
    results: list[PhaseResult],
    *,
    announce: Callable[[str], None],
    dry_run: bool,
) -> training_cost.CostEstimate | None:
    """Adds a result for each phase; returns what training was said to cost."""
    cost = recorder.standing.cost
    for number, phase in enumerate(task.phases):
        if number < recorder.standing.phase:
            continue
        has_begun = recorder.is_inside(number)
        try:
            trainer = fitter.prepare(phase, announce, dry_run=dry_run)
        except feature_pass.OutOfTimeError as error:
            if not has_begun:
                announce(f"Phase {phase.name}: not started, --max_minutes is over: {error}.")
                break
            result = fitter.end_phase(phase, stopped_by="time")
            _record(result, fitter, recorder, results, announce)
            break
        if has_begun:
            recorder.restore(trainer)
        else:
            start_value, validation_secs = fitter.evaluate_start(trainer)
            recorder.start_phase(number, first_epoch=len(fitter.run.rows), value=start_value)
            if cost is None:
                cost = fitter.estimate_cost(trainer, validation_secs)
                recorder.move(cost=cost)
                announce(_describe_cost(cost, task, trainer))
                if dry_run:
                    break
            if time.monotonic() >= fitter.deadline:
                announce(f"Phase {phase.name}: not started, --max_minutes is over.")
                break
        _record(fitter.run_phase(trainer, phase), fitter, recorder, results, announce)
    return cost


def _record(
    result: PhaseResult,
    fitter: phase_fitting.Fitter,
    recorder: resuming.Recorder,
    results: list[PhaseResult],
    announce: Callable[[str], None],
) -> None:
    results.append(result)
    announce(_describe_phase(result, fitter.run, recorder.standing.start_value))
    recorder.end_phase(tuple(map(dataclasses.asdict, results)))


def _describe_cost(cost: training_cost.CostEstimate, task: Task, model: keras.Model) -> str:
    return training_cost.describe_cost(
        cost,
        task.phases,
        num_examples=len(task.splits.train),
        num_trainable=phase_fitting.count_numbers(model.trainable_weights),
    )


def _describe_phase(result: PhaseResult, run: callbacks.Progress, start_value: float | None) -> str:
    reason = {"schedule": "", "patience": ", no improvement any more", "time": ", time is over"}
    text = f"Phase {result.name}: {result.epochs_run} epochs{reason[result.stopped_by]}. "
    if start_value is None:
        return text + "No validation data: the newest weights are kept."
    if not result.improved:
        return (
            text + f"No epoch had a better val_{run.monitor} than {start_value:.4f}: the phase is "
            "discarded."
        )
    return text + f"val_{run.monitor} {start_value:.4f} -> {result.best_value:.4f}."
