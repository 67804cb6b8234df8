"""What is in a model file, and what a --freeze rule would do to it, as text or JSON.

One idea: everything is first collected as one `descriptions.Description`, then printed. Of an .h5
or .keras file it is read from the file's header alone, of a SavedModel from its graph's
description, without TensorFlow and without the weights; every other model is loaded as training
would load it.
"""

import dataclasses

from tf_finetune import descriptions, distribution, findings, freezing, layer_table, specs, trust
from tf_finetune.models import admission, cut_rules, formats
from tf_finetune.models.origins import hub_handles
from tf_finetune.models.saved import saved_model_files, stored_module
from tf_finetune.models.stored import (
    graph_reader,
    stored_classes,
    stored_config,
    stored_graph,
    stored_model,
    stored_table,
    weight_sizes,
)
from tf_finetune.trust import refusals

_BY_DATA = "settled with the data, by the statistics of the first BatchNormalization"
_STORED_FORMATS = (formats.HDF5, formats.KERAS)
_FOLDER_FORMATS = (formats.SAVED_MODEL, formats.HANDLE, formats.ARCHIVE)


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
      style: "text" for people, "json" for scripts, see `descriptions.format_json`.

    Returns:
      Text: lines on the file, its inputs and outputs, the cut, pooling and pixel range, then the
      table of numbered layers that --freeze counts. No line end after the last.

    Raises:
      findings.RefusedError: the model cannot be loaded, a flag does not suit it, or the rule does
        not fit it. One that loads but cannot be fine-tuned is described, with the reason.
      specs.SpecError: the rule is malformed.
    """
    description = describe(spec, freeze=freeze, batch_norm=batch_norm)
    return descriptions.STYLES[style](description)


def describe(
    spec: specs.ModelSpec, *, freeze: str | None = None, batch_norm: str = "frozen"
) -> descriptions.Description:
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
    if spec.preprocessor:
        formats.check_preprocessor(spec.preprocessor, model=spec.model)
    admission.start(spec)
    # Code that the user trusts can only be asked by running it; --weights is refused there.
    from_header = not (spec.custom_objects or spec.trust_model or spec.weights)
    if kind in _STORED_FORMATS and from_header:
        found = _describe_stored(spec)
    elif kind in _FOLDER_FORMATS and from_header:
        found = _describe_folder(spec)
    elif kind == formats.ARCHITECTURE and not spec.weights:
        found = _describe_architecture(spec)
    else:
        found = _describe_loaded(spec)
    if found.refusal is not None:
        return found
    plan = freezing.plan_freeze(freeze or "all", found.table, batch_norm=batch_norm)
    return dataclasses.replace(found, plan=plan)


def _describe_stored(spec: specs.ModelSpec) -> descriptions.Description:
    path = spec.model
    sha256 = formats.check_sha256(path, spec.model_sha256)  # while the file is examined
    try:
        found = hub_handles.fetch(path).found
    except trust.UntrustedModelError as error:
        refusal = _text(error).removeprefix(f"{findings.one_line(path)}: ")
        if not refusal.startswith(refusals.WEIGHTS_ONLY):
            raise
        admission.check(path, role=admission.WEIGHTS)
        weights_only = weight_sizes.read_weights_only(path)
        if weights_only is None:
            raise
        return _describe_weights(spec, weights_only, sha256=sha256, refusal=refusal)
    stored = stored_model.read_stored_model(path)
    table = _read_table(spec, stored)
    if table is None:
        return _describe_loaded(spec)
    description = _from_table(spec, stored, table, sha256=sha256)
    return dataclasses.replace(description, found=found)


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
    except findings.RefusedError:
        raise  # a ValueError too, but no damage
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
) -> descriptions.Description:
    description = descriptions.Description(
        model=spec.model,
        source=f"{stored.format} of Keras {stored.keras_version}",
        keras_version=stored.keras_version,
        backend=stored.backend or None,
        sha256=sha256,
        inputs=found.inputs,
        outputs=found.outputs,
        table=found.table,
        refusal=found.refusal,
        notes=(*stored.notes, *_list_input_notes(found)),
    )
    backbone = found.backbone
    if backbone is None:
        return description
    pixels = backbone.pixel_range
    shown: descriptions.Pixels | None = None
    if backbone.unknown_scaling:
        layer = findings.one_line(backbone.unknown_scaling)
        shown = descriptions.Pixels(
            None, f"settled when the model is loaded, by running its layer '{layer}'"
        )
    elif pixels is not None:
        shown = descriptions.Pixels(pixels.name, pixels.reason, pixels.warning)
    elif backbone.input_kind == "image":
        shown = descriptions.Pixels(None, _BY_DATA)
    return dataclasses.replace(
        description,
        cut_reason=backbone.reason,
        dropped=backbone.dropped,
        features_shape=backbone.features_shape,
        pooling=backbone.pooling,
        pixels=shown,
    )


def _list_input_notes(found: stored_table.StoredTable) -> tuple[str, ...]:
    if found.backbone is None or found.backbone.input_kind != cut_rules.TEXT:
        return ()
    if found.inputs[0].dtype == "string":
        return ()
    return ("It takes token ids: --vocabulary names the words that it was trained with.",)


def _describe_weights(
    spec: specs.ModelSpec,
    found: weight_sizes.WeightsOnly,
    *,
    sha256: str,
    refusal: str,
) -> descriptions.Description:
    rows = tuple(
        layer_table.LayerRow(number, name, "?", None, sum(weight.size for weight in weights), False)
        for number, (name, weights) in enumerate(found.layers, start=1)
    )
    return descriptions.Description(
        found=(),
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


def _describe_folder(spec: specs.ModelSpec) -> descriptions.Description:
    local = hub_handles.fetch(spec.model, sha256=spec.model_sha256)
    if formats.detect_format(local.path, where=spec.model) != formats.SAVED_MODEL:
        return _describe_loaded(spec)
    try:
        found = stored_module.describe_module(local.path, spec)
    except findings.RefusedError:
        if local.path == spec.model:
            raise
        return _describe_loaded(spec)  # which calls the model what the user calls it
    except stored_module.UnclearError:
        signatures = saved_model_files.list_signatures(saved_model_files.read_module(local.path))
        return dataclasses.replace(_describe_loaded(spec), signatures=signatures)
    pixels = found.pixel_range
    return descriptions.Description(
        model=spec.model,
        source=found.source,
        sha256=local.sha256,
        inputs=found.inputs,
        outputs=found.outputs,
        table=found.table,
        refusal=found.refusal,
        cut_reason=found.cut_reason,
        features_shape=found.features_shape,
        pooling=found.pooling,
        pixels=descriptions.Pixels(pixels.name, pixels.reason, pixels.warning) if pixels else None,
        notes=found.notes,
        signatures=found.signatures,
        found=local.found,
    )


def _describe_architecture(spec: specs.ModelSpec) -> descriptions.Description:
    distribution.import_quietly()
    from tf_finetune.models import architectures, flattening, loading

    loaded = loading.load_architecture(spec)
    model = flattening.functional_of(loaded.model) or loaded.model
    ends = [
        tuple(stored_table.End(t.name, tuple(t.shape), str(t.dtype)) for t in tensors)
        for tensors in (getattr(model, "inputs", ()), getattr(model, "outputs", ()))
    ]
    return descriptions.Description(
        model=spec.model,
        source=loaded.source,
        inputs=ends[0],
        outputs=ends[1],
        table=layer_table.table_from_model(model),
        refusal=architectures.NO_WEIGHTS,
        notes=loaded.notes,
        found=(),
    )


def _describe_loaded(spec: specs.ModelSpec) -> descriptions.Description:
    # TensorFlow takes seconds to import: only where a model is really opened.
    distribution.import_quietly()
    from tf_finetune.models import loading

    backbone = loading.load_backbone(spec)
    found, pixels = backbone.pixel_range, None
    if found is not None:
        pixels = descriptions.Pixels(found.name, found.reason, found.warning)
    elif backbone.input_kind == "image":
        pixels = descriptions.Pixels(None, _BY_DATA)
    model = backbone.model
    return descriptions.Description(
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
        found=backbone.found,
    )


def _text(error: findings.RefusedError) -> str:
    return " ".join(problem.message for problem in error.problems)
