"""Graph nodes of TensorFlow that Keras 2.0 to 2.3 of TensorFlow stored as layers.

One idea: such a layer holds a node of a TensorFlow graph (its operation and attributes) and the
constants among its inputs. A table says which TensorFlow function computes the operation, and how
its arguments are called.

Reference: TensorFlow 2.2, python/keras/engine/base_layer.py (`TensorFlowOpLayer`);
tensorflow/core/framework/node_def.proto.
"""

import json
import typing

from tf_finetune import findings
from tf_finetune.models.legacy import keras2_values as values

Json = dict[str, typing.Any]

# Operation -> (function, names of its inputs in order, {attribute: argument}).
_Row = tuple[str, tuple[str, ...], dict[str, str]]
_BINARY = ("x", "y")
_REDUCE = (("input_tensor", "axis"), {"keep_dims": "keepdims"})
_ROWS: dict[str, _Row] = {
    "Add": ("math.add", _BINARY, {}),
    "AddV2": ("math.add", _BINARY, {}),
    "Sub": ("math.subtract", _BINARY, {}),
    "Mul": ("math.multiply", _BINARY, {}),
    "RealDiv": ("math.truediv", _BINARY, {}),
    "Div": ("math.truediv", _BINARY, {}),
    "DivNoNan": ("math.divide_no_nan", _BINARY, {}),
    "FloorDiv": ("math.floordiv", _BINARY, {}),
    "FloorMod": ("math.floormod", _BINARY, {}),
    "Maximum": ("math.maximum", _BINARY, {}),
    "Minimum": ("math.minimum", _BINARY, {}),
    "Pow": ("math.pow", _BINARY, {}),
    "SquaredDifference": ("math.squared_difference", _BINARY, {}),
    "Equal": ("math.equal", _BINARY, {}),
    "NotEqual": ("math.not_equal", _BINARY, {}),
    "Greater": ("math.greater", _BINARY, {}),
    "GreaterEqual": ("math.greater_equal", _BINARY, {}),
    "Less": ("math.less", _BINARY, {}),
    "LessEqual": ("math.less_equal", _BINARY, {}),
    "LogicalAnd": ("math.logical_and", _BINARY, {}),
    "LogicalOr": ("math.logical_or", _BINARY, {}),
    "LogicalNot": ("math.logical_not", ("x",), {}),
    "Select": ("where", ("condition", "x", "y"), {}),
    "SelectV2": ("where", ("condition", "x", "y"), {}),
    "Abs": ("math.abs", ("x",), {}),
    "Neg": ("math.negative", ("x",), {}),
    "Exp": ("math.exp", ("x",), {}),
    "Log": ("math.log", ("x",), {}),
    "Log1p": ("math.log1p", ("x",), {}),
    "Sqrt": ("math.sqrt", ("x",), {}),
    "Rsqrt": ("math.rsqrt", ("x",), {}),
    "Square": ("math.square", ("x",), {}),
    "Sign": ("math.sign", ("x",), {}),
    "Floor": ("math.floor", ("x",), {}),
    "Ceil": ("math.ceil", ("x",), {}),
    "Round": ("math.round", ("x",), {}),
    "Reciprocal": ("math.reciprocal", ("x",), {}),
    "Sin": ("math.sin", ("x",), {}),
    "Cos": ("math.cos", ("x",), {}),
    "Erf": ("math.erf", ("x",), {}),
    "Tanh": ("math.tanh", ("x",), {}),
    "Sigmoid": ("math.sigmoid", ("x",), {}),
    "Relu": ("nn.relu", ("features",), {}),
    "Relu6": ("nn.relu6", ("features",), {}),
    "Elu": ("nn.elu", ("features",), {}),
    "Selu": ("nn.selu", ("features",), {}),
    "Softplus": ("math.softplus", ("features",), {}),
    "Softsign": ("nn.softsign", ("features",), {}),
    "LeakyRelu": ("nn.leaky_relu", ("features",), {"alpha": "alpha"}),
    "Softmax": ("nn.softmax", ("logits",), {}),
    "LogSoftmax": ("nn.log_softmax", ("logits",), {}),
    "Mean": ("math.reduce_mean", *_REDUCE),
    "Sum": ("math.reduce_sum", *_REDUCE),
    "Max": ("math.reduce_max", *_REDUCE),
    "Min": ("math.reduce_min", *_REDUCE),
    "Prod": ("math.reduce_prod", *_REDUCE),
    "All": ("math.reduce_all", *_REDUCE),
    "Any": ("math.reduce_any", *_REDUCE),
    "ArgMax": ("math.argmax", ("input", "axis"), {}),
    "ArgMin": ("math.argmin", ("input", "axis"), {}),
    "Reshape": ("reshape", ("tensor", "shape"), {}),
    "Transpose": ("transpose", ("a", "perm"), {}),
    "ExpandDims": ("expand_dims", ("input", "axis"), {}),
    "Squeeze": ("squeeze", ("input",), {"squeeze_dims": "axis"}),
    "Tile": ("tile", ("input", "multiples"), {}),
    "Pad": ("pad", ("tensor", "paddings"), {}),
    "MirrorPad": ("pad", ("tensor", "paddings"), {"mode": "mode"}),
    "Shape": ("shape", ("input",), {}),
    "Cast": ("cast", ("x",), {"DstT": "dtype"}),
    "Identity": ("identity", ("input",), {}),
    "StopGradient": ("stop_gradient", ("input",), {}),
    "OnesLike": ("ones_like", ("input",), {}),
    "ZerosLike": ("zeros_like", ("input",), {}),
    "Slice": ("slice", ("input_", "begin", "size"), {}),
    "GatherV2": ("gather", ("params", "indices", "axis"), {}),
    "BiasAdd": ("nn.bias_add", ("value", "bias"), {}),
    "MatMul": (
        "linalg.matmul",
        ("a", "b"),
        {"transpose_a": "transpose_a", "transpose_b": "transpose_b"},
    ),
    "BatchMatMul": ("linalg.matmul", ("a", "b"), {"adj_x": "adjoint_a", "adj_y": "adjoint_b"}),
    "BatchMatMulV2": ("linalg.matmul", ("a", "b"), {"adj_x": "adjoint_a", "adj_y": "adjoint_b"}),
    "DepthToSpace": ("nn.depth_to_space", ("input",), {"block_size": "block_size"}),
    "SpaceToDepth": ("nn.space_to_depth", ("input",), {"block_size": "block_size"}),
    "ResizeBilinear": (
        "compat.v1.image.resize_bilinear",
        ("images", "size"),
        {"align_corners": "align_corners", "half_pixel_centers": "half_pixel_centers"},
    ),
    "ResizeNearestNeighbor": (
        "compat.v1.image.resize_nearest_neighbor",
        ("images", "size"),
        {"align_corners": "align_corners", "half_pixel_centers": "half_pixel_centers"},
    ),
    "ClipByValue": ("clip_by_value", ("t", "clip_value_min", "clip_value_max"), {}),
    "Cumsum": ("math.cumsum", ("x", "axis"), {"exclusive": "exclusive", "reverse": "reverse"}),
}
# Operations that take any number of tensors: a list goes first.
_LISTS: dict[str, tuple[str, dict[str, str]]] = {
    "ConcatV2": ("concat", {}),
    "Pack": ("stack", {"axis": "axis"}),
    "AddN": ("math.add_n", {}),
}
_TYPES = {
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
    "DT_HALF": "float16",
    "DT_BFLOAT16": "bfloat16",
    "DT_INT32": "int32",
    "DT_INT64": "int64",
    "DT_UINT8": "uint8",
    "DT_BOOL": "bool",
}
_SLICE_MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")


def read_node(config: Json, first: typing.Any) -> tuple[str, list[typing.Any], Json]:
    """Reads the node of a TensorFlowOpLayer.

    Args:
      config: of the layer: "node_def" (JSON text of a NodeDef) and "constants" (position -> value).
      first: its tensors: one, or a list.

    Returns:
      The function's name, its positional arguments and its named ones.

    Raises:
      values.UntranslatableError: the operation is not in the table.
    """
    node = config.get("node_def")
    try:
        node = json.loads(node) if isinstance(node, str) else node
    except ValueError:
        node = None
    if not isinstance(node, dict):
        raise values.UntranslatableError(
            "holds a graph node in a form that is no JSON. Build the model in a newer Keras and "
            "save it again."
        )
    operation = str(node.get("op"))
    inputs = _inputs(node, config.get("constants") or {}, first)
    attributes = {key: _attribute(value) for key, value in (node.get("attr") or {}).items()}
    if operation in _ROWS:
        function, names, renamed = _ROWS[operation]
        named = dict(zip(names, inputs, strict=False))
        keywords = {key: value for key, value in named.items() if key != names[0]}
        keywords |= {new: attributes[old] for old, new in renamed.items() if old in attributes}
        if keywords.get("axis") == []:
            del keywords["axis"]
        return function, inputs[:1], keywords
    if operation in _LISTS:
        function, renamed = _LISTS[operation]
        keywords = {new: attributes.get(old, 0) for old, new in renamed.items()}
        if operation == "ConcatV2":
            keywords["axis"] = inputs.pop()
        return function, [inputs], keywords
    if operation == "StridedSlice":
        names = ("begin", "end", "strides")
        keywords = dict(zip(names, inputs[1:], strict=True))
        masks = {mask: attributes.get(mask, 0) for mask in _SLICE_MASKS}
        return "strided_slice", inputs[:1], keywords | masks
    if operation in ("Split", "Unpack"):
        axis = inputs[0] if operation == "Split" else attributes.get("axis", 0)
        count = attributes.get("num_split" if operation == "Split" else "num")
        key = "num_or_size_splits" if operation == "Split" else "num"
        return (
            operation.lower().replace("unpack", "unstack"),
            inputs[-1:],
            {key: count, "axis": axis},
        )
    raise values.UntranslatableError(
        f"is the TensorFlow operation '{findings.one_line(operation)}', which this program does "
        "not know. Build the model without it and save it again."
    )


def _inputs(node: Json, constants: Json, first: typing.Any) -> list[typing.Any]:
    tensors = list(first) if isinstance(first, list) else [first]
    found: list[typing.Any] = []
    constant = {int(position): values.decode(value) for position, value in constants.items()}
    count = max(len(node.get("input") or []), len(constant) + len(tensors))
    for position in range(count):
        if position in constant:
            found.append(constant[position])
        elif tensors:
            found.append(tensors.pop(0))
    return found


def _attribute(value: Json) -> typing.Any:
    """The value of an AttrValue as protobuf's JSON writes it: 64-bit integers are text."""
    if "i" in value:
        return int(value["i"])
    if "list" in value:
        return [int(element) for element in value["list"].get("i", [])]
    if "type" in value:
        return _TYPES.get(value["type"], value["type"])
    for key in ("b", "f", "s"):
        if key in value:
            return value[key]
    return None
