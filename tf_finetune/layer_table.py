"""The numbered layers of a backbone: what --freeze counts and --mode=inspect prints.

One idea: every count, percentage and name that a user gives refers to one list, in the order of
`model.layers` of the flat backbone, without input layers, a wrapper (TimeDistributed,
Bidirectional) counting as one layer. No Keras here: the table is plain data.
"""

import dataclasses
import difflib
import typing

from tf_finetune import findings


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
      number: position, 1 for the first layer after the input.
      name: the layer's name, unique in its model.
      class_name: for example "Conv2D".
      output_shape: with None for the batch and for free sizes; None: not known, or several outputs.
      num_parameters: number of weights, moving statistics included.
      is_batch_norm: the layer is a BatchNormalization.
    """

    number: int
    name: str
    class_name: str
    output_shape: tuple[int | None, ...] | None
    num_parameters: int
    is_batch_norm: bool


@dataclasses.dataclass(frozen=True)
class LayerTable:
    """The layers of a backbone in the order in which --freeze counts them.

    Attributes:
      rows: numbered from 1.
      unit: what a row is, plural.
    """

    rows: tuple[LayerRow, ...]
    unit: str = "layers"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(row.name for row in self.rows)


def unknown_layer(
    name: str, names: tuple[str, ...], *, unit: str = "layers", flag: str = ""
) -> findings.Problem:
    """The problem of a layer name that does not exist.

    Args:
      name: as the user gave it.
      names: what exists.
      unit: what the names are, plural.
      flag: the flag that gave the name, for example "--cut_layer".

    Returns:
      The problem, with the nearest name where one is near.
    """
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f" Did you mean '{findings.one_line(near[0])}'?" if near else ""
    lead = f"{flag}: unknown" if flag else "Unknown"
    return findings.Problem(
        f"{lead} {unit.removesuffix('s')} '{findings.one_line(name)}'.{hint} "
        f"--mode=inspect lists all {len(names)}.",
        flag=flag,
    )


def table_from_model(model: typing.Any) -> LayerTable:
    """Numbers the layers of a built model.

    Args:
      model: a flat functional `keras.Model`; nested models count as one layer each.

    Returns:
      The table, input layers left out.
    """
    shapes = _output_shapes(model)
    layers = [layer for layer in model.layers if type(layer).__name__ != "InputLayer"]
    rows = [
        LayerRow(
            number=number,
            name=layer.name,
            class_name=type(layer).__name__,
            output_shape=shapes.get(id(layer)),
            num_parameters=sum(_size(weight.shape) for weight in layer.weights),
            is_batch_norm=is_batch_norm(layer),
        )
        for number, layer in enumerate(layers, start=1)
    ]
    return LayerTable(tuple(rows))


def is_batch_norm(layer: typing.Any) -> bool:
    """Whether a layer is a BatchNormalization or derived from it.

    Args:
      layer: a `keras.layers.Layer`.

    Returns:
      True for keras.layers.BatchNormalization and its subclasses.
    """
    return any(base.__name__ == "BatchNormalization" for base in type(layer).__mro__)


def _output_shapes(model: typing.Any) -> dict[int, tuple[int | None, ...]]:
    # A layer may also have been called outside this model, so `layer.output` is not to be trusted:
    # only the nodes of this graph are.
    shapes = {}
    for nodes in model._nodes_by_depth.values():
        for node in nodes:
            if len(node.output_tensors) == 1:
                shapes[id(node.operation)] = tuple(node.output_tensors[0].shape)
    return shapes


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
