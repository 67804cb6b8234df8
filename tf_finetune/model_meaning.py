"""What model.json says of a model, checked before anything is built, named or sized after it.

One idea: a run's folder may be a stranger's, so every value that reaches a file name, an array's
size or a table is held against what training could have written, and against the model itself.
"""

from collections.abc import Mapping
from typing import Any

import keras

from tf_finetune import head_kinds, run_records, specs
from tf_finetune.data import columns, mixed_spec, preprocessing, text_store

_HEAD_KEYS = {"name", "kind", "classes", "thresholds"}
# Runs from before there was regression have none.
_NUMBER_KEYS = {"mean", "deviation"}
_COLUMN_DTYPES = ("float32", "int32", "int64", "string")
_MAX_NUMBER = 1e38


def read_heads(value: Any) -> tuple[head_kinds.HeadInfo, ...]:
    """Reads the heads of a model.json.

    Args:
      value: what stands under "heads".

    Returns:
      The heads.

    Raises:
      ValueError: it is no list of heads that training could have written; the text says why.
    """
    if not isinstance(value, list) or not value:
        raise ValueError("heads: expected a list of at least one head")
    heads = tuple(_read_head(head) for head in value)
    if len({head.name for head in heads}) != len(heads):
        raise ValueError("heads: a name is there twice")
    return heads


def _read_head(value: Any) -> head_kinds.HeadInfo:
    if not isinstance(value, dict) or set(value) - _NUMBER_KEYS != _HEAD_KEYS:
        raise ValueError(f"heads: expected the keys {', '.join(sorted(_HEAD_KEYS))} of each head")
    name, kind = value["name"], value["kind"]
    if not isinstance(name, str) or not specs.NAME_PATTERN.fullmatch(name) or name == "loss":
        raise ValueError(
            "heads: a name expects a letter, then letters, digits, '_', '.' or '-'. "
            f"Received {name!r}"
        )
    if not isinstance(kind, str) or kind not in head_kinds.HEAD_KINDS:
        known = ", ".join(head_kinds.HEAD_KINDS)
        raise ValueError(f"head {name}: kind must be one of {known}. Received {kind!r}")
    classes = _read_classes(value["classes"], name, kind)
    expected = head_kinds.HEAD_KINDS[kind].num_thresholds(len(classes))
    thresholds = value["thresholds"]
    if (
        not isinstance(thresholds, list)
        or len(thresholds) != expected
        or not all(run_records.is_number(number, lower=0, upper=1) for number in thresholds)
    ):
        raise ValueError(f"head {name}: expected {expected} thresholds, numbers from 0 to 1")
    mean, deviation = value.get("mean", 0.0), value.get("deviation", 1.0)
    if (
        not run_records.is_number(mean, lower=-_MAX_NUMBER, upper=_MAX_NUMBER)
        or not run_records.is_number(deviation, lower=0, upper=_MAX_NUMBER)
        or not deviation
    ):
        raise ValueError(f"head {name}: mean and deviation must be numbers, deviation above 0")
    return head_kinds.HeadInfo(
        name,
        kind,
        classes,
        tuple(map(float, thresholds)),
        mean=float(mean),
        deviation=float(deviation),
    )


def _read_classes(value: Any, name: str, kind: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(map(run_records.is_line, value)):
        raise ValueError(f"head {name}: classes must be texts of one line")
    if not head_kinds.HEAD_KINDS[kind].has_classes:
        if value:
            raise ValueError(f"head {name}: kind={kind} has no classes. Received {len(value)}")
    elif len(set(value)) != len(value) or len(value) < 2:
        raise ValueError(f"head {name}: expected two or more different classes")
    if kind == "binary" and len(value) != 2:
        raise ValueError(f"head {name}: kind=binary has 2 classes. Received {len(value)}")
    return tuple(value)


def read_inputs(value: Any) -> preprocessing.InputSpec:
    """Reads the preprocessing of a model.json.

    Args:
      value: what stands under "preprocessing".

    Returns:
      What the model takes.

    Raises:
      ValueError: it is no preprocessing that training could have written; the text says why.
    """
    if not isinstance(value, dict):
        raise ValueError("preprocessing: expected an object")
    try:
        inputs = preprocessing.read_input_spec(value)
    except (KeyError, TypeError) as error:
        raise ValueError(f"preprocessing: {error}") from error
    reason = _find_fault(inputs)
    if reason:
        raise ValueError(f"preprocessing: {reason}")
    return inputs


def _find_fault(inputs: preprocessing.InputSpec) -> str:
    if isinstance(inputs, mixed_spec.MixedSpec):
        names = {part.name for part in inputs.columns.inputs}
        if names & {"image", text_store.INPUT}:
            return "an input of columns has the name of the image or the text"
        if not run_records.is_line(inputs.column):
            return "column must be a text of one line"
        return _find_fault(inputs.main) or _find_columns_fault(inputs.columns)
    if isinstance(inputs, columns.ColumnsSpec):
        return _find_columns_fault(inputs)
    if isinstance(inputs, text_store.TextSpec):
        return _find_text_fault(inputs)
    return _find_image_fault(inputs)


def _find_text_fault(inputs: text_store.TextSpec) -> str:
    if inputs.kind != text_store.TextSpec.kind:
        return f"kind must be {text_store.TextSpec.kind}"
    return "" if run_records.is_line(inputs.column) else "column must be a text of one line"


def _find_columns_fault(inputs: columns.ColumnsSpec) -> str:
    names = [part.name for part in inputs.inputs]
    if not names or not all(map(run_records.is_line, names)) or len(set(names)) != len(names):
        return "inputs must be at least one, each of a name of its own"
    for part in inputs.inputs:
        if not part.columns or not all(map(run_records.is_line, part.columns)):
            return "columns must be texts of one line, at least one for each input"
        if part.dtype not in _COLUMN_DTYPES:
            return f"dtype must be one of {', '.join(_COLUMN_DTYPES)}"
        single = len(part.columns) == 1
        if part.shape != (len(part.columns),) and not (single and part.shape == ()):
            return "shape must be that of the columns"
    return ""


def _find_image_fault(inputs: preprocessing.PreprocessingSpec) -> str:
    most = specs.DataSpec.max_image_pixels
    sides = (inputs.height, inputs.width)
    if not all(type(side) is int and side >= 1 for side in sides) or sides[0] * sides[1] > most:
        return f"height and width must be whole numbers, together of at most {most:,} pixels"
    if type(inputs.channels) is not int or inputs.channels not in (1, 3):
        return "channels must be 1 or 3"
    if inputs.resize not in specs.RESIZES:
        return f"resize must be one of {', '.join(specs.RESIZES)}"
    white = inputs.pixel_max
    if white is not None and not run_records.is_number(white, lower=1, upper=65535):
        return "pixel_max must be null or a number from 1 to 65535"
    return ""


def check_loss_weights(value: Any, heads: tuple[head_kinds.HeadInfo, ...]) -> None:
    """Checks the weights of the heads' losses.

    Args:
      value: what stands under "loss_weights".
      heads: the heads.

    Raises:
      ValueError: it is no number for each head.
    """
    if (
        not isinstance(value, dict)
        or set(value) != {head.name for head in heads}
        or not all(run_records.is_number(weight, lower=0, upper=1e38) for weight in value.values())
    ):
        raise ValueError("loss_weights: expected a number, 0 or more, for each head")


def check_model(
    model: keras.Model, heads: tuple[head_kinds.HeadInfo, ...], inputs: preprocessing.InputSpec
) -> None:
    """Holds a model against what its model.json says of it.

    Args:
      model: as opened.
      heads: of its model.json.
      inputs: of its model.json.

    Raises:
      ValueError: the model has other inputs or outputs; the text says which.
    """
    received, outputs = _shapes_of(model, "input"), _shapes_of(model, "output")
    names = sorted(head.name for head in heads)
    if sorted(outputs) != names:
        raise ValueError(f"heads: the model has the outputs {sorted(outputs)}, not {names}")
    for head in heads:
        positions = head_kinds.HEAD_KINDS[head.kind].positions
        if positions == "words":
            if not isinstance(inputs, text_store.TextSpec):
                raise ValueError(f"head {head.name}: kind={head.kind} is of texts")
            places: tuple[int | None, ...] = (None,)
        elif positions == "pixels":
            if not isinstance(inputs, preprocessing.PreprocessingSpec):
                raise ValueError(f"head {head.name}: kind={head.kind} is of images")
            places = (inputs.height, inputs.width)
        else:
            places = ()
        expected = (*places, head_kinds.num_logits(head.kind, len(head.classes)))
        if outputs[head.name] != expected:
            raise ValueError(
                f"head {head.name}: the model gives {outputs[head.name]} numbers, and its classes "
                f"need {expected}"
            )
    main, own = mixed_spec.find_main(inputs), mixed_spec.find_columns(inputs)
    expected_inputs = {part.name: part.shape for part in own.inputs} if own else {}
    if isinstance(main, preprocessing.PreprocessingSpec):
        expected_inputs["image"] = (main.height, main.width, main.channels)
    elif isinstance(main, text_store.TextSpec):
        expected_inputs[text_store.INPUT] = ()
    if sorted(received) != sorted(expected_inputs) or not all(
        _fits(received[name], shape) for name, shape in expected_inputs.items()
    ):
        raise ValueError(f"preprocessing: the model takes {received}, not {expected_inputs}")


def _shapes_of(model: keras.Model, attribute: str) -> dict[str, tuple[int | None, ...]]:
    """{name: shape without the batch}; empty where a model has no named inputs or outputs."""
    try:
        tensors = getattr(model, attribute)
    except (AttributeError, ValueError):  # never built: it has neither
        return {}
    if not isinstance(tensors, Mapping):
        return {}
    return {name: tuple(getattr(tensor, "shape", ()))[1:] for name, tensor in tensors.items()}


def _fits(received: tuple[int | None, ...], expected: tuple[int, ...]) -> bool:
    return len(received) == len(expected) and all(
        side in (None, wanted) for side, wanted in zip(received, expected, strict=True)
    )
