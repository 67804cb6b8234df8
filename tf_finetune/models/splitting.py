"""A model in two: a prefix that gives the same features in every epoch, and what trains on them.

One idea: the largest part of the graph that is fixed and needs nothing but the model's inputs is
the prefix, wherever its border runs, through nested models and side branches too. Nothing is
rebuilt: both parts call the model's own layers, node by node, so a step on features changes the
very weights that the whole model has.
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from tf_finetune.models import flattening

_FEATURES = "features_"
_MASK = "_mask"


@dataclasses.dataclass(frozen=True)
class _Call:
    """A node of the graph: an operation on tensors that are known by number."""

    operation: typing.Any
    arguments: typing.Any
    # Number of each KerasTensor that the arguments name.
    takes: dict[int, int]
    gives: tuple[int, ...]
    # What no later call needs.
    drops: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class ModelSplit:
    """A functional model, cut.

    Attributes:
      names: of the features, in order; of each tensor that leaves the prefix one.
      features: {name: KerasTensor [batch, ...]} of the features; a mask that a feature carries
        has its name and "_mask".
      prefix_layers: what the prefix calls, in order, each once.
    """

    names: tuple[str, ...]
    features: dict[str, keras.KerasTensor]
    prefix_layers: tuple[typing.Any, ...]
    _model: keras.Model
    _prefix: tuple[_Call, ...]
    _suffix: tuple[_Call, ...]
    _inputs: dict[str, int]
    _cut: tuple[int, ...]
    _outputs: dict[str, int]
    _tensors: tuple[keras.KerasTensor, ...]

    @property
    def inputs(self) -> dict[str, keras.KerasTensor]:
        """What the prefix takes, by name."""
        return dict(self._model.input)

    @property
    def num_prefix_weights(self) -> int:
        """How many numbers the weights of the prefix are."""
        weights = {id(weight): weight for layer in self.prefix_layers for weight in layer.weights}
        return sum(int(weight.value.shape.num_elements()) for weight in weights.values())

    def list_calls(self) -> list[tuple[typing.Any, list[tuple[int | None, ...]]]]:
        """The prefix's calls of layers, in order.

        Returns:
          (layer, shapes of its outputs) for each call.
        """
        return [
            (call.operation, [tuple(self._tensors[number].shape) for number in call.gives])
            for call in self._prefix
            if isinstance(call.operation, keras.layers.Layer)
        ]

    def describe_prefix(self) -> list[typing.Any]:
        """What the prefix computes, but for the values of its weights and the names of its layers.

        Returns:
          A list per call: class, configuration, and which tensors it takes and gives.
        """
        known: dict[int, int] = {}
        described = []
        for call in self._prefix:
            operation = call.operation
            # A layer that is called twice is not two layers of one configuration.
            place = known.setdefault(id(operation), len(known))
            config = {key: value for key, value in _config(operation).items() if key != "name"}
            taken = iter(call.takes[id(tensor)] for tensor in call.arguments.keras_tensors)
            arguments = keras.tree.map_structure(
                lambda value, taken=taken: (
                    ["tensor", next(taken)] if isinstance(value, keras.KerasTensor) else str(value)
                ),
                (call.arguments.args, call.arguments.kwargs),
            )
            kind = f"{type(operation).__module__}.{type(operation).__qualname__}"
            described.append([place, kind, config, arguments, call.gives])
        return [described, self._cut, self._inputs]

    def run_prefix(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The features, by calling the prefix's layers in inference mode.

        Args:
          inputs: as the model takes them.

        Returns:
          {name: [batch, ...]}; the mask of a feature, where it has one, as {name_mask: bool}.
        """
        values: dict[int, typing.Any] = {
            number: inputs[name] for name, number in self._inputs.items()
        }
        _run(self._prefix, values, training=False)
        features = {}
        for name, number in zip(self.names, self._cut, strict=True):
            features[name] = values[number]
            mask = getattr(values[number], "_keras_mask", None)
            if mask is not None:
                features[name + _MASK] = mask
        return features

    def make_suffix(self, kind: type["SuffixModel"]) -> "SuffixModel":
        """A model from features to the outputs, on the layers of the whole model.

        Args:
          kind: the class to make.

        Returns:
          The model.
        """
        return kind(self)


class SuffixModel(keras.Model):
    """What is behind the cut: takes features, gives the whole model's outputs.

    Args:
      split: the cut model.
    """

    def __init__(self, split: ModelSplit):
        super().__init__(name="suffix")
        self._split = split
        layers = [call.operation for call in split._suffix]
        # In a list of its own: Keras tracks the weights of each layer once.
        self.suffix_layers = _unique(
            [layer for layer in layers if isinstance(layer, keras.layers.Layer)]
        )
        self.built = True

    def call(
        self, inputs: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> dict[str, tf.Tensor]:
        """The logits.

        Args:
          inputs: as `ModelSplit.run_prefix` gives them.
          training: whether dropout drops.

        Returns:
          {HEAD: float32 [batch, units]}.
        """
        split = self._split
        values: dict[int, typing.Any] = {}
        for name, number in zip(split.names, split._cut, strict=True):
            # Kept in float32 or bfloat16, whatever the prefix's own arithmetic was.
            feature = tf.cast(inputs[name], split.features[name].dtype)
            if name + _MASK in inputs:
                feature._keras_mask = inputs[name + _MASK]
            values[number] = feature
        _run(split._suffix, values, training=training)
        return {name: values[number] for name, number in split._outputs.items()}


def split_model(
    model: keras.Model, is_fixed: Callable[[typing.Any], bool], *, opened: Sequence[keras.Model]
) -> ModelSplit | None:
    """Cuts a model where what is fixed ends.

    Args:
      model: functional, with inputs and outputs in dicts.
      is_fixed: whether an operation gives the same outputs for the same inputs in every epoch: it
        has nothing that trains and draws no random numbers.
      opened: functional models in it that are looked into; others are one layer.

    Returns:
      The two parts; None where the prefix would have no layer with weights, or where what leaves
      it differs in size from example to example.
    """
    numbers = _Numbers()
    calls = _list_calls(flattening.functional_of(model), numbers, {id(one) for one in opened})
    inputs = {name: numbers.of(tensor) for name, tensor in model.input.items()}
    outputs = {name: numbers.of(tensor) for name, tensor in model.output.items()}
    fixed = set(inputs.values())
    prefix, suffix = [], []
    for call in calls:
        # Named outputs are made by the suffix: a run without a trainable layer has no such cut.
        if fixed.issuperset(call.takes.values()) and is_fixed(call.operation):
            prefix.append(call)
            fixed.update(call.gives)
        else:
            suffix.append(call)
    wanted = {number for call in suffix for number in call.takes.values()} | set(outputs.values())
    cut = tuple(sorted(fixed & wanted))
    layers = _unique([call.operation for call in _needed(prefix, cut)])
    layers = [layer for layer in layers if isinstance(layer, keras.layers.Layer)]
    tensors = {number: numbers.tensors[number] for number in cut}
    if not any(layer.weights for layer in layers) or not all(map(_is_fixed_size, tensors.values())):
        return None
    names = tuple(f"{_FEATURES}{place}" for place in range(len(cut)))
    return ModelSplit(
        names=names,
        features=_with_masks({name: tensors[n] for name, n in zip(names, cut, strict=True)}),
        prefix_layers=tuple(layers),
        _model=model,
        _prefix=_with_drops(_needed(prefix, cut), kept=set(cut)),
        _suffix=_with_drops(suffix, kept=set(outputs.values())),
        _inputs=inputs,
        _cut=cut,
        _outputs=outputs,
        _tensors=tuple(numbers.tensors),
    )


def _with_masks(tensors: dict[str, keras.KerasTensor]) -> dict[str, keras.KerasTensor]:
    masks = {name + _MASK: getattr(tensor, "_keras_mask", None) for name, tensor in tensors.items()}
    return {**tensors, **{name: mask for name, mask in masks.items() if mask is not None}}


def _config(operation: typing.Any) -> dict[str, typing.Any]:
    try:
        return dict(operation.get_config())
    except NotImplementedError:  # a function of keras.ops: its attributes are what it is made with
        return {
            key: str(value)
            for key, value in sorted(vars(operation).items())
            if isinstance(value, bool | int | float | str | tuple | list)
            and not key.startswith("_")
        }


def _is_fixed_size(tensor: keras.KerasTensor) -> bool:
    return None not in tensor.shape[1:] and tensor.dtype != "string"


def _needed(calls: Sequence[_Call], cut: tuple[int, ...]) -> list[_Call]:
    """The calls whose outputs are used."""
    wanted, kept = set(cut), []
    for call in reversed(calls):
        if wanted.intersection(call.gives):
            wanted.update(call.takes.values())
            kept.append(call)
    return kept[::-1]


def _with_drops(calls: Sequence[_Call], *, kept: set[int]) -> tuple[_Call, ...]:
    """The calls, each with the tensors that can be forgotten after it."""
    seen, done = set(kept), []
    for call in reversed(calls):
        touched = {*call.takes.values(), *call.gives}
        done.append(dataclasses.replace(call, drops=tuple(touched - seen)))
        seen |= touched
    return tuple(done[::-1])


def _unique(items: Sequence[typing.Any]) -> list[typing.Any]:
    return list({id(item): item for item in items}.values())


class _Numbers:
    """A number for each symbolic tensor; a nested model's input has that of what it is given."""

    def __init__(self) -> None:
        self.tensors: list[keras.KerasTensor] = []
        self._known: dict[int, int] = {}

    def of(self, tensor: keras.KerasTensor) -> int:
        if id(tensor) not in self._known:
            self._known[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        return self._known[id(tensor)]

    def equate(self, tensor: keras.KerasTensor, other: keras.KerasTensor) -> None:
        self._known[id(tensor)] = self.of(other)


def _list_calls(functional: typing.Any, numbers: _Numbers, opened: set[int]) -> list[_Call]:
    calls = []
    for node in flattening.nodes_in_order(functional):
        arguments = node.arguments
        if id(node.operation) in opened:
            inner = flattening.functional_of(node.operation)
            given = keras.tree.flatten(arguments.args)
            for tensor, outer in zip(inner.inputs, given, strict=True):
                numbers.equate(tensor, outer)
            calls += _list_calls(inner, numbers, opened)
            for outer, tensor in zip(node.outputs, inner.outputs, strict=True):
                numbers.equate(outer, tensor)
            continue
        takes = {id(tensor): numbers.of(tensor) for tensor in arguments.keras_tensors}
        gives = tuple(numbers.of(tensor) for tensor in node.outputs)
        calls.append(_Call(node.operation, arguments, takes, gives))
    return calls


def _run(calls: Sequence[_Call], values: dict[int, typing.Any], *, training: bool | None) -> None:
    """Calls each operation; `values` has the tensors by number, and gets the new ones."""
    for call in calls:
        filled = {symbol: values[number] for symbol, number in call.takes.items()}
        args, kwargs = call.arguments.fill_in(filled)
        kwargs = {name: value for name, value in kwargs.items() if name != "training"}
        if training is not None and getattr(call.operation, "_call_has_training_arg", False):
            kwargs["training"] = training
        outputs = keras.tree.flatten(call.operation(*args, **kwargs))
        values.update(zip(call.gives, outputs, strict=True))
        # Called layer by layer outside of a graph, all of them would be more than the memory.
        for number in call.drops:
            del values[number]
