"""What is in a model file, and what a --freeze rule would do to it, as text or JSON.

One idea: everything is first collected as one `Description`, then printed. Of an .h5 or .keras file
it is read from the file's header alone, without TensorFlow and without the weights; every other
model is loaded as training would load it.
"""

import dataclasses
import json
import typing
from collections.abc import Callable

from tf_finetune import distribution, findings, freezing, layer_table, specs
from tf_finetune.models import formats
from tf_finetune.models.stored import (
    graph_reader,
    stored_classes,
    stored_config,
    stored_graph,
    stored_model,
    stored_table,
    weight_sizes,
)

_BY_DATA = "settled with the data, by the statistics of the first BatchNormalization"
_STORED_FORMATS = (formats.HDF5, formats.KERAS)
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
      features_shape: what new heads are given.
      pooling: how features become a vector.
      pixels: what the model expects; None where it takes none.
      table: its numbered layers.
      plan: what --freeze does to them; None where it cannot be fine-tuned.
      notes: lines for the user.
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


def describe_model(
    spec: specs.ModelSpec,
    *,
    freeze: str | None = None,
    batch_norm: str = "frozen",
    style: str = "text",
) -> str:
    """Describes a pretrained model without training or running it.

    Args:
      spec: which model, and how it would be cut.
      freeze: a --freeze rule; None: all.
      batch_norm: value of --batch_norm.
      style: "text" for people, "json" for scripts, see `format_json`.

    Returns:
      Text: lines on the file, its inputs and outputs, the cut, pooling and pixel range, then the
      table of numbered layers that --freeze counts. No line end after the last.

    Raises:
      findings.RefusedError: the model cannot be loaded, a flag does not suit it, or the rule does
        not fit it. One that loads but cannot be fine-tuned is described, with the reason.
      specs.SpecError: the rule is malformed.
    """
    description = describe(spec, freeze=freeze, batch_norm=batch_norm)
    return _STYLES[style](description)


def describe(
    spec: specs.ModelSpec, *, freeze: str | None = None, batch_norm: str = "frozen"
) -> Description:
    """Collects what is known of a pretrained model.

    Args:
      spec: which model, and how it would be cut.
      freeze: a --freeze rule; None: all.
      batch_norm: value of --batch_norm.

    Returns:
      The description.

    Raises:
      findings.RefusedError: see `describe_model`.
      specs.SpecError: the rule is malformed.
    """
    kind = formats.detect_format(spec.model)
    # Code that the user trusts can only be asked by running it; --weights is refused there.
    from_header = not (spec.custom_objects or spec.trust_model or spec.weights)
    if kind in _STORED_FORMATS and from_header:
        found = _describe_stored(spec)
    else:
        found = _describe_loaded(spec)
    if found.refusal is not None:
        return found
    plan = freezing.plan_freeze(freeze or "all", found.table, batch_norm=batch_norm)
    return dataclasses.replace(found, plan=plan)


def format_text(description: Description) -> str:
    """A description for people.

    Args:
      description: of any model.

    Returns:
      Lines without a line end after the last.
    """
    lines = [f"{name + ':':<{_MAX_LABEL}} {value}" for name, value in _facts(description)]
    lines += [f"Note: {note}" for note in description.notes]
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
      of weights only: list of {layer, name, shape, dtype}), notes (list of lines).
    """
    pixels, plan = description.pixels, description.plan
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
        "notes": description.notes,
    }
    return json.dumps(document, indent=1)


_STYLES: dict[str, Callable[[Description], str]] = {"text": format_text, "json": format_json}


def _freeze_facts(plan: freezing.FreezePlan) -> dict[str, typing.Any]:
    return {
        "rule": plan.rule,
        "batch_norm": plan.batch_norm,
        "num_frozen": plan.num_frozen,
        "cut": plan.cut,
    }


def _describe_stored(spec: specs.ModelSpec) -> Description:
    path = spec.model
    sha256 = formats.check_sha256(path, spec.model_sha256)
    try:
        stored = stored_model.read_stored_model(path)
    except findings.RefusedError as error:
        weights_only = weight_sizes.read_weights_only(path)
        if weights_only is None:
            raise
        refusal = _text(error).removeprefix(f"{findings.one_line(path)}: ")
        return _describe_weights(spec, weights_only, sha256=sha256, refusal=refusal)
    table = _read_table(spec, stored)
    if table is None:
        return _describe_loaded(spec)
    return _from_table(spec, stored, table, sha256=sha256)


def _read_table(
    spec: specs.ModelSpec, stored: stored_model.StoredModel
) -> stored_table.StoredTable | None:
    """The layers of a stored model; None where loading changes them."""
    path = spec.model
    try:
        stored_classes.check_classes(stored, where=path)
        graph = graph_reader.read_graph(stored.config)
        if graph is not None and stored_table.is_rearranged(graph):
            return None
        layers = graph or graph_reader.read_layers(stored.config)
        with weight_sizes.open_weights(path, renamed=stored.renamed) as weights:
            weights.assign(layers)
            if graph is None:
                return stored_table.describe_layers(layers, weights)
            return stored_table.describe_graph(graph, weights, spec)
    except stored_graph.GraphError as error:
        raise stored_config.refused(path, findings.one_line(str(error))) from error
    except (AttributeError, IndexError, TypeError) as error:
        # Values of another kind than Keras writes.
        reason = findings.one_line(f"{type(error).__name__}: {error}")
        raise stored_config.refused(
            path, f"its stored configuration is damaged ({reason})."
        ) from error
    except stored_model.HDF5_ERRORS as error:
        raise stored_model.damaged(path, error) from error


def _from_table(
    spec: specs.ModelSpec,
    stored: stored_model.StoredModel,
    found: stored_table.StoredTable,
    *,
    sha256: str,
) -> Description:
    description = Description(
        model=spec.model,
        source=f"{stored.format} of Keras {stored.keras_version}",
        keras_version=stored.keras_version,
        backend=stored.backend or None,
        sha256=sha256,
        inputs=found.inputs,
        outputs=found.outputs,
        table=found.table,
        refusal=found.refusal,
        notes=stored.notes,
    )
    backbone = found.backbone
    if backbone is None:
        return description
    pixels = backbone.pixel_range
    shown: Pixels | None = None
    if backbone.unknown_scaling:
        layer = findings.one_line(backbone.unknown_scaling)
        shown = Pixels(None, f"settled when the model is loaded, by running its layer '{layer}'")
    elif pixels is not None:
        shown = Pixels(pixels.name, pixels.reason, pixels.warning)
    elif found.inputs[0].dtype != "string":
        shown = Pixels(None, _BY_DATA)
    return dataclasses.replace(
        description,
        cut_reason=backbone.reason,
        dropped=backbone.dropped,
        features_shape=backbone.features_shape,
        pooling=backbone.pooling,
        pixels=shown,
    )


def _describe_weights(
    spec: specs.ModelSpec,
    found: weight_sizes.WeightsOnly,
    *,
    sha256: str,
    refusal: str,
) -> Description:
    rows = tuple(
        layer_table.LayerRow(
            number=number,
            name=name,
            class_name="?",
            output_shape=None,
            num_parameters=sum(weight.size for weight in weights),
            is_batch_norm=False,
        )
        for number, (name, weights) in enumerate(found.layers, start=1)
    )
    return Description(
        model=spec.model,
        source=f"HDF5, weights only, of {found.writer}",
        keras_version=found.keras_version,
        backend=found.backend,
        sha256=sha256,
        inputs=(),
        outputs=(),
        table=layer_table.LayerTable(rows),
        refusal=refusal,
        weights=found.layers,
    )


def _describe_loaded(spec: specs.ModelSpec) -> Description:
    # TensorFlow takes seconds to import: only where a model is really opened.
    distribution.import_quietly()
    from tf_finetune.models import loading

    backbone = loading.load_backbone(spec)
    found, pixels = backbone.pixel_range, None
    if found is not None:
        pixels = Pixels(found.name, found.reason, found.warning)
    elif backbone.input_kind == "image":
        pixels = Pixels(None, _BY_DATA)
    model = backbone.model
    return Description(
        model=spec.model,
        source=backbone.source,
        sha256=backbone.sha256,
        inputs=tuple(
            stored_table.End(tensor.name, tuple(tensor.shape), str(tensor.dtype))
            for tensor in model.inputs
        ),
        outputs=tuple(stored_table.End(name, shape, None) for name, shape in backbone.outputs),
        table=backbone.table,
        cut_reason=backbone.cut_reason,
        dropped=backbone.dropped,
        features_shape=tuple(model.outputs[0].shape),
        pooling=backbone.pooling,
        pixels=pixels,
        notes=backbone.notes,
    )


def _facts(description: Description) -> list[tuple[str, str]]:
    facts = [("Model", findings.one_line(description.model)), ("Format", _source(description))]
    if description.sha256:
        facts.append(("SHA-256", description.sha256))
    for label, ends in (("Input", description.inputs), ("Output", description.outputs)):
        if ends:
            shown = "; ".join(map(_show_end, ends))
            facts.append((label if len(ends) == 1 else f"{label}s", shown))
    if description.refusal is not None:
        return [*facts, ("Cannot be fine-tuned as it is", findings.one_line(description.refusal))]
    pixels = description.pixels
    facts += [
        ("Old classifier", description.cut_reason or ""),
        ("Cut off", findings.list_first(list(description.dropped)) or "nothing"),
        ("Features", freezing.format_shape(description.features_shape)),
        ("Pooling", description.pooling or ""),
    ]
    if pixels:
        named = f"{pixels.name}: " if pixels.name else ""
        warning = " (WARNING)" if pixels.warning else ""
        facts.append(("Pixel range", f"{named}{pixels.reason}{warning}"))
    return facts


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


def _text(error: findings.RefusedError) -> str:
    return " ".join(problem.message for problem in error.problems)
