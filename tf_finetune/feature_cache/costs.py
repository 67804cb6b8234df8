"""How much a frozen prefix computes: counted, so that every machine and every run counts the same.

One idea: whether a cache is worth its files needs a rough number, and a measured one would differ
between two runs of the same flags on a busy machine. A kernel is used once at each place of its
layer's output.
"""

import math
from typing import Any

from tf_finetune.models import splitting

# Of sequences whose length is not known before the texts are.
_FREE_SIDE = 32
# What looks up rows of its weights, and multiplies nothing.
_LOOKUPS = ("Embedding", "TokenAndPositionEmbedding", "PositionEmbedding")


def count_products(split: splitting.ModelSplit) -> int:
    """Multiplications of weights that the prefix does for one example.

    Args:
      split: the cut model.

    Returns:
      About as many as there are; products of activations with each other, as in attention, are not
      counted. Of a graph that keeps its weights in one layer: each weight once, or as often as its
      output has places.
    """
    total = 0
    for layer, shapes in split.list_calls():
        if type(layer).__name__ in _LOOKUPS:
            continue
        places = max((_count_places(shape) for shape in shapes), default=1)
        total += places * _count_kernel_weights(layer)
    return total


def _count_places(shape: tuple[int | None, ...]) -> int:
    return math.prod(side or _FREE_SIDE for side in shape[1:-1])


def _count_kernel_weights(layer: Any) -> int:
    # Biases and statistics have one axis and cost an addition.
    return sum(math.prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1)
