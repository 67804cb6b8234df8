"""Strings of columns as features: rows of zeros and ones.

One idea: the categories of the training rows are a constant of the layer and no table, so that a
copy on each device and an export need nothing beside the graph.
"""

import typing
from collections.abc import Sequence

import keras
import tensorflow as tf


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
