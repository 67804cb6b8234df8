"""The shape of a Keras 1 configuration, made regular before its layers are translated.

One idea: Keras 1 wrote a Sequential as a bare list, let it begin with a Merge of whole models, and
gave models inside it no name. Here each model becomes {"name": ..., "layers": [...]}, and one that
begins with a Merge becomes a functional model; the layers themselves stay as Keras 1 wrote them.

Reference: Chollet et al., 2017, Keras 1.2.2, keras/models.py (Sequential.get_config) and
keras/engine/topology.py (Container.get_config), https://github.com/keras-team/keras/tree/1.2.2.
"""

import contextlib
import typing
from collections.abc import Iterator

from tf_finetune import findings
from tf_finetune.models.stored import stored_config

Json = dict[str, typing.Any]

CONTAINERS = ("Sequential", "Model", "Container")


def normalize_config(config: Json) -> Json:
    """Gives every model of a Keras 1 configuration a name and a list of layers.

    Args:
      config: {"class_name": ..., "config": ...} of a Sequential or functional model of Keras 1.

    Returns:
      A new configuration: models are of the class "Sequential" or "Model", their configurations
      dicts with "name" and "layers". The names of models that had none are a function of the
      configuration alone.

    Raises:
      findings.RefusedError: a model of another class, such as Graph; a branch of a Merge that
        does not say its input shape.
    """
    return _Normalizer().container(config, None)


def find_layers(config: Json) -> Iterator[Json]:
    """Walks the layers of a normalized configuration.

    Args:
      config: {"class_name": ..., "config": ...} as `normalize_config` returns it.

    Yields:
      Every layer, models before the layers in them; wrapped layers are not opened.
    """
    for layer in config["config"]["layers"]:
        yield layer
        if layer["class_name"] in CONTAINERS:
            yield from find_layers(layer)


@contextlib.contextmanager
def errors_of(where: str) -> Iterator[None]:
    """Leads the refusals raised inside by the file's name, and calls damage what is malformed.

    Args:
      where: the file; "": refusals stay as they are.

    Yields:
      None.

    Raises:
      findings.RefusedError: a refusal inside, or a configuration without what every layer has.
    """
    try:
        yield
    except findings.RefusedError as error:
        if not where:
            raise
        raise stored_config.refused(where, str(error)) from error
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise stored_config.refused(
            where,
            "its stored configuration is not one that Keras 1 wrote "
            f"({type(error).__name__}: {stored_config.one_reason(error)}) The file is damaged.",
        ) from error


def refuse(message: str) -> findings.RefusedError:
    """The error of a configuration; its file is known to the caller only.

    Args:
      message: what is wrong, starting with a small letter.

    Returns:
      The error.
    """
    return findings.RefusedError(findings.Problem(message))


class _Normalizer:
    """Counts the models that have no name."""

    def __init__(self) -> None:
        self._unnamed = 0

    def container(self, entry: Json, name: str | None) -> Json:
        class_name, config = entry.get("class_name"), entry.get("config")
        if class_name == "Sequential" and isinstance(config, dict) and "layers" in config:
            name, config = config.get("name") or name, config["layers"]
        if class_name == "Sequential" and isinstance(config, list) and config:
            name = name or self._next_name()
            items = [self.layer(_with_class_name(item)) for item in config]
            if _is_branching(items[0]):
                return _Joiner(name).join(items)
            return {"class_name": "Sequential", "config": {"name": name, "layers": items}}
        if class_name in ("Model", "Container") and isinstance(config, dict) and "layers" in config:
            layers = [self.layer(item) for item in config["layers"]]
            return {"class_name": "Model", "config": {**config, "layers": layers}}
        raise refuse(
            f"its model is a '{findings.one_line(class_name)}', which Keras 1 wrote and no later "
            "Keras reads. Expected a Sequential or functional model: load it in Keras 1.2.2 and "
            "save it again as one of these."
        )

    def layer(self, entry: Json) -> Json:
        if entry["class_name"] in CONTAINERS:
            model = self.container(entry, entry.get("name"))
            model["name"] = model["config"]["name"]
            return {**entry, **model}
        config = dict(entry["config"])
        if entry["class_name"] == "Merge" and config.get("layers"):
            config["layers"] = [self.layer(_with_class_name(branch)) for branch in config["layers"]]
        return {"name": config.get("name"), **entry, "config": config}

    def _next_name(self) -> str:
        self._unnamed += 1
        return f"sequential_{self._unnamed}"


class _Joiner:
    """Makes a functional model of a Sequential one that begins with a Merge of branches."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._layers: dict[str, Json] = {}
        self._inputs: list[str] = []

    def join(self, items: list[Json]) -> Json:
        end = self._sequence(items)
        layers = list(self._layers.values())
        inputs = [[name, 0, 0] for name in self._inputs]
        config: Json = {"name": self._name, "layers": layers}
        config |= {"input_layers": inputs, "output_layers": [end]}
        return {"class_name": "Model", "config": config}

    def _sequence(self, items: list[Json]) -> list:
        # Returns where the last item's output is found: [layer, node, tensor].
        first, rest = items[0], items[1:]
        if len(_input_names(first)) > 1:
            own = {layer["name"]: layer for layer in first["config"]["layers"]}
            end = self._call(first, [self._input(own[name]) for name in _input_names(first)])
        elif _is_branching(first):
            config = dict(first["config"])
            branches = [self._branch(branch) for branch in config.pop("layers")]
            end = self._call({**first, "config": config}, branches)
        elif first["class_name"] == "InputLayer":
            end = self._input(first)
        else:
            end = self._call(first, [self._input(_input_of(first))])
        for item in rest:
            end = self._call(item, [end])
        return end

    def _branch(self, branch: Json) -> list:
        config = branch["config"]
        if branch["class_name"] == "Sequential":
            return self._sequence(config["layers"])
        if branch["class_name"] == "Model":
            # Keras 1 stored the weights of such a branch layer by layer: its layers join ours.
            for layer in config["layers"]:
                if layer["class_name"] == "InputLayer":
                    self._input(layer)
                else:
                    self._layers.setdefault(layer["name"], layer)
            return list(config["output_layers"][0])
        return self._sequence([branch])

    def _input(self, layer: Json) -> list:
        name = layer["name"]
        if name not in self._layers:
            self._layers[name] = {**layer, "inbound_nodes": []}
            self._inputs.append(name)
        return [name, 0, 0]

    def _call(self, layer: Json, inputs: list) -> list:
        known = self._layers.setdefault(layer["name"], {**layer, "inbound_nodes": []})
        known["inbound_nodes"].append([list(source) for source in inputs])
        # A model counts the graph that it was made with as its call 0.
        own = 1 if layer["class_name"] in CONTAINERS else 0
        return [layer["name"], len(known["inbound_nodes"]) - 1 + own, 0]


def _is_branching(item: Json) -> bool:
    # A Merge of models, or a model that begins with one.
    merges = item["class_name"] == "Merge" and "layers" in item["config"]
    return merges or len(_input_names(item)) > 1


def _input_names(item: Json) -> list[str]:
    if item["class_name"] != "Model":
        return []
    return [reference[0] for reference in item["config"]["input_layers"]]


def _with_class_name(item: Json) -> Json:
    # Before 1.0, "name" was the class and "custom_name" the name.
    if "class_name" in item:
        return item
    return {"class_name": item.get("name"), "config": {**item, "name": item.get("custom_name")}}


def _input_of(layer: Json) -> Json:
    first = layer
    while first["class_name"] in CONTAINERS:
        first = first["config"]["layers"][0]
    shape = first["config"].get("batch_input_shape")
    if shape is None:
        raise refuse(
            f"layer '{findings.one_line(layer['name'])}' begins a branch of a Merge and does not "
            "say its input shape (batch_input_shape). The configuration is damaged."
        )
    config = {"batch_input_shape": shape, "name": f"{layer['name']}_input"}
    config["input_dtype"] = first["config"].get("input_dtype", "float32")
    return {"class_name": "InputLayer", "name": config["name"], "config": config}
