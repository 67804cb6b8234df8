"""The weights of a restored graph in groups, which --freeze counts as it counts layers elsewhere.

One idea: a graph has no layers any more, but its variables still bear the names of the modules that
made them. The variables of one innermost scope are one group, in the order in which the graph reads
them, so from the input to the output.
"""

import collections
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import keras

from tf_finetune import layer_table

UNIT = "weight groups"

# Variables of one layer whose names have no scope (Keras 3 writes them so): name -> after which
# names of the same layer it may come.
_FOLLOWS = {
    "bias": ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel"),
    "recurrent_kernel": ("kernel",),
    "pointwise_kernel": ("depthwise_kernel",),
    "beta": ("gamma",),
    "moving_mean": ("gamma", "beta"),
    "moving_variance": ("moving_mean",),
}
_BATCH_NORM_NAMES = (
    {"moving_mean", "moving_variance"},
    {"running_mean", "running_var"},
    {"running_mean", "running_variance"},
)


@dataclasses.dataclass(frozen=True)
class StoredVariable:
    """What is known of a variable without its value.

    Attributes:
      name: as in the graph, for example "conv1_bn/gamma", without ":0".
      shape: all sizes known.
      dtype: for example "float32".
      trainable: gradients may change it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool

    @property
    def short_name(self) -> str:
        """The name without its scope."""
        return self.name.rpartition("/")[2]


@dataclasses.dataclass(frozen=True)
class StoredGroup:
    """The variables of one innermost scope.

    Attributes:
      name: the scope with "." for "/", unique among the groups; a Keras layer's name.
      indices: positions of its variables among all.
    """

    name: str
    indices: tuple[int, ...]


def group_variables(variables: Sequence[StoredVariable]) -> tuple[StoredGroup, ...]:
    """Puts the variables of one module of the original program together.

    Args:
      variables: in the order in which the graph reads them.

    Returns:
      Groups in the order of their first variable; every index is in exactly one.
    """
    scoped: dict[str, list[int]] = {}
    previous: list[int] = []
    for index, variable in enumerate(variables):
        scope, _, short = variable.name.rpartition("/")
        if scope:
            scoped.setdefault(f"/{scope}", []).append(index)
            continue
        names = [variables[number].short_name for number in previous]
        if names and names[-1] in _FOLLOWS.get(short, ()) and short not in names:
            previous.append(index)
        else:
            previous = [index]
            # Not a scope: no name of one starts with a colon.
            scoped[f":{index}"] = previous
    groups = sorted(scoped.items(), key=lambda item: item[1][0])
    names = _unique_names([_group_name(key, variables[own[0]]) for key, own in groups])
    return tuple(
        StoredGroup(name, tuple(own)) for name, (_, own) in zip(names, groups, strict=True)
    )


def is_batch_norm(variables: Sequence[StoredVariable]) -> bool:
    """Whether a group's variables are those of a BatchNormalization.

    Args:
      variables: of one group.

    Returns:
      True where moving statistics are among them.
    """
    names = {variable.short_name for variable in variables}
    return any(needed <= names for needed in _BATCH_NORM_NAMES)


class WeightGroup(keras.layers.Layer):
    """Holds the variables of one group; computes nothing itself.

    A layer of its own, so that Keras's `trainable`, saving and counting of weights work on it.

    Args:
      variables: of the group, each with the tf.Variable that holds its value, or None for zeros.
      **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, variables: Sequence[tuple[StoredVariable, Any]], **kwargs: Any):
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
        StoredVariable(**{**fields, "shape": tuple(fields["shape"])})
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
      The table, its unit "weight groups"; counters, which have no floats, are left out.
    """
    counted = [group for group in groups if any("float" in s.dtype for s in group.stored)]
    rows = tuple(
        layer_table.LayerRow(
            number=number,
            name=group.name,
            class_name="WeightGroup",
            output_shape=None,
            num_parameters=group.count_params(),
            is_batch_norm=is_batch_norm(group.stored),
        )
        for number, group in enumerate(counted, start=1)
    )
    return layer_table.LayerTable(rows, unit=UNIT)


def _make_variable(stored: StoredVariable, value: Any) -> keras.Variable:
    name = re.sub(r"[^\w.-]", "_", stored.short_name) or "variable"
    common = {"dtype": stored.dtype, "trainable": stored.trainable, "name": name}
    # A graph computes in its own precision: what it reads must not be cast behind its back.
    if value is None:
        return keras.Variable("zeros", shape=stored.shape, autocast=False, **common)
    return keras.Variable(value, autocast=False, **common)


def _group_name(key: str, first: StoredVariable) -> str:
    name = key[1:] if key.startswith("/") else first.name
    return re.sub(r"[^\w.-]", "_", name.replace("/", ".")) or "weights"


def _unique_names(names: Sequence[str]) -> list[str]:
    taken: set[str] = set()
    counts: collections.Counter[str] = collections.Counter()
    unique = []
    for name in names:
        candidate = name
        while candidate in taken:
            counts[name] += 1
            candidate = f"{name}_{counts[name]}"
        taken.add(candidate)
        unique.append(candidate)
    return unique
