"""How many weights a layer has at least, from its own arguments alone.

One idea: what a layer's input adds is not known here, so each number is a lower bound: the product
of those sides of its weights that stand in its configuration.

Reference: `build` of the layers of keras 3.15; keras 1.2.2 for nb_filter and output_dim.
"""

import math
import typing
from collections.abc import Callable

Config = dict[str, typing.Any]

# Arguments that are a side of some weight, whatever the layer.
_SIDES = (
    "units",
    "filters",
    "output_dim",
    "input_dim",
    "key_dim",
    "value_dim",
    "head_dim",
    "nb_filter",
)


def count(class_name: str, values: Config) -> int:
    """Counts them.

    Args:
      class_name: of the layer, without its package.
      values: its configuration.

    Returns:
      A lower bound, 0 where nothing is known.
    """
    rule = _RULES.get(class_name)
    return max([rule(values) if rule else 0, *(_size(values, name) for name in _SIDES)])


def read_integers(value: typing.Any) -> list[int]:
    """The whole numbers in a value and in the lists in it.

    Args:
      value: of a parsed configuration.

    Returns:
      The numbers; booleans and texts are none.
    """
    if isinstance(value, list):
        return [number for item in value for number in read_integers(item)]
    number = _integer(value)
    return [] if number is None else [number]


def _integer(value: typing.Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


def _size(values: Config, name: str) -> int:
    return _integer(values.get(name)) or 0


def _window(values: Config) -> int:
    return math.prod(read_integers(values.get("kernel_size")))


def _embedding(values: Config) -> int:
    return _size(values, "input_dim") * _size(values, "output_dim")


def _convolution(values: Config) -> int:
    return _size(values, "filters") * _window(values)


def _depthwise(values: Config) -> int:
    return max(_size(values, "depth_multiplier"), 1) * _window(values)


def _separable(values: Config) -> int:
    # A kernel for each place, then one of 1 x 1 from there to the filters.
    multiplier = max(_size(values, "depth_multiplier"), 1)
    return multiplier * (_window(values) + _size(values, "filters"))


def _recurrent(gates: int) -> Callable[[Config], int]:
    def rule(values: Config) -> int:
        units = max(_size(values, "units"), _size(values, "output_dim"))
        return gates * units * units

    return rule


def _recurrent_convolution(values: Config) -> int:
    return 4 * _size(values, "filters") ** 2 * _window(values)


def _attention(values: Config) -> int:
    heads = max(_size(values, "num_heads"), _size(values, "num_query_heads"))
    sides = (_size(values, name) for name in ("key_dim", "value_dim", "head_dim"))
    return heads * max(sides)


def _einsum(values: Config) -> int:
    # "abc,cd->abd" with output_shape [None, 5]: the kernel has the sides of the output that the
    # input does not have, here d.
    equation, shape = values.get("equation"), values.get("output_shape")
    sides = shape if isinstance(shape, list) else [shape]
    taken, _, made = str(equation).replace("...", "").partition("->")
    first, _, kernel = taken.partition(",")
    by_letter = zip(reversed(made), reversed(sides), strict=False)
    return math.prod(
        _integer(side) or 1
        for letter, side in by_letter
        if letter in kernel and letter not in first
    )


def _spectrogram(values: Config) -> int:
    # Windowed waves, one for each frequency up to half of the rate.
    frame = _size(values, "frame_length")
    return frame * (max(_size(values, "fft_length"), frame) // 2 + 1)


_RULES: dict[str, Callable[[Config], int]] = {
    "Embedding": _embedding,
    "ReversibleEmbedding": _embedding,
    "MultiHeadAttention": _attention,
    "GroupQueryAttention": _attention,
    "GroupedQueryAttention": _attention,
    "EinsumDense": _einsum,
    "STFTSpectrogram": _spectrogram,
    **{
        f"{name}{ending}": _recurrent(gates)
        for name, gates in (("SimpleRNN", 1), ("GRU", 3), ("LSTM", 4))
        for ending in ("", "Cell", "V1", "V2", "CellV1", "CellV2")
    },
    "CuDNNGRU": _recurrent(3),
    "CuDNNLSTM": _recurrent(4),
    **{f"ConvLSTM{rank}D": _recurrent_convolution for rank in (1, 2, 3)},
    **{f"DepthwiseConv{rank}D": _depthwise for rank in (1, 2)},
    **{
        f"Separable{name}{rank}D": _separable for name in ("Conv", "Convolution") for rank in (1, 2)
    },
    **{
        f"{name}{rank}D{ending}": _convolution
        for name in ("Conv", "Convolution")
        for rank in (1, 2, 3)
        for ending in ("", "Transpose")
    },
}
