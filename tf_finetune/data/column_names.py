"""The value of --feature_columns: which columns of a table feed which input of a model.

One idea: what a user writes is settled against the names that a table has, once, into one flat
list of columns in order; ranges and patterns are gone after that.
"""

import csv
import fnmatch
import re

from tf_finetune import findings, specs
from tf_finetune.data import columns, examples, vector_columns

FLAG = "--feature_columns"

_RANGE = re.compile(r"(?P<name>.*?)(?P<first>\d{1,9})\.\.(?P<same>.*?)(?P<last>\d{1,9})")
_VECTOR_KIND = re.compile(rf"{columns.NUMBER}\[([1-9]\d{{0,5}})\]")
_MAX_COLUMNS = 100_000


def read_feature_columns(
    spec: specs.DataSpec,
    available: list[str],
    *,
    path: str,
    lengths: dict[str, int] | None = None,
) -> columns.FeatureColumns:
    """Settles --feature_columns against the columns of a table.

    Args:
      spec: the data options: `feature_columns`; `label_column`, `split_by`, `split_column`,
        `image_column` and `text_column`, which patterns leave out.
      available: names of the table's columns, in order.
      path: of the table, for messages.
      lengths: {column of `available` that holds vectors: numbers in each}; such a name stands for
        its elements, see `vector_columns`.

    Returns:
      The columns.

    Raises:
      findings.RefusedError: a name or pattern fits no column, a range is none, the label is among
        the columns, a vector has another length than was written, or only some of the parts name an
        input.
    """
    text = spec.feature_columns or ""
    parts = [part.strip() for part in next(csv.reader([text], skipinitialspace=True), [])]
    reader = _Reader(spec, available, path, lengths or {})
    for part in parts:
        reader.read_part(part)
    if reader.problems:
        raise findings.RefusedError(
            *[findings.Problem(text, path=path, flag=FLAG) for text in reader.problems]
        )
    return reader.settle()


def _split_kind(item: str) -> tuple[str, str]:
    """(the name; columns.NUMBER, also as number[LENGTH], columns.STRING or "")."""
    name, equals, kind = item.rpartition("=")
    known = kind in (columns.NUMBER, columns.STRING) or _VECTOR_KIND.fullmatch(kind)
    return (name.strip(), kind) if equals and known else (item, "")


def _is_number_range(text: str) -> re.Match[str] | None:
    found = _RANGE.fullmatch(text)
    if found and found["same"] in ("", found["name"]):
        return found
    return None


class _Reader:
    """Collects what the parts of --feature_columns say."""

    def __init__(
        self, spec: specs.DataSpec, available: list[str], path: str, lengths: dict[str, int]
    ):
        self.problems: list[str] = []
        flags = ("label_column", "split_by", "split_column", "image_column", "text_column")
        # No input of a model, whatever a pattern matches.
        self._taken = {getattr(spec, flag): flag for flag in flags if getattr(spec, flag)}
        self._available = available
        self._known = set(available)
        self._path = findings.one_line(path)
        self._kinds: dict[str, str] = {}
        self._groups: list[tuple[str, list[str]]] = []
        self._lengths = lengths
        self._left_out = {element for name in self._taken for element in self._elements(name)}

    def read_part(self, part: str) -> None:
        if part.startswith("-") and part not in self._known:
            self._left_out.update(self._expand(part[1:]))
            return
        name, items = "", [part]
        if part not in self._known and _split_kind(part)[0] not in self._known:
            head, colon, rest = part.partition(":")
            # A name with a colon is a column where there is such a one.
            if colon and head.partition("=")[0] not in self._known:
                name, items = head.strip(), [item.strip() for item in rest.split("+")]
        found = [column for item in items for column in self._read_item(item)]
        self._groups.append((name, found))

    def settle(self) -> columns.FeatureColumns:
        groups: dict[str, list[str]] = {}
        for group, found in self._groups:
            groups.setdefault(group, []).extend(
                column for column in found if column not in self._left_out
            )
        names = tuple(dict.fromkeys(column for found in groups.values() for column in found))
        text = ""
        if not names:
            text = f"{FLAG} names no column."
        elif len(groups) > 1 and "" in groups:
            text = (
                f"{FLAG} names the input of some columns, and not of "
                f"{findings.list_first(groups[''])}. Expected INPUT:a+b,OTHER:c for all or none."
            )
        elif len(names) > _MAX_COLUMNS:
            text = f"{FLAG} names {len(names):,} columns. Expected at most {_MAX_COLUMNS:,}."
        if text:
            raise findings.RefusedError(findings.Problem(text, path=self._path, flag=FLAG))
        inputs = {name: tuple(dict.fromkeys(found)) for name, found in groups.items() if name}
        kinds = {name: self._kinds[name] for name in names if name in self._kinds}
        return columns.FeatureColumns(names, kinds, inputs)

    def _read_item(self, item: str) -> list[str]:
        kind = ""
        if item not in self._known:
            item, kind = _split_kind(item)
        length = _VECTOR_KIND.fullmatch(kind)
        found = self._expand(item) if length is None else self._read_vector(item, int(length[1]))
        if kind:
            kind = columns.NUMBER if length else kind
            self._kinds.update(dict.fromkeys(found, kind))
        if item in self._taken:
            self.problems.append(
                f"{FLAG} and --{self._taken[item]} both name the column "
                f"'{findings.one_line(item)}'. Expected different columns."
            )
        return found

    def _elements(self, name: str) -> list[str]:
        length = self._lengths.get(name)
        return [name] if length is None else vector_columns.name_elements(name, length)

    def _read_vector(self, name: str, length: int) -> list[str]:
        """The elements of a vector whose length is told; a table may have them as columns."""
        elements = vector_columns.name_elements(name, length)
        if name not in self._known and self._known.issuperset(elements):
            return elements
        found = self._expand(name)
        if found and found != elements:
            received = f"{self._lengths[name]} numbers" if name in self._lengths else "no list"
            self.problems.append(
                f"{FLAG}: {self._path} has {received} in the first cell of "
                f"'{findings.one_line(name)}'. Expected {length} numbers."
            )
        return found

    def _expand(self, item: str) -> list[str]:
        if item in self._known:
            return self._elements(item)
        found = _is_number_range(item)
        if found:
            return self._expand_range(item, found)
        if set("*?[") & set(item):
            matched = [name for name in self._available if fnmatch.fnmatchcase(name, item)]
            if matched:
                return [element for name in matched for element in self._elements(name)]
        shown = findings.list_first(self._available, limit=20)
        hint = examples.nearest_name(item, self._available)
        if all_numbers(self._available):
            hint = (
                " Its first row holds numbers: add a line with the names of the columns, or "
                "--header=none names them 1, 2, 3 and so on."
            )
        self.problems.append(
            f"{FLAG}: {self._path} has no column '{findings.one_line(item)}'.{hint} It has {shown}."
        )
        return []

    def _expand_range(self, item: str, found: re.Match[str]) -> list[str]:
        first, last = found["first"], found["last"]
        count = int(last) - int(first) + 1
        if not 1 <= count <= _MAX_COLUMNS:
            self.problems.append(
                f"{FLAG}: '{findings.one_line(item)}' is no range. Expected the smaller number "
                "first, for example x0..x99."
            )
            return []
        # x001..x100 keeps its zeros.
        width = len(first) if first.startswith("0") and len(first) > 1 else 0
        names = [
            f"{found['name']}{number:0{width}d}" for number in range(int(first), int(last) + 1)
        ]
        absent = [name for name in names if name not in self._known]
        if absent:
            self.problems.append(
                f"{FLAG}: {self._path} has not all columns of '{findings.one_line(item)}': "
                f"{findings.list_first(absent)} missing."
            )
        return [
            element for name in names if name in self._known for element in self._elements(name)
        ]


def all_numbers(names: list[str]) -> bool:
    """Whether what should be the names of columns looks like a row of numbers.

    Args:
      names: cells of a first row.

    Returns:
      True where all but the last, which may be a label, are numbers.
    """
    return bool(names) and all(is_number(name) for name in names[:-1])


def is_number(cell: str) -> bool:
    """Whether a cell holds a finite number.

    Args:
      cell: text.

    Returns:
      False for an empty cell, nan, inf and Python's own 1_000.
    """
    try:
        number = float(cell)
    except ValueError:
        return False
    return number - number == 0 and "_" not in cell


def describe(found: columns.FeatureColumns, kinds: dict[str, str]) -> str:
    """The value of --feature_columns that says the same without inferring anything.

    Args:
      found: the columns.
      kinds: {name: columns.NUMBER or columns.STRING} of all of them.

    Returns:
      Text that `read_feature_columns` reads.
    """

    def write_all(names: tuple[str, ...]) -> list[str]:
        written = {name: f"{name}={kinds[name]}" for name in names}
        for vector, length in vector_columns.find_vectors(names).items():
            elements = vector_columns.name_elements(vector, length)
            if all(kinds[element] == columns.NUMBER for element in elements):
                written |= dict.fromkeys(elements, f"{vector}={columns.NUMBER}[{length}]")
        return list(dict.fromkeys(written.values()))

    if found.inputs:
        parts = [f"{name}:{'+'.join(write_all(names))}" for name, names in found.inputs.items()]
    else:
        parts = write_all(found.names)
    return ",".join(_quote(part) for part in parts)


def _quote(part: str) -> str:
    if any(character in part for character in ',"'):
        return '"' + part.replace('"', '""') + '"'
    return part
