"""Columns beside an image or a text as features: numbers scaled, strings as rows of zeros and ones.

One idea: what was measured on the training rows is a constant of a layer, so model.keras and the
export take the columns as they stand in a table.
"""

import typing
from collections.abc import Sequence

import keras
import tensorflow as tf

from tf_finetune.data import column_encoding, mixed_spec

_LAYERS = "columns"


@keras.saving.register_keras_serializable(package="tf_finetune")
class OneHotColumns(keras.layers.Layer):
    """Strings as zeros, and a one at the place of their category.

    A string that is no category, such as one that training never saw, is all zeros.

    Attributes:
      categories: of each column, its categories, at least one.
    """

    def __init__(self, categories: Sequence[Sequence[str]], **options: typing.Any):
        super().__init__(**options)
        self.categories = tuple(tuple(map(str, names)) for names in categories)
        if not self.categories or not all(self.categories):
            raise ValueError("categories: expected at least one column of at least one category.")
        self.built = True

    def call(self, inputs: typing.Any) -> typing.Any:
        """Compares.

        Args:
          inputs: string [batch, columns] in UTF-8.

        Returns:
          float [batch, categories of all columns].
        """
        found = [
            tf.equal(inputs[:, place : place + 1], tf.constant([name.encode() for name in names]))
            for place, names in enumerate(self.categories)
        ]
        return tf.cast(tf.concat(found, axis=1), self.compute_dtype)

    def compute_output_spec(self, inputs: typing.Any) -> keras.KerasTensor:
        """What `call` returns.

        Args:
          inputs: its argument.

        Returns:
          The symbolic tensor.
        """
        return keras.KerasTensor(
            (inputs.shape[0], sum(map(len, self.categories))), self.compute_dtype
        )

    def get_config(self) -> dict[str, typing.Any]:
        """The configuration.

        Returns:
          JSON.
        """
        return {**super().get_config(), "categories": [list(names) for names in self.categories]}


def encode_columns(
    inputs: dict[str, keras.KerasTensor], encoding: column_encoding.Encoding
) -> list[keras.KerasTensor]:
    """Columns as features of about the size one.

    Args:
      inputs: `mixed_spec.NUMBERS`, float32 [batch, columns], and `mixed_spec.CATEGORIES`, string
        [batch, columns]; one or both.
      encoding: of the training rows.

    Returns:
      float32 [batch, features], one of each input. The layers have no weights that train.
    """
    features = []
    if mixed_spec.NUMBERS in inputs:
        scale = keras.layers.Normalization(
            mean=list(encoding.means),
            variance=list(encoding.variances),
            name=f"{_LAYERS}_scaled",
            dtype="float32",
        )
        features.append(scale(inputs[mixed_spec.NUMBERS]))
    if mixed_spec.CATEGORIES in inputs:
        mark = OneHotColumns(encoding.categories, name=f"{_LAYERS}_marked", dtype="float32")
        features.append(mark(inputs[mixed_spec.CATEGORIES]))
    return features
