"""TensorFlow functions that Keras 2 wrapped into layers of functional models.

One idea: `x / 127.5` in a functional model of Keras 2 is stored as a layer that names a
TensorFlow function and its arguments. Where a Keras layer computes exactly that, it is used; any
other known function becomes a `tensor_operations.TensorOperation`, whose configuration is the
name and the arguments. A function that is not in the table is refused: nothing is looked up by a
name from the file alone.

Reference: tf_keras 2.21, src/layers/core/tf_op_layer.py; TensorFlow 2.2,
python/keras/engine/base_layer.py (`TensorFlowOpLayer`).
"""

import typing
from collections.abc import Callable

from tf_finetune import findings
from tf_finetune.models.legacy import keras2_nodes
from tf_finetune.models.legacy import keras2_values as values

Json = dict[str, typing.Any]

FIRST_TENSOR = "tensor"

# Functions of TensorFlow that read and write nothing but tensors.
_FUNCTIONS_TEXT = """
__operators__.add __operators__.eq __operators__.getitem __operators__.ne argsort boolean_mask
broadcast_to cast clip_by_value compat.v1.gather compat.v1.shape compat.v1.squeeze
compat.v1.transpose compat.v1.expand_dims compat.v1.clip_by_value compat.v1.size
compat.v1.argmax compat.v1.argmin compat.v1.concat compat.v1.reduce_mean compat.v1.reduce_sum
compat.v1.reduce_max compat.v1.reduce_min compat.v1.where compat.v1.pad compat.v1.reverse
compat.v1.math.reduce_mean compat.v1.math.reduce_sum compat.v1.math.reduce_max
compat.v1.math.reduce_min compat.v1.math.reduce_prod compat.v1.math.reduce_std
compat.v1.math.log_softmax compat.v1.nn.softmax compat.v1.nn.log_softmax compat.v1.math.softmax
compat.v1.ones_like compat.v1.zeros_like compat.v1.tile compat.v1.norm
compat.v1.nn.depth_to_space compat.v1.nn.space_to_depth compat.v1.nn.l2_normalize
compat.v1.linalg.l2_normalize compat.v1.math.l2_normalize compat.v1.image.resize
compat.v1.image.resize_images compat.v1.image.resize_bilinear
compat.v1.image.resize_nearest_neighbor compat.v1.nn.max_pool compat.v1.nn.avg_pool
compat.v1.nn.conv2d compat.v1.nn.depthwise_conv2d compat.v1.floor_div compat.v1.to_float
compat.v1.cast compat.v1.div compat.v1.nn.moments concat constant convert_to_tensor cumsum
einsum ensure_shape expand_dims eye fill gather gather_nd identity image.adjust_brightness
image.adjust_contrast image.central_crop image.convert_image_dtype image.crop_to_bounding_box
image.flip_left_right image.flip_up_down image.grayscale_to_rgb image.hsv_to_rgb
image.pad_to_bounding_box image.per_image_standardization image.resize
image.resize_with_crop_or_pad image.resize_with_pad image.rgb_to_grayscale image.rgb_to_hsv
image.rgb_to_yuv image.yuv_to_rgb image.rot90 image.transpose linalg.band_part linalg.diag
linalg.diag_part linalg.einsum linalg.l2_normalize linalg.matmul linalg.matrix_transpose
linalg.matvec linalg.norm linalg.normalize linalg.tensordot linalg.trace linspace math.abs
math.accumulate_n math.acos math.add math.add_n math.angle math.argmax math.argmin math.asin
math.atan math.atan2 math.ceil math.cos math.cosh math.count_nonzero math.cumprod math.cumsum
math.cumulative_logsumexp math.digamma math.divide math.divide_no_nan math.equal math.erf
math.erfc math.exp math.expm1 math.floor math.floordiv math.floormod math.greater
math.greater_equal math.in_top_k math.is_finite math.is_inf math.is_nan math.l2_normalize
math.less math.less_equal math.lgamma math.log math.log1p math.log_sigmoid math.log_softmax
math.logical_and math.logical_not math.logical_or math.logical_xor math.maximum math.minimum
math.mod math.multiply math.multiply_no_nan math.negative math.not_equal math.pow
math.reciprocal math.reciprocal_no_nan math.reduce_all math.reduce_any
math.reduce_euclidean_norm math.reduce_logsumexp math.reduce_max math.reduce_mean
math.reduce_min math.reduce_prod math.reduce_std math.reduce_sum math.reduce_variance math.rint
math.round math.rsqrt math.scalar_mul math.segment_max math.segment_mean math.segment_sum
math.sigmoid math.sign math.sin math.sinh math.softmax math.softplus math.softsign math.sqrt
math.square math.squared_difference math.subtract math.tan math.tanh math.top_k math.truediv
math.unsorted_segment_sum math.xdivy math.xlogy math.zero_fraction meshgrid nn.avg_pool
nn.avg_pool1d nn.avg_pool2d nn.avg_pool3d nn.batch_normalization nn.bias_add nn.conv2d nn.crelu
nn.depth_to_space nn.elu nn.embedding_lookup nn.gelu nn.l2_loss nn.l2_normalize nn.leaky_relu
nn.local_response_normalization nn.log_softmax nn.lrn nn.max_pool nn.max_pool1d nn.max_pool2d
nn.max_pool3d nn.moments nn.pool nn.relu nn.relu6 nn.selu nn.sigmoid nn.silu nn.softmax
nn.softplus nn.softsign nn.space_to_depth nn.swish nn.tanh nn.top_k nn.weighted_moments
nn.zero_fraction norm one_hot ones ones_like pad range rank realdiv repeat reshape reverse
reverse_sequence roll searchsorted sequence_mask shape size slice sort space_to_batch
space_to_batch_nd batch_to_space split squeeze stack stop_gradient strided_slice
tensor_scatter_nd_update tensordot tile transpose truncatediv truncatemod unravel_index unstack
where zeros zeros_like dtypes.cast dtypes.saturate_cast nn.separable_conv2d nn.depthwise_conv2d
bitwise.bitwise_and bitwise.bitwise_or bitwise.bitwise_xor bitwise.invert bitwise.left_shift
bitwise.right_shift linalg.cross linalg.det linalg.inv linalg.pinv linalg.set_diag linalg.solve
math.bincount nn.conv1d nn.sigmoid_cross_entropy_with_logits
nn.softmax_cross_entropy_with_logits quantization.fake_quant_with_min_max_args
"""
_PLAIN = frozenset(_FUNCTIONS_TEXT.split())
# Keras 2 stored a function of TensorFlow 2 under its older name where it shares code with that.
_NOT_IN_V1 = ("image.resize_with_pad", "nn.gelu")
FUNCTIONS = _PLAIN.union(
    f"compat.v1.{name}"
    for name in _PLAIN
    if name not in _NOT_IN_V1 and not name.startswith("__operators__.")
)
_LIST_FIRST = ("concat", "nn.embedding_lookup")
# Operators that need a second operand.
_BINARY = ("__operators__.add", "__operators__.eq", "__operators__.ne")

_ACTIVATIONS = {
    "nn.relu": "relu",
    "nn.sigmoid": "sigmoid",
    "math.sigmoid": "sigmoid",
    "nn.tanh": "tanh",
    "math.tanh": "tanh",
    "nn.silu": "silu",
    "nn.swish": "silu",
    "nn.elu": "elu",
    "nn.selu": "selu",
    "math.softplus": "softplus",
    "nn.softplus": "softplus",
    "nn.softsign": "softsign",
    "math.exp": "exponential",
}
# x OP constant and constant OP x as scale * x + offset, for a constant of floating point.
_AFFINE: dict[str, tuple[Callable[[float], tuple[float, float]], Callable | None]] = {
    "math.add": (lambda c: (1.0, c), lambda c: (1.0, c)),
    "__operators__.add": (lambda c: (1.0, c), lambda c: (1.0, c)),
    "math.subtract": (lambda c: (1.0, -c), lambda c: (-1.0, c)),
    "math.multiply": (lambda c: (c, 0.0), lambda c: (c, 0.0)),
    "math.truediv": (lambda c: (1.0 / c, 0.0), None),
    "math.divide": (lambda c: (1.0 / c, 0.0), None),
    "realdiv": (lambda c: (1.0 / c, 0.0), None),
}


def is_operation(class_name: str) -> bool:
    """Whether a stored class is a TensorFlow function in the shape of a layer.

    Args:
      class_name: as stored.

    Returns:
      True for those that `translate_operation` takes.
    """
    return class_name in ("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer")


def takes_list(stored: Json) -> bool:
    """Whether a function takes a list of tensors first, and one tensor as a list of one.

    Args:
      stored: the layer: {"class_name", "config", ...}.

    Returns:
      True for those where an array and the list of its rows are not the same.
    """
    function = str(stored["config"].get("function"))
    return function.removeprefix("compat.v1.") in _LIST_FIRST


def translate_operation(
    stored: Json, *, name: str, first: typing.Any, keywords: Json, has_masks: bool = False
) -> tuple[Json, typing.Any]:
    """Translates one call of a TensorFlow function.

    Args:
      stored: the layer: {"class_name", "config", ...}.
      name: of the layer in the new configuration.
      first: its first argument: JSON with tensors as `keras2_values.tensor` makes them.
      keywords: its named arguments, alike.
      has_masks: the model makes masks, which end at a function; many layers pass them on.

    Returns:
      The layer of Keras 3 and what it is called with: a tensor or a list of tensors.

    Raises:
      values.UntranslatableError: the function is not in the table.
    """
    if stored["class_name"] == "TensorFlowOpLayer":
        function, arguments, keywords = keras2_nodes.read_node(stored["config"], first)
    else:
        function, arguments = str(stored["config"]["function"]), [first]
    dtype = values.dtype_name(stored["config"].get("dtype"))
    options: Json = {"name": name}
    if dtype is not None and "float" in dtype:
        options["dtype"] = dtype
    plain = _as_layer(function, arguments, keywords, options)
    if plain is not None and not (has_masks and function in FUNCTIONS):
        return plain
    if function not in FUNCTIONS:
        raise values.UntranslatableError(
            f"calls the TensorFlow function '{findings.one_line(function)}', which this program "
            "does not know. Build the model without it and save it again."
        )
    tensors: list[Json] = []
    template = {
        "args": [_template(value, tensors) for value in arguments],
        "kwargs": {key: _template(value, tensors) for key, value in keywords.items()},
    }
    if not tensors or (function in _BINARY and len(arguments) + len(keywords) < 2):
        raise values.UntranslatableError(
            "cannot be rebuilt: Keras stored it without the tensors that it is called with. Build "
            "the model with a layer in its place and save it again."
        )
    config = {**options, "function": function, "arguments": template}
    layer = values.own("tensor_operations", "TensorOperation", config)
    return layer, tensors[0] if len(tensors) == 1 else tensors


def _template(value: typing.Any, tensors: list[Json]) -> typing.Any:
    if values.is_tensor(value):
        if value not in tensors:
            tensors.append(value)
        return {FIRST_TENSOR: tensors.index(value)}
    if isinstance(value, list):
        return [_template(element, tensors) for element in value]
    if isinstance(value, dict):
        return {key: _template(element, tensors) for key, element in value.items()}
    return value


def _as_layer(
    function: str, arguments: list[typing.Any], keywords: Json, options: Json
) -> tuple[Json, typing.Any] | None:
    """A layer of Keras that computes the same, and what it is called with."""
    first, *others = arguments
    if others or not set(keywords) <= {"y", "axis"}:
        return None
    if function in _AFFINE and set(keywords) == {"y"}:
        return _as_rescaling(function, first, keywords["y"], options)
    if function in ("concat", "compat.v1.concat") and isinstance(first, list) and len(first) > 1:
        axis = keywords.get("axis")
        if isinstance(axis, int) and all(values.is_tensor(element) for element in first):
            config = {**options, "axis": axis}
            return values.builtin("keras.layers", "Concatenate", config), first
    if not values.is_tensor(first) or keywords.get("axis") not in (None, -1):
        return None
    if function.endswith("keras.backend.batch_flatten"):
        return values.builtin("keras.layers", "Flatten", options), first
    if function == "nn.relu6":
        return values.builtin("keras.layers", "ReLU", {**options, "max_value": 6.0}), first
    if function in ("nn.softmax", "math.softmax", "compat.v1.nn.softmax"):
        return values.builtin("keras.layers", "Softmax", options), first
    if function in _ACTIVATIONS and not keywords:
        config = {**options, "activation": _ACTIVATIONS[function]}
        return values.builtin("keras.layers", "Activation", config), first
    return None


def _as_rescaling(
    function: str, first: typing.Any, second: typing.Any, options: Json
) -> tuple[Json, typing.Any] | None:
    # A constant of floating point says that the tensor is one too: TensorFlow does not mix them.
    forward, backward = _AFFINE[function]
    if values.is_tensor(first) and isinstance(second, float):
        if second == 0.0:
            return None
        scale, offset = forward(second)
        tensor = first
    elif values.is_tensor(second) and isinstance(first, float) and backward is not None:
        scale, offset = backward(first)
        tensor = second
    else:
        return None
    config = {**options, "scale": scale, "offset": offset}
    return values.builtin("keras.layers", "Rescaling", config), tensor
