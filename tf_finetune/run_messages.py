"""What the verb train tells its user before the first step and after the last."""

import statistics
from collections.abc import Sequence
from typing import Any

from tf_finetune import findings, freezing, head_kinds, specs
from tf_finetune.data import columns, mixed_spec, preprocessing, text_store
from tf_finetune.data import loading as data_loading
from tf_finetune.models import loading as model_loading


def describe_backbone(
    backbone: model_loading.Backbone, *, freeze: str, batch_norm: str
) -> list[str]:
    """The table of layers, and what was decided about the model.

    Args:
      backbone: the backbone.
      freeze: the first phase's rule.
      batch_norm: value of --batch_norm.

    Returns:
      Texts to print, the first of many lines.
    """
    plan = freezing.plan_freeze(freeze, backbone.table, batch_norm=batch_norm)
    chosen = backbone.pixel_range
    pixels = "" if chosen is None else f" Pixels: {chosen.name}, {chosen.reason}."
    return [
        freezing.format_plan(plan),
        f"Model: {backbone.source}. {backbone.cut_reason} Pooling: {backbone.pooling}.{pixels}",
        *(f"Note: {note}" for note in backbone.notes),
        *(
            f"Note: {finding.message}"
            for finding in backbone.found or ()
            if finding.severity == findings.INFO
        ),
    ]


def list_trust_warnings(
    found: Sequence[findings.Finding], model: specs.ModelSpec
) -> tuple[findings.Problem, ...]:
    """What a user should know who opens a model in spite of what is in it.

    Args:
      found: by the examination of the model.
      model: its flags.

    Returns:
      A warning for each finding of that severity.
    """
    return tuple(
        findings.Problem(
            f"{findings.one_line(model.model)}: {finding.message}",
            severity=findings.WARNING,
            path=model.model,
            flag="--trust_model",
        )
        for finding in found
        if finding.severity == findings.WARNING
    )


def describe_heads(
    heads: Sequence[specs.HeadSpec], infos: Sequence[head_kinds.HeadInfo]
) -> list[str]:
    """A line per head.

    Args:
      heads: the specs.
      infos: the same heads with their classes.

    Returns:
      Lines.
    """
    return [
        f"Head {info.name}: {info.kind}, {_describe_labels(info)}. Dropout {head.dropout:g}."
        for info, head in zip(infos, heads, strict=True)
    ]


def _describe_labels(info: head_kinds.HeadInfo) -> str:
    row = head_kinds.HEAD_KINDS[info.kind]
    if not row.has_classes:
        return f"training labels {info.mean:.4g} +- {info.deviation:.4g}"
    text = f"{len(info.classes)} classes: {findings.list_first(list(info.classes), limit=10)}"
    if row.exclusive and row.has_thresholds:
        text += f", positive is '{findings.one_line(info.classes[1])}'"
    return text


def describe_data(splits: data_loading.Splits, prepared: preprocessing.InputSpec) -> str:
    """How many examples of which pixels, or texts of which length.

    Args:
      splits: the data.
      prepared: how images become pixels; a TextSpec, ColumnsSpec or MixedSpec.

    Returns:
      One line.
    """
    parts = splits.parts
    counts = ", ".join(f"{len(split):,} {split.name}" for split in parts)
    if isinstance(prepared, mixed_spec.MixedSpec):
        inputs = [_describe_input(part) for part in prepared.columns.inputs]
        shown = findings.one_line(prepared.column)
        return (
            f"{describe_data(splits, prepared.main)} Beside the column '{shown}': "
            f"{'; '.join(inputs)}."
        )
    if isinstance(prepared, text_store.TextSpec):
        lengths = [len(text) for split in parts for text in split.texts]
        return (
            f"Data: {counts} examples, texts in the column '{findings.one_line(prepared.column)}' "
            f"of {statistics.median(lengths):,.0f} characters (median) to {max(lengths):,} "
            "(longest)."
        )
    if isinstance(prepared, columns.ColumnsSpec):
        inputs = [_describe_input(part) for part in prepared.inputs]
        return f"Data: {counts} examples, {'; '.join(inputs)}."
    white = f", 16-bit white is {prepared.pixel_max:g}" if prepared.pixel_max else ""
    return (
        f"Data: {counts} examples, {prepared.height}x{prepared.width}x{prepared.channels} pixels, "
        f"--resize={prepared.resize}{white}."
    )


def _describe_input(part: columns.ModelInput) -> str:
    shown = findings.list_values([findings.one_line(name) for name in part.columns], limit=10)
    return f"input '{findings.one_line(part.name)}' from {shown}"


def describe_finished(summary: dict[str, Any], *, folder: str) -> list[str]:
    """What a run that is asked for again had found.

    Args:
      summary: the content of its summary.json.
      folder: the workdir.

    Returns:
      Lines: where it is, the metrics of each split and head, the export.
    """
    lines = [f"{folder} holds this run, finished."]
    for split in ("validation", "test"):
        for head, metrics in summary.get(split, {}).items():
            if head != "loss":
                numbers = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
                lines.append(findings.one_line(f"{split}, {head}: {numbers}"))
    if summary.get("export"):
        path = findings.one_line(summary["export"]["path"])
        lines.append(f"Exported for TF Serving: {path}")
    return lines


def describe_sources(spec: specs.DataSpec) -> str:
    """Which files a run's run.flags makes a verb read.

    Args:
      spec: the data options of its run.flags.

    Returns:
      One line.
    """
    names = ("data", "validation_data", "test_data")
    given = [(name, value) for name in names if (value := getattr(spec, name))]
    if spec.classes and spec.classes.startswith("@"):
        given.append(("classes", spec.classes))
    flags = " ".join(f"--{name}={findings.one_line(value)}" for name, value in given)
    return f"Reading the data that the run's run.flags names: {flags}"


def describe_end(summary: dict[str, Any], *, folder: str) -> list[str]:
    """Where the time went and where the results are.

    Args:
      summary: the content of summary.json.
      folder: the workdir.

    Returns:
      Lines.
    """
    seconds = ", ".join(f"{part} {secs:.1f} s" for part, secs in summary["seconds"].items())
    lines = [f"Time: {seconds}.", f"Run folder: {folder}"]
    if summary["export"]:
        lines.append(f"Exported for TF Serving: {summary['export']['path']}")
    return lines
