"""Labels of positions: one for each pixel of an image or word of a text, not one for the example.

One idea: such labels are as large as the inputs, so they have a store as those do. What a split
keeps in `labels` is each example's place in the store, -1 where it has no label, and everything
that permutes, skips or counts labels goes on working.
"""

import dataclasses
import os
import typing
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tf_finetune import findings, head_kinds

IGNORED = -1
# What a mask has where there is no class.
IGNORED_PIXEL = 255


@dataclasses.dataclass(frozen=True, eq=False)
class MaskLabels:
    """Masks of the examples of a split.

    Attributes:
      paths: object [n] of bytes, the mask of each example; b"" where there is none.
      num_classes: class numbers are below.
      counts: int64 [n, num_classes], pixels of each class in what the model sees; None before
        `mask_reading.read_masks`.
      pixels: uint8 [n, height, width], what the model sees, 255 without a class; None where that
        does not fit into the memory.
    """

    paths: np.ndarray
    num_classes: int
    counts: np.ndarray | None = None
    pixels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)


@dataclasses.dataclass(frozen=True, eq=False)
class TagLabels:
    """Tags of the words of the examples of a split.

    Attributes:
      tags: int32 [words of all examples], class numbers.
      lengths: int64 [n], words of each example; 0 where it has no tags.
      counts: int64 [n, num_classes], words of each class.
    """

    tags: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)


PositionLabels = MaskLabels | TagLabels


def encode(
    cells: np.ndarray, info: head_kinds.HeadInfo
) -> tuple[np.ndarray, PositionLabels | None]:
    """The labels of a head in a split, and the store that they point into.

    Args:
      cells: object [n], see `label_cells.convert`.
      info: the head.

    Returns:
      (see `head_kinds.encode_labels`, None); of positions (int32 [n], places in the store or -1,
      the store).
    """
    positions = head_kinds.HEAD_KINDS[info.kind].positions
    if not positions:
        return head_kinds.encode_labels(cells, kind=info.kind, classes=info.classes), None
    if positions == "words":
        return _encode_tags(cells, info.classes)
    paths = np.empty(len(cells), object)
    paths[:] = [os.fsencode(cell) for cell in cells]
    places = np.arange(len(cells), dtype=np.int32)
    numbers = np.where(paths == b"", IGNORED, places).astype(np.int32)
    return numbers, MaskLabels(paths, len(info.classes))


def _encode_tags(cells: np.ndarray, classes: tuple[str, ...]) -> tuple[np.ndarray, TagLabels]:
    index = {name: number for number, name in enumerate(classes)}
    coded = [np.array([index[tag] for tag in cell], np.int32) for cell in cells]
    lengths = np.array([len(tags) for tags in coded], np.int64)
    counts = np.zeros((len(cells), len(classes)), np.int64)
    for row, tags in enumerate(coded):
        counts[row] = np.bincount(tags, minlength=len(classes))
    flat = np.concatenate([np.zeros(0, np.int32), *coded])
    numbers = np.where(lengths > 0, np.arange(len(cells)), IGNORED).astype(np.int32)
    return numbers, TagLabels(flat, lengths, counts)


def count_classes(
    labels: Mapping[str, np.ndarray], positions: Mapping[str, PositionLabels]
) -> dict[str, np.ndarray]:
    """How many positions of a split have which class.

    Args:
      labels: of the split.
      positions: of the split, read.

    Returns:
      {HEAD: int64 [classes]} of the heads of positions.

    Raises:
      ValueError: the masks were not read.
    """
    found = {}
    for name, store in positions.items():
        if store.counts is None:
            raise ValueError("The labels of positions were not read. Call read_images first.")
        places = labels[name]
        found[name] = store.counts[places[places >= 0]].sum(axis=0)
    return found


class Part(typing.Protocol):
    """A split, as `loading.Split` is one."""

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Places in the stores."""
        ...

    @property
    def positions(self) -> dict[str, PositionLabels]:
        """The stores."""
        ...


def find_absent_classes(
    train: Part, heads: Sequence[head_kinds.HeadInfo]
) -> list[findings.Problem]:
    """Classes that no position of training has.

    Args:
      train: the training split; masks that were not read yet are passed over.
      heads: the heads.

    Returns:
      Of each head of positions an error where training has fewer than two classes, a warning where
      it lacks some; nothing where no example has a label at all.
    """
    problems = []
    for head in heads:
        store, places = train.positions.get(head.name), train.labels[head.name]
        if store is None or store.counts is None or not (places >= 0).any():
            continue
        counts = store.counts[places[places >= 0]].sum(axis=0)
        units = head_kinds.HEAD_KINDS[head.kind].positions
        present = [head.classes[number] for number in np.flatnonzero(counts)]
        absent = [head.classes[number] for number in np.flatnonzero(counts == 0)]
        if len(present) < 2:
            shown = f"of class '{findings.one_line(present[0])}'" if present else "without a class"
            advice = f"; {IGNORED_PIXEL} stands for no class" if units == "pixels" else ""
            message = (
                f"all {units} of the train split of head '{head.name}' are {shown}. Expected two "
                f"classes or more{advice}."
            )
            problems.append(findings.Problem(message, flag="--head"))
        elif absent:
            message = (
                f"the train split has no {units.removesuffix('s')} of {len(absent)} of "
                f"{len(head.classes)} classes of head '{head.name}': {findings.list_first(absent)}."
            )
            problems.append(findings.Problem(message, severity=findings.WARNING))
    return problems


def count_all(parts: Iterable[Part]) -> dict[str, np.ndarray]:
    """How many positions of several splits have which class.

    Args:
      parts: splits, read.

    Returns:
      {HEAD: int64 [classes]}.
    """
    counts: dict[str, np.ndarray] = {}
    for part in parts:
        for name, numbers in count_classes(part.labels, part.positions).items():
            counts[name] = counts.get(name, 0) + numbers
    return counts
