"""What a server takes for a model of an image or a text and columns: each by its name."""

from typing import Any

import numpy as np
import tensorflow as tf

from tf_finetune.data import column_serving, image_stores, mixed_spec, preprocessing, text_store


def find_main_name(spec: mixed_spec.MixedSpec, *, encoded: bool) -> str:
    """The argument of the image or the text.

    Args:
      spec: the inputs of the model.
      encoded: images come as the bytes of a file, not as pixels.

    Returns:
      "text", "image" or "image_bytes".
    """
    if isinstance(spec.main, text_store.TextSpec):
        return text_store.INPUT
    return image_stores.ENCODED_INPUT if encoded else image_stores.INPUT


def make_specs(spec: mixed_spec.MixedSpec, *, encoded: bool) -> dict[str, tf.TensorSpec]:
    """The arguments of a signature.

    Args:
      spec: the inputs of the model.
      encoded: images come as the bytes of a file, not as pixels.

    Returns:
      {argument: its TensorSpec}: the image or the text, then as `column_serving.make_specs`.
    """
    name = find_main_name(spec, encoded=encoded)
    main = tf.TensorSpec([None], tf.string, name=name)
    if isinstance(spec.main, preprocessing.PreprocessingSpec) and not encoded:
        shape = (spec.main.height, spec.main.width, spec.main.channels)
        main = tf.TensorSpec([None, *shape], tf.float32, name=name)
    return {name: main, **column_serving.make_specs(spec.columns)}


def stack_arguments(
    spec: mixed_spec.MixedSpec, given: dict[str, tf.Tensor], main: tf.Tensor
) -> dict[str, tf.Tensor]:
    """The arguments of a signature as the inputs of the model.

    Args:
      spec: the inputs of the model.
      given: {argument: tensor} of `make_specs`.
      main: the pixels or the texts that they hold.

    Returns:
      {input: tensor}.
    """
    inputs = column_serving.stack_arguments(spec.columns, given)
    return {find_main_name(spec, encoded=False): main, **inputs}


def make_request(
    spec: mixed_spec.MixedSpec, main: Any, values: dict[str, np.ndarray], *, encoded: bool
) -> dict[str, np.ndarray]:
    """The inputs of a model as a client sends them.

    Args:
      spec: the inputs of the model.
      main: [n, ...] of pixels, or object [n] of encoded images or texts.
      values: {input: [n, *shape]} of the columns.
      encoded: `main` holds encoded images.

    Returns:
      {argument: array} of `make_specs`.
    """
    name = find_main_name(spec, encoded=encoded)
    return {name: main, **column_serving.make_request(spec.columns, values)}
