"""Whether the stored kernels of Dense layers are those that the configuration would build.

One idea: a Dense layer is where a few bytes of configuration ask for gigabytes, its input's side
times its units. The side is followed from the input through layers that keep or plainly change it;
where that ends, nothing is claimed. The loader compares all layers; this is what must be known
before.
"""

import math
import typing
from collections.abc import Collection, Iterator, Mapping

Config = dict[str, typing.Any]
Shape = tuple[typing.Any, ...]

_KEEPS = frozenset(
    {
        "Activation",
        "ActivityRegularization",
        "AlphaDropout",
        "BatchNormalization",
        "Dropout",
        "ELU",
        "GaussianDropout",
        "GaussianNoise",
        "InputLayer",
        "LayerNormalization",
        "LeakyReLU",
        "PReLU",
        "ReLU",
        "Rescaling",
        "Softmax",
    }
)


def find_mismatches(
    config: Config,
    *,
    by_layer: Mapping[str, Collection[Shape]] | None = None,
    any_layer: Collection[Shape] = (),
) -> Iterator[tuple[str, Shape]]:
    """Compares Dense layers of the outer model with stored kernels.

    Args:
      config: of the whole model, Sequential or functional.
      by_layer: shapes of the kernels below each layer's name; None: not known.
      any_layer: shapes of all stored arrays, where they are not told apart by layer.

    Yields:
      (name of the layer, shape that its kernel should have, None where a side is not known).
    """
    inner = config.get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else inner
    shapes: dict[str, Shape | None] = {}
    before: Shape | None = _input_shape(inner) if isinstance(inner, dict) else None
    for layer in layers if isinstance(layers, list) else ():
        values = layer.get("config") if isinstance(layer, dict) else None
        if not isinstance(values, dict):
            return
        name = str(values.get("name", layer.get("name")))
        if "inbound_nodes" in layer:
            before = _inbound_shape(layer["inbound_nodes"], shapes)
        given = _input_shape(values)
        before = given if given is not None else before
        if layer.get("class_name") == "Dense" and not _is_quantized(values):
            expected = (before[-1] if before else None, values.get("units"))
            stored = any_layer if by_layer is None else by_layer.get(name, ())
            clear = by_layer is None or len(stored) == 1
            if clear and stored and not any(_fits(shape, expected) for shape in stored):
                yield name, expected
        before = shapes[name] = _output_shape(str(layer.get("class_name")), values, before)


def _output_shape(class_name: str, values: Config, shape: Shape | None) -> Shape | None:
    if shape is None or class_name in _KEEPS:
        return shape
    if class_name == "Dense":
        return (*shape[:-1], values.get("units"))
    if class_name == "Flatten":
        sides = shape[1:]
        whole = all(isinstance(side, int) for side in sides)
        return (shape[0], math.prod(sides) if whole else None)
    return None


def _inbound_shape(nodes: typing.Any, shapes: Mapping[str, Shape | None]) -> Shape | None:
    # One call with one input is followed. Keras 3 names it in a history, Keras 2 first in a list.
    names = list(_names(nodes)) if isinstance(nodes, list) and len(nodes) == 1 else []
    return shapes.get(names[0]) if len(names) == 1 else None


def _names(value: typing.Any) -> Iterator[str]:
    if isinstance(value, dict):
        history = value.get("keras_history")
        if isinstance(history, list) and history:
            yield str(history[0])
            return
        for inner in value.values():
            yield from _names(inner)
    elif isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int):
            yield value[0]
            return
        for inner in value:
            yield from _names(inner)


def _input_shape(values: Config) -> Shape | None:
    for key in ("batch_shape", "batch_input_shape", "build_input_shape"):
        shape = values.get(key)
        if (
            isinstance(shape, list)
            and shape
            and all(isinstance(side, int | None) for side in shape)
        ):
            return tuple(shape)
    return None


def _is_quantized(values: Config) -> bool:
    # int4 kernels are stored two values a byte.
    return bool(values.get("quantization_config")) or "uant" in str(values.get("dtype"))


def _fits(shape: Shape, expected: Shape) -> bool:
    return len(shape) == len(expected) and all(
        not isinstance(side, int) or side == stored
        for side, stored in zip(expected, shape, strict=True)
    )
