"""A trained model as a compiled function of tensors; every verb that predicts calls it alike."""

from collections.abc import Callable
from typing import Any


def compile_model(model: Any, taken: dict[str, Any] | None = None) -> Callable[..., dict[str, Any]]:
    """Compiles a model once, for batches of any size.

    Args:
      model: keras.Model from {input: tensor} to {HEAD: logits [batch, ...]}.
      taken: {input: tf.TensorSpec}; default: as the model declares them.

    Returns:
      A function from {input: tensor} to {HEAD: float32 logits}, of a model that is not training.
    """
    import tensorflow as tf

    if taken is None:
        taken = {
            name: tf.TensorSpec(tensor.shape, tensor.dtype) for name, tensor in model.input.items()
        }

    @tf.function(input_signature=[taken], autograph=False)
    def compute(inputs: dict[str, Any]) -> dict[str, Any]:
        outputs = model(inputs, training=False)
        return {name: tf.cast(logits, tf.float32) for name, logits in outputs.items()}

    return compute
