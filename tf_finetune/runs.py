"""The verb train: data and a pretrained model in; a trained, measured, exported model out.

Reads top to bottom as a run happens. The other verbs, which start from a finished run, are in
`verbs`.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tf_finetune import (
    callbacks,
    distribution,
    evaluation,
    exporting,
    findings,
    heads,
    input_checks,
    objectives,
    outcomes,
    report,
    resuming,
    run_folder,
    run_lock,
    run_messages,
    run_preparation,
    run_start,
    run_state,
    spec_paths,
    specs,
    trained,
    training,
    validation,
    workdir,
)
from tf_finetune.data import loading as data_loading
from tf_finetune.data import memory_source, mixed_spec, pipeline, preprocessing
from tf_finetune.feature_cache import caching
from tf_finetune.models import loading as model_loading

# What may be measured before training, as checkpoints and messages name it.
_BATCH_SIZE, _FEATURE_PRECISION = "--batch_size", "--feature_precision"
_NOT_TRAINED = (
    "No epoch was better than the untrained heads on validation, so this model has learnt nothing. "
    "Expected an improvement: give a smaller --learning_rate, more --max_minutes, or a pretrained "
    "model whose features fit the data."
)


def train(
    spec: specs.RunSpec,
    *,
    announce: Callable[[str], None] = print,
    data: Any = None,
    validation_data: Any = None,
    test_data: Any = None,
) -> dict[str, Any]:
    """Fine-tunes, evaluates and exports.

    Asked again for a run that its workdir holds finished, it returns that run's summary.

    Args:
      spec: the run; paths are relative to the current folder.
      announce: takes each line that tells what happens.
      data: examples in memory in place of `spec.data.data`, see `data.memory_source.collect`. In
        run.flags is their hash, so that a run with others is another run.
      validation_data: the same in place of `spec.data.validation_data`.
      test_data: the same in place of `spec.data.test_data`.

    Returns:
      The content of summary.json; with dry_run, {"status": "dry_run", "cost": ...,
        "features_secs": ...}.

    Raises:
      SpecError, RefusedError: something cannot be used; nothing was trained.
      RequirementError: the model is trained and reported, but not good enough; not exported.
      DivergedError: the loss became NaN; the workdir has the best weights before that.
    """
    clock = run_state.Clock()
    given = memory_source.collect_all(
        data=data, validation_data=validation_data, test_data=test_data
    )
    spec = dataclasses.replace(spec, data=memory_source.name_sources(spec.data, given))
    # Messages name paths as they were typed; what is written must mean the same from any folder.
    request = spec_paths.absolute_paths(spec)
    folder = spec.workdir or run_folder.default_workdir(request)
    if not spec.dry_run and (finished := run_folder.find_finished(folder, request)):
        for text in run_messages.describe_finished(finished, folder=folder):
            announce(text)
        return _finish_again(finished)
    splits, problems = validation.examine(spec, given)
    errors = [problem for problem in problems if problem.severity == findings.ERROR]
    if errors or splits is None:
        raise findings.RefusedError(*errors)
    strategy = distribution.make_strategy(spec.train.strategy)
    distribution.check_steps(strategy, steps_per_execution=spec.train.steps_per_execution)
    keras.utils.set_random_seed(spec.seed)
    run = run_state.Run(
        spec=run_preparation.settle_size(spec),
        request=request,
        folder=os.path.abspath(folder),
        announce=announce,
        clock=clock,
        splits=splits,
        head_specs=_match_heads(spec.heads, splits),
        strategy=strategy,
        precision=distribution.resolve_precision(spec.train.precision),
    )
    run.warn(tuple(problem for problem in problems if problem.severity != findings.ERROR))
    clock.lap("data")
    return _train(run)


def _train(run: run_state.Run) -> dict[str, Any]:
    backbone, task = run_preparation.prepare(run)
    with run.strategy.scope():
        model = heads.attach_heads(
            backbone,
            heads=run.head_specs,
            infos=run.splits.heads,
            image_shape=preprocessing.find_image_shape(task.preprocessing),
            mixed=mixed_spec.find_mixed(task.preprocessing),
            encoding=input_checks.measure_columns(task.preprocessing, backbone, run.splits),
            biases=objectives.find_start_biases(
                run.head_specs, run.splits.heads, run.splits.train.labels
            ),
        )
    if run.spec.dry_run:
        return _estimate(run, backbone, task, model)
    # What follows is measured or written: one run at a time.
    with run_lock.hold(run.folder, announce=run.announce):
        # Another process may have done all this meanwhile.
        if finished := run_folder.find_finished(run.folder, run.request):
            return _finish_again(finished)
        return _train_in_folder(run, backbone, task, model)


def _estimate(
    run: run_state.Run,
    backbone: model_loading.Backbone,
    task: training.Task,
    model: keras.Model,
) -> dict[str, Any]:
    task, features = _plan(run, backbone, task, model, settled={})
    result = training.fit(
        model,
        backbone,
        task,
        strategy=run.strategy,
        dry_run=True,
        features=features,
        announce=run.announce,
    )
    run.announce("--dry_run: nothing was trained or written.")
    cost = dataclasses.asdict(result.cost) if result.cost else None
    return {"status": "dry_run", "cost": cost, "features_secs": features.estimated_secs}


def _plan(
    run: run_state.Run,
    backbone: model_loading.Backbone,
    task: training.Task,
    model: keras.Model,
    *,
    settled: Mapping[str, Any],
) -> tuple[training.Task, caching.FeatureCache]:
    """Measures what the options leave to be measured, unless it is settled."""
    task = run_preparation.choose_batch_size(
        run, model, backbone, task, settled=settled.get(_BATCH_SIZE)
    )
    run.clock.lap("model")
    features = training.plan_features(
        model,
        backbone,
        task,
        settled=settled.get(_FEATURE_PRECISION),
        announce=run.announce,
    )
    run.clock.lap("features")
    return task, features


def _train_in_folder(
    run: run_state.Run,
    backbone: model_loading.Backbone,
    task: training.Task,
    model: keras.Model,
) -> dict[str, Any]:
    recorder = run_start.read_checkpoint(run, backbone, model)
    task, features = _plan(run, backbone, task, model, settled=recorder.settled)
    choice = features.choice
    recorder.settle(
        {
            _BATCH_SIZE: task.train.batch_size,
            _FEATURE_PRECISION: choice.precision if choice else None,
        }
    )
    phases = resuming.settle_phases(task.phases, recorder.standing)
    task = dataclasses.replace(task, phases=phases)
    run_start.write_start(run, backbone, task, choice=choice, goes_on=recorder.goes_on)
    outcome = trained.TrainedModel(
        model,
        run.splits.heads,
        task.preprocessing,
        run_start.describe_origin(run, backbone, task.phases),
    )
    result = _fit(run, backbone, task, outcome, features=features, recorder=recorder)
    run.clock.move("train", "features", secs=features.secs)
    try:
        outcome = _tune(run, outcome, features)
        return _finish(run, backbone, outcome, result, features=features)
    finally:
        features.close()


def _fit(
    run: run_state.Run,
    backbone: model_loading.Backbone,
    task: training.Task,
    outcome: trained.TrainedModel,
    *,
    features: caching.FeatureCache,
    recorder: resuming.Recorder,
) -> training.TrainResult:
    minutes = run.spec.max_minutes
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    try:
        with pipeline.naming_bad_images(
            task.splits.train, task.splits.validation, pre=task.preprocessing
        ):
            result = training.fit(
                outcome.model,
                backbone,
                task,
                strategy=run.strategy,
                workdir_path=run.folder,
                deadline=deadline,
                features=features,
                recorder=recorder,
                note_phases=lambda phases: run_start.write_flags(
                    run, backbone, task, choice=features.choice, phases=phases
                ),
                announce=run.announce,
            )
    except (callbacks.DivergedError, KeyboardInterrupt) as error:
        text = "No epoch has ended."
        has_epoch = os.path.isfile(os.path.join(run.folder, workdir.HISTORY))
        if has_epoch or isinstance(error, callbacks.DivergedError):
            trained.write_trained(run.folder, outcome)  # fit has put the best weights back
            text = (
                f"The best weights so far are in {run.folder}: --mode=evaluate and --mode=export "
                "work on them."
            )
        run.announce(f"{text} {_describe_next(run, error)}")
        if isinstance(error, callbacks.DivergedError):
            workdir.write_json(
                os.path.join(run.folder, workdir.SUMMARY),
                {"status": run_folder.DIVERGED, "seconds": run.clock.total()},
            )
            _remove_checkpoints(run)
        raise
    run.clock.lap("train")
    return result


def _remove_checkpoints(run: run_state.Run) -> None:
    try:
        run_folder.remove_checkpoints(run.folder)
    except OSError as error:
        message = f"The checkpoints in {run.folder} cannot be removed: {error.strerror}."
        run.warn((findings.Problem(message, severity=findings.WARNING),))


def _describe_next(run: run_state.Run, error: BaseException) -> str:
    if isinstance(error, callbacks.DivergedError):
        return "To train again, choose other flags and another --workdir."
    start = "" if run_folder.has_checkpoint(run.folder) else ", from the start"
    return f"Run the same command again to go on{start}."


def _tune(
    run: run_state.Run, outcome: trained.TrainedModel, features: caching.FeatureCache
) -> trained.TrainedModel:
    """Writes the trained model with its thresholds."""
    outcome, texts = outcomes.tune_thresholds(
        outcome,
        run.splits.validation,
        heads=run.head_specs,
        batch_size=run.spec.train.batch_examples,
        features=features,
    )
    trained.write_trained(run.folder, outcome)
    for text in texts:
        run.announce(text)
    run.clock.lap("evaluate")
    return outcome


def _finish(
    run: run_state.Run,
    backbone: model_loading.Backbone,
    outcome: trained.TrainedModel,
    result: training.TrainResult,
    *,
    features: caching.FeatureCache,
) -> dict[str, Any]:
    reports = {
        split.name: outcomes.evaluate_split(
            outcome,
            split,
            folder=run.folder,
            batch_size=run.spec.train.batch_examples,
            features=features,
        )
        for split in (run.splits.validation, run.splits.test)
        if len(split)
    }
    run.clock.lap("evaluate")
    for split_report in reports.values():
        run.announce(report.format_report(split_report))
    if "test" not in reports:
        run.announce("Warning: there is no test split, so nothing is known of new examples.")
    unmet = evaluation.check_requirements(
        reports,
        require_min=run.spec.export.require_min,
        require_max=run.spec.export.require_max,
    )
    if not any(phase.improved for phase in result.phases):
        unmet = (*unmet, findings.Problem(_NOT_TRAINED))
    exported = None
    if not unmet:
        split = run.splits.test if len(run.splits.test) else run.splits.train
        exported = outcomes.export_trained(outcome, run.spec, folder=run.folder, split=split)
    run.clock.lap("export")
    summary = _summarize(run, backbone, result, reports, exported)
    workdir.write_json(os.path.join(run.folder, workdir.SUMMARY), summary)
    _remove_checkpoints(run)
    for text in run_messages.describe_end(summary, folder=run.folder):
        run.announce(text)
    if unmet:
        raise outcomes.RequirementError(unmet)
    return summary


def _match_heads(
    head_specs: tuple[specs.HeadSpec, ...], splits: data_loading.Splits
) -> tuple[specs.HeadSpec, ...]:
    if head_specs:
        return head_specs
    return tuple(specs.HeadSpec(name=info.name, kind=info.kind) for info in splits.heads)


def _summarize(
    run: run_state.Run,
    backbone: model_loading.Backbone,
    result: training.TrainResult,
    reports: dict[str, evaluation.EvalReport],
    exported: exporting.ExportedModel | None,
) -> dict[str, Any]:
    return {
        "status": run_folder.COMPLETED if exported else run_folder.REQUIREMENT_NOT_MET,
        **{name: report.summarize(measured) for name, measured in reports.items()},
        "monitor": {"name": result.monitor, "best": result.best_value},
        "best_epoch": result.best_epoch,
        "epochs_run": len(result.history),
        "phases": [
            {
                "name": phase.name,
                "epochs_run": phase.epochs_run,
                "improved": phase.improved,
                "stopped_by": phase.stopped_by,
            }
            for phase in result.phases
        ],
        "examples": {split.name: len(split) for split in run.splits.parts},
        "layers": {"frozen": result.num_frozen_layers, "total": len(backbone.table.rows)},
        "parameters": {"trainable": result.num_trainable, "total": result.num_parameters},
        "seconds": run.clock.total(),
        "export": {"path": exported.path, "version": exported.version} if exported else None,
    }


def _finish_again(summary: dict[str, Any]) -> dict[str, Any]:
    if summary["status"] == run_folder.REQUIREMENT_NOT_MET:
        raise outcomes.RequirementError(
            (findings.Problem("This run did not meet its requirements, see its summary.json."),)
        )
    return summary
