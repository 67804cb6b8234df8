"""Output shapes of TensorFlow functions that a Keras 2 model called, by rule.

One idea: functions that work on single elements keep the shape that their operands stretch to,
reductions drop or keep axes. Of every other function the shape is only known by running it.

Reference: `tensor_operations.TensorOperation`; https://www.tensorflow.org/api_docs/python/tf.
"""

import typing

Shape = tuple[int | None, ...]

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
    if name.removeprefix("reduce_") in _REDUCTIONS and name.startswith("reduce_"):
        axis = args[1] if len(args) > 1 else kwargs.get("axis")
        keeps = args[2] if len(args) > 2 else kwargs.get("keepdims", kwargs.get("keep_dims"))
        return _reduced(inputs[0], axis, keeps_axes=bool(keeps))
    return None


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
