"""Numbers of a stored configuration that would ask for more memory or time than the file explains.

One idea: a layer's weights are stored beside its configuration, so a layer of 2**31 units in a file
of a kilobyte is a lie that building it would believe. Sizes without weights have plain bounds, far
above what any model has.
"""

import math
import typing
from collections.abc import Iterator

from tf_finetune.trust import least_weights

Config = dict[str, typing.Any]

_SMALL_ELEMENTS = 2**16
_SMALL_SUM = 2**20
_SIDE = 2**16
_COUNT = 2**24
# Argument -> its largest value.
_BOUNDS = {
    "cropping": _COUNT,
    "depth_multiplier": 2**12,
    "fft_length": 2**16,
    "frame_length": 2**16,
    "height": _SIDE,
    "kernel_size": 2**12,
    "max_tokens": 2**27,
    "n": 2**20,
    "num_bins": 2**40,
    "num_chains": 100,
    "num_heads": 2**12,
    "num_key_value_heads": 2**12,
    "num_query_heads": 2**12,
    "num_mel_bins": 2**12,
    "num_ops": 100,
    "num_tokens": _COUNT,
    "output_sequence_length": _COUNT,
    "padding": _SIDE,
    "pool_size": _COUNT,
    "power_iterations": 1_000,
    "sequence_length": _COUNT,
    "sequence_stride": _COUNT,
    "size": 2**12,
    "width": _SIDE,
    "max_bounding_boxes": _COUNT,
}
_SHAPES = (
    "batch_input_shape",
    "batch_shape",
    "input_shape",
    "shape",
    "target_shape",
    "output_shape",
)
# 1 GB of float32.
_MAX_SHAPE_ELEMENTS = 2**28


def find_excesses(
    config: Config, *, stored_size: int | None, slack: int = 1
) -> Iterator[tuple[str, str]]:
    """Finds numbers that are too large.

    Args:
      config: the parsed configuration of the whole model.
      stored_size: number of elements of all stored weights; None: not known.
      slack: times this number may be asked for.

    Yields:
      (name of the layer, what is wrong as the end of a sentence).
    """
    total = 0
    for name, class_name, values in iterate_layers(config):
        yield from ((name, message) for message in _bounded(values))
        if stored_size is None:
            continue
        needed = least_weights.count(class_name, values)
        total += needed
        if needed > max(slack * stored_size, _SMALL_ELEMENTS):
            yield (
                name,
                f"asks for {needed:,} weights or more, and the file stores {stored_size:,} in all: "
                "building it would fill the memory. The file is damaged or hostile.",
            )
            return
    if stored_size is not None and total > max(slack * stored_size, _SMALL_SUM):
        yield (
            "",
            f"and all others together ask for {total:,} weights or more, and the file stores "
            f"{stored_size:,}: building them would fill the memory. The file is damaged or "
            "hostile.",
        )


def iterate_layers(config: Config) -> Iterator[tuple[str, str, Config]]:
    """Finds everything in a configuration that has a class and a configuration of its own.

    Args:
      config: the parsed configuration of the whole model.

    Yields:
      (name, class without its package, configuration), nested ones too.
    """
    waiting: list[typing.Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += [item for item in value if isinstance(item, dict | list)]
        if not isinstance(value, dict):
            continue
        waiting += [item for item in value.values() if isinstance(item, dict | list)]
        inner = value.get("config")
        if isinstance(value.get("class_name"), str) and isinstance(inner, dict):
            yield str(inner.get("name", "")), value["class_name"].rpartition(">")[2], inner


def _bounded(values: Config) -> Iterator[str]:
    for key in sorted(_BOUNDS.keys() & values.keys()):
        bound = _BOUNDS[key]
        largest = max(
            (abs(number) for number in least_weights.read_integers(values[key])), default=0
        )
        if largest > bound:
            yield f"has {key} {largest:,}. Expected at most {bound:,}, which no model exceeds."
    for key in _SHAPES:
        if key not in values:
            continue
        size = math.prod(abs(number) or 1 for number in least_weights.read_integers(values[key]))
        if size > _MAX_SHAPE_ELEMENTS:
            yield (
                f"has a {key} of {size:,} elements. Expected at most {_MAX_SHAPE_ELEMENTS:,}: an "
                "example of that size fits no memory."
            )
