"""A Keras 2 configuration becomes one of Keras 3.

One idea: a configuration is a graph of calls between layers. This module translates the graph:
models, names and calls; `keras2_layers` translates one layer's arguments, `keras2_operations` the
TensorFlow functions that Keras 2 wrapped into layers. Nothing is executed and neither Keras nor
TensorFlow is imported, so --mode=inspect uses it too.

Reference: tf_keras 2.21, src/engine/functional.py (`get_network_config`,
`reconstruct_from_config`) and src/engine/node.py (`Node.serialize`); Keras 3.15,
src/models/functional.py (`functional_from_config`).
"""

import dataclasses
import typing
from collections.abc import Iterator

from tf_finetune import findings
from tf_finetune.models.legacy import (
    keras2_layers,
    keras2_masks,
    keras2_operations,
    keras2_values,
)
from tf_finetune.models.stored import stored_config

Json = dict[str, typing.Any]

_CONSTANT = "_CONSTANT_VALUE"
# Layers of `model.add_loss` and `model.add_metric`: they change nothing that a prediction shows.
_TRAINING_ONLY = ("AddLoss", "AddMetric")
_RECURRENT = ("RNN", "LSTM", "GRU", "SimpleRNN", "Bidirectional")
_RECURRENT_PREFIXES = ("ConvLSTM", "CuDNN")
# Nesting of models that a person would build; deeper files are refused, not recursed into.
_MAX_DEPTH = 50


@dataclasses.dataclass(frozen=True)
class Translation:
    """A translated configuration.

    Attributes:
      config: of Keras 3, see `stored_model`.
      renamed: path of a layer (names of nested models, then its own, joined by "/") -> its stored
        name, where they differ; "" where the configuration tells no name.
      notes: lines for the user.
      dropped: paths of layers that only a loss or a metric needs, with their stored names.
    """

    config: Json
    renamed: dict[str, str]
    notes: tuple[str, ...]
    dropped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Context:
    where: str
    version: str
    has_masks: bool = False
    renamed: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    dropped: list[str] = dataclasses.field(default_factory=list)


def translate_config(config: Json, *, where: str, version: str) -> Translation:
    """Translates the configuration of a whole model.

    Args:
      config: as Keras 2 stored it.
      where: the file, for the texts of errors.
      version: the Keras version that wrote it, for example "2.2.4-tf".

    Returns:
      The configuration for Keras 3.

    Raises:
      findings.RefusedError: the configuration is damaged, or says what Keras 3 cannot express.
    """
    context = _Context(where, version, has_masks=keras2_masks.has_masks(config))
    if not is_model(config):
        name = findings.one_line(str(config.get("class_name")))
        raise stored_config.refused(
            where,
            f"the model is of the custom class '{name}', whose layers the file does not describe. "
            "Expected a Sequential or functional model: save its weights with save_weights, or "
            "export it as a SavedModel.",
        )
    try:
        translated = _translate_model(config, "", context)
        if context.has_masks:
            translated = keras2_masks.apply_masks(translated)
        return Translation(
            translated, context.renamed, tuple(context.notes), tuple(context.dropped)
        )
    except findings.RefusedError:
        raise
    except RecursionError as error:
        raise stored_config.refused(where, "its configuration is nested too deeply.") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise stored_config.refused(
            where,
            f"its stored configuration is damaged: {stored_config.one_reason(error)} Copy or "
            "download it again.",
        ) from error


def is_model(stored: typing.Any) -> bool:
    """Whether a stored object is a model rather than a layer.

    Args:
      stored: an object of a configuration.

    Returns:
      True for every class that lists its layers: subclasses of Model built functionally too.
    """
    if not isinstance(stored, dict):
        return False
    inner = stored.get("config")
    if isinstance(inner, list):
        return stored.get("class_name") == "Sequential"
    return isinstance(inner, dict) and isinstance(inner.get("layers"), list)


def _translate_model(stored: Json, path: str, context: _Context, *, name: str = "") -> Json:
    if path.count("/") > _MAX_DEPTH:
        raise stored_config.refused(context.where, f"models are nested deeper than {_MAX_DEPTH}.")
    inner = stored["config"]
    if isinstance(inner, list):
        inner = {"layers": inner}
    own = name or str(inner.get("name") or stored.get("name") or "sequential").replace("/", "_")
    if "input_layers" in inner:
        config = _translate_functional(inner, path, context)
        module, class_name = "keras.src.models.functional", "Functional"
    else:
        config = _translate_sequential(inner, path, context)
        module, class_name = "keras", "Sequential"
    config = {"name": own, "trainable": inner.get("trainable", True)} | config
    return keras2_values.builtin(module, class_name, config)


def _translate_layer(stored: Json, name: str, path: str, context: _Context) -> Json:
    """A layer or nested model as an object of Keras 3, its inner layers translated alike."""
    own_path = f"{path}/{name}" if path else name
    if is_model(stored):
        return _translate_model(stored, own_path, context, name=name)

    def inner_layer(inner: Json) -> Json:
        inner_name = str((inner.get("config") or {}).get("name") or inner.get("name") or "")
        legal = inner_name.replace("/", "_") or name
        return _translate_layer(inner, legal, own_path, context)

    try:
        return keras2_layers.translate_layer(
            stored, name=name, version=context.version, inner_layer=inner_layer
        )
    except keras2_values.UntranslatableError as error:
        raise stored_config.refused(
            context.where, f"layer '{findings.one_line(own_path)}' {error}"
        ) from error


def _translate_sequential(inner: Json, path: str, context: _Context) -> Json:
    stored = [layer for layer in inner["layers"] if layer["class_name"] not in _TRAINING_ONLY]
    names = _legal_names(stored, path, context)
    layers = [
        _translate_layer(layer, name, path, context)
        for layer, name in zip(stored, names, strict=True)
    ]
    if stored and stored[0]["class_name"] != "InputLayer":
        shape = _first_shape(stored[0]) or inner.get("build_input_shape")
        if isinstance(shape, list) and all(size is None or isinstance(size, int) for size in shape):
            config = {
                "batch_shape": shape,
                "dtype": _first_dtype(stored[0]),
                "name": _unique(f"{names[0]}_input", names),
            }
            layers.insert(0, keras2_values.builtin("keras.layers", "InputLayer", config))
    return {"layers": layers}


def _first_shape(stored: Json) -> typing.Any:
    """The input shape that the first layer of a Sequential records, itself or further inside."""
    inner: typing.Any = stored.get("config")
    for key in ("batch_input_shape", "batch_shape"):
        if isinstance(inner, dict) and inner.get(key):
            return keras2_values.decode(inner[key])
    if isinstance(inner, dict) and isinstance(inner.get("layer"), dict):
        shape = _first_shape(inner["layer"])
        if shape and stored["class_name"] == "TimeDistributed":
            return [shape[0], None, *shape[1:]]
        return shape
    if not is_model(stored):
        return None
    if isinstance(inner, dict) and "input_layers" in inner:
        for name in _input_names(inner["input_layers"]):
            for layer in inner["layers"]:
                if layer.get("name") == name:
                    return _first_shape(layer)
    layers = inner if isinstance(inner, list) else inner["layers"]
    shape = _first_shape(layers[0]) if layers else None
    return shape or (inner.get("build_input_shape") if isinstance(inner, dict) else None)


def _first_dtype(stored: Json) -> str:
    inner: typing.Any = stored.get("config")
    if is_model(stored):
        layers = inner if isinstance(inner, list) else inner["layers"]
        return _first_dtype(layers[0]) if layers else "float32"
    if stored["class_name"] == "Embedding":
        return "int32"
    if stored["class_name"] in ("TextVectorization", "StringLookup"):
        return "string"
    if isinstance(inner, dict) and isinstance(inner.get("layer"), dict):
        return _first_dtype(inner["layer"])
    dtype = keras2_values.dtype_name((inner or {}).get("dtype"))
    return "float32" if dtype is None or dtype.startswith("mixed") else dtype


@dataclasses.dataclass(frozen=True)
class _Names:
    """Where the calls of stored layers went.

    Attributes:
      legal: stored name -> new name.
      offset: stored name -> number that its first call has in the file: nested models begin at 0 or
        1, depending on the version and on how they were built.
      moved: (stored name, call) -> (new name, call), for calls that became layers of their own.
    """

    legal: dict[str, str]
    offset: dict[str, int]
    moved: dict[tuple[str, int], tuple[str, int]]

    def find(self, name: str, call: int) -> tuple[str, int]:
        number = call - self.offset.get(name, 0)
        return self.moved.get((name, number), (self.legal[name], number))


def _translate_functional(inner: Json, path: str, context: _Context) -> Json:
    stored = _without_training_only(inner, path, context)
    new_names = _legal_names(stored, path, context)
    legal = {layer["name"]: name for layer, name in zip(stored, new_names, strict=True)}
    names = _Names(legal, _call_offsets(stored, inner), {})
    for layer in stored:
        if keras2_operations.is_operation(layer["class_name"]):
            taken = set(new_names)
            for number in range(1, len(layer["inbound_nodes"])):
                extra = _unique(f"{legal[layer['name']]}_{number}", taken)
                taken.add(extra)
                new_names.append(extra)
                names.moved[layer["name"], number] = (extra, 0)
    layers: list[Json] = []
    for layer in stored:
        if keras2_operations.is_operation(layer["class_name"]):
            layers.extend(_translate_operation(layer, names, path, context))
        else:
            new = _translate_layer(layer, legal[layer["name"]], path, context)
            new["name"] = legal[layer["name"]]
            try:
                calls = [_call(layer, node, names) for node in layer["inbound_nodes"]]
            except keras2_values.UntranslatableError as error:
                raise _refuse_layer(layer, error, path, context) from error
            new["inbound_nodes"] = calls
            layers.append(new)
    nested = {new["name"] for new in layers if new["class_name"] == "Functional"}
    return {
        "layers": layers,
        "input_layers": _end_references(inner["input_layers"], names, set()),
        "output_layers": _end_references(inner["output_layers"], names, nested),
    }


def _translate_operation(layer: Json, names: _Names, path: str, context: _Context) -> list[Json]:
    made = []
    for number, node in enumerate(layer["inbound_nodes"]):
        name = names.moved.get((layer["name"], number), (names.legal[layer["name"]], 0))[0]
        first, keywords = _arguments(node, names)
        if keras2_operations.takes_list(layer) and _is_constant(node) and isinstance(first, list):
            first = [first]  # one array; a list would be several
        try:
            new, tensors = keras2_operations.translate_operation(
                layer, name=name, first=first, keywords=keywords, has_masks=context.has_masks
            )
        except keras2_values.UntranslatableError as error:
            raise _refuse_layer(layer, error, path, context) from error
        new["name"] = name
        new["inbound_nodes"] = [{"args": [tensors], "kwargs": {}}]
        made.append(new)
    return made


def _refuse_layer(
    layer: Json, error: keras2_values.UntranslatableError, path: str, context: _Context
) -> findings.RefusedError:
    shown = findings.one_line(f"{path}/{layer['name']}" if path else layer["name"])
    return stored_config.refused(context.where, f"layer '{shown}' {error}")


def _call(layer: Json, node: typing.Any, names: _Names) -> Json:
    if any(_is_constant(value) and value[2] is not None for value in _references(node)):
        raise keras2_values.UntranslatableError(
            "is called with a constant, which a layer of Keras 3 does not take. Build the model "
            "with a layer that holds the constant (Rescaling, Embedding) and save it again."
        )
    first, keywords = _arguments(node, names)
    keywords = {key: value for key, value in keywords.items() if value is not None}
    if isinstance(first, list) and len(first) == 1:
        first = first[0]
    class_name = layer["class_name"]
    is_recurrent = class_name in _RECURRENT or class_name.startswith(_RECURRENT_PREFIXES)
    if is_recurrent and isinstance(first, list):
        # Keras 2 passed the initial states, then the constants of the cell, as further inputs.
        constants = int(layer["config"].get("num_constants") or 0)
        states = first[1 : len(first) - constants]
        if states:
            keywords["initial_state"] = states
        if constants:
            keywords["constants"] = first[len(first) - constants :]
        first = first[0]
    if layer["config"] and isinstance(layer["config"], dict) and layer["config"].get("causal"):
        keywords["use_causal_mask"] = True
    return {"args": [first], "kwargs": keywords}


def _arguments(node: typing.Any, names: _Names) -> tuple[typing.Any, Json]:
    """The first argument of a call and the named ones, tensors as Keras 3 writes them."""
    keywords: Json = {}

    def leaf(value: list[typing.Any]) -> typing.Any:
        if len(value) == 4 and isinstance(value[3], dict):
            keywords.update(value[3])
        if value[0] == _CONSTANT:
            return keras2_values.decode(value[2])
        return _tensor(value, names)

    first = _map_structure(node, leaf)
    kept = {
        key: _keyword(keras2_values.decode(value), names)
        for key, value in keywords.items()
        if key != "name"
    }
    return first, kept


def _map_structure(value: typing.Any, leaf: typing.Callable[[list], typing.Any]) -> typing.Any:
    if _is_leaf(value):
        return leaf(value)
    if isinstance(value, dict):
        return {key: _map_structure(element, leaf) for key, element in value.items()}
    if not isinstance(value, list):
        raise ValueError(f"a call names {findings.one_line(str(value)[:50])} as a tensor.")
    return [_map_structure(element, leaf) for element in value]


def _is_leaf(value: typing.Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and isinstance(value[1], int)
    )


def _is_constant(value: typing.Any) -> bool:
    return _is_leaf(value) and value[0] == _CONSTANT


def _keyword(value: typing.Any, names: _Names) -> typing.Any:
    if _is_leaf(value) and len(value) == 3 and value[0] in names.legal:
        return _tensor(value, names)
    if isinstance(value, list):
        return [_keyword(element, names) for element in value]
    if isinstance(value, dict):
        return {key: _keyword(element, names) for key, element in value.items()}
    return value


def _tensor(value: list[typing.Any], names: _Names) -> Json:
    name, call = names.find(value[0], value[1])
    return keras2_values.tensor(name, call, value[2])


def _end_references(stored: typing.Any, names: _Names, nested: set[str]) -> typing.Any:
    def leaf(value: list[typing.Any]) -> list[typing.Any]:
        name, call = names.find(value[0], value[1])
        return [name, call + (name in nested), value[2]]

    found = _map_structure(stored, leaf)
    return found[0] if len(found) == 1 and isinstance(found, list) else found


def _call_offsets(layers: list[Json], inner: Json) -> dict[str, int]:
    # Every call that is stored leads to an output, so the lowest number somebody refers to is that
    # of the first call.
    models = {layer["name"] for layer in layers if is_model(layer)}
    lowest: dict[str, int] = {}
    stored = [layer["inbound_nodes"] for layer in layers]
    for value in _references([stored, inner["output_layers"]]):
        if value[0] in models:
            lowest[value[0]] = min(value[1], lowest.get(value[0], value[1]))
    return lowest


def _references(value: typing.Any) -> Iterator[list[typing.Any]]:
    if _is_leaf(value):
        yield value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for element in value:
            yield from _references(element)


def _input_names(stored: typing.Any) -> list[str]:
    return [value[0] for value in _references(stored)]


def _without_training_only(inner: Json, path: str, context: _Context) -> list[Json]:
    """The layers that lead to an output, where losses or metrics hang on others; else all."""
    layers = inner["layers"]
    if not any(layer["class_name"] in _TRAINING_ONLY for layer in layers):
        return layers
    by_name = {layer["name"]: layer for layer in layers}
    kept = set(_input_names(inner["input_layers"]))
    waiting = _input_names(inner["output_layers"])
    while waiting:
        name = waiting.pop()
        if name in kept or name == _CONSTANT:
            continue
        kept.add(name)
        waiting.extend(_input_names(by_name[name]["inbound_nodes"]))
    names = [layer["name"] for layer in layers if layer["name"] not in kept]
    context.dropped.extend(f"{path}/{name}" if path else name for name in names)
    return [layer for layer in layers if layer["name"] in kept]


def _legal_names(layers: list[Json], path: str, context: _Context) -> list[str]:
    stored = [_stored_name(layer) for layer in layers]
    legal: list[str] = []
    for name, layer in zip(stored, layers, strict=True):
        new = (name or layer["class_name"].lower()).replace("/", "_")
        if new != name or new in legal:
            new = _unique(new, [*stored, *legal])
        if new != name:
            context.renamed[f"{path}/{new}" if path else new] = name
        legal.append(new)
    return legal


def _stored_name(layer: Json) -> str:
    # Keras 2.0 to 2.2.2 stored a Sequential inside another as a bare list of layers.
    inner = layer.get("config")
    own = inner.get("name") if isinstance(inner, dict) else None
    return str(layer.get("name") or own or "")


def _unique(name: str, taken: typing.Collection[str]) -> str:
    new, number = name, 0
    while new in taken:
        number += 1
        new = f"{name}_{number}"
    return new
