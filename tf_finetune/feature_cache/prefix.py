"""The frozen part of a model as one compiled graph.

One idea: weights that cannot change are constants, and a graph of constants can be made smaller:
TensorFlow folds BatchNormalization into the convolutions before it, and on processors that have
the instructions oneDNN computes in bfloat16 where that loses little. So the graph that makes
features is another one than that which trains.

Reference: tensorflow/core/grappler/optimizers/remapper.cc and auto_mixed_precision.cc (the lists
of operations that are computed in half precision, and of those that never are).
"""

import typing
from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_finetune import graph_precision
from tf_finetune.models import splitting

# A serialized graph may have 2 GiB.
_MAX_CONSTANT_BYTES = 1_800_000_000
_BFLOAT16 = "bfloat16"


class Prefix:
    """A callable that makes features.

    Attributes:
      precision: "float32", or "bfloat16" where the graph may compute in it.
      is_constant: whether its weights are constants.
    """

    def __init__(self, function: typing.Any, *, precision: str, is_constant: bool):
        self._function = function
        self.precision = precision
        self.is_constant = is_constant

    def __call__(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The features of a batch.

        Args:
          inputs: as the model takes them.

        Returns:
          {name: [batch, ...]}, see `ModelSplit.run_prefix`.
        """
        with graph_precision.rounding(is_on=self.precision == _BFLOAT16):
            return self._function(**inputs)


def compile_prefix(split: splitting.ModelSplit, *, precision: str) -> Prefix:
    """Makes the graph; TensorFlow optimizes it at the first call.

    Args:
      split: the cut model; its prefix's weights have their final values.
      precision: "float32", or "bfloat16": what convolutions and products may be computed in.

    Returns:
      The compiled prefix. Its weights are constants unless they are too large for a graph, or are
      no numbers (tables).
    """
    variables = _list_variables(split)
    if _count_bytes(variable.value for variable in variables) <= _MAX_CONSTANT_BYTES:
        constant = _trace(split, constants=variables)
        if not constant.variables and _holds_numbers(constant):
            return Prefix(constant, precision=precision, is_constant=True)
    concrete = _trace(split, constants=())
    if _count_bytes(concrete.variables) > _MAX_CONSTANT_BYTES or not _holds_numbers(concrete):
        return Prefix(concrete, precision=precision, is_constant=False)
    return Prefix(_freeze(split, concrete), precision=precision, is_constant=True)


def _list_variables(split: splitting.ModelSplit) -> list[keras.Variable]:
    """Those of Keras; a layer around a SavedModel has others too."""
    found = {
        id(variable): variable
        for layer in split.prefix_layers
        for variable in layer.variables
        if isinstance(variable, keras.Variable) and variable.dtype != "string"
    }
    return list(found.values())


def _count_bytes(variables: Iterable[typing.Any]) -> int:
    return sum(variable.dtype.size * variable.shape.num_elements() for variable in variables)


def _trace(split: splitting.ModelSplit, *, constants: Sequence[keras.Variable]) -> typing.Any:
    """The prefix as a graph in which some variables are what they hold."""
    held = [(variable, np.array(variable)) for variable in constants]

    def run(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        values = [(variable, tf.constant(value)) for variable, value in held]
        with keras.StatelessScope(state_mapping=values):
            return split.run_prefix(inputs)

    return tf.function(run).get_concrete_function(**_signature(split))


def _freeze(split: splitting.ModelSplit, concrete: typing.Any) -> typing.Any:
    """A graph with constants for variables of any kind; a detour over copies of the graph."""
    from tensorflow.python.framework import convert_to_constants

    constant = convert_to_constants.convert_variables_to_constants_v2(
        concrete, lower_control_flow=False
    )
    names = sorted(_signature(split))
    structure = concrete.structured_outputs

    def call(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = constant(*(inputs[name] for name in names))
        return tf.nest.pack_sequence_as(structure, tf.nest.flatten(outputs))

    return tf.function(call)


def _signature(split: splitting.ModelSplit) -> dict[str, tf.TensorSpec]:
    return {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for name, tensor in split.inputs.items()
    }


def _holds_numbers(concrete: typing.Any) -> bool:
    """Whether all that the graph captures are variables: a table cannot be a constant."""
    handles = {id(variable.handle) for variable in concrete.graph.variables}
    return all(
        id(outer) in handles or outer.dtype != tf.resource for outer, _ in concrete.graph.captures
    )


def as_numbers(features: Mapping[str, tf.Tensor], *, precision: str) -> dict[str, np.ndarray]:
    """Features as they are kept.

    Args:
      features: of a batch.
      precision: "bfloat16" halves what is kept, at the precision in which it was computed.

    Returns:
      {name: array}; floats as float32, or as bfloat16.
    """
    kept = tf.bfloat16 if precision == _BFLOAT16 else tf.float32
    return {
        name: (tf.cast(value, kept) if value.dtype.is_floating else value).numpy()
        for name, value in features.items()
    }
