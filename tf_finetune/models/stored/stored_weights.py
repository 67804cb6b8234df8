"""The weights of an .h5 file, as stored: a group per layer, in the writer's order.

One idea: weights are read once, without Keras, as (path, value); who assigns them looks at names
and shapes, never at a position in the file alone.
"""

import dataclasses
import typing

import h5py
import numpy as np

from tf_finetune import findings

_VARIABLES = "vars"


@dataclasses.dataclass(frozen=True)
class StoredLayer:
    """The weights of one layer, of one nested model, or of one wrapper.

    Attributes:
      name: of the layer, for example "conv1".
      weights: (path in the file, value) in the order of `weight_names`, for example
        ("conv1/kernel:0", float32 [3, 3, 3, 8]).
    """

    name: str
    weights: tuple[tuple[str, np.ndarray], ...]


def read_layers(file: h5py.File) -> list[StoredLayer]:
    """Reads all weights of a whole model's file or of a weights-only file.

    Args:
      file: an open file written by Keras 1 or 2, or by Keras 3 as a legacy .h5.

    Returns:
      Every layer in the file's order, those without weights included.

    Raises:
      KeyError: the file lacks an array that it names.
      OSError: an array cannot be read.
    """
    group = file.get("model_weights", file)
    layers = []
    for name in read_names(group, "layer_names"):
        names = read_names(group[name], "weight_names")
        arrays = tuple((path, np.asarray(group[name][path])) for path in names)
        layers.append(StoredLayer(name, arrays))
    return layers


def read_shapes(file: h5py.File) -> dict[str, list[tuple[int, ...]]]:
    """Reads the shapes of all weights, without the weights.

    Args:
      file: as for `read_layers`.

    Returns:
      Layer name -> shapes in the order of `weight_names`.

    Raises:
      KeyError: the file lacks an array that it names.
    """
    group = file.get("model_weights", file)
    return {
        name: [tuple(group[name][path].shape) for path in read_names(group[name], "weight_names")]
        for name in read_names(group, "layer_names")
    }


def read_names(group: typing.Any, attribute: str) -> list[str]:
    """Reads a list of names; one of more than 64 kB is stored in numbered pieces.

    Args:
      group: an HDF5 group.
      attribute: for example "weight_names".

    Returns:
      The names; none where there is no such attribute.
    """
    if attribute in group.attrs:
        pieces = [group.attrs[attribute]]
    else:
        pieces = []
        while f"{attribute}{len(pieces)}" in group.attrs:
            pieces.append(group.attrs[f"{attribute}{len(pieces)}"])
    return [as_text(name) for piece in pieces for name in piece]


def as_text(value: typing.Any) -> str:
    """An HDF5 string, which h5py returns as bytes or as text by its age.

    Args:
      value: an attribute's value.

    Returns:
      The text; undecodable bytes are replaced.
    """
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def explain_no_layers(file: h5py.File) -> str:
    """Why a file's weights cannot be told apart by layers.

    Args:
      file: an open HDF5 file in neither layout, see `read_layers` and `has_keras3_weights`.

    Returns:
      A sentence that starts small, and what to do where that is known.
    """
    groups = {name: value for name, value in file.items() if isinstance(value, h5py.Group)}
    attributes = [name for name in groups if name != _VARIABLES and _VARIABLES in groups[name]]
    if not attributes:
        return "the HDF5 file holds no Keras weights (no layer_names attribute)."
    return (
        "holds the weights of a Keras 3 model of a class of its own, by its attributes "
        f"({findings.list_first(attributes)}) and not by layers. Expected weights of a Sequential "
        "or functional model: load them in that class, copy them to such a model and save those."
    )


def has_keras3_weights(file: h5py.File) -> bool:
    """Whether a file has the layout of `save_weights` of Keras 3.

    Args:
      file: an open HDF5 file.

    Returns:
      True for that layout, False for the older one and for any other content.
    """
    return "layers" in file or "_layer_checkpoint_dependencies" in file
