"""A JSONL file as rows of cells: an object on each line.

One idea: a number, a string and a cell of a CSV say the same where they have the same letters, so
numbers keep the form in which they stand; only lists, which a CSV has none of, become tuples: of
names, each once, with all that stands there beside it.

Reference: JSON Lines, https://jsonlines.org; T. Bray, RFC 8259, 2017,
https://www.rfc-editor.org/rfc/rfc8259.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Self

from tf_finetune import findings
from tf_finetune.data import encodings

ENDINGS = (".jsonl", ".ndjson")


class ListCell(tuple[str, ...]):
    """The names in a list, each once.

    Attributes:
      elements: all of them, as they stand: words, the tags of words, a vector.
    """

    elements: tuple[str, ...]

    @classmethod
    def make(cls, elements: Iterable[str]) -> Self:
        """The cell of a list.

        Args:
          elements: all of the list, in order.

        Returns:
          The cell.
        """
        elements = tuple(elements)
        cell = cls(dict.fromkeys(elements))
        cell.elements = elements
        return cell

    # Tables keep equal cells once, and order and hash rows by what their cells say as text: other
    # elements are another cell.
    def __eq__(self, other: object) -> bool:
        if isinstance(other, ListCell):
            return self.elements == other.elements
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return super().__hash__()

    def __repr__(self) -> str:
        return repr(self.elements)


class Numbers(ListCell):
    """A list of numbers alone: its elements may be a vector."""


# A cell: text, the names of a list, or nothing.
Cell = str | tuple[str, ...]

_MAX_KEYS = 100_000


def read_elements(cell: tuple[str, ...]) -> tuple[str, ...]:
    """All that stands in a cell of several names.

    Args:
      cell: names, each once, or a `ListCell`.

    Returns:
      The elements of the list, repeated as they are there; of other tuples the names.
    """
    return cell.elements if isinstance(cell, ListCell) else cell


class BadRow(list[Any]):
    """A row without cells, in the place of one that cannot be read.

    Attributes:
      fault: what is wrong with it; a sentence that follows its place.
    """

    def __init__(self, fault: str):
        super().__init__()
        self.fault = fault


class _BadLineError(ValueError):
    """What is wrong with a line; the text follows the place."""


def iterate_objects(
    path: str, *, encoding: str = encodings.DEFAULT
) -> Iterator[tuple[int, dict[str, Cell] | BadRow]]:
    """Reads one object after another; memory does not grow with the file.

    Args:
      path: the file.
      encoding: value of --encoding.

    Yields:
      (1-based line, {key: cell}) of every line that is not empty. Numbers are text as it stands in
      the file, true and false are "true" and "false", null is "", a list of strings and numbers is
      a `ListCell`; of numbers alone it is `Numbers`. A `BadRow` of a line that is no object, or of
      one with a key twice, or with a value that is an object or a list with more than strings and
      numbers in it.

    Raises:
      findings.RefusedError: the file is not in the encoding, or a line has more than 4,194,304
        characters; when the place is reached.
    """
    line = 0
    try:
        with encodings.open_text(path, encoding) as file:
            text = encodings.BoundedLines(file, "a line", error=_BadLineError)
            for line, content in enumerate(text, start=1):
                text.num_characters = 0
                if not content.strip():
                    continue
                try:
                    values: dict[str, Cell] | BadRow = _read_line(content)
                except _BadLineError as error:
                    values = BadRow(str(error))
                yield line, values
    except _BadLineError as error:
        # It is too long: the one after the last that was read.
        raise encodings.refusal(path, str(error), line=line + 1) from error
    except UnicodeError as error:
        raise encodings.refuse_bytes(path, encoding) from error
    except OSError as error:
        raise encodings.refusal(path, f"it cannot be read: {error.strerror}.") from error


def read_rows(
    path: str, *, expected: str, encoding: str = encodings.DEFAULT
) -> tuple[list[str], list[list[Cell]], list[int]]:
    """Reads every object as a row.

    Args:
      path: the file.
      expected: what an object should look like, for messages.
      encoding: value of --encoding.

    Returns:
      (the keys of all objects in the order in which they come up; a cell for each of them in each
      row, "" where the object lacks it, or a `BadRow`; the 1-based lines), at least one row.

    Raises:
      findings.RefusedError: as for `iterate_objects`; or the file is empty.
    """
    places: dict[str, int] = {}
    rows: list[list[Cell]] = []
    lines: list[int] = []
    for line, values in iterate_objects(path, encoding=encoding):
        lines.append(line)
        if isinstance(values, BadRow):
            rows.append(values)
            continue
        for key in values:
            places.setdefault(key, len(places))
        rows.append([values.get(key, "") for key in places])
    if not rows:
        raise encodings.refusal(path, f"the file is empty. Expected on each line {expected}.")
    for row in rows:
        if not isinstance(row, BadRow):
            row += [""] * (len(places) - len(row))
    return list(places), rows, lines


def _read_line(content: str) -> dict[str, Cell]:
    try:
        pairs = json.loads(
            content,
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_refuse_constant,
            object_pairs_hook=_Pairs,
        )
    except json.JSONDecodeError as error:
        raise _BadLineError(
            f"no valid JSON: {error.msg} at character {error.pos + 1}. Expected an object on one "
            "line."
        ) from error
    except RecursionError as error:
        raise _BadLineError("values are nested too deeply. Expected a flat object.") from error
    if not isinstance(pairs, _Pairs):
        raise _BadLineError("expected an object such as {...}. Received another value.")
    values: dict[str, Cell] = {}
    for key, value in pairs:
        if key in values:
            raise _BadLineError(f"the key '{findings.one_line(key)}' is there twice.")
        values[key] = _read_value(key, value)
    if len(values) > _MAX_KEYS:
        raise _BadLineError(f"the object has more than {_MAX_KEYS:,} keys.")
    return values


class _Number(str):
    """A number as it stands in the file."""

    __slots__ = ()


class _Pairs(list):
    """The keys and values of an object, in order, as `json` gives them."""


def _refuse_constant(name: str) -> Any:
    raise _BadLineError(f"no valid JSON: {name}. Write null where there is no number.")


def _read_value(key: str, value: Any) -> Cell:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _check_text(key, str(value))
    shown = f"the value of '{findings.one_line(key)}'"
    if isinstance(value, _Pairs):
        raise _BadLineError(f"{shown} is an object. Expected text, a number or a list of names.")
    if not all(isinstance(element, str) for element in value):
        raise _BadLineError(f"{shown} is a list with more than text and numbers in it.")
    if value and all(isinstance(element, _Number) for element in value):
        return Numbers.make(str(element) for element in value)
    return ListCell.make(_check_text(key, element) for element in value)


def _check_text(key: str, text: str) -> str:
    # JSON can write half of a character, "\ud800", which no file can hold.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = f"the value of '{findings.one_line(key)}'"
        raise _BadLineError(f"{shown} holds a lone surrogate, which is no character.") from error
    return text
