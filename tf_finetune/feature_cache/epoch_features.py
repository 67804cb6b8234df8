"""Features that are made anew in each epoch, where no two epochs have the same images.

One idea: what cannot be kept can still be made by the graph of constants instead of the layers that
train, ahead of the step that needs it.
"""

from typing import Any

import tensorflow as tf

from tf_finetune.feature_cache import prefix
from tf_finetune.models import splitting

# The next batch is made while the step trains on this one.
_PREFETCHED_BATCHES = 1


def map_batches(
    batches: tf.data.Dataset, compiled: prefix.Prefix, split: splitting.ModelSplit
) -> tf.data.Dataset:
    """The same batches with features in the place of inputs.

    Args:
      batches: dataset of (inputs, ...).
      compiled: the prefix.
      split: the cut model that it was made of.

    Returns:
      Dataset of ({name: [b, ...]}, ...), floats as float32, in the same order.
    """
    names = sorted(split.features)
    tensors = [split.features[name] for name in names]
    dtypes = [tf.float32 if "float" in tensor.dtype else tensor.dtype for tensor in tensors]

    def run(*batch: Any) -> tuple[Any, ...]:
        inputs, *rest = batch
        given = sorted(inputs)

        # Called as it is in a feature pass: a graph inside of the data set's is not optimized.
        def call(*values: tf.Tensor) -> list[tf.Tensor]:
            features = compiled(dict(zip(given, values, strict=True)))
            return [
                tf.cast(features[name], dtype) for name, dtype in zip(names, dtypes, strict=True)
            ]

        values = tf.py_function(call, [inputs[name] for name in given], dtypes)
        features = {
            name: tf.ensure_shape(value, (None, *tensor.shape[1:]))
            for name, value, tensor in zip(names, values, tensors, strict=True)
        }
        return (features, *rest)

    # One after another: the prefix itself uses all of the processor.
    return batches.map(run).prefetch(_PREFETCHED_BATCHES)
