"""A model with models inside becomes one graph over the same layer objects.

One idea: every layer is called again, in the order of the old graph, on one fresh input whose
batch is free. Nothing is copied: the weights are the layers' own. What a call recorded beside its
tensors is kept, except `training`: fit and predict override it in Keras 3, so it says nothing.

The layers are taken over: their old calls are forgotten, so that `layer.output` means this graph,
and the model that they came from should not be used any more.
"""

import dataclasses
import typing

import keras

from tf_finetune import findings

# Rescaling in half precision would round pixels of 0 to 255 before the first weight sees them.
_ALWAYS_FLOAT32 = ("Rescaling", "Normalization")


@dataclasses.dataclass(frozen=True)
class FlatGraph:
    """A graph without nested models.

    Attributes:
      inputs: the fresh inputs: float32 [None, height, width, channels]; string [None] or [None, 1];
        of columns any number of [None], [None, 1] or [None, d].
      outputs: what the model returned, in order.
      by_name: the last output of each layer and of each nested model that was opened.
      renamed: new name -> old name of each layer whose name was used twice.
    """

    inputs: tuple[keras.KerasTensor, ...]
    outputs: tuple[keras.KerasTensor, ...]
    by_name: dict[str, keras.KerasTensor]
    renamed: dict[str, str]

    @property
    def input(self) -> typing.Any:
        """What a `keras.Model` of this graph takes: the input, or a list of several."""
        return self.inputs[0] if len(self.inputs) == 1 else list(self.inputs)


def flatten_graph(model: keras.Model, *, precision: str = "float32") -> FlatGraph:
    """Calls every layer of a model, nested ones included, on fresh inputs.

    A nested model stays whole, as one layer, where opening it could change what is computed: a
    subclassed model, one called with a mask, or one whose inputs need a cast or another rank.

    Args:
      model: functional or sequential, built; its layers are taken over.
      precision: "float32", "bfloat16" or "float16": what the layers compute in; their variables
        stay as they are.

    Returns:
      The graph.

    Raises:
      findings.RefusedError: a layer cannot be called with a free batch size.
    """
    functional = functional_of(model)
    if functional is None:
        raise ValueError(f"expected a functional or sequential model. Received {type(model)}.")
    whole = _find_whole(functional)
    for operation in _operations_to_call(functional, whole):
        operation._inbound_nodes = []
        operation._outbound_nodes = []
        _set_precision(operation, precision)
    fresh = [_make_input(old) for old in functional.inputs]
    names = {old._keras_history.operation.name for old in functional.inputs}
    walk = _Walk(names=names, whole=whole)
    outputs = walk.run(functional, fresh)
    return FlatGraph(tuple(fresh), tuple(outputs), walk.by_name, walk.renamed)


def _make_input(old: keras.KerasTensor) -> keras.KerasTensor:
    # Pixels are floats whatever a model was saved with; numbers of columns may be ids.
    is_kept = old.dtype == "string" or (old.dtype in ("int32", "int64") and len(old.shape) <= 2)
    name = old._keras_history.operation.name
    return keras.Input(shape=old.shape[1:], dtype=old.dtype if is_kept else "float32", name=name)


def functional_of(layer: typing.Any) -> typing.Any:
    """The graph that a layer's call runs, where there is one.

    Args:
      layer: any Keras layer or operation.

    Returns:
      The functional model: the layer itself, the one inside a built `keras.Sequential`, or None
      for every other layer, and for subclasses with a `call` of their own.
    """
    plain = type(keras.Model(*[keras.Input((1,))] * 2))
    if isinstance(layer, keras.Sequential) and type(layer).call is keras.Sequential.call:
        return layer._functional
    if isinstance(layer, plain) and type(layer).call is plain.call:
        return layer
    return None


def nodes_in_order(functional: typing.Any) -> list[typing.Any]:
    """The calls that make a graph.

    Args:
      functional: from `functional_of`.

    Returns:
      Its nodes but for the inputs, each after all it needs.
    """
    by_depth = functional._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [node for node in nodes if not node.is_input]


class _Walk:
    """Calls nodes again; holds the names given so far."""

    def __init__(self, *, names: set[str], whole: set[int]):
        self.by_name: dict[str, keras.KerasTensor] = {}
        self.renamed: dict[str, str] = {}
        self._names = names
        self._whole = whole
        self._seen: set[int] = set()

    def run(
        self, functional: typing.Any, inputs: list[keras.KerasTensor]
    ) -> list[keras.KerasTensor]:
        new = {id(old): tensor for old, tensor in zip(functional.inputs, inputs, strict=True)}
        for node in nodes_in_order(functional):
            args, kwargs = node.arguments.fill_in(new)
            outputs = self._call(node.operation, args, kwargs)
            new.update(zip(map(id, node.outputs), outputs, strict=True))
        return [new[id(tensor)] for tensor in functional.outputs]

    def _call(
        self, operation: typing.Any, args: tuple, kwargs: dict[str, typing.Any]
    ) -> list[keras.KerasTensor]:
        kwargs = {name: value for name, value in kwargs.items() if name != "training"}
        inner = functional_of(operation)
        if inner is not None and id(operation) not in self._whole:
            outputs = self.run(inner, keras.tree.flatten(args))
            self.by_name.setdefault(operation.name, outputs[0])
            return outputs
        self._name_once(operation)
        try:
            outputs = keras.tree.flatten(operation(*args, **kwargs))
        except (TypeError, ValueError) as error:
            raise findings.RefusedError(
                findings.Problem(
                    f"Layer '{findings.one_line(operation.name)}' cannot be called with a free "
                    f"batch size: {findings.one_line(str(error).splitlines()[0])} Save the model "
                    "again with batch size None."
                )
            ) from error
        self.by_name[operation.name] = outputs[0]
        return outputs

    def _name_once(self, operation: typing.Any) -> None:
        if id(operation) in self._seen:
            return
        self._seen.add(id(operation))
        name, number = operation.name, 0
        while name in self._names:
            number += 1
            name = f"{operation.name}_{number}"
        if name != operation.name:
            self.renamed[name] = operation.name
            operation.name = name
        self._names.add(name)


def _operations_to_call(functional: typing.Any, whole: set[int]) -> list[typing.Any]:
    operations = []
    for operation in functional.operations:
        if isinstance(operation, keras.layers.InputLayer):
            continue
        inner = functional_of(operation)
        if inner is not None and id(operation) not in whole:
            operations.extend(_operations_to_call(inner, whole))
        operations.append(operation)
    return operations


def _find_whole(functional: typing.Any) -> set[int]:
    # A model called twice is opened in both places or in none: its layers cannot be part of the
    # graph and of a layer in it.
    whole = set()
    for node in nodes_in_order(functional):
        inner = functional_of(node.operation)
        if inner is None:
            continue
        if not _fits(inner, node.arguments.args, node.arguments.kwargs):
            whole.add(id(node.operation))
        whole |= _find_whole(inner)
    return whole


def _fits(inner: typing.Any, args: tuple, kwargs: dict[str, typing.Any]) -> bool:
    inputs = keras.tree.flatten(args)
    # Several tensors are only matched by position where both sides are plain sequences: a dict
    # would need its names.
    plain = len(inputs) == 1 or not any(
        isinstance(struct, dict) for struct in (*args, inner._inputs_struct)
    )
    return (
        len(args) == 1
        and plain
        and not _says_more(kwargs)
        and len(inputs) == len(inner.inputs)
        and all(
            isinstance(given, keras.KerasTensor)
            and len(given.shape) == len(wanted.shape)
            and _is_float(given.dtype) == _is_float(wanted.dtype)
            for given, wanted in zip(inputs, inner.inputs, strict=True)
        )
    )


def _says_more(kwargs: dict[str, typing.Any]) -> bool:
    values = [value for name, value in kwargs.items() if name != "training"]
    return any(value is not None for value in keras.tree.flatten(values))


def _is_float(dtype: str) -> bool:
    return "float" in dtype


def _set_precision(operation: typing.Any, precision: str) -> None:
    if not isinstance(operation, keras.layers.Layer):
        return
    for layer in operation._flatten_layers():
        policy = layer.dtype_policy
        if precision == "float32" or type(layer).__name__ in _ALWAYS_FLOAT32:
            if policy.compute_dtype != policy.variable_dtype:
                layer.dtype_policy = policy.variable_dtype
        else:
            layer.dtype_policy = f"mixed_{precision}"
