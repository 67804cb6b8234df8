"""Output shapes of TensorFlow functions that a Keras 2 model called, by rule.

One idea: functions that work on single elements keep the shape that their operands stretch to,
reductions drop or keep axes. Of every other function the shape is only known by running it.

Reference: `tensor_operations.TensorOperation`; https://www.tensorflow.org/api_docs/python/tf.
"""

import math
import typing

Shape = tuple[int | None, ...]
Config = dict[str, typing.Any]

_ALL = {"start": None, "stop": None, "step": None}

_ELEMENTWISE = frozenset(
    (
        *("__operators__.add", "add", "subtract", "multiply", "divide", "truediv", "realdiv"),
        *("divide_no_nan", "floordiv", "floormod", "mod", "maximum", "minimum", "pow"),
        *(
            "squared_difference",
            "abs",
            "negative",
            "square",
            "sqrt",
            "rsqrt",
            "exp",
            "log",
            "log1p",
        ),
        *("sigmoid", "tanh", "softplus", "softsign", "sign", "round", "floor", "ceil", "erf"),
        *("relu", "relu6", "elu", "selu", "gelu", "silu", "swish", "leaky_relu", "softmax"),
        *("log_softmax", "cast", "identity", "clip_by_value", "stop_gradient", "l2_normalize"),
        *("zeros_like", "ones_like", "bias_add", "reciprocal", "scalar_mul", "convert_to_tensor"),
    )
)
_REDUCTIONS = ("mean", "sum", "max", "min", "prod", "std", "variance", "logsumexp")


def output_shape(config: dict[str, typing.Any], inputs: list[Shape]) -> Shape | None:
    """The shape of what a function returns.

    Args:
      config: of a TensorOperation: {"function", "arguments": {"args", "kwargs"}}.
      inputs: shapes of its tensors.

    Returns:
      The shape; None where no rule applies.
    """
    name = str(config["function"])
    name = name if name.startswith("__") else name.rpartition(".")[2]
    args, kwargs = config["arguments"]["args"], config["arguments"]["kwargs"]
    if name in _ELEMENTWISE:
        return _stretched([*args, *kwargs.values()], inputs)
    if name in _RULES:
        return _RULES[name](args, kwargs, inputs[0]) if len(inputs) == 1 else None
    if name.removeprefix("reduce_") in _REDUCTIONS and name.startswith("reduce_"):
        axis = args[1] if len(args) > 1 else kwargs.get("axis")
        keeps = args[2] if len(args) > 2 else kwargs.get("keepdims", kwargs.get("keep_dims"))
        return _reduced(inputs[0], axis, keeps_axes=bool(keeps))
    return None


def _argument(args: list[typing.Any], kwargs: Config, number: int, name: str) -> typing.Any:
    return args[number] if len(args) > number else kwargs.get(name)


def _sliced(args: list[typing.Any], kwargs: Config, shape: Shape) -> Shape | None:
    spec = _argument(args, kwargs, 1, "slice_spec")
    items = list(spec) if isinstance(spec, list) else [spec]
    present = [item for item in items if item is not None and not _is_ellipsis(item)]
    missing = [_ALL] * (len(shape) - len(present))
    dots = next((number for number, item in enumerate(items) if _is_ellipsis(item)), len(items))
    items[dots : dots + 1] = missing
    if not items or items[0] != _ALL:
        return None
    sides: list[int | None] = []
    rest = list(shape)
    for item in items:
        if item is None:
            sides.append(1)
        elif isinstance(item, int):
            rest.pop(0)
        elif isinstance(item, dict) and set(item) == set(_ALL):
            sides.append(_slice_length(item, rest.pop(0)))
        else:
            return None
    return tuple(sides)


def _slice_length(item: Config, side: int | None) -> int | None:
    if item == _ALL or {**item, "step": abs(item["step"] or 1)} == {**_ALL, "step": 1}:
        return side
    if side is None:
        return None
    return len(range(side)[slice(item["start"], item["stop"], item["step"])])


def _is_ellipsis(item: typing.Any) -> bool:
    return isinstance(item, dict) and item.get("class_name") == "__ellipsis__"


def _resized(args: list[typing.Any], kwargs: Config, shape: Shape) -> Shape | None:
    size = _argument(args, kwargs, 1, "size")
    if len(shape) != 4 or kwargs.get("preserve_aspect_ratio") or len(args) > 3:
        return None
    height, width = size
    return (shape[0], int(height), int(width), shape[3])


def _upsampled(args: list[typing.Any], kwargs: Config, shape: Shape) -> Shape | None:
    factors = (1, *kwargs["factors"], 1)
    return tuple(
        None if side is None else side * factor for side, factor in zip(shape, factors, strict=True)
    )


def _reshaped(args: list[typing.Any], kwargs: Config, shape: Shape) -> Shape | None:
    first, *sides = _argument(args, kwargs, 1, "shape")
    known = [side for side in shape[1:] if side is not None]
    if first not in (None, -1) or len(known) < len(shape) - 1:
        return None
    if not all(isinstance(side, int) and side > 0 for side in sides):
        return None
    # Examples stay whole only where the other sides account for all numbers of one.
    return (None, *sides) if math.prod(sides) == math.prod(known) else None


def _transposed(args: list[typing.Any], kwargs: Config, shape: Shape) -> Shape | None:
    order = _argument(args, kwargs, 1, "perm")
    if not order or order[0] != 0:
        return None
    return tuple(shape[number] for number in order)


_RULES: dict[str, typing.Callable[[list[typing.Any], Config, Shape], Shape | None]] = {
    "__operators__.getitem": _sliced,
    "resize": _resized,
    "resize_images": _resized,
    "resize_bilinear": _resized,
    "resize_nearest_neighbor": _resized,
    "upsample": _upsampled,
    "reshape": _reshaped,
    "transpose": _transposed,
}


def _stretched(operands: list[typing.Any], inputs: list[Shape]) -> Shape | None:
    # A constant list of numbers may stretch the shape: its own is not looked into.
    if any(isinstance(operand, list) for operand in operands):
        return inputs[0] if len(inputs[0]) == 4 else None
    longest = max(inputs, key=len)
    sides: list[int | None] = []
    for number in range(1, len(longest) + 1):
        known = [shape[-number] for shape in inputs if len(shape) >= number]
        larger = [side for side in known if side != 1]
        if not larger:
            sides.append(1)
        elif None in larger and len(set(larger)) > 1:
            return None
        else:
            sides.append(larger[0])
    return tuple(reversed(sides))


def _reduced(shape: Shape, axis: typing.Any, *, keeps_axes: bool) -> Shape | None:
    if axis is None:
        return None
    axes = {number % len(shape) for number in ([axis] if isinstance(axis, int) else axis)}
    if 0 in axes:
        return None
    if keeps_axes:
        return tuple(1 if number in axes else side for number, side in enumerate(shape))
    return tuple(side for number, side in enumerate(shape) if number not in axes)
