"""What is done with a trained model: measured on a split, exported, held against requirements.

Shared by the verb train, right after training, and by the verbs that start from a finished run.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_finetune import (
    disk_room,
    evaluation,
    exporting,
    findings,
    head_kinds,
    out_of_memory,
    report,
    run_folder,
    run_records,
    specs,
    thresholds,
    token_lengths,
    trained,
    workdir,
)
from tf_finetune.data import (
    column_tables,
    input_stores,
    known_classes,
    leaks,
    loading,
    memory_source,
    mixed_spec,
    pipeline,
    preprocessing,
    samples,
    text_store,
)
from tf_finetune.feature_cache import caching
from tf_finetune.object_store import version_uploads


class RequirementError(ValueError):
    """The model does not reach --require_min or --require_max; nothing was exported.

    Attributes:
      problems: a problem per requirement.
    """

    def __init__(self, problems: tuple[findings.Problem, ...]):
        super().__init__("\n".join(problem.message for problem in problems))
        self.problems = problems


def load_run_splits(
    spec: specs.RunSpec, outcome: trained.TrainedModel, *, folder: str
) -> tuple[loading.Splits, tuple[findings.Problem, ...]]:
    """The splits of a finished run, as they were when it trained.

    Args:
      spec: the run's own, from its run.flags.
      outcome: its model.
      folder: its workdir, for split.csv.

    Returns:
      (splits, warnings). Unreadable images, if the run skipped them, are left out again; that the
      data have changed since is a warning.

    Raises:
      RefusedError: the data are gone or have changed so that they cannot be used; dataset_info.json
        is damaged.
    """
    info = _read_dataset_info(folder)
    _check_heads([(head.name, head.kind) for head in spec.heads], outcome, folder)
    splits = loading.load_data(
        _with_split_file(spec.data, folder), heads=spec.heads, seed=spec.seed
    )
    _check_classes(splits.heads, outcome, spec.data.data)
    warnings: tuple[findings.Problem, ...] = ()
    if info["fingerprint"] != splits.info.fingerprint:
        warnings = (
            findings.Problem(
                f"{findings.one_line(spec.data.data)} has changed since the run: it had "
                f"{info['num_examples']} examples, it has {splits.info.num_examples}, or files "
                "were written again. What is measured now is not what was measured then.",
                severity=findings.WARNING,
            ),
        )
    splits, _, problems = pipeline.read_images(
        splits,
        outcome.preprocessing,
        on_bad_example=spec.data.on_bad_example,
        max_image_pixels=spec.data.max_image_pixels,
    )
    return splits, (*warnings, *problems)


def _read_dataset_info(folder: str) -> dict[str, Any]:
    info = run_records.read_record(folder, workdir.DATASET_INFO)
    if (
        not run_records.is_line(info.get("fingerprint"))
        or type(info.get("num_examples")) is not int
    ):
        reason = "expected a fingerprint and the number of examples"
        raise run_records.damaged(folder, workdir.DATASET_INFO, reason)
    return info


def _check_heads(
    stated: list[tuple[str, str | None]], outcome: trained.TrainedModel, folder: str
) -> None:
    own = [(head.name, head.kind) for head in outcome.heads]
    if stated != own:
        reason = f"its heads are {stated}, and those of {workdir.MODEL_INFO} are {own}"
        raise run_records.damaged(folder, workdir.RUN_FLAGS, reason)


def _check_classes(
    found: tuple[head_kinds.HeadInfo, ...], outcome: trained.TrainedModel, source: str
) -> None:
    """Labels under other numbers would be measured as if they were the model's."""
    shown = findings.one_line(source)
    for ours, theirs in zip(outcome.heads, found, strict=True):
        if ours.classes != theirs.classes:
            message = (
                f"{shown} has other classes than head '{ours.name}' was trained on. Expected "
                f"{findings.list_first(list(ours.classes))}. Received "
                f"{findings.list_first(list(theirs.classes))}. Put the data back, or measure other "
                "examples with --test_data."
            )
            raise findings.RefusedError(findings.Problem(message, path=source))


def load_other_split(
    source: str | memory_source.Arrays,
    spec: specs.RunSpec,
    outcome: trained.TrainedModel,
    *,
    folder: str,
    name: str,
) -> tuple[loading.Split, tuple[findings.Problem, ...]]:
    """All examples of another source, under the classes of a finished run.

    Args:
      source: in a form of --data, or examples in memory.
      spec: the run's own, for its columns and options.
      outcome: its model.
      folder: its workdir, for split.csv.
      name: the split's name.

    Returns:
      (split, warnings): examples that the run was trained on are counted.

    Raises:
      RefusedError: the source cannot be used, holds images where the model takes texts or the
        reverse, or has a class that the model does not know.
    """
    _check_heads([(head.name, head.kind) for head in spec.heads], outcome, folder)
    split, warnings = known_classes.load_split(
        source,
        column_tables.keep_kinds(spec.data, outcome.preprocessing),
        heads=spec.heads,
        infos=outcome.heads,
        name=name,
    )
    _check_kind(split, outcome, str(source))
    nothing = split.take(np.empty(0, np.int64))
    info = loading.DatasetInfo(str(source), len(split), (), "")
    splits, _, problems = pipeline.read_images(
        loading.Splits(split, nothing, nothing, outcome.heads, info),
        outcome.preprocessing,
        on_bad_example=spec.data.on_bad_example,
        max_image_pixels=spec.data.max_image_pixels,
    )
    return splits.train, (*warnings, *problems, *_find_trained_on(split, spec, folder))


def _check_kind(split: loading.Split, outcome: trained.TrainedModel, source: str) -> None:
    if (split.features is None) == isinstance(outcome.preprocessing, mixed_spec.MixedSpec):
        message = (
            f"{findings.one_line(source)} is no table of the columns that the run was trained on "
            "beside its images or texts. Give one."
        )
        raise findings.RefusedError(findings.Problem(message, path=source))
    found = input_stores.find_kind(split.inputs)
    expected = preprocessing.find_kind(outcome.preprocessing)
    if found != expected:
        here, there = input_stores.PLURALS[found], input_stores.PLURALS[expected]
        message = (
            f"{findings.one_line(source)} holds {here}, and the run was trained on {there}. "
            f"Give {there}."
        )
        raise findings.RefusedError(findings.Problem(message, path=source))


def _find_trained_on(
    split: loading.Split, spec: specs.RunSpec, folder: str
) -> tuple[findings.Problem, ...]:
    data = _with_split_file(spec.data, folder)
    try:
        run_splits = loading.load_data(data, heads=spec.heads, seed=spec.seed)
    except findings.RefusedError:
        message = (
            f"The run's own data, {findings.one_line(spec.data.data)}, cannot be listed any more, "
            "so nobody knows whether it was trained on some of these examples."
        )
        return (findings.Problem(message, severity=findings.WARNING),)
    shared = leaks.count_shared(split, run_splits.train, run_splits.validation)
    if not shared:
        return ()
    message = (
        f"{shared} of {len(split)} examples were used in training or validation, so the numbers "
        "are too good. Give examples that the run has not seen."
    )
    return (findings.Problem(message, severity=findings.WARNING),)


def tune_thresholds(
    outcome: trained.TrainedModel,
    split: loading.Split,
    *,
    heads: Sequence[specs.HeadSpec],
    batch_size: int,
    features: caching.FeatureCache | None = None,
    service: str | None = None,
) -> tuple[trained.TrainedModel, tuple[str, ...]]:
    """Chooses the thresholds of the heads that leave them to the run.

    Args:
      outcome: the model with its best weights.
      split: the validation split; may be empty.
      heads: the heads as they were asked for, in the order of the model's.
      batch_size: examples at a time.
      features: of the run that trained the model; None: it runs whole.
      service: address of a tf.data service whose workers read the images; None: this process
        does.

    Returns:
      (the model with its thresholds, a sentence for each head that has them). The sentences are
      also in the model's facts.
    """
    tuned = tuple(
        info
        for head, info in zip(heads, outcome.heads, strict=True)
        if head.threshold == "auto" and head_kinds.HEAD_KINDS[info.kind].has_thresholds
    )
    if not tuned:
        return outcome, ()
    labels = {info.name: split.labels[info.name] for info in tuned}
    logits = {name: np.zeros_like(values) for name, values in labels.items()}
    # Without enough positives of any class there is nothing to run the model for.
    if any(thresholds.has_enough(values) for values in labels.values()):
        with (
            pipeline.naming_bad_images(split, pre=outcome.preprocessing),
            out_of_memory.naming_batch_size(batch_size, what="Evaluating"),
        ):
            model, dataset = _make_dataset(
                outcome, split, features, batch_size=batch_size, service=service
            )
            logits, labels = evaluation.compute_logits(
                model, dataset, heads=tuned, split="thresholds"
            )
    found = {
        info.name: thresholds.tune_head(logits[info.name], labels[info.name], info)
        for info in tuned
    }
    texts = {name: text for name, (_, text) in found.items()}
    infos = tuple(found[info.name][0] if info.name in found else info for info in outcome.heads)
    facts = {**outcome.facts, "thresholds": texts}
    return dataclasses.replace(outcome, heads=infos, facts=facts), tuple(texts.values())


def evaluate_split(
    outcome: trained.TrainedModel,
    split: loading.Split,
    *,
    folder: str,
    batch_size: int,
    features: caching.FeatureCache | None = None,
    service: str | None = None,
) -> evaluation.EvalReport:
    """Measures a trained model on a split and writes evaluation/SPLIT/.

    Args:
      outcome: the model.
      split: at least one example.
      folder: the workdir.
      batch_size: examples at a time.
      features: of the run that trained the model; None: it runs whole.
      service: address of a tf.data service whose workers read the images; None: this process
        does.

    Returns:
      The report.

    Raises:
      RefusedError: the reports cannot be written.
    """
    with (
        pipeline.naming_bad_images(split, pre=outcome.preprocessing),
        out_of_memory.naming_batch_size(batch_size, what="Evaluating"),
    ):
        model, dataset = _make_dataset(
            outcome, split, features, batch_size=batch_size, service=service
        )
        measured = evaluation.evaluate_model(
            model,
            dataset,
            heads=outcome.heads,
            split=split.name,
            loss_weights=outcome.facts["loss_weights"],
        )
    target = os.path.join(folder, workdir.EVALUATION_DIR, split.name)
    notes = [*trained.list_trust_notes(outcome.facts), *_list_threshold_notes(outcome, split.name)]
    try:
        report.write_report(measured, target, notes=notes)
    except OSError as error:
        shown = findings.one_line(target)
        advice = "Choose a folder that you may write, or change its permissions."
        if isinstance(error, disk_room.FullDiskError):
            advice = "The former ones are whole: make room there, and run the same command again."
        message = f"The reports cannot be written to {shown}: {error.strerror}. {advice}"
        raise findings.RefusedError(findings.Problem(message, path=target)) from error
    return measured


def _make_dataset(
    outcome: trained.TrainedModel,
    split: loading.Split,
    features: caching.FeatureCache | None,
    *,
    batch_size: int,
    service: str | None,
) -> tuple[Any, tf.data.Dataset]:
    """(what is left of the model to run, its inputs with labels)."""
    split, model = token_lengths.sort_split(split, outcome.model), outcome.model
    behind = features.find_behind(split) if features is not None and len(split) else None
    if behind is not None:
        model, split = behind
    return model, pipeline.make_dataset(
        split, outcome.preprocessing, batch_size=batch_size, service=service
    )


def _list_threshold_notes(outcome: trained.TrainedModel, split: str) -> list[str]:
    """What readers should know of the numbers that depend on thresholds."""
    texts = outcome.facts.get("thresholds")
    notes = [str(text) for text in texts.values()] if isinstance(texts, dict) else []
    if notes and split == "validation":
        notes.append(
            "Accuracy, precision, recall and F1 of heads with tuned thresholds are a little too "
            "good on validation, where the thresholds were chosen: the test split tells."
        )
    return notes


def check_report_places(folder: str) -> None:
    """Refuses a folder in which reports would be written to another place, or not at all.

    Args:
      folder: the workdir.

    Raises:
      RefusedError: a link leads out of it, or it cannot be written.
    """
    workdir.check_inside(
        folder,
        *(
            os.path.join(base, workdir.EVALUATION_DIR, split, name)
            for base in ("", workdir.OTHER_DATA_DIR)
            for split in ("validation", "test")
            for name in (workdir.REPORT_JSON, workdir.REPORT_MARKDOWN)
        ),
    )
    if os.path.isdir(folder) and not os.access(folder, os.W_OK | os.X_OK):
        message = (
            f"--workdir={findings.one_line(folder)} cannot be written, and reports would go there. "
            "Change its permissions, or copy it to a folder that you may write."
        )
        raise findings.RefusedError(findings.Problem(message, path=folder, flag="--workdir"))


def check_status(folder: str) -> None:
    """Holds back an export behind the back of the requirement that a run did not meet.

    Args:
      folder: the workdir.

    Raises:
      RefusedError: summary.json is damaged.
      RequirementError: the run did not meet its requirements.
    """
    if not os.path.isfile(os.path.join(folder, workdir.SUMMARY)):
        return
    if run_folder.read_summary(folder)["status"] == run_folder.REQUIREMENT_NOT_MET:
        message = (
            f"The run in --workdir={findings.one_line(folder)} did not meet its requirements. Give "
            "a --require_min or --require_max that it meets to export it all the same."
        )
        raise RequirementError((findings.Problem(message),))


def export_trained(
    outcome: trained.TrainedModel,
    spec: specs.RunSpec,
    *,
    folder: str,
    split: loading.Split | None = None,
) -> exporting.ExportedModel:
    """Writes the next version for TF Serving.

    Args:
      outcome: the model.
      spec: export_dir and warmup_examples.
      folder: the workdir; its export/ is the default export_dir.
      split: where warm-up requests come from; None: a gray image, or a sentence.

    Returns:
      The version.

    Raises:
      RefusedError: export_dir cannot be written, or the object store that it is in.
    """
    inputs: list[Any] = []
    count = spec.export.warmup_examples
    main = mixed_spec.find_main(outcome.preprocessing)
    beside = mixed_spec.find_columns(outcome.preprocessing)
    if split is not None and isinstance(main, preprocessing.PreprocessingSpec):
        pixels = samples.sample_pixels(split, main, count=count, seed=0)
        inputs = [tf.io.encode_png(tf.cast(image, tf.uint8)).numpy() for image in pixels]
    elif split is not None and isinstance(main, text_store.TextSpec):
        texts = samples.sample_texts(split, count=count, seed=0)
        inputs = [text.encode() for text in texts]
    if split is not None and beside is not None:
        # The same seed draws the same rows.
        rows = samples.sample_rows(split, beside, count=count, seed=0)
        inputs = list(zip(inputs, rows, strict=True)) if main is not beside else list(rows)
    export_dir = spec.export.export_dir or os.path.join(folder, workdir.EXPORT_DIR)
    with version_uploads.staged(export_dir, owner=folder) as (place, send):
        exported = exporting.write_export(
            outcome.model,
            heads=outcome.heads,
            preprocessing=outcome.preprocessing,
            export_dir=place,
            warmup_inputs=inputs,
        )
        if send is None:
            return exported
        path, version = send(exported.path)
    return dataclasses.replace(exported, path=path, version=version)


def _with_split_file(spec: specs.DataSpec, folder: str) -> specs.DataSpec:
    return dataclasses.replace(spec, split_file=os.path.join(folder, workdir.SPLIT))
