"""Columns with a vector in each cell, taken apart: `embedding` is embedding[0], embedding[1], ...

One idea: behind this door there are only columns of single numbers, so that a list of JSONL, a
feature of a TFRecord and a row of a NumPy matrix are read, checked and served as columns of a CSV.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tf_finetune import findings
from tf_finetune.data import json_rows

# Rows that are looked at to tell which columns hold vectors.
_FIRST_ROWS = 1000
_ELEMENT = re.compile(r"(?P<name>.+)\[(?P<place>0|[1-9]\d{0,6})\]", re.DOTALL)

Row = tuple[int, list[Any]]


class BadVector(json_rows.BadRow):
    """A row whose vector cannot be taken apart."""


def name_elements(name: str, length: int) -> list[str]:
    """The columns that a vector is taken apart into.

    Args:
      name: of its column.
      length: numbers in it.

    Returns:
      For example ["embedding[0]", "embedding[1]"].
    """
    return [f"{name}[{place}]" for place in range(length)]


def find_vectors(names: Sequence[str]) -> dict[str, int]:
    """The vectors that columns were taken from.

    Args:
      names: of columns.

    Returns:
      {vector: its length}: of runs of names that count from [0] on, one behind the other.
    """
    found: dict[str, int] = {}
    run = ""
    for name in names:
        match = _ELEMENT.fullmatch(name)
        base, place = (match["name"], int(match["place"])) if match else ("", -1)
        if place == 0 and base not in found:
            run = base
            found[run] = 1
        elif match and base == run and place == found[run]:
            found[run] += 1
        else:
            run = ""
    return found


def find_lengths(names: Sequence[str], rows: Iterator[Row]) -> tuple[dict[str, int], Iterator[Row]]:
    """Which columns hold lists of numbers.

    Args:
      names: of the columns.
      rows: of a table, not yet read.

    Returns:
      ({column: numbers in its first cell that is not empty}, all rows). A column that begins with
      anything but a list of numbers is missing.
    """
    first = list(itertools.islice(rows, _FIRST_ROWS))
    lengths = {}
    for place, name in enumerate(names):
        cells = (cells[place] for _, cells in first if len(cells) > place)
        cell = next((cell for cell in cells if cell != ""), "")
        if isinstance(cell, json_rows.Numbers) and cell.elements:
            lengths[name] = len(cell.elements)
    return lengths, itertools.chain(first, rows)


def take_apart(
    names: Sequence[str], rows: Iterator[Row], lengths: dict[str, int]
) -> tuple[list[str], Iterator[Row]]:
    """A table without vectors.

    Args:
      names: of the columns.
      rows: of the table.
      lengths: {column of vectors: numbers in each}.

    Returns:
      (the columns, each vector's elements in its place; the rows). An empty cell is as many empty
      cells; a row with anything else than a vector of that length is a `BadVector`.
    """
    if not lengths:
        return list(names), rows
    places = {place: name for place, name in enumerate(names) if name in lengths}
    split = [
        element
        for name in names
        for element in (name_elements(name, lengths[name]) if name in lengths else [name])
    ]
    convert = _make_converter(len(names), places, lengths)
    return split, ((line, convert(cells)) for line, cells in rows)


def _make_converter(
    width: int, places: dict[int, str], lengths: dict[str, int]
) -> Callable[[list[Any]], list[Any]]:
    def convert(cells: list[Any]) -> list[Any]:
        if len(cells) != width:
            return cells
        made: list[Any] = []
        for place, cell in enumerate(cells):
            name = places.get(place)
            if name is None:
                made.append(cell)
                continue
            numbers: Sequence[str] = [""] * lengths[name]
            if cell != "":
                numbers = cell.elements if isinstance(cell, json_rows.Numbers) else ()
            if len(numbers) != lengths[name]:
                return BadVector(_describe(name, cell, lengths[name]))
            made += numbers
        return made

    return convert


def _describe(name: str, cell: Any, length: int) -> str:
    received = "a list of other things"
    if isinstance(cell, str):
        received = f"'{findings.one_line(cell)[:80]}'"
    elif isinstance(cell, json_rows.Numbers):
        received = str(len(cell.elements))
    return (
        f"column '{findings.one_line(name)}': expected a list of {length} numbers, as in the first "
        f"row. Received {received}."
    )
