"""Everything that decides what a run will train, told before it starts."""

import dataclasses
import hashlib

import keras

from tf_finetune import (
    batch_sizes,
    checkpoints,
    distribution,
    findings,
    input_checks,
    monitors,
    recipe,
    run_messages,
    run_state,
    specs,
    step_precision,
    token_lengths,
    training,
)
from tf_finetune.data import (
    data_service,
    image_stores,
    input_stores,
    leaks,
    mixed_spec,
    pipeline,
    preprocessing,
    samples,
)
from tf_finetune.data import loading as data_loading
from tf_finetune.feature_cache import choosing
from tf_finetune.models import loading as model_loading
from tf_finetune.models import pixel_range

_SAMPLE_IMAGES = 64


def prepare(run: run_state.Run) -> tuple[model_loading.Backbone, training.Task]:
    """Loads the model, reads the inputs, plans the phases, and tells all of it.

    Args:
      run: the run; it gets the data as they were read.

    Returns:
      (the pretrained model, what will be trained).

    Raises:
      SpecError, RefusedError: model, data and options do not go together.
      tf_config.LostError: see `data_service.reach`.
    """
    spec = run.spec
    monitors.check_monitor(spec.train.monitor, run.splits.heads)
    _reach_service(run)
    with run.strategy.scope():
        backbone = model_loading.load_backbone(spec.model, precision=run.precision, data=spec.data)
    run.warn(run_messages.list_trust_warnings(backbone.found or (), spec.model))
    run.clock.lap("model")
    _check_tpu(run, backbone)
    prepared: preprocessing.InputSpec = input_checks.settle_inputs(spec, backbone, run.splits)
    phases = _plan_phases(run, backbone)
    step_precision.check_processor(phases)
    prepared = _read_inputs(run, backbone, prepared)
    backbone = _settle_pixels(run, backbone, prepared)
    run.clock.lap("data")
    for text in (
        *run_messages.describe_backbone(
            backbone, freeze=phases[0].freeze or "all", batch_norm=spec.freeze.batch_norm
        ),
        *run_messages.describe_heads(run.head_specs, run.splits.heads),
        run_messages.describe_data(run.splits, prepared),
    ):
        run.announce(text)
    return backbone, training.Task(
        splits=run.splits,
        preprocessing=prepared,
        heads=run.head_specs,
        train=_settle_options(run, backbone, phases),
        phases=phases,
        batch_norm=spec.freeze.batch_norm,
        seed=spec.seed,
        precision=run.precision,
        augment=spec.augment,
    )


def match_heads(
    head_specs: tuple[specs.HeadSpec, ...], splits: data_loading.Splits
) -> tuple[specs.HeadSpec, ...]:
    """A spec for each head of the data.

    Args:
      head_specs: as they were given; may be empty.
      splits: the data, whose heads they are or decide.

    Returns:
      Those that were given; where none was, one for each head that was inferred from the labels.
    """
    if head_specs:
        return head_specs
    return tuple(specs.HeadSpec(name=info.name, kind=info.kind) for info in splits.heads)


def check_same_inputs(
    run: run_state.Run, model: keras.Model, choice: choosing.Choice | None
) -> None:
    """Refuses workers that see other examples or other weights than the chief.

    Args:
      run: the run.
      model: with the weights to start from.
      choice: what was decided about the frozen part; None: nothing.

    Raises:
      RefusedError: a worker's differ from the chief's; all workers raise it.
    """
    if not run.team.is_joined:
        return
    rows = hashlib.sha256()
    for row in data_loading.iterate_split_rows(run.splits):
        rows.update(row.encode())
    run.team.check_same(
        {
            "the examples": rows.hexdigest(),
            "the weights to start from": checkpoints.digest_weights(model.get_weights()),
            "the arithmetic of features": f"{choice.mode} {choice.precision}" if choice else None,
        },
        hint="Expected the same files and the same versions on all of them.",
    )


def _reach_service(run: run_state.Run) -> None:
    """Looks whether the workers of --data_service see the files, before anything takes its time."""
    service = run.spec.train.data_service
    if service is None:
        return
    # The first and the last of each split: a source of its own may lie elsewhere.
    ends = [
        part.inputs.paths[part.indices[row]]
        for part in run.splits.parts
        if len(part) and isinstance(part.inputs, image_stores.PathImages)
        for row in (0, -1)
    ]
    number = data_service.reach(service, tuple(dict.fromkeys(ends)))
    shown = "1 worker reads" if number == 1 else f"{number} workers read"
    run.announce(f"Data service {service}: {shown} the images.")


def _check_tpu(run: run_state.Run, backbone: model_loading.Backbone) -> None:
    if run.spec.train.strategy == distribution.TPU and backbone.input_kind == input_stores.TEXT:
        message = (
            "--strategy=tpu: the model takes texts, and a TPU has no strings. Use --strategy=auto."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--strategy"))


def suit_device(spec: specs.RunSpec) -> specs.RunSpec:
    """The spec without what only processors do, where another device trains.

    Args:
      spec: any; what it asks for in so many words has been refused for that device.

    Returns:
      A copy, or the spec itself.
    """
    if spec.train.strategy != distribution.TPU:
        return spec
    # What compiles or rounds steps here is made for processors.
    train = dataclasses.replace(
        spec.train, feature_cache=choosing.OFF, training_precision=step_precision.FLOAT32
    )
    return dataclasses.replace(spec, train=train)


def settle_size(spec: specs.RunSpec, size: int = batch_sizes.PROVISIONAL) -> specs.RunSpec:
    """The spec with a number where --batch_size=auto leaves it open.

    Args:
      spec: any.
      size: the number; default: one to plan with until it is known.

    Returns:
      A copy, or the spec itself.
    """
    if spec.train.batch_size != "auto":
        return spec
    return dataclasses.replace(spec, train=dataclasses.replace(spec.train, batch_size=size))


def choose_batch_size(
    run: run_state.Run,
    model: keras.Model,
    backbone: model_loading.Backbone,
    task: training.Task,
    *,
    settled: int | None,
) -> training.Task:
    """The task with the size that --batch_size=auto finds, and what follows from it.

    Args:
      run: the run; its spec gets the size.
      model: from `heads.attach_heads`; afterwards as it was.
      backbone: the pretrained model.
      task: from `prepare`.
      settled: what it found before the run was interrupted.

    Returns:
      The task; the same where the size was given.

    Raises:
      RefusedError: see `batch_sizes.choose`.
    """
    if run.request.train.batch_size != "auto":
        return task
    size = settled or batch_sizes.choose(
        model, backbone, task, strategy=run.strategy, announce=run.announce
    )
    run.spec = dataclasses.replace(
        run.spec, train=dataclasses.replace(run.spec.train, batch_size=size)
    )
    phases = _plan_phases(run, backbone)
    return dataclasses.replace(task, train=_settle_options(run, backbone, phases), phases=phases)


def _plan_phases(
    run: run_state.Run, backbone: model_loading.Backbone
) -> tuple[specs.PhaseSpec, ...]:
    return recipe.plan_phases(
        run.spec.train,
        run.spec.freeze,
        table=backbone.table,
        num_train_examples=len(run.splits.train),
        input_kind=backbone.input_kind,
        can_train=recipe.can_train_backbone(backbone.model),
    )


def _settle_options(
    run: run_state.Run, backbone: model_loading.Backbone, phases: tuple[specs.PhaseSpec, ...]
) -> specs.TrainSpec:
    return recipe.settle_options(
        run.spec.train,
        run.spec.freeze,
        phases,
        table=backbone.table,
        num_validation_examples=len(run.splits.validation),
        input_kind=backbone.input_kind,
    )


def _read_inputs(
    run: run_state.Run, backbone: model_loading.Backbone, prepared: preprocessing.InputSpec
) -> preprocessing.InputSpec:
    data = run.spec.data
    run.splits, prepared, problems = pipeline.read_images(
        run.splits,
        prepared,
        on_bad_example=data.on_bad_example,
        max_image_pixels=data.max_image_pixels,
        # What is kept in this process's memory no worker of a service can read.
        memory_bytes=0 if run.spec.train.data_service else None,
    )
    run.warn((*problems, *leaks.find_equal_inputs(run.splits)))
    run.splits = token_lengths.count_splits(run.splits, backbone.model)
    return prepared


def _settle_pixels(
    run: run_state.Run,
    backbone: model_loading.Backbone,
    prepared: preprocessing.InputSpec,
) -> model_loading.Backbone:
    prepared = mixed_spec.find_main(prepared)
    if not isinstance(prepared, preprocessing.PreprocessingSpec):
        return backbone
    if backbone.pixel_range is None:
        sample = samples.sample_pixels(
            run.splits.train, prepared, count=_SAMPLE_IMAGES, seed=run.spec.seed
        )
        backbone = pixel_range.settle(backbone, sample)
    chosen = backbone.pixel_range
    if chosen is not None and chosen.warning:
        message = f"--pixel_range={chosen.name}: {chosen.reason}"
        run.warn((findings.Problem(message, severity=findings.WARNING),))
    return backbone
