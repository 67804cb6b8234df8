"""The .weights.h5 layout of Keras 3: a group per layer, named by its class and a number.

One idea: Keras finds a layer's weights by that group's path. So the groups that belong to the
model's layers are copied under the paths that Keras will look for, and Keras loads the copy; which
group belongs to which layer is decided here, by names and shapes.

Reference: keras 3.15, src/saving/saving_lib.py (`_load_container_state`, `H5IOStore`).
"""

import os
import re
import tempfile
import typing
from collections.abc import Iterator

import h5py
import keras

from tf_finetune import findings
from tf_finetune.models import hdf5
from tf_finetune.models.stored import stored_config, stored_model, stored_weights
from tf_finetune.models.weights import weight_pairs

_ROOTS = ("layers", "_layer_checkpoint_dependencies")
_VARIABLES = "vars"
# States that a layer saves and that are no weights.
_NOT_WEIGHTS = ("seed_generator", "optimizer")


def load_weights(model: keras.Model, path: str, *, fit: weight_pairs.Refusal) -> tuple[str, ...]:
    """Sets a model's weights from a file in this layout.

    Args:
      model: built; its weights are replaced.
      path: the HDF5 file.
      fit: makes the error of a file that does not fit.

    Returns:
      Lines for the user, see `weight_pairs.describe`.

    Raises:
      findings.RefusedError: the file is damaged or does not fit.
    """
    try:
        with h5py.File(path, "r") as file:
            return _load(model, file, fit)
    except stored_model.HDF5_ERRORS as error:
        if isinstance(error, findings.RefusedError):
            raise
        raise stored_model.damaged(path, error) from error


def _load(model: keras.Model, file: h5py.File, fit: weight_pairs.Refusal) -> tuple[str, ...]:
    expected = _group_names(model)
    wanted = [
        weight_pairs.Layer(layer.name, _sorted_shapes(layer.weights)) for layer in expected.values()
    ]
    outermost = None
    for root in _roots(file):
        groups = {
            name: shapes for name in root if (shapes := tuple(sorted(_stored_shapes(root[name]))))
        }
        chosen, by_name = _choose(root, groups, expected)
        candidate = [
            weight_pairs.Layer(_layer_name(root, name), groups[name])
            for name in (*chosen, *(name for name in groups if name not in chosen))
        ]
        outermost = outermost or candidate
        fits = len(chosen) == len(wanted) and all(
            theirs.shapes == ours.shapes for theirs, ours in zip(candidate, wanted, strict=False)
        )
        if fits:
            _load_copy(model, root, dict(zip(expected, chosen, strict=True)), fit)
            pairing = weight_pairs.Pairing(tuple(range(len(wanted))), by_name=by_name)
            return weight_pairs.describe(pairing, candidate, wanted)
    raise weight_pairs.explain(outermost or [], wanted, refusal=fit)


def _choose(
    root: h5py.Group, groups: dict[str, typing.Any], expected: dict[str, typing.Any]
) -> tuple[list[str], bool]:
    """The groups of the model's layers: by layer names in the file, else by class and number."""
    named = {_layer_name(root, name): name for name in groups}
    own = [layer.name for layer in expected.values()]
    if len(named) == len(groups) and set(own).issubset(named):
        return [named[name] for name in own], True
    return [name for name in expected if name in groups], False


def _group_names(model: keras.Model) -> dict[str, typing.Any]:
    """Group name, as Keras makes it of class and number -> layer, for layers with weights."""
    used: dict[str, int] = {}
    names = {}
    for layer in model.layers:
        name = _snake_case(type(layer).__name__)
        number = used.get(name, -1) + 1
        used[name] = number
        if layer.weights:
            names[f"{name}_{number}" if number else name] = layer
    return names


def _snake_case(name: str) -> str:
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _roots(file: h5py.Group) -> Iterator[h5py.Group]:
    """Groups of layers: the file's, then those of nested models, which an architecture may be."""
    for key in _ROOTS:
        if isinstance(file.get(key), h5py.Group):
            yield file[key]
            for name in file[key]:
                if isinstance(file[key][name], h5py.Group):
                    yield from _roots(file[key][name])


def _stored_shapes(group: typing.Any) -> Iterator[tuple[int, ...]]:
    if not isinstance(group, h5py.Group):
        return
    for name, value in group.items():
        if name == _VARIABLES and isinstance(value, h5py.Group):
            yield from (tuple(array.shape) for array in value.values())
        elif name not in _NOT_WEIGHTS:
            yield from _stored_shapes(value)


def _sorted_shapes(weights: list[typing.Any]) -> tuple[tuple[int, ...], ...]:
    # A group lists its parts by the alphabet, not in the layer's order.
    return tuple(sorted(tuple(weight.shape) for weight in weights))


def _layer_name(root: h5py.Group, name: str) -> str:
    group = root[name].get(_VARIABLES)
    stored = group.attrs.get("name") if group is not None else None
    return name if stored is None else stored_weights.as_text(stored)


def _load_copy(
    model: keras.Model, root: h5py.Group, chosen: dict[str, str], fit: weight_pairs.Refusal
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "copy.weights.h5")
        with h5py.File(copy, "w") as file:
            layers = file.create_group(_ROOTS[0])
            for name, stored in chosen.items():
                root.copy(stored, layers, name=name)
        try:
            hdf5.load_weights_under_name(model, copy)
        except hdf5.KERAS_ERRORS as error:
            raise fit.refused(stored_config.one_reason(error), advise=True) from error
