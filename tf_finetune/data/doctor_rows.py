"""All examples of all sources in one row of numbers, for checks that compare them.

One idea: a data set with a wrong label has no splits, but its duplicates still want to be found.
So checks look at what was listed, and at splits only as far as these are known.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from tf_finetune import findings, head_kinds, specs
from tf_finetune.data import csv_rows, examples, image_stores, label_cells, loading, text_store

# Names beside those of splits: where errors left no splits, and what no split takes.
NOT_SPLIT, LEFT_OUT = "not split", "left out"
NAMES = (*examples.SPLIT_NAMES, NOT_SPLIT, LEFT_OUT)
_GIVEN_SPLIT = {"validation_data": "validation", "test_data": "test"}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a user finds an example.

    Attributes:
      name: for messages, for example "labels.csv, line 7"; printable.
      path: of the file.
      line: in that file, or None.
    """

    name: str
    path: str
    line: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The examples; row counts through all sources.

    Attributes:
      parts: the sources by the name of their flag.
      names: object [n], one of NAMES: the split of each example.
      labels: {head name: object [n] of labels, as `label_cells.convert` makes them}; heads whose
        columns are missing, and heads of positions, are left out.
      columns: {head name: label columns of the first source}.
      kinds: {head name: a key of `head_kinds.HEAD_KINDS`}.
    """

    parts: dict[str, examples.Examples]
    names: np.ndarray
    labels: dict[str, np.ndarray]
    columns: dict[str, tuple[str, ...]]
    kinds: dict[str, str]

    def __len__(self) -> int:
        return len(self.names)

    def find_part(self, row: int) -> tuple[examples.Examples, int]:
        """The source of an example.

        Args:
          row: 0 to n - 1.

        Returns:
          (the source, the example's row in it).

        Raises:
          IndexError: there are fewer examples.
        """
        for part in self.parts.values():
            if row < len(part):
                return part, row
            row -= len(part)
        raise IndexError(row)

    def locate(self, row: int) -> Place:
        """Where a user finds an example.

        Args:
          row: 0 to n - 1.

        Returns:
          The file or the line of a table.
        """
        part, own = self.find_part(row)
        line = None if part.lines is None else int(part.lines[own])
        name = part.locate(own)
        return Place(name, name if line is None and part.stamps is not None else part.source, line)

    def sort(self, chosen: Iterable[int]) -> list[int]:
        """Examples in the order in which a user finds them.

        Args:
          chosen: rows.

        Returns:
          The rows, those of a table by their lines.
        """
        places: dict[int, tuple[str, int]] = {}
        for row in chosen:
            part, own = self.find_part(row)
            line = own if part.lines is None else int(part.lines[own])
            places[row] = ("" if part is self.parts.get("data") else part.source, line)
        return sorted(places, key=places.__getitem__)

    def name_input(self, row: int) -> str:
        """What a message says between an example's place and what is wrong with it.

        Args:
          row: 0 to n - 1.

        Returns:
          Of a table for example ": 'cat/1.png'", or the beginning of a text; "" of a file, which
          its place names, and of numbers.
        """
        part, own = self.find_part(row)
        if isinstance(part.inputs, text_store.Texts):
            shown = text_store.shorten(part.inputs.texts[own])
        elif part.lines is not None and isinstance(part.inputs, image_stores.PathImages):
            shown = part.keys[own]
        else:
            return ""
        return f": '{findings.one_line(shown)}'"

    def locate_class(self, row: int) -> Place:
        """Where a user finds the class of an example.

        Args:
          row: 0 to n - 1.

        Returns:
          The class folder, or the example's line in a table.
        """
        part, own = self.find_part(row)
        place = self.locate(row)
        if part.lines is not None or part.stamps is None:
            return place
        names = part.keys[own].split("/")[: 1 if part.splits is None else 2]
        name = findings.one_line("/".join((part.source, *names)))
        return Place(name, name, None)

    def warn(
        self, row: int, message: str, *, flag: str = "", place: Place | None = None
    ) -> findings.Problem:
        """A warning about an example.

        Args:
          row: 0 to n - 1.
          message: what follows the example's place.
          flag: that would help, or "".
          place: where the user is sent; default: to the example.

        Returns:
          The warning.
        """
        place = place or self.locate(row)
        return findings.Problem(
            f"{place.name}{message}", findings.WARNING, place.path, place.line, flag
        )


def collect_rows(
    parts: dict[str, examples.Examples],
    heads: tuple[specs.HeadSpec, ...],
    spec: specs.DataSpec,
    *,
    splits: loading.Splits | None,
) -> Rows:
    """Puts the examples of all sources behind each other.

    Args:
      parts: of `loading.load_parts`.
      heads: the tasks; none: one named "label".
      spec: the data options.
      splits: of `loading.examine_parts`; None where errors left none.

    Returns:
      The rows.
    """
    names = [_name_splits(flag, part, splits) for flag, part in parts.items()]
    labels, columns, kinds = {}, {}, {}
    for head in heads or (specs.HeadSpec(),):
        found = [_find_columns(part, head, spec) for part in parts.values()]
        if not found or not all(found):
            continue
        columns[head.name] = found[0]
        kind = head.kind or label_cells.find_kind(next(iter(parts.values())), found[0])
        if head_kinds.HEAD_KINDS[kind].positions:
            continue  # Examples have no classes to count or to compare.
        kinds[head.name] = kind
        cells = [
            label_cells.convert(part, own, head=head, kind=kind)[0]
            for part, own in zip(parts.values(), found, strict=True)
        ]
        labels[head.name] = np.concatenate(cells)
    empty = np.empty(0, object)
    return Rows(parts, np.concatenate(names) if names else empty, labels, columns, kinds)


def _name_splits(flag: str, part: examples.Examples, splits: loading.Splits | None) -> np.ndarray:
    names = np.full(len(part), _GIVEN_SPLIT.get(flag, NOT_SPLIT), object)
    if splits is not None:
        names[:] = LEFT_OUT
        for split in splits.parts:
            if split.inputs is part.inputs:
                names[split.indices] = split.name
    elif part.splits is not None:
        names[:] = [examples.SPLIT_NAMES[code] for code in part.splits]
    return names


def _find_columns(
    part: examples.Examples, head: specs.HeadSpec, spec: specs.DataSpec
) -> tuple[str, ...]:
    """The columns that hold a head's labels, as `label_encoding` chooses them, or ()."""
    available = list(part.labels)
    if not available:
        return ()
    asked = head.label or spec.label_column
    first = asked or (head.name if head.name in available else available[0])
    wanted = label_cells.split_columns(first, available)
    if all(name in available for name in wanted):
        return wanted
    return (available[0],) if len(available) == 1 else ()


def read_cell(cell: object) -> tuple[str, ...]:
    """The names in a label.

    Args:
      cell: str, or tuple of str; anything else has no names.

    Returns:
      The names; () of a missing label.
    """
    if isinstance(cell, tuple):
        return tuple(str(name) for name in cell)
    return (cell,) if isinstance(cell, str) and cell else ()


def show_cell(cell: object) -> str:
    """A label as it stands in a message.

    Args:
      cell: see `read_cell`.

    Returns:
      Printable text in quotation marks.
    """
    return f"'{findings.one_line(csv_rows.SEPARATOR.join(read_cell(cell)))}'"
