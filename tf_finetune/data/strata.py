"""What the splits of a data set should have the same share of: classes, missing labels, bins.

One idea: every example has tags, at least one for each head, and each tag is shared out by the same
fractions. A class is a tag, a missing label is one, and so is the bin that a number falls into.
"""

from collections.abc import Sequence

import numpy as np

from tf_finetune import head_kinds
from tf_finetune.data import examples, label_encoding

MAX_BINS = 10
# A bin of fewer would give validation and test more than their part, see `splits.count_parts`.
MIN_BIN_EXAMPLES = 20
_JOINT = "\0"


def find_tags(heads: Sequence[label_encoding.HeadLabels], source: int) -> np.ndarray:
    """The tags of each example, over all heads.

    Args:
      heads: the heads, at least one.
      source: index of the source.

    Returns:
      object [n] of tuples of str, each at least one. An exclusive head gives one tag, a multilabel
      head one for each class that is present or unknown; no label and no class are tags too.
    """
    return _join_tags([_tag_head(head, head.labels[source]) for head in heads])


def find_class_tags(heads: Sequence[label_encoding.HeadLabels], source: int) -> np.ndarray:
    """The classes of each example, over all heads that have classes.

    Args:
      heads: the heads, at least one.
      source: index of the source.

    Returns:
      object [n] of tuples of str; ("",) where an example has none.
    """
    columns = [
        _tag_head(head, head.labels[source])
        for head in heads
        if head_kinds.HEAD_KINDS[head.info.kind].names_examples
    ]
    named: dict[tuple[str, ...], tuple[str, ...]] = {}
    tags = _join_tags(columns)
    for row, found in enumerate(tags):
        if found not in named:
            named[found] = tuple(tag for tag in found if tag.split(_JOINT)[1]) or ("",)
        tags[row] = named[found]
    return tags


def find_required_tags(heads: Sequence[label_encoding.HeadLabels]) -> frozenset[str]:
    """The tags without which training is refused.

    Args:
      heads: the heads, at least one.

    Returns:
      The classes of the first head, if each example has one of them; else nothing.
    """
    first = heads[0].info
    row = head_kinds.HEAD_KINDS[first.kind]
    if not row.exclusive or row.positions:
        return frozenset()
    return frozenset(_name_tag(first.name, name) for name in first.classes)


def bin_numbers(numbers: np.ndarray) -> np.ndarray:
    """Puts numbers into bins of about equally many.

    Args:
      numbers: float [n], finite.

    Returns:
      int64 [n], 0 to MAX_BINS - 1; larger numbers are in the same or a later bin, equal ones in the
      same. There are fewer bins where they would hold fewer than MIN_BIN_EXAMPLES.
    """
    num_bins = min(MAX_BINS, len(numbers) // MIN_BIN_EXAMPLES)
    if num_bins < 2:
        return np.zeros(len(numbers), np.int64)
    # Edges are numbers of the data: interpolated ones could round to either side.
    parts = np.arange(1, num_bins) / num_bins
    edges = np.unique(np.quantile(numbers, parts, method="inverted_cdf"))
    return np.searchsorted(edges, numbers, side="left")


def _join_tags(columns: list[np.ndarray]) -> np.ndarray:
    """The tags of each example, of those that each head gives it."""
    if len(columns) == 1:
        return columns[0]
    # Each combination once: of millions of rows, tuples of their own would fill the memory.
    shared: dict[tuple[tuple[str, ...], ...], tuple[str, ...]] = {}
    tags = np.empty(len(columns[0]) if columns else 0, object)
    for row, found in enumerate(zip(*columns, strict=True)):
        if found not in shared:
            shared[found] = sum(found, ())
        tags[row] = shared[found]
    return tags


def _tag_head(head: label_encoding.HeadLabels, labels: np.ndarray) -> np.ndarray:
    """object [n] of tuples of str; equal ones are one tuple."""
    name = head.info.name
    if not head_kinds.HEAD_KINDS[head.info.kind].has_classes:
        labels = _name_bins(labels)
    if head_kinds.HEAD_KINDS[head.info.kind].positions:
        labels = np.array(["labelled" if label else "" for label in labels], object)
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    alone: dict[str, tuple[str, ...]] = {}
    tags = np.empty(len(labels), object)
    for row, label in enumerate(labels):
        if isinstance(label, str):
            if label not in alone:
                alone[label] = (_name_tag(name, label),)
            tags[row] = alone[label]
            continue
        unknown = [f"{_JOINT}{other}" for other in sorted(getattr(label, "unknown", ()))]
        # Sorted, so that the order of names in a cell changes nothing.
        names = [*sorted(label), *unknown] or [_JOINT]
        found = tuple(_name_tag(name, other) for other in names)
        tags[row] = shared.setdefault(found, found)
    return tags


def _name_tag(head: str, name: str) -> str:
    # Neither a head's nor a class's name has the joint in it.
    return f"{head}{_JOINT}{name}"


def _name_bins(labels: np.ndarray) -> np.ndarray:
    known = ~label_encoding.is_missing(labels)
    numbers = np.fromiter((float(label) for label in labels[known]), np.float64, int(known.sum()))
    named = np.full(len(labels), "", object)
    names = examples.object_array([f"{number:02d}" for number in range(MAX_BINS)])
    named[known] = names[bin_numbers(numbers)]
    return named
