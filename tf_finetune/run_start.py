"""What a run writes before its first step: itself, with all that was inferred or measured."""

import dataclasses
import os
import shutil
from typing import Any

import keras

from tf_finetune import (
    checkpoints,
    distribution,
    monitors,
    resuming,
    run_folder,
    run_state,
    spec_flags,
    specs,
    training,
    workdir,
    workers,
)
from tf_finetune.data import loading as data_loading
from tf_finetune.data import mixed_spec, preprocessing, text_store
from tf_finetune.feature_cache import choosing
from tf_finetune.models import custom_objects
from tf_finetune.models import loading as model_loading


def write_start(
    run: run_state.Run,
    backbone: model_loading.Backbone,
    task: training.Task,
    *,
    choice: choosing.Choice | None,
    goes_on: bool,
) -> None:
    """Claims the workdir and writes all that is known before the first step.

    Args:
      run: the run.
      backbone: its pretrained model.
      task: what will be trained.
      choice: what was measured about the frozen part; None: nothing.
      goes_on: whether the run goes on from a checkpoint, and its logs with it.

    Raises:
      findings.RefusedError: the workdir holds another run, or cannot be written.
    """
    if not goes_on:
        run_folder.claim(run.folder, requested=run.request)
        shutil.rmtree(os.path.join(run.folder, workdir.LOGS_DIR), ignore_errors=True)
    write_flags(run, backbone, task, choice=choice)
    problems = "".join(f"{line}\n" for line in run.warnings)
    workdir.write_atomic(os.path.join(run.folder, workdir.PROBLEMS), problems)
    with (
        workdir.replace_file(os.path.join(run.folder, workdir.SPLIT)) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        file.writelines(data_loading.iterate_split_rows(run.splits))
    workdir.write_json(
        os.path.join(run.folder, workdir.DATASET_INFO), dataclasses.asdict(run.splits.info)
    )
    workdir.write_json(
        os.path.join(run.folder, workdir.ENVIRONMENT),
        distribution.describe_environment(
            strategy=run.strategy, precision=run.precision, seed=run.spec.seed
        ),
    )
    run.sync()


def write_flags(
    run: run_state.Run,
    backbone: model_loading.Backbone,
    task: training.Task,
    *,
    choice: choosing.Choice | None,
    phases: tuple[specs.PhaseSpec, ...] | None = None,
) -> None:
    """Writes run.flags, with everything that was inferred or measured so far.

    Args:
      run: the run.
      backbone: its pretrained model.
      task: what will be trained; a learning rate may still be open.
      choice: what was measured about the frozen part; None: nothing.
      phases: in place of the task's, when more is known of them.

    Raises:
      OSError: the workdir cannot be written; a former file is untouched.
    """
    task = dataclasses.replace(task, phases=phases or task.phases)
    resolved = _resolve(run, backbone, task, choice=choice)
    path = os.path.join(run.folder, workdir.RUN_FLAGS)
    workdir.write_atomic(path, spec_flags.write_flags(resolved))


def read_checkpoint(
    run: run_state.Run, backbone: model_loading.Backbone, model: keras.Model
) -> resuming.Recorder:
    """Reads what the run goes on from, before anything of it is decided or written.

    Args:
      run: the run.
      backbone: its pretrained model.
      model: from `heads.attach_heads`.

    Returns:
      What writes the run's checkpoints, for `training.fit`.

    Raises:
      RefusedError: see `resuming.Recorder.read`.
    """
    train = run.spec.train
    if run.team.is_chief:
        workdir.remove_unfinished(run.folder)
    recorder = resuming.Recorder(
        os.path.join(run.folder, workdir.CHECKPOINTS_DIR),
        every_secs=train.checkpoint_secs,
        keep=train.keep_checkpoints,
        must_go_on=train.resume == "must",
        announce=run.announce,
        team=run.team,
    )
    recorder.note_written = run.sync
    recorder.read(
        {
            "the data": run.splits.info.fingerprint,
            "the pretrained model": backbone.sha256,
            # Of a SavedModel or an application, the file's hash says little.
            "the weights to start from": checkpoints.digest_weights(model.get_weights()),
        }
    )
    return recorder


def describe_origin(
    run: run_state.Run, backbone: model_loading.Backbone, phases: tuple[specs.PhaseSpec, ...]
) -> dict[str, Any]:
    """Where a trained model comes from, for model.json.

    Args:
      run: the run.
      backbone: its pretrained model.
      phases: with their freeze lines.

    Returns:
      What JSON can hold.
    """
    return {
        "pretrained": {
            "model": run.request.model.model,
            "source": backbone.source,
            "sha256": backbone.sha256,
            "pixel_range": backbone.pixel_range.name if backbone.pixel_range else None,
            "pooling": backbone.pooling,
        },
        "custom_objects": custom_objects.describe(run.request.model.custom_objects),
        "trust": {
            "trust_model": run.spec.model.trust_model,
            "findings": [finding.message for finding in backbone.found or ()],
        },
        "freeze": {phase.name: phase.freeze for phase in phases},
        "batch_norm": run.spec.freeze.batch_norm,
        "loss_weights": {head.name: head.loss_weight for head in run.head_specs},
    }


def _resolve(
    run: run_state.Run,
    backbone: model_loading.Backbone,
    task: training.Task,
    *,
    choice: choosing.Choice | None,
) -> specs.RunSpec:
    """The run with everything that was inferred or measured written out."""
    chosen, spec = backbone.pixel_range, run.request
    return dataclasses.replace(
        spec,
        heads=tuple(
            dataclasses.replace(head, kind=info.kind, num_classes=len(info.classes) or None)
            for head, info in zip(run.head_specs, run.splits.heads, strict=True)
        ),
        freeze=dataclasses.replace(spec.freeze, freeze=None),
        model=dataclasses.replace(spec.model, pixel_range=chosen.name if chosen else "auto"),
        data=_resolve_data(spec.data, task.preprocessing),
        train=dataclasses.replace(
            spec.train,
            batch_size=task.train.batch_size,
            phases=task.phases,
            epochs=None,
            # Each phase has its own by now, or will have.
            learning_rate=None
            if spec.train.learning_rate == specs.AUTO
            else spec.train.learning_rate,
            monitor=spec.train.monitor or monitors.name_total(run.splits.heads),
            patience_epochs=task.train.patience_epochs,
            weight_decay=task.train.weight_decay,
            precision=run.precision,
            feature_cache=choice.mode if choice else spec.train.feature_cache,
            feature_precision=choice.precision if choice else spec.train.feature_precision,
            strategy=_name_strategy(run.strategy, asked=spec.train.strategy),
        ),
    )


def _name_strategy(strategy: Any, *, asked: str) -> str:
    if asked == distribution.TPU:
        return asked
    if workers.is_of_workers(strategy):
        return distribution.MULTI_WORKER
    return "mirrored" if strategy.num_replicas_in_sync > 1 else "one_device"


def _resolve_data(spec: specs.DataSpec, prepared: preprocessing.InputSpec) -> specs.DataSpec:
    prepared = mixed_spec.find_main(prepared)
    if isinstance(prepared, text_store.TextSpec):
        return dataclasses.replace(spec, text_column=prepared.column)
    if isinstance(prepared, preprocessing.PreprocessingSpec):
        return dataclasses.replace(spec, pixel_max=prepared.pixel_max)
    return spec
