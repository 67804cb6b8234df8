"""A pretrained model, described: as values, as text for people, as JSON for scripts."""

import dataclasses
import json
import typing
from collections.abc import Callable

from tf_finetune import findings, freezing, layer_table
from tf_finetune.models.saved import saved_model_files
from tf_finetune.models.stored import stored_table, weight_sizes

_BY_RUN = "settled when the model is loaded, by running it"
_MAX_LABEL = 15


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The pixel values that a model expects.

    Attributes:
      name: as in --pixel_range; None: not known before training.
      reason: how it is known, or when it will be.
      warning: the range is a fallback.
    """

    name: str | None
    reason: str
    warning: bool = False


@dataclasses.dataclass(frozen=True)
class Description:
    """A pretrained model, described.

    Attributes:
      model: value of --model.
      source: format and writer, for example "HDF5 of Keras 2.4.0".
      keras_version: that wrote it; None where the format names none.
      backend: of that Keras; None where the format names none.
      sha256: of the file; None where there is no single file.
      inputs: of the whole model.
      outputs: of the whole model.
      refusal: why it cannot be fine-tuned as it is; None where it can.
      cut_reason: where it is cut and why; None where it is not.
      dropped: names of the layers that are cut off.
      features_shape: what new heads are given; None: not known before it is loaded.
      pooling: how features become a vector; None: not known before it is loaded.
      pixels: what the model expects; None where it takes none.
      table: its numbered layers.
      plan: what --freeze does to them; None where it cannot be fine-tuned.
      notes: lines for the user.
      weights: of a file of weights only.
      signatures: of a SavedModel; None: it is none.
      found: what the examination of its files found, beside nothing that forbids opening them;
        None: there was nothing to examine.
    """

    model: str
    source: str
    inputs: tuple[stored_table.End, ...]
    outputs: tuple[stored_table.End, ...]
    table: layer_table.LayerTable
    keras_version: str | None = None
    backend: str | None = None
    sha256: str | None = None
    refusal: str | None = None
    cut_reason: str | None = None
    dropped: tuple[str, ...] = ()
    features_shape: tuple[int | None, ...] | None = None
    pooling: str | None = None
    pixels: Pixels | None = None
    plan: freezing.FreezePlan | None = None
    notes: tuple[str, ...] = ()
    weights: tuple[weight_sizes.StoredLayerWeights, ...] = ()
    signatures: tuple[saved_model_files.SignatureEnds, ...] | None = None
    found: tuple[findings.Finding, ...] | None = None


def format_text(description: Description) -> str:
    """A description for people.

    Args:
      description: of any model.

    Returns:
      Lines without a line end after the last.
    """
    lines = [f"{name + ':':<{_MAX_LABEL}} {value}" for name, value in _facts(description)]
    lines += [f"Note: {note}" for note in description.notes]
    lines += [
        f"{finding.severity.capitalize()}: {finding.message}" for finding in description.found or ()
    ]
    if description.plan is not None:
        return "\n".join([*lines, "", freezing.format_plan(description.plan)])
    return "\n".join([*lines, "", *_format_rows(description)])


def format_json(description: Description) -> str:
    """A description for scripts.

    Args:
      description: of any model.

    Returns:
      One JSON object; every key is always there, null where it does not apply:
      model (text), format (text, the line that people see), keras_version, backend, sha256 (text),
      inputs and outputs (lists of {name, shape, dtype}; shapes with the batch and null for free
      sizes, null alone where not known), can_be_fine_tuned (bool), refusal (text), cut_reason
      (text), dropped (list of layer names), features_shape, pooling (text), pixel_range (text, null
      where only the data tell), pixel_range_reason (text), pixel_range_warning (bool), unit (what
      layers counts: "layers" or "weight groups"), freeze ({rule, batch_norm, num_frozen, cut: the
      last layer of the frozen prefix}), layers (list of {number, name, class, output_shape,
      parameters, is_batch_norm, state: "frozen", "trainable", "held" or null}), weights (of a file
      of weights only: list of {layer, name, shape, dtype}), signatures (of a SavedModel: list of
      {name, inputs, outputs}, these as above), notes (list of lines), findings (list of {message,
      severity: "warning" or "info", kind, where}, see `findings.Finding`).
    """
    pixels, plan, signatures = description.pixels, description.plan, description.signatures
    states = {row.number: state for row, state in plan.rows} if plan else {}
    document = {
        "model": description.model,
        "format": description.source,
        "keras_version": description.keras_version,
        "backend": description.backend,
        "sha256": description.sha256,
        "inputs": [dataclasses.asdict(end) for end in description.inputs],
        "outputs": [dataclasses.asdict(end) for end in description.outputs],
        "can_be_fine_tuned": description.refusal is None,
        "refusal": description.refusal,
        "cut_reason": description.cut_reason,
        "dropped": description.dropped,
        "features_shape": description.features_shape,
        "pooling": description.pooling,
        "pixel_range": pixels.name if pixels else None,
        "pixel_range_reason": pixels.reason if pixels else None,
        "pixel_range_warning": pixels.warning if pixels else None,
        "unit": description.table.unit,
        "freeze": _freeze_facts(plan) if plan else None,
        "layers": [
            {
                "number": row.number,
                "name": row.name,
                "class": row.class_name,
                "output_shape": row.output_shape,
                "parameters": row.num_parameters,
                "is_batch_norm": row.is_batch_norm,
                "state": states.get(row.number),
            }
            for row in description.table.rows
        ],
        "weights": [
            {"layer": name, "name": weight.name, "shape": weight.shape, "dtype": weight.dtype}
            for name, weights in description.weights
            for weight in weights
        ],
        "signatures": None if signatures is None else list(map(dataclasses.asdict, signatures)),
        "notes": description.notes,
        "findings": [dataclasses.asdict(finding) for finding in description.found or ()],
    }
    return json.dumps(document, indent=1)


# Value of --inspect_format -> what writes it.
STYLES: dict[str, Callable[[Description], str]] = {"text": format_text, "json": format_json}


def _freeze_facts(plan: freezing.FreezePlan) -> dict[str, typing.Any]:
    return {
        "rule": plan.rule,
        "batch_norm": plan.batch_norm,
        "num_frozen": plan.num_frozen,
        "cut": plan.cut,
    }


def _facts(description: Description) -> list[tuple[str, str]]:
    facts = [("Model", findings.one_line(description.model)), ("Format", _source(description))]
    if description.sha256:
        facts.append(("SHA-256", description.sha256))
    for label, ends in (("Input", description.inputs), ("Output", description.outputs)):
        if ends:
            shown = "; ".join(map(_show_end, ends))
            facts.append((label if len(ends) == 1 else f"{label}s", shown))
    for signature in description.signatures or ():
        facts.append(("Signature", f"{findings.one_line(signature.name)}: {signature}"))
    if description.found is not None:
        facts.append(("Examined", _count_findings(description.found)))
    if description.refusal is not None:
        return [*facts, ("Cannot be fine-tuned as it is", findings.one_line(description.refusal))]
    pixels = description.pixels
    facts += [
        (_cut_label(description), description.cut_reason or ""),
        ("Cut off", findings.list_first(list(description.dropped)) or "nothing"),
        ("Features", freezing.format_shape(description.features_shape)),
        ("Pooling", description.pooling or _BY_RUN),
    ]
    if pixels:
        named = f"{pixels.name}: " if pixels.name else ""
        warning = " (WARNING)" if pixels.warning else ""
        facts.append(("Pixel range", f"{named}{pixels.reason}{warning}"))
    return facts


def _cut_label(description: Description) -> str:
    # A graph is not cut, so that nothing of it is old.
    has_groups = description.table.unit != layer_table.LayerTable(()).unit
    return "Features from" if has_groups else "Old classifier"


def _count_findings(found: tuple[findings.Finding, ...]) -> str:
    count = len(found)
    return f"{count} finding{'s' if count > 1 else ''}, see below" if count else "no findings"


def _source(description: Description) -> str:
    backend = f", {description.backend} backend" if description.backend else ""
    return findings.one_line(description.source + backend)


def _show_end(end: stored_table.End) -> str:
    free = " (? is any size)" if end.shape and None in end.shape[1:] else ""
    dtype = f" {end.dtype}" if end.dtype else ""
    return f"{findings.one_line(end.name)} {freezing.format_shape(end.shape)}{dtype}{free}"


def _format_rows(description: Description) -> list[str]:
    if description.weights:
        cells: list[tuple[str, ...]] = [("number", "layer", "weight", "shape", "type")]
        cells += [
            (
                str(number),
                findings.one_line(name),
                findings.one_line(weight.name),
                str(weight.shape),
                weight.dtype,
            )
            for number, (name, weights) in enumerate(description.weights, start=1)
            for weight in weights
        ]
        total = f"Weights: {len(cells) - 1}"
    else:
        cells = freezing.describe_rows(description.table)
        total = f"{description.table.unit.capitalize()}: {len(description.table)}"
    parameters = sum(row.num_parameters for row in description.table.rows)
    return [*freezing.format_columns(cells), f"{total}. Parameters: {parameters:,}."]
