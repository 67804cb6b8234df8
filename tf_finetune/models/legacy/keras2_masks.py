"""Which translated models need the masks of Keras 2, and where.

One idea: masks differ between Keras 2 and 3 in a few layers. Where nothing in a model makes a mask
that difference cannot show, and the model keeps the plain layers of Keras 3; elsewhere those few
layers become the ones of `masked_layers`.

Reference: `masked_layers`.
"""

import typing
from collections.abc import Iterator

from tf_finetune.models.legacy import keras2_layers, keras2_operations
from tf_finetune.models.legacy import keras2_values as values

Json = dict[str, typing.Any]

_BUILTIN = "keras.layers"
_OWN = "masked_layers"
# Layers of Keras 3 that treat masks otherwise than those of Keras 2.
_MASKED_TEXT = """
Add Average Bidirectional Concatenate Embedding Identity Masking Maximum Minimum MultiHeadAttention
Multiply Normalization Rescaling Softmax Subtract TimeDistributed
"""
MASKED = frozenset(_MASKED_TEXT.split())
_MASK_ARGUMENTS = ("mask", "attention_mask")
# Layers that use masks: beside them a layer of the user's own may be one that makes masks.
_USERS = (
    *("RNN", "LSTM", "GRU", "SimpleRNN", "Bidirectional", "TimeDistributed"),
    *("Attention", "AdditiveAttention", "MultiHeadAttention", "GlobalAveragePooling1D"),
)
_MODELS = ("Functional", "Sequential")


def has_masks(stored: Json) -> bool:
    """Whether anything in a model makes masks.

    Args:
      stored: the configuration of the whole model as Keras 2 stored it.

    Returns:
      True for an Embedding with mask_zero, a Masking, a call with a mask, or a custom layer beside
      layers that use masks.
    """
    custom = uses = False
    for value in _objects(stored):
        if any(_is_reference(value.get(key)) for key in _MASK_ARGUMENTS):
            return True
        stored_class = value.get("class_name")
        if not isinstance(stored_class, str):
            continue
        name = keras2_layers.plain_class(stored_class)
        config = value.get("config")
        if name == "Masking" or (
            name == "Embedding" and isinstance(config, dict) and config.get("mask_zero")
        ):
            return True
        uses = uses or name in _USERS
        custom = custom or (name is None and _is_custom_layer(value))
    return custom and uses


def apply_masks(model: Json) -> Json:
    """Gives a translated model the masks of Keras 2.

    Args:
      model: in the canonical form, see `stored_model`.

    Returns:
      A new configuration: layers that treat masks otherwise are ours, and a layer called with
      states is told the mask of its input.
    """
    return _replaced(model)


def _replaced(value: typing.Any) -> typing.Any:
    if isinstance(value, list):
        return [_replaced(element) for element in value]
    if not isinstance(value, dict):
        return value
    value = {key: _replaced(element) for key, element in value.items()}
    class_name, module = value.get("class_name"), value.get("module")
    if module == _BUILTIN and class_name in MASKED:
        value |= values.own(_OWN, class_name, value["config"])
    if class_name == "Functional":
        config = value["config"]
        value["config"] = config | {"layers": _with_masks_of(config["layers"])}
    return value


def _with_masks_of(layers: list[Json]) -> list[Json]:
    taken = {layer["name"] for layer in layers}
    made: list[Json] = []
    for layer in layers:
        for call in layer["inbound_nodes"]:
            keywords = call["kwargs"]
            if "mask" in keywords or not {"initial_state", "constants"} & set(keywords):
                continue
            name, number = f"{layer['name']}_mask", 0
            while name in taken:
                number += 1
                name = f"{layer['name']}_mask_{number}"
            taken.add(name)
            keywords["mask"] = values.tensor(name, 0, 0)
            new = values.own(_OWN, "MaskOf", {"name": name})
            node = {"args": call["args"][:1], "kwargs": {}}
            made.append({**new, "name": name, "inbound_nodes": [node]})
        made.append(layer)
    return made


def _objects(value: typing.Any) -> Iterator[Json]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _is_reference(value: typing.Any) -> bool:
    if isinstance(value, list) and len(value) == 3:
        return isinstance(value[0], str) and isinstance(value[1], int)
    return False


def _is_custom_layer(value: Json) -> bool:
    # Only what stands in a graph, or has the arguments that every layer has: not an initializer.
    config = value.get("config")
    is_layer = isinstance(config, dict) and "name" in config and "layers" not in config
    known = keras2_operations.is_operation(value["class_name"])
    return is_layer and not known and value["class_name"] not in (*_MODELS, "Lambda", "Model")
