"""Weights without an architecture: a file of weights meets a model of known layers.

One idea: the file's layers are paired with the model's, by name where every name and shape agrees,
else by order; every pair's shapes are compared before the first weight is set. What was paired by
order is told layer by layer, since equal shapes alone prove little.

Layouts: an .h5 of `save_weights` or of a whole model of Keras 1 and 2 (read here), the .weights.h5
of Keras 3, and the one inside a .keras file (`keras3_weights`).
"""

import dataclasses
import tempfile
import typing
import zipfile
from collections.abc import Iterator, Sequence

import h5py
import keras
import numpy as np

from tf_finetune import findings
from tf_finetune.models import admission, formats, hdf5, model_building
from tf_finetune.models.stored import stored_config, stored_model, stored_weights
from tf_finetune.models.weights import keras3_weights, weight_assignment, weight_pairs

Json = dict[str, typing.Any]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What the weights are for.

    Attributes:
      model: its layers, built.
      shown: its name in error texts, for example "keras:MobileNet,alpha=0.5".
      advice: what to do when the weights do not fit, a sentence.
      stored: the architecture's file, where it comes from one.
    """

    model: keras.Model
    shown: str
    advice: str
    stored: stored_model.StoredModel | None = None


def load_weights(architecture: Architecture, path: str) -> tuple[str, ...]:
    """Sets the weights of an architecture from a file.

    Args:
      architecture: what the weights are for; its model's weights are replaced.
      path: an .h5 file of weights or of a whole model, or a .keras file.

    Returns:
      Lines for the user: how layers were paired, and what of the file was left out.

    Raises:
      trust.UntrustedModelError: the file must not be opened, see `trust.check`.
      findings.RefusedError: the file does not exist, is no such file, truncated or damaged, or does
        not fit the architecture; the text names the first layer that differs, and both shapes.
    """
    kind = _check_file(path)
    told = tuple(finding.message for finding in admission.check(path, role=admission.WEIGHTS))
    return (*_load(architecture, path, kind), *told)


def _load(architecture: Architecture, path: str, kind: str) -> tuple[str, ...]:
    if kind == formats.KERAS:
        with tempfile.TemporaryDirectory() as folder:
            inner = _unpack_weights(path, folder)
            return keras3_weights.load_weights(
                architecture.model, inner, fit=_Fit(architecture, path)
            )
    hdf5.check_size(path)
    fit = _Fit(architecture, path)
    if hdf5.is_keras3_weights(path):
        return keras3_weights.load_weights(architecture.model, path, fit=fit)
    stored, notes = _read_layers(path, architecture)
    origin = architecture.stored
    nameless = origin is not None and "" in origin.renamed.values()
    return (*_load_legacy(architecture.model, stored, fit, by_order=nameless), *notes)


class _Fit(weight_pairs.Refusal):
    """How a file that does not fit an architecture is refused."""

    def __init__(self, architecture: Architecture, path: str):
        self._architecture, self._path = architecture, path

    def refused(self, reason: str, *, advise: bool = False) -> findings.RefusedError:
        advice = f" {self._architecture.advice}" if advise else ""
        shown = findings.one_line(self._architecture.shown)
        return stored_config.refused(self._path, f"does not fit {shown}: {reason}{advice}")


def _check_file(path: str) -> str:
    problems = formats.find_weights_problems(path)
    if problems:
        raise findings.RefusedError(*problems)
    with open(path, "rb") as file:
        archive = file.read(4) == formats.ZIP_SIGNATURE
    return formats.KERAS if archive else formats.HDF5


def _unpack_weights(path: str, folder: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.extract("model.weights.h5", folder)
    except (OSError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        reason = stored_config.one_reason(error)
        raise stored_model.damaged_archive(path, reason) from error


def _read_layers(
    path: str, architecture: Architecture
) -> tuple[list[stored_weights.StoredLayer], tuple[str, ...]]:
    """The layers of an .h5 that have weights, their arrays as Keras 2 under TensorFlow has them."""
    try:
        with h5py.File(path, "r") as file:
            group = file.get("model_weights", file)
            if "layer_names" not in group.attrs and "layer_names0" not in group.attrs:
                raise stored_config.refused(path, stored_weights.explain_no_layers(file))
            backend = file.attrs.get("backend", group.attrs.get("backend", ""))
            backend = stored_weights.as_text(backend)
            stored = stored_weights.read_layers(file)
    except stored_model.HDF5_ERRORS as error:
        if isinstance(error, findings.RefusedError):
            raise
        raise stored_model.damaged(path, error) from error
    for layer in stored:
        if any(not np.issubdtype(array.dtype, np.number) for _, array in layer.weights):
            name = findings.one_line(layer.name)
            raise stored_config.refused(path, f"the weights of layer '{name}' are no numbers.")
    origin = architecture.stored
    if origin is None or origin.generation == 3:
        config = _config_like(stored, architecture.model)
        # The names of arrays tell Keras 1; without its configuration they are taken in order.
        origin = stored_model.StoredModel(config, "2", backend, "HDF5", stored_config=config)
    else:
        origin = dataclasses.replace(origin, backend=backend or origin.backend, notes=())
    layers, notes = model_building.convert_layers(stored, origin, where=path)
    return [layer for layer in layers if layer.weights], notes


def _config_like(stored: Sequence[stored_weights.StoredLayer], model: keras.Model) -> Json:
    # Enough of a configuration to tell which arrays are kernels of convolutions.
    names = [layer.name for layer in stored if layer.weights]
    own = [layer for layer in model.layers if layer.weights]
    by_name = {layer.name: layer for layer in own}
    if not set(by_name).issubset(names):
        by_name = dict(zip(names, own, strict=False))
    layers = [
        {"class_name": type(layer).__name__, "config": {"name": name}}
        for name, layer in by_name.items()
    ]
    return {"class_name": "Model", "config": {"layers": layers}}


def _load_legacy(
    model: keras.Model, stored: list[stored_weights.StoredLayer], fit: _Fit, *, by_order: bool
) -> tuple[str, ...]:
    layers = [layer for layer in model.layers if layer.weights]
    slots = [list(_slots(layer, layer.name)) for layer in layers]
    wanted = [
        weight_pairs.Layer(layer.name, tuple(slot.shape for slot in own))
        for layer, own in zip(layers, slots, strict=True)
    ]
    for candidate in (stored, *_inside(stored, layers)):
        offered = [_offered(layer) for layer in candidate]
        matches = _Matches(candidate, slots)
        pairing = weight_pairs.pair(offered, wanted, fits=matches.fits, by_order=by_order)
        if pairing is not None:
            for number, index in enumerate(pairing.chosen):
                for slot, value in matches.found[index, number]:
                    slot.variable.assign(value)
            _finalize(model)
            return weight_pairs.describe(pairing, offered, wanted)
    raise weight_pairs.explain([_offered(layer) for layer in stored], wanted, refusal=fit)


class _Matches:
    """Which arrays of the file belong to which variables, found once per pair of layers."""

    def __init__(
        self,
        stored: Sequence[stored_weights.StoredLayer],
        slots: Sequence[Sequence[weight_assignment.Slot]],
    ):
        self._stored, self._slots = stored, slots
        self.found: dict[tuple[int, int], list[weight_assignment.Pair]] = {}

    def fits(self, index: int, number: int) -> bool:
        arrays = list(self._stored[index].weights)
        pairs = weight_assignment.match_weights(self._slots[number], arrays)
        if pairs is not None:
            self.found[index, number] = pairs
        return pairs is not None


def _slots(layer: typing.Any, owner: str) -> Iterator[weight_assignment.Slot]:
    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            yield from _slots(inner, inner.name)
    else:
        for variable in layer.weights:
            yield weight_assignment.Slot(variable, owner, variable.name)


def _finalize(model: keras.Model) -> None:
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def _inside(
    stored: list[stored_weights.StoredLayer], layers: Sequence[typing.Any]
) -> list[list[stored_weights.StoredLayer]]:
    """The layers of a nested model, whose arrays Keras 2 stored as one layer's."""
    count = sum(len(layer.weights) for layer in layers)
    owners = {inner: layer.name for layer in layers for inner in _names_inside(layer)}
    found = []
    for outer in stored:
        if len(outer.weights) < count:
            continue
        scopes: dict[str, list[tuple[str, np.ndarray]]] = {}
        for path, array in outer.weights:
            parts = path.split("/")[:-1]
            own = next((owners[part] for part in parts if part in owners), "/".join(parts))
            scopes.setdefault(own, []).append((path, array))
        found.append(
            [stored_weights.StoredLayer(name, tuple(arrays)) for name, arrays in scopes.items()]
        )
    return found


def _names_inside(layer: typing.Any) -> Iterator[str]:
    yield layer.name
    for inner in layer.layers if isinstance(layer, keras.Model) else ():
        yield from _names_inside(inner)


def _offered(layer: stored_weights.StoredLayer) -> weight_pairs.Layer:
    shapes = tuple(tuple(array.shape) for _, array in layer.weights)
    return weight_pairs.Layer(layer.name, shapes)
