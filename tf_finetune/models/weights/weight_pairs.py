"""Which layer of a file belongs to which layer of a model, by names and shapes alone."""

import dataclasses
import typing
from collections.abc import Callable, Sequence

from tf_finetune import findings

_MAX_LEFT_OUT = 5


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer with weights, of a file or of a model.

    Attributes:
      name: as the file or the model has it.
      shapes: of its weights, in order.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Pairing:
    """Which of the file's layers were chosen.

    Attributes:
      chosen: for each layer of the model, the index of the file's layer.
      by_name: True where names told, False where the order did.
    """

    chosen: tuple[int, ...]
    by_name: bool


class Refusal(typing.Protocol):
    """How a file that does not fit is refused."""

    def refused(self, reason: str, *, advise: bool = False) -> findings.RefusedError:
        """Makes the error.

        Args:
          reason: what does not fit, a sentence.
          advise: adds what to do.

        Returns:
          The error to raise.
        """


def pair(
    stored: Sequence[Layer],
    wanted: Sequence[Layer],
    *,
    fits: Callable[[int, int], bool],
    by_order: bool = False,
) -> Pairing | None:
    """Pairs all layers of a model with layers of a file.

    Args:
      stored: layers of the file, in its order. Further ones at its end are its old classifier.
      wanted: layers of the model, in its order.
      fits: whether the weights of a layer of the file, by its index, suit one of the model.
      by_order: the model's names are not the file's, so equal ones mean nothing.

    Returns:
      The pairing by name if the file has every name and the weights suit; else the one by order if
      all suit; else None.
    """
    indices = {_plain(layer.name): index for index, layer in enumerate(stored)}
    has_names = len(indices) == len(stored) and not by_order
    if has_names and all(_plain(layer.name) in indices for layer in wanted):
        # Not by order then: Keras versions order parallel branches differently.
        chosen = tuple(indices[_plain(layer.name)] for layer in wanted)
        is_named = True
    else:
        chosen = tuple(range(len(wanted)))
        is_named = False
        if len(stored) < len(wanted):
            return None
    if all(fits(index, number) for number, index in enumerate(chosen)):
        return Pairing(chosen, by_name=is_named)
    return None


def explain(
    stored: Sequence[Layer], wanted: Sequence[Layer], *, refusal: Refusal
) -> findings.RefusedError:
    """Says why no pairing exists.

    Args:
      stored: layers of the file.
      wanted: layers of the model.
      refusal: makes the error of a reason.

    Returns:
      The error to raise: it names the first layer that differs and both shapes, or the counts.
    """
    by_name = {_plain(layer.name): layer for layer in stored}
    if all(_plain(layer.name) in by_name for layer in wanted):
        stored = [by_name[_plain(layer.name)] for layer in wanted]
    for theirs, ours in zip(stored, wanted, strict=False):
        if theirs.shapes != ours.shapes:
            difference = _difference(theirs, ours)
            reason = (
                f"layer '{findings.one_line(theirs.name)}' {difference} in the architecture "
                f"('{findings.one_line(ours.name)}')."
            )
            return refusal.refused(reason, advise=True)
    return refusal.refused(
        f"it has weights of {len(stored)} layers, the architecture of {len(wanted)}."
    )


def describe(pairing: Pairing, stored: Sequence[Layer], wanted: Sequence[Layer]) -> tuple[str, ...]:
    """Tells how layers were paired.

    Args:
      pairing: of these layers.
      stored: layers of the file.
      wanted: layers of the model.

    Returns:
      Lines for the user: one if names told, a table if the order did; what was left out.
    """
    if pairing.by_name:
        lines = [f"Weights of {len(wanted)} layers were matched by name."]
    else:
        lines = [
            f"Weights of {len(wanted)} layers were matched by order, since the names differ "
            "(file -> model, shapes):"
        ]
        names = [findings.one_line(stored[index].name) for index in pairing.chosen]
        width = max((len(name) for name in names), default=0)
        lines += [
            f"  {name:<{width}} -> {findings.one_line(ours.name)}  {_shapes(ours)}"
            for name, ours in zip(names, wanted, strict=True)
        ]
    left = [layer for index, layer in enumerate(stored) if index not in set(pairing.chosen)]
    if left:
        names = [f"'{findings.one_line(layer.name)}' {_shapes(layer)}" for layer in left]
        lines.append(
            "Left out, since the architecture has no such layer (an old classifier): "
            f"{findings.list_values(names, limit=_MAX_LEFT_OUT)}."
        )
    return tuple(lines)


def _plain(name: str) -> str:
    # Layer names lose their "/" in Keras 3.
    return name.replace("/", "_")


def _difference(theirs: Layer, ours: Layer) -> str:
    for given, expected in zip(theirs.shapes, ours.shapes, strict=False):
        if given != expected:
            return f"has the shape {given} in the file and {expected}"
    return f"has {len(theirs.shapes)} weights in the file and {len(ours.shapes)}"


def _shapes(layer: Layer) -> str:
    return " ".join(str(shape) for shape in layer.shapes)
