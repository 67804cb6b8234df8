"""What is in a model file, and what a --freeze rule would do to it, as text."""

import typing

from tf_finetune import findings, freezing, specs


def describe_model(
    spec: specs.ModelSpec, *, freeze: str | None = None, batch_norm: str = "frozen"
) -> str:
    """Describes a pretrained model without training or running it.

    Args:
      spec: which model, and how it would be cut.
      freeze: a --freeze rule; None: all.
      batch_norm: value of --batch_norm.

    Returns:
      Lines on the file, its inputs and outputs, the cut, pooling and pixel range, then the table
      of numbered layers that --freeze counts; no line end after the last.

    Raises:
      findings.RefusedError: the model cannot be loaded or cut, or the rule does not fit it.
      specs.SpecError: the rule is malformed.
    """
    # TensorFlow takes seconds to import: only where a model is really opened.
    from tf_finetune.models import loading

    backbone = loading.load_backbone(spec)
    plan = freezing.plan_freeze(freeze or "all", backbone.table, batch_norm=batch_norm)
    lines = [f"{name + ':':<15} {value}" for name, value in _facts(spec, backbone)]
    return "\n".join([*lines, "", freezing.format_plan(plan)])


def _facts(spec: specs.ModelSpec, backbone: typing.Any) -> list[tuple[str, str]]:
    shapes = "; ".join(
        f"{findings.one_line(name)} {freezing.format_shape(shape)}"
        for name, shape in backbone.outputs
    )
    features = freezing.format_shape(tuple(backbone.model.outputs[0].shape))
    found = backbone.pixel_range
    if found is None:
        pixels = "settled with the data, by the statistics of the first BatchNormalization"
    else:
        pixels = f"{found.name}: {found.reason}" + (" (WARNING)" if found.warning else "")
    facts = [
        ("Model", findings.one_line(spec.model)),
        ("Format", backbone.source),
        ("Input", f"{freezing.format_shape((None, *backbone.input_shape))}, ? is any size"),
        ("Outputs", shapes),
        ("Old classifier", backbone.cut_reason),
        ("Cut off", findings.list_first(list(backbone.dropped)) or "nothing"),
        ("Features", features),
        ("Pooling", backbone.pooling),
        ("Pixel range", pixels),
    ]
    if backbone.sha256:
        facts.insert(2, ("SHA-256", backbone.sha256))
    return facts
