"""The weights of a restored graph as Keras layers, one for each group of its variables.

One idea: Keras freezes, saves and counts the weights of layers; a group is a layer that holds the
very variables that the graph reads, and computes nothing.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import keras

from tf_finetune import layer_table
from tf_finetune.models.saved import variable_groups


class WeightGroup(keras.layers.Layer):
    """Holds the variables of one group; computes nothing itself.

    A layer of its own, so that Keras's `trainable`, saving and counting of weights work on it.

    Args:
      variables: of the group, each with the tf.Variable that holds its value, or None for zeros.
      **kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self, variables: Sequence[tuple[variable_groups.StoredVariable, Any]], **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.stored = tuple(stored for stored, _ in variables)
        with keras.name_scope(self.name):
            self.members = [_make_variable(stored, value) for stored, value in variables]
        self.built = True

    def hold(self, values: Sequence[Any]) -> None:
        """Makes the variables of another restored graph the ones that this group holds.

        Args:
          values: tf.Variables in the order of the group.
        """
        for member, value in zip(self.members, values, strict=True):
            # Keras has no public way to change what a variable is kept in.
            member._value = value

    def describe(self) -> dict[str, Any]:
        """What a group is made of, as JSON.

        Returns:
          What `make_group` takes.
        """
        return {
            "name": self.name,
            "trainable": self.trainable,
            "variables": [dataclasses.asdict(stored) for stored in self.stored],
        }


def make_group(described: dict[str, Any], values: Sequence[Any] | None = None) -> WeightGroup:
    """A group from its description.

    Args:
      described: from `WeightGroup.describe`.
      values: a tf.Variable for each; default: zeros, until `WeightGroup.hold`.

    Returns:
      The group.
    """
    stored = [
        variable_groups.StoredVariable(**{**fields, "shape": tuple(fields["shape"])})
        for fields in described["variables"]
    ]
    held = values or [None] * len(stored)
    group = WeightGroup(list(zip(stored, held, strict=True)), name=described["name"])
    group.trainable = described["trainable"]
    return group


def make_table(groups: Sequence[WeightGroup]) -> layer_table.LayerTable:
    """Numbers the groups as --freeze counts them.

    Args:
      groups: of one module, in order.

    Returns:
      See `variable_groups.make_table`.
    """
    return variable_groups.make_table([(group.name, group.stored) for group in groups])


def _make_variable(stored: variable_groups.StoredVariable, value: Any) -> keras.Variable:
    name = re.sub(r"[^\w.-]", "_", stored.short_name) or "variable"
    common = {"dtype": stored.dtype, "trainable": stored.trainable, "name": name}
    # A graph computes in its own precision: what it reads must not be cast behind its back.
    if value is None:
        return keras.Variable("zeros", shape=stored.shape, autocast=False, **common)
    return keras.Variable(value, autocast=False, **common)
