"""The variables of a graph in groups, which --freeze counts as it counts layers elsewhere.

One idea: a graph has no layers any more, but its variables still bear the names of the modules that
made them. The variables of one innermost scope are one group, in the order in which the graph reads
them, so from the input to the output.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

from tf_finetune import findings, layer_table
from tf_finetune.models.stored import stored_config

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
      variables: in the order of `module_rules.order_variables`.

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


def make_table(
    groups: Iterable[tuple[str, Sequence[StoredVariable]]],
) -> layer_table.LayerTable:
    """Numbers groups as --freeze counts them.

    Args:
      groups: (name, variables) of each group of one module, in order.

    Returns:
      The table, its unit "weight groups"; counters, which have no floats, are left out.
    """
    counted = [group for group in groups if any("float" in s.dtype for s in group[1])]
    rows = tuple(
        layer_table.LayerRow(
            number=number,
            name=name,
            class_name="WeightGroup",
            output_shape=None,
            num_parameters=sum(math.prod(variable.shape) for variable in variables),
            is_batch_norm=is_batch_norm(variables),
        )
        for number, (name, variables) in enumerate(counted, start=1)
    )
    return layer_table.LayerTable(rows, unit=UNIT)


def describe_variable(
    name: str, shape: tuple[int, ...], dtype: str, *, trainable: bool, path: str
) -> StoredVariable:
    """What is kept of a variable.

    Args:
      name: as in the graph, without ":0".
      shape: all sizes known.
      dtype: for example "float32".
      trainable: neither its graph nor its author holds it fixed.
      path: folder of the module, for the error's text.

    Returns:
      The variable; what is not of floats cannot be trained.

    Raises:
      findings.RefusedError: it holds no numbers.
    """
    is_number = "float" in dtype or dtype == "bool" or re.fullmatch(r"u?int\d+", dtype)
    if not is_number:
        raise stored_config.refused(
            path,
            f"its variable '{findings.one_line(name)}' is of type {dtype}. Expected numbers.",
        )
    return StoredVariable(name, shape, dtype, trainable and "float" in dtype)


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
