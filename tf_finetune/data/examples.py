"""What every source returns: keys, inputs and labels of examples, in one fixed order.

One idea: a source only lists. It opens no image, decides nothing about heads or splits, and puts
what it dislikes into `problems`, so that one run reports the mistakes of all sources together.
"""

import dataclasses
import difflib
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tf_finetune import findings
from tf_finetune.data import columns, input_stores, json_rows

SPLIT_NAMES = ("train", "validation", "test")
LABEL_COLUMN = "label"
_CHUNK_ROWS = 2**16


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The examples of one source, sorted by key; row i of every array is one example.

    Attributes:
      source: the source as the user wrote it, for messages; the argument of examples in memory.
      keys: object [n] of str, unique, NFC, encodable as UTF-8.
      inputs: the store of the images or texts; example i is input i.
      labels: {column: object [n] of str, or of tuples of str where a cell may list several}. An
        empty string is a missing label.
      splits: int8 [n], an index into SPLIT_NAMES where the source has a split of its own, or None.
      stamps: int64 [n, 2], size in bytes and mtime in nanoseconds of each file, or None.
      lines: int64 [n], 1-based line of each example in the table `source`, or None.
      identity: what tells two versions of a source without files apart, such as "mnist/3.0.1".
      repeats: int64 [n], row of the first example with the same content, which an example follows
        into its split; None: each example is assigned by itself.
      groups: object [n] of str, the cells of --split_by: equal ones are in one split; None: no
        groups.
      features: feature columns beside the images or texts, row i of example i; None: there are
        none, or the inputs themselves are columns.
      no_default: why no label column may be taken unasked, as an error's text; "": the first may.
      in_memory: whether they were handed over in Python, and are in no file.
      problems: errors and warnings found while listing.
    """

    source: str
    keys: np.ndarray
    inputs: input_stores.InputStore
    labels: dict[str, np.ndarray]
    splits: np.ndarray | None = None
    stamps: np.ndarray | None = None
    lines: np.ndarray | None = None
    identity: str = ""
    repeats: np.ndarray | None = None
    groups: np.ndarray | None = None
    features: columns.Columns | None = None
    no_default: str = ""
    in_memory: bool = False
    problems: tuple[findings.Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def locate(self, row: int) -> str:
        """Where a user finds an example.

        Args:
          row: index of the example, 0 to n - 1.

        Returns:
          For example "labels.csv, line 7", "photos/cat/1.jpg" or "data, example 3"; printable, one
          line.
        """
        source = findings.one_line(self.source)
        if self.lines is not None:
            return f"{source}, line {self.lines[row]}"
        if self.in_memory:
            return f"{source}, example {int(self.keys[row])}"
        separator = "/" if self.stamps is not None else ", example "
        return f"{source}{separator}{findings.one_line(self.keys[row])}"

    def name_source(self, flag: str) -> str:
        """How a user gave the source.

        Args:
          flag: name of the flag or argument.

        Returns:
          For example "--data=photos", or "data" in Python; printable, one line.
        """
        return flag if self.in_memory else f"--{flag}={findings.one_line(self.source)}"

    def problem(self, row: int, message: str, *, flag: str = "") -> findings.Problem:
        """An error about one example, with its place in front.

        Args:
          row: index of the example, 0 to n - 1.
          message: what is wrong, expected, received, to do; without the place.
          flag: the flag that would help, or "".

        Returns:
          The problem, with path and line set.
        """
        line = None if self.lines is None else int(self.lines[row])
        if self.in_memory:
            line = int(self.keys[row]) + 1  # Bad rows of an array are cut as those of a table.
        path = self.locate(row) if line is None else self.source
        return findings.Problem(f"{self.locate(row)}: {message}", path=path, line=line, flag=flag)


def object_array(values: list) -> np.ndarray:
    """A list as an array of objects.

    Args:
      values: strings, bytes or tuples; NumPy would make a matrix of equally long tuples.

    Returns:
      object [len(values)].
    """
    array = np.empty(len(values), object)
    array[:] = values
    return array


def find_duplicates(keys: list[str]) -> list[str]:
    """Keys that stand next to an equal one.

    Args:
      keys: sorted.

    Returns:
      Each repeated key once, sorted.
    """
    repeated = [key for key, following in itertools.pairwise(keys) if key == following]
    return list(dict.fromkeys(repeated))


def fingerprint(parts: list[Examples]) -> str:
    """Tells whether two runs saw the same examples.

    Args:
      parts: the sources in a fixed order.

    Returns:
      sha256 over keys, labels and (size, mtime_ns) of every file, 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for part in parts:
        _update(digest, "identity", part.identity.encode())
        _update(digest, "keys", part.keys)
        for column, cells in part.labels.items():
            _update(digest, f"labels {column}", cells)
        for name in ("splits", "stamps"):
            numbers = getattr(part, name)
            _update(digest, name, b"" if numbers is None else numbers.tobytes())
        if part.groups is not None:
            _update(digest, "groups", part.groups)
        if part.features is not None:
            _update(digest, "features", part.features.digests.tobytes())
    return digest.hexdigest()


def _update(digest: Any, name: str, content: bytes | np.ndarray) -> None:
    # With its length, so that no two contents run into each other the same way. Encoded twice: of
    # millions of rows, the text takes more memory than the rows.
    def encode() -> Iterable[bytes]:
        return [content] if isinstance(content, bytes) else _encode_texts(content)

    digest.update(f"{name} {sum(map(len, encode()))}\n".encode())
    for part in encode():
        digest.update(part)


def _encode_texts(cells: np.ndarray) -> Iterator[bytes]:
    """The cells, separated by zeros, in parts."""
    for start in range(0, len(cells), _CHUNK_ROWS):
        texts = [
            "|".join(json_rows.read_elements(cell)) if isinstance(cell, tuple) else cell
            for cell in cells[start : start + _CHUNK_ROWS]
        ]
        text = ("\0" if start else "") + "\0".join(texts)
        yield text.encode(errors="surrogateescape")


def cut_problems(problems: list[findings.Problem]) -> list[findings.Problem]:
    """Shortens a report: of each file's bad lines the first five, then how many more.

    Args:
      problems: any number, in the order found.

    Returns:
      The same, each file's lines in their order, those past the fifth replaced by one problem.
    """
    problems = _order_lines(problems)
    counts: dict[str, int] = {}
    kept = []
    for problem in problems:
        if problem.line is not None:
            counts[problem.path] = counts.get(problem.path, 0) + 1
            if counts[problem.path] > findings.MAX_LISTED:
                continue
        kept.append(problem)
    for path, count in counts.items():
        if count > findings.MAX_LISTED:
            more = f"{findings.one_line(path)}: and {count - findings.MAX_LISTED} more."
            last = max(i for i, kept_one in enumerate(kept) if _is_line_of(kept_one, path))
            kept.insert(last + 1, findings.Problem(more, path=path))
    return kept


def _order_lines(problems: list[findings.Problem]) -> list[findings.Problem]:
    """Each file's lines from the first to the last, in the places that they have together."""
    places: dict[str, list[int]] = {}
    for place, problem in enumerate(problems):
        if problem.line is not None:
            places.setdefault(problem.path, []).append(place)
    ordered = list(problems)
    for found in places.values():
        by_line = sorted((problems[place] for place in found), key=lambda one: one.line or 0)
        for place, problem in zip(found, by_line, strict=True):
            ordered[place] = problem
    return ordered


def _is_line_of(problem: findings.Problem, path: str) -> bool:
    return problem.path == path and problem.line is not None


def nearest_name(name: str, names: list[str]) -> str:
    """A hint for a misspelt name.

    Args:
      name: what was written.
      names: what exists.

    Returns:
      " Did you mean 'label'?" with a leading space, or "" where nothing is near.
    """
    by_folded = {other.casefold(): other for other in names}
    near = difflib.get_close_matches(name.casefold(), list(by_folded), n=1)
    return f" Did you mean '{findings.one_line(by_folded[near[0]])}'?" if near else ""
