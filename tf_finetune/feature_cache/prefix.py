"""The frozen part of a model as one compiled graph.

One idea: weights that cannot change are constants, and a graph of constants can be made smaller:
TensorFlow folds BatchNormalization into the convolutions before it, and on processors that have
the instructions oneDNN computes in bfloat16 where that loses little. So the graph that makes
features is another one than that which trains.

Reference: tensorflow/core/grappler/optimizers/remapper.cc and auto_mixed_precision.cc (the lists
of operations that are computed in half precision, and of those that never are).
"""

import typing
from collections.abc import Mapping

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
    function = tf.function(lambda **inputs: split.run_prefix(inputs))
    concrete = function.get_concrete_function(**_signature(split))
    num_bytes = sum(
        variable.dtype.size * variable.shape.num_elements() for variable in concrete.variables
    )
    if num_bytes > _MAX_CONSTANT_BYTES or not _holds_numbers(concrete):
        return Prefix(concrete, precision=precision, is_constant=False)
    from tensorflow.python.framework import convert_to_constants

    constant = convert_to_constants.convert_variables_to_constants_v2(
        concrete, lower_control_flow=False
    )
    names = sorted(_signature(split))
    structure = concrete.structured_outputs

    def call(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = constant(*(inputs[name] for name in names))
        return tf.nest.pack_sequence_as(structure, tf.nest.flatten(outputs))

    return Prefix(tf.function(call), precision=precision, is_constant=True)


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
