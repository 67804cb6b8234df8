"""Stored weights reach the variables of a built model, by layer, name and shape.

One idea: a group of the file belongs to the layer of that name. A group of a plain layer has its
weights in one order; a group of a nested model is a flat list whose order depends on the version
that wrote it. So the names in the file decide where they can, then every order that a version
used is tried, and one is taken only where all names and shapes agree.

Reference: tf_keras 2.21, src/saving/legacy/hdf5_format.py (`_legacy_weights`,
`load_weights_from_hdf5_group`); keras 2.0.0, engine/topology.py (`Container.weights`).
"""

import dataclasses
import re
import typing
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from tf_finetune import findings
from tf_finetune.models.stored import stored_config, stored_model, stored_weights
from tf_finetune.models.weights import recurrent_weights

Json = dict[str, typing.Any]

# Weights that no gradient changes, in any version.
_STATISTICS = (
    "moving_mean",
    "moving_variance",
    "mean",
    "variance",
    "count",
    "renorm_mean",
    "renorm_stddev",
    "vector_u",
)
# Name of a variable in Keras 3 -> other names that versions of Keras 2 gave it.
_ALIASES = {
    "kernel": ("depthwise_kernel",),
    "moving_variance": ("moving_var",),
    "moving_mean": ("moving_avg",),
    "vector_u": ("sn_u",),
    "renorm_stddev": ("renorm_variance",),
}
_KNOWN = frozenset(
    [
        "kernel",
        "bias",
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
        "mean",
        "variance",
        "count",
        "embeddings",
        "recurrent_kernel",
        "depthwise_kernel",
        "pointwise_kernel",
        "alpha",
        "scale",
    ]
)
_WRAPPERS = ("TimeDistributed",)


@dataclasses.dataclass(frozen=True)
class Slot:
    """A variable that wants a value.

    Attributes:
      variable: of the model.
      owner: stored name of the innermost layer that the configuration names.
      name: of the variable, for example "kernel".
    """

    variable: typing.Any
    owner: str
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the variable."""
        return tuple(self.variable.shape)

    @property
    def is_statistic(self) -> bool:
        """Whether no gradient changes it."""
        return self.name in _STATISTICS


Pair = tuple[Slot, np.ndarray]
Stored = tuple[str, np.ndarray]


def assign_weights(
    model: keras.Model,
    layers: Sequence[stored_weights.StoredLayer],
    stored: stored_model.StoredModel,
    *,
    where: str,
) -> None:
    """Gives every variable of a model its stored value.

    Args:
      model: built from the configuration of `stored`.
      layers: the groups of the file, in the names and layout of Keras 2.
      stored: the header of the file.
      where: the file, for the errors' texts.

    Raises:
      findings.RefusedError: a layer of the file is not in the model, one of the model is not in the
        file, or their weights differ in number or shape.
    """
    renamed = stored.renamed
    groups = {
        layer.name: weights
        for layer in layers
        if layer.name not in stored.dropped and (weights := _without_dropped(layer, stored.dropped))
    }
    # By the names of the model: several layers may have none in the file.
    wanted = {
        child.name: slots
        for name, child, inner in _children(model, stored.config, "", renamed)
        if (slots := list(_slots(child, inner, name, inner["config"].get("name", ""), renamed)))
    }
    for name, other in _pair_groups(wanted, groups, renamed, where=where):
        pairs = match_weights(wanted[name], list(groups[other]))
        if pairs is None:
            raise _misfit(name, wanted[name], groups[other], where)
        for slot, value in pairs:
            slot.variable.assign(value)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def match_weights(slots: Sequence[Slot], stored: Sequence[Stored]) -> list[Pair] | None:
    """Finds the stored value of each variable of one group.

    Args:
      slots: of a layer or nested model, layer by layer in the order of its configuration.
      stored: (path, value) in the file's order.

    Returns:
      A pair for each variable; None where number, names or shapes do not agree.
    """
    stored = _without_surplus(slots, stored)
    if len(slots) != len(stored):
        return None
    by_owner = _match_owners(slots, stored)
    if by_owner is not None:
        return by_owner
    for order in _orders(slots):
        pairs = _match_order(order, stored)
        if pairs is not None:
            return pairs
    return _match_names(slots, stored)


def _pair_groups(
    wanted: dict[str, list[Slot]],
    groups: dict[str, typing.Any],
    renamed: dict[str, str],
    *,
    where: str,
) -> list[tuple[str, str]]:
    names = {name: renamed.get(name, name) for name in wanted}
    pairs = [(name, stored) for name, stored in names.items() if stored in groups]
    missing = [name for name, stored in names.items() if stored not in groups]
    left = [name for name in groups if name not in names.values()]
    if missing and len(missing) == len(left):
        # A Sequential of Keras 2.0 stores no name of the models in it: they come in order.
        return pairs + list(zip(missing, left, strict=True))
    if missing:
        name = names[missing[0]] or missing[0]
        raise stored_config.refused(
            where,
            f"holds no weights of layer '{findings.one_line(name)}', which expects "
            f"{_shown((slot.name, slot.shape) for slot in wanted[missing[0]])}. The file is "
            "incomplete: copy or download it again.",
        )
    if left:
        raise stored_config.refused(
            where,
            f"holds weights of layer '{findings.one_line(left[0])}', "
            f"{_shown((_leaf(path), value.shape) for path, value in groups[left[0]])}, which its "
            "own configuration does not have. The file is damaged.",
        )
    return pairs


def _children(
    model: keras.Model, config: Json, path: str, renamed: dict[str, str]
) -> Iterator[tuple[str, keras.Layer, Json]]:
    """(stored name, layer, its configuration) in the order of the configuration."""
    by_name = {layer.name: layer for layer in model.layers}
    for inner in config["config"]["layers"]:
        name = inner["config"]["name"]
        own_path = f"{path}/{name}" if path else name
        if name in by_name:
            yield renamed.get(own_path, name), by_name[name], inner


def _slots(
    layer: keras.Layer, config: Json, owner: str, path: str, renamed: dict[str, str]
) -> Iterator[Slot]:
    inner = config["config"]
    if isinstance(inner.get("layers"), list) and isinstance(layer, keras.Model):
        seen: set[int] = set()
        for name, child, child_config in _children(layer, config, path, renamed):
            if id(child) in seen:
                continue
            seen.add(id(child))
            child_path = f"{path}/{child_config['config']['name']}"
            yield from _slots(child, child_config, name, child_path, renamed)
    elif config["class_name"] in _WRAPPERS and isinstance(layer.layer, keras.Model):
        child_path = f"{path}/{inner['layer']['config']['name']}"
        yield from _slots(layer.layer, inner["layer"], owner, child_path, renamed)
    else:
        for variable in layer.weights:
            yield Slot(variable, owner, variable.name)


def _without_dropped(
    layer: stored_weights.StoredLayer, dropped: Sequence[str]
) -> tuple[Stored, ...]:
    """Leaves out what belongs to layers inside a nested model that only a loss needs."""
    prefix = f"{layer.name}/"
    inner = {path.rpartition("/")[2] for path in dropped if path.startswith(prefix)}
    return tuple(
        (path, value)
        for path, value in layer.weights
        if not inner.intersection(path.split("/")[:-1])
    )


def _without_surplus(slots: Sequence[Slot], stored: Sequence[Stored]) -> list[Stored]:
    """Leaves out the states of random generators, which some versions stored as weights."""
    if len(slots) == len(stored):
        return list(stored)
    return [
        (path, value)
        for path, value in stored
        if not re.search(r"StateVar|seed_generator|rng_state|keras_api", path)
    ]


def _match_owners(slots: Sequence[Slot], stored: Sequence[Stored]) -> list[Pair] | None:
    """By the layer names in the paths, where every path names exactly one layer."""
    owners = list(dict.fromkeys(slot.owner for slot in slots))
    if len(owners) < 2:
        return None
    found: dict[str, list[Stored]] = {owner: [] for owner in owners}
    for path, value in stored:
        named = [owner for owner in owners if f"/{owner}/" in f"/{path}"]
        longest = [owner for owner in named if not any(owner in n and owner != n for n in named)]
        if len(longest) != 1:
            return None
        found[longest[0]].append((path, value))
    pairs: list[Pair] = []
    for owner in owners:
        own = [slot for slot in slots if slot.owner == owner]
        if len(own) != len(found[owner]):
            return None
        matched = _match_order(own, found[owner]) or _match_names(own, found[owner])
        if matched is None:
            return None
        pairs.extend(matched)
    return pairs


def _orders(slots: Sequence[Slot]) -> Iterator[list[Slot]]:
    """The orders in which versions of Keras flattened a nested model."""
    trained = [slot for slot in slots if slot.variable.trainable]
    yield trained + [slot for slot in slots if not slot.variable.trainable]
    yield list(slots)
    gradients = [slot for slot in slots if not slot.is_statistic]
    yield gradients + [slot for slot in slots if slot.is_statistic]


def _match_order(slots: Sequence[Slot], stored: Sequence[Stored]) -> list[Pair] | None:
    """By position, where no name that is known contradicts."""
    if not all(_same_name(slot, path) for slot, (path, _) in zip(slots, stored, strict=True)):
        return None
    return _fitted([(slot, value) for slot, (_, value) in zip(slots, stored, strict=True)])


def _match_names(slots: Sequence[Slot], stored: Sequence[Stored]) -> list[Pair] | None:
    """By the last part of each path, where no two are alike."""
    by_leaf = {_leaf(path): value for path, value in stored}
    if len(by_leaf) != len(stored) or len({slot.name for slot in slots}) != len(slots):
        return None
    pairs = []
    for slot in slots:
        names = [name for name in (slot.name, *_ALIASES.get(slot.name, ())) if name in by_leaf]
        if not names:
            return None
        pairs.append((slot, by_leaf[names[0]]))
    return _fitted(pairs)


def _fitted(pairs: list[Pair]) -> list[Pair] | None:
    """The pairs with values in Keras 3's layout; None where a shape does not agree."""
    if all(slot.shape == value.shape for slot, value in pairs):
        return pairs
    values = recurrent_weights.convert_cells(
        [(slot.name, slot.shape, value) for slot, value in pairs]
    )
    if values is None:
        return None
    return [(slot, value) for (slot, _), value in zip(pairs, values, strict=True)]


def _same_name(slot: Slot, path: str) -> bool:
    leaf = _leaf(path)
    return leaf == slot.name or leaf in _ALIASES.get(slot.name, ()) or leaf not in _KNOWN


def _leaf(path: str) -> str:
    return re.sub(r"(:\d+|_\d+)+$", "", path.rpartition("/")[2])


def _misfit(
    name: str, slots: Sequence[Slot], stored: Sequence[Stored], where: str
) -> findings.RefusedError:
    expected = [(slot.name, slot.shape) for slot in slots]
    received = [(_leaf(path), value.shape) for path, value in stored]
    if len(expected) == len(received):
        differing = [
            (own, other)
            for own, other in zip(expected, received, strict=True)
            if own[1] != other[1]
        ] or [(expected[0], received[0])]
        expected, received = [differing[0][0]], [differing[0][1]]
    return stored_config.refused(
        where,
        f"the weights of layer '{findings.one_line(name)}' do not fit its configuration: expected "
        f"{_shown(expected)}, the file holds {_shown(received)}. The file is damaged.",
    )


def _shown(weights: typing.Iterable[tuple[str, tuple[int, ...]]]) -> str:
    parts = [f"{findings.one_line(name)} {tuple(shape)}" for name, shape in weights]
    if len(parts) > 4:
        return f"{len(parts)} weights ({parts[0]}, ...)"
    return " and ".join(parts)
