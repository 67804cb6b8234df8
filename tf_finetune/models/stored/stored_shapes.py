"""Output shapes of Keras layers, by rule from their stored arguments.

One idea: a table from class name to a function of (arguments, input shapes). What has no row, or
arguments that a rule does not understand, has an unknown shape: it is shown as "?", never guessed.

Reference: `compute_output_shape` of each layer in Keras 3.15, https://keras.io/api/layers/.
"""

import math
import re
import typing
from collections.abc import Callable, Sequence

from tf_finetune.models.stored import stored_operations

Shape = tuple[int | None, ...]
Config = dict[str, typing.Any]
_Rule = Callable[[Config, list[Shape]], list[Shape | None]]


def output_shapes(
    class_name: str,
    config: Config,
    inputs: Sequence[Shape | None],
    *,
    is_operation: bool = False,
) -> list[Shape | None]:
    """The shapes that a layer returns.

    Args:
      class_name: for example "Conv2D".
      config: its arguments as Keras 3 stores them.
      inputs: shapes of its inputs, the batch first; None: not known.
      is_operation: an operation of keras.ops, whose names are not those of layers.

    Returns:
      A shape per output, with None for the batch and for free sizes; [None] where no rule applies.
    """
    if is_operation:
        return [None]
    try:
        count = _count_outputs(class_name, config, inputs)
        known = [shape for shape in inputs if shape is not None]
        if len(known) != len(inputs) or not known:
            return [None] * count
        class_name = class_name.rpartition(">")[2]
        if class_name in _SAME_SHAPE or re.match(r"Random[A-Z]", class_name):
            rule: _Rule | None = _RULES.get(class_name, _same)
        else:
            rule = _RULES.get(class_name)
        shapes = rule(config, known) if rule else [None] * count
        return [None if shape is None else (None, *shape[1:]) for shape in shapes]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        # Arguments of another kind than Keras's own: unknown, as for a class without a rule.
        return [None]


def inner_config(config: Config, key: str = "layer") -> tuple[str, Config]:
    """The layer that a wrapper holds.

    Args:
      config: arguments of the wrapper.
      key: under which it stores the layer.

    Returns:
      (class name, arguments).

    Raises:
      KeyError: there is none.
    """
    inner = config[key]
    return inner["class_name"], inner["config"]


def _count_outputs(class_name: str, config: Config, inputs: Sequence[Shape | None]) -> int:
    if class_name == "Bidirectional":
        inner_class, inner = inner_config(config)
        states = 2 * (_count_outputs(inner_class, inner, inputs) - 1)
        return (2 if config.get("merge_mode") is None else 1) + states
    if config.get("return_state"):
        if class_name in ("LSTM", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"):
            return 3
        return 2 if class_name in ("GRU", "SimpleRNN") else 1 + len(_cells(config))
    return 1


def _same(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    return [inputs[0]]


def _ints(value: typing.Any, rank: int) -> list[int]:
    if isinstance(value, int):
        return [value] * rank
    if isinstance(value, dict):
        value = value["items"]
    numbers = [int(number) for number in value]
    return numbers if len(numbers) == rank else numbers * rank


def _is_first(config: Config) -> bool:
    return config.get("data_format") == "channels_first"


def _split(config: Config, shape: Shape) -> tuple[list[int | None], int | None]:
    sides = shape[2:] if _is_first(config) else shape[1:-1]
    return list(sides), shape[1] if _is_first(config) else shape[-1]


def _join(config: Config, sides: Sequence[int | None], channels: int | None) -> list[Shape | None]:
    if _is_first(config):
        return [(None, channels, *sides)]
    return [(None, *sides, channels)]


def _window(side: int | None, size: int, *, stride: int, padding: str) -> int | None:
    if side is None:
        return None
    if padding in ("same", "causal"):
        return -(-side // stride)
    return max(0, (side - size) // stride + 1)


def _convolution(rank: int, *, depthwise: bool = False) -> _Rule:
    def rule(config: Config, inputs: list[Shape]) -> list[Shape | None]:
        sides, channels = _split(config, inputs[0])
        sizes = _ints(config["kernel_size"], rank)
        strides = _ints(config.get("strides", 1), rank)
        dilations = _ints(config.get("dilation_rate", 1), rank)
        made = [
            _window(
                side,
                dilation * (size - 1) + 1,
                stride=stride,
                padding=config.get("padding", "valid"),
            )
            for side, size, stride, dilation in zip(sides, sizes, strides, dilations, strict=True)
        ]
        if depthwise:
            return _join(
                config, made, channels and channels * int(config.get("depth_multiplier", 1))
            )
        return _join(config, made, int(config["filters"]))

    return rule


def _causal(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    return _convolution(1)({**config, "padding": "causal"}, inputs)


def _transposed(rank: int) -> _Rule:
    def rule(config: Config, inputs: list[Shape]) -> list[Shape | None]:
        sides, _ = _split(config, inputs[0])
        extra = config.get("output_padding")
        extras = [None] * rank if extra is None else _ints(extra, rank)
        sizes = _ints(config["kernel_size"], rank)
        strides = _ints(config.get("strides", 1), rank)
        dilations = _ints(config.get("dilation_rate", 1), rank)
        made: list[int | None] = []
        for side, size, stride, dilation, more in zip(
            sides, sizes, strides, dilations, extras, strict=True
        ):
            size = dilation * (size - 1) + 1
            if side is None:
                made.append(None)
            elif more is None:
                longer = max(size - stride, 0) if config.get("padding") == "valid" else 0
                made.append(side * stride + longer)
            else:
                pad = size // 2 if config.get("padding") == "same" else 0
                made.append((side - 1) * stride + size - 2 * pad + more)
        return _join(config, made, int(config["filters"]))

    return rule


def _pooling(rank: int) -> _Rule:
    def rule(config: Config, inputs: list[Shape]) -> list[Shape | None]:
        sides, channels = _split(config, inputs[0])
        sizes = _ints(config.get("pool_size", 2), rank)
        strides = config.get("strides")
        made = [
            _window(side, size, stride=stride, padding=config.get("padding", "valid"))
            for side, size, stride in zip(
                sides, sizes, sizes if strides is None else _ints(strides, rank), strict=True
            )
        ]
        return _join(config, made, channels)

    return rule


def _global_pooling(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    sides, channels = _split(config, inputs[0])
    return _join(config, [1] * len(sides) if config.get("keepdims") else [], channels)


def _adaptive_pooling(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    sides, channels = _split(config, inputs[0])
    return _join(config, _ints(config["output_size"], len(sides)), channels)


def _pairs(value: typing.Any, rank: int) -> list[tuple[int, int]]:
    if isinstance(value, int):
        return [(value, value)] * rank
    if rank == 1:
        first, second = value
        return [(int(first), int(second))]
    pairs = [(side, side) if isinstance(side, int) else (side[0], side[1]) for side in value]
    if len(pairs) != rank:
        raise ValueError(f"expected {rank} pairs. Received {value}.")
    return pairs


def _edges(key: str, rank: int, *, sign: int) -> _Rule:
    def rule(config: Config, inputs: list[Shape]) -> list[Shape | None]:
        sides, channels = _split(config, inputs[0])
        pairs = _pairs(config[key], rank)
        made = [
            None if side is None else side + sign * (before + after)
            for side, (before, after) in zip(sides, pairs, strict=True)
        ]
        return _join(config, made, channels)

    return rule


def _upsampling(rank: int) -> _Rule:
    def rule(config: Config, inputs: list[Shape]) -> list[Shape | None]:
        sides, channels = _split(config, inputs[0])
        factors = _ints(config.get("size", 2), rank)
        made = [
            None if side is None else side * factor
            for side, factor in zip(sides, factors, strict=True)
        ]
        return _join(config, made, channels)

    return rule


def _resized(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    _, channels = _split(config, inputs[0])
    return _join(config, [int(config["height"]), int(config["width"])], channels)


def _random_height(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    return [(*inputs[0][:-3], None, *inputs[0][-2:])]


def _random_width(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    return [(*inputs[0][:-2], None, inputs[0][-1])]


def _dense(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    return [(*inputs[0][:-1], int(config["units"]))]


def _flatten(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    return [(None, _product(inputs[0][1:]))]


def _product(sides: Sequence[int | None]) -> int | None:
    known = [side for side in sides if side is not None]
    return math.prod(known) if len(known) == len(sides) else None


def _reshape(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    target = config["target_shape"]
    sides = list(target["items"] if isinstance(target, dict) else target)
    if -1 in sides:
        total = _product(inputs[0][1:])
        rest = math.prod(side for side in sides if side != -1)
        sides[sides.index(-1)] = None if total is None else total // rest
    return [(None, *sides)]


def _permute(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    dims = config["dims"]
    order = dims["items"] if isinstance(dims, dict) else dims
    return [(None, *(inputs[0][number] for number in order))]


def _repeat(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    return [(None, int(config["n"]), inputs[0][1])]


def _embedding(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    return [(*inputs[0], int(config["output_dim"]))]


def _cells(config: Config) -> list[int]:
    class_name, cell = inner_config(config, "cell")
    cells = cell["cells"] if class_name == "StackedRNNCells" else [config["cell"]]
    return [int(one["config"]["units"]) for one in cells]


def _recurrent(num_states: int) -> _Rule:
    def rule(config: Config, inputs: list[Shape]) -> list[Shape | None]:
        sizes = [int(config["units"])] * num_states if num_states else _cells(config)
        units = sizes[0] if num_states else sizes[-1]
        sequence = (None, inputs[0][1], units) if config.get("return_sequences") else (None, units)
        states = [(None, size) for size in sizes] if config.get("return_state") else []
        return [sequence, *states]

    return rule


def _convolutional_lstm(rank: int) -> _Rule:
    def rule(config: Config, inputs: list[Shape]) -> list[Shape | None]:
        (frame,) = _convolution(rank)(config, [(None, *inputs[0][2:])])
        if frame is None:
            return [None]
        sequence = (None, inputs[0][1], *frame[1:]) if config.get("return_sequences") else frame
        return [sequence, *([frame, frame] if config.get("return_state") else [])]

    return rule


def _bidirectional(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    class_name, inner = inner_config(config)
    first, *states = output_shapes(class_name, inner, inputs[:1])
    if first is None:
        return [None] * _count_outputs("Bidirectional", config, inputs)
    if config.get("merge_mode", "concat") == "concat":
        first = (*first[:-1], None if first[-1] is None else 2 * first[-1])
    outputs: list[Shape | None] = [first] * (2 if config.get("merge_mode", "") is None else 1)
    return [*outputs, *states, *states]


def _time_distributed(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    class_name, inner = inner_config(config)
    frame = (inputs[0][0], *inputs[0][2:])
    (shape,) = output_shapes(class_name, inner, [frame])
    return [None if shape is None else (None, inputs[0][1], *shape[1:])]


def _wrapped(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    return output_shapes(*inner_config(config), inputs)


def _merged(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    merged = inputs[0]
    for shape in inputs[1:]:
        # Ranks are aligned behind the batch; a side of 1 stretches.
        longer, shorter = sorted((merged[1:], shape[1:]), key=len, reverse=True)
        shorter = (1,) * (len(longer) - len(shorter)) + shorter
        merged = (None, *map(_stretch, longer, shorter))
    return [merged]


def _stretch(side: int | None, other: int | None) -> int | None:
    if side == 1:
        return other
    if other == 1 or side == other:
        return side
    return None


def _concatenated(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    rank = len(inputs[0])
    axis = int(config.get("axis", -1)) % rank
    sides: list[int | None] = []
    for number in range(rank):
        own = [shape[number] for shape in inputs]
        known = [side for side in own if side is not None]
        if number == axis:
            sides.append(sum(known) if len(known) == len(own) else None)
        else:
            sides.append(known[0] if known else None)
    return [tuple(sides)]


def _dot(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    first, second = inputs
    axes = config["axes"]
    pair = [axes, axes] if isinstance(axes, int) else list(axes)
    left, right = pair[0] % len(first), pair[1] % len(second)
    kept = [side for number, side in enumerate(first) if number not in (0, left)]
    kept += [side for number, side in enumerate(second) if number not in (0, right)]
    return [(None, *(kept or [1]))]


def _attention(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    query, value = inputs[0], inputs[1]
    return [(*query[:-1], value[-1])]


def _multi_head(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    query, wanted = inputs[0], config.get("output_shape")
    if wanted is None:
        return [query]
    return [(*query[:-1], *_ints(wanted, 1 if isinstance(wanted, int) else len(wanted)))]


def _einsum_dense(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    wanted = config["output_shape"]
    return [(None, wanted) if isinstance(wanted, int) else (None, *wanted)]


def _operation(config: Config, inputs: list[Shape]) -> list[Shape | None]:
    return [stored_operations.output_shape(config, inputs)]


_SAME_SHAPE = frozenset(
    (
        *("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "ThresholdedReLU", "Softmax"),
        *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout"),
        *("GaussianDropout", "GaussianNoise", "ActivityRegularization", "Masking", "Identity"),
        *("BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"),
        *("UnitNormalization", "Rescaling", "Normalization", "LayerScale", "StochasticDepth"),
        *("AutoContrast", "Equalization", "Solarization", "RandAugment", "AugMix", "CutMix"),
        *("MixUp", "GroupQueryAttention", "GroupedQueryAttention"),
        # Ours, for layers of older versions.
        *("Highway", "ParametricSoftplus", "SReLU", "SampleNormalization"),
        *("CurrentBatchNormalization",),
    )
)

_RULES: dict[str, _Rule] = {
    "Dense": _dense,
    "EinsumDense": _einsum_dense,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "RepeatVector": _repeat,
    "Embedding": _embedding,
    "SimpleRNN": _recurrent(1),
    "GRU": _recurrent(1),
    "LSTM": _recurrent(2),
    "RNN": _recurrent(0),
    "Bidirectional": _bidirectional,
    "TimeDistributed": _time_distributed,
    "SpectralNormalization": _wrapped,
    "Concatenate": _concatenated,
    "Dot": _dot,
    "Attention": _attention,
    "AdditiveAttention": _attention,
    "MultiHeadAttention": _multi_head,
    "Resizing": _resized,
    "CenterCrop": _resized,
    "RandomCrop": _resized,
    "RandomHeight": _random_height,
    "RandomWidth": _random_width,
    "CausalSeparableConv1D": _causal,
    "TensorOperation": _operation,
    "MaskOf": lambda config, inputs: [inputs[0][:2]],
    "MaxoutDense": _dense,
    "ScaledAdd": _merged,
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _merged),
    **{f"ConvLSTM{rank}D": _convolutional_lstm(rank) for rank in (1, 2, 3)},
    **{f"Conv{rank}D": _convolution(rank) for rank in (1, 2, 3)},
    **{f"LocallyConnected{rank}D": _convolution(rank) for rank in (1, 2)},
    **{f"SeparableConv{rank}D": _convolution(rank) for rank in (1, 2)},
    **{f"DepthwiseConv{rank}D": _convolution(rank, depthwise=True) for rank in (1, 2)},
    **{f"Conv{rank}DTranspose": _transposed(rank) for rank in (1, 2, 3)},
    **{f"MaxPooling{rank}D": _pooling(rank) for rank in (1, 2, 3)},
    **{f"AveragePooling{rank}D": _pooling(rank) for rank in (1, 2, 3)},
    **{f"GlobalMaxPooling{rank}D": _global_pooling for rank in (1, 2, 3)},
    **{f"GlobalAveragePooling{rank}D": _global_pooling for rank in (1, 2, 3)},
    **{f"AdaptiveMaxPooling{rank}D": _adaptive_pooling for rank in (1, 2, 3)},
    **{f"AdaptiveAveragePooling{rank}D": _adaptive_pooling for rank in (1, 2, 3)},
    **{f"ZeroPadding{rank}D": _edges("padding", rank, sign=1) for rank in (1, 2, 3)},
    **{f"Cropping{rank}D": _edges("cropping", rank, sign=-1) for rank in (1, 2, 3)},
    **{f"UpSampling{rank}D": _upsampling(rank) for rank in (1, 2, 3)},
}
