"""The verb train: data and a pretrained model in; a trained, measured, exported model out.

Reads top to bottom as a run happens. The other verbs, which start from a finished run, are in
`verbs`.
"""

import contextlib
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
    interruptions,
    objectives,
    outcomes,
    remote_paths,
    report,
    resuming,
    run_folder,
    run_lock,
    run_messages,
    run_preparation,
    run_start,
    run_state,
    same_run,
    spec_paths,
    specs,
    trained,
    training,
    unfinished_runs,
    validation,
    workdir,
    workers,
)
from tf_finetune.data import data_service, memory_source, mixed_spec, preprocessing
from tf_finetune.feature_cache import caching
from tf_finetune.models import loading as model_loading
from tf_finetune.object_store import sessions

# What may be measured before training, as checkpoints and messages name it.
_BATCH_SIZE, _FEATURE_PRECISION = "--batch_size", "--feature_precision"
_NOT_TRAINED = (
    "No epoch was better than the untrained heads on validation, so this model has learnt nothing. "
    "Expected an improvement: in another --workdir, give a smaller --learning_rate, more "
    "--max_minutes, or a pretrained model whose features fit the data."
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
      workers.LostError: another worker of --strategy=multi_worker does not answer any more, or
        there is no dispatcher or no worker of --data_service.
    """
    strategy = None
    if spec.train.strategy == distribution.MULTI_WORKER:  # before all else of TensorFlow
        strategy = distribution.make_strategy(spec.train.strategy, announce=announce)
    team = workers.Workers(strategy)
    sources = {"data": data, "validation_data": validation_data, "test_data": test_data}
    faults = data_service.naming_faults(spec.train.data_service)
    with team.silenced(), team.naming_the_lost(), faults:
        return _train_together(spec, sources, strategy, team, announce=announce)


def _train_together(
    spec: specs.RunSpec,
    sources: dict[str, Any],
    strategy: Any,
    team: workers.Workers,
    *,
    announce: Callable[[str], None],
) -> dict[str, Any]:
    clock = run_state.Clock()
    remote_paths.check_paths(spec)
    given = memory_source.collect_all(**sources)
    spec = dataclasses.replace(spec, data=memory_source.name_sources(spec.data, given))
    # Messages name paths as they were typed; what is written must mean the same from any folder.
    request = spec_paths.absolute_paths(spec)
    folder = spec.workdir or run_folder.default_workdir(request)
    options = same_run.list_options(request, folder)
    team.check_same(options, hint="Start the same command on all of them.")
    with sessions.opened(folder, is_chief=team.is_chief, announce=announce) as session:
        if not spec.dry_run:
            session.bring()
            finished = team.ask_chief(lambda: run_folder.find_finished(session.folder, request))
            if finished:
                for text in run_messages.describe_finished(finished, folder=folder):
                    announce(text)
                return _finish_again(finished)
        run = _open(session, spec, request, given=given, strategy=strategy, team=team, clock=clock)
        return _train(run)


def _open(
    session: sessions.Session,
    spec: specs.RunSpec,
    request: specs.RunSpec,
    *,
    given: dict[str, Any],
    strategy: Any,
    team: workers.Workers,
    clock: run_state.Clock,
) -> run_state.Run:
    """Reads what is known of the run before its model is opened."""
    spec = session.localize(spec)
    splits, problems = validation.examine(spec, given)
    errors = [problem for problem in problems if problem.severity == findings.ERROR]
    if errors or splits is None:
        raise findings.RefusedError(*errors)
    source = session.name_urls(splits.info.source)
    splits = dataclasses.replace(splits, info=dataclasses.replace(splits.info, source=source))
    strategy = strategy or distribution.make_strategy(spec.train.strategy)
    distribution.check_steps(strategy, steps_per_execution=spec.train.steps_per_execution)
    keras.utils.set_random_seed(spec.seed)
    run = run_state.Run(
        spec=run_preparation.settle_size(run_preparation.suit_device(spec)),
        request=request,
        folder=os.path.abspath(session.folder),
        announce=session.announce,
        clock=clock,
        splits=splits,
        head_specs=run_preparation.match_heads(spec.heads, splits),
        strategy=strategy,
        precision=distribution.resolve_precision(spec.train.precision),
        team=team,
        sync=session.sync,
    )
    run.warn(tuple(problem for problem in problems if problem.severity != findings.ERROR))
    clock.lap("data")
    return run


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
    with contextlib.ExitStack() as stack:

        def claim() -> dict[str, Any] | None:
            # What follows is measured or written: one run at a time.
            stack.enter_context(run_lock.hold(run.folder, announce=run.announce))
            # Another process may have done all this meanwhile.
            return run_folder.find_finished(run.folder, run.request)

        if finished := run.team.ask_chief(claim):
            return _finish_again(finished)
        return _train_in_folder(run, backbone, task, model)


def _estimate(
    run: run_state.Run,
    backbone: model_loading.Backbone,
    task: training.Task,
    model: keras.Model,
) -> dict[str, Any]:
    with unfinished_runs.naming_faults(task):
        task, features = _plan(run, backbone, task, model, settled={})
    with unfinished_runs.naming_faults(task):
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
    planned: list[caching.FeatureCache] = []

    def plan(precision: str | None) -> str | None:
        features = training.plan_features(
            model, backbone, task, settled=precision, announce=run.announce
        )
        planned.append(features)
        return features.choice.precision if features.choice else None

    precision = run.team.ask_chief(lambda: plan(settled.get(_FEATURE_PRECISION)))
    if not planned:  # by another worker: the chief's trial counts
        plan(precision)
    run.clock.lap("features")
    return task, planned[0]


def _train_in_folder(
    run: run_state.Run,
    backbone: model_loading.Backbone,
    task: training.Task,
    model: keras.Model,
) -> dict[str, Any]:
    recorder = run_start.read_checkpoint(run, backbone, model)
    with unfinished_runs.naming_faults(task):
        task, features = _plan(run, backbone, task, model, settled=recorder.settled)
    choice = features.choice
    recorder.settle(
        {
            _BATCH_SIZE: task.train.batch_size,
            _FEATURE_PRECISION: choice.precision if choice else None,
        }
    )
    phases = recorder.standing.settle_phases(task.phases)
    task = dataclasses.replace(task, phases=phases)
    run_preparation.check_same_inputs(run, model, choice)
    run.team.ask_chief(
        lambda: run_start.write_start(run, backbone, task, choice=choice, goes_on=recorder.goes_on)
    )
    outcome = trained.TrainedModel(
        model,
        run.splits.heads,
        task.preprocessing,
        run_start.describe_origin(run, backbone, task.phases),
    )
    result = _fit(run, backbone, task, outcome, features=features, recorder=recorder)
    run.clock.move("train", "features", secs=features.secs)

    def finish() -> dict[str, Any]:
        tuned = _tune(run, outcome, features)
        return _finish(run, backbone, tuned, result, features=features)

    try:
        return run.team.ask_chief(finish, refusals=(outcomes.RequirementError,))
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

    def note_phases(phases: tuple[specs.PhaseSpec, ...]) -> None:
        if run.team.is_chief:
            run_start.write_flags(run, backbone, task, choice=features.choice, phases=phases)

    try:
        with interruptions.heard(), unfinished_runs.naming_faults(task):
            result = training.fit(
                outcome.model,
                backbone,
                task,
                strategy=run.strategy,
                workdir_path=run.folder if run.team.is_chief else None,
                deadline=deadline,
                features=features,
                recorder=recorder,
                note_phases=note_phases,
                announce=run.announce,
            )
    except (callbacks.DivergedError, KeyboardInterrupt) as error:
        if run.team.is_chief:
            unfinished_runs.keep_best(run, outcome, error)
        raise
    run.clock.lap("train")
    return result


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
        service=run.spec.train.data_service,
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
            service=run.spec.train.data_service,
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
    unfinished_runs.remove_checkpoints(run)
    run.sync()
    for text in run_messages.describe_end(summary, folder=run.folder):
        run.announce(text)
    if unmet:
        raise outcomes.RequirementError(unmet)
    return summary


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
