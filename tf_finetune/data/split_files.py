"""split.csv: which split each example of a run is in, written at its start and read again later.

One idea: keys are packed and sorted, and looked up by halving, so that reading the splits of
millions of examples takes little more memory than their keys.
"""

import bisect
import csv
import dataclasses
import io
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from tf_finetune import findings, regular_files
from tf_finetune.data import columns, examples, growing_array, splits

HEADER = ("key", "split")
_FORMULA_STARTS = ("=", "+", "-", "@")
_CHUNK_ROWS = 2**14


@dataclasses.dataclass(frozen=True, eq=False)
class Assignments:
    """The splits that a file names.

    Attributes:
      keys: StringDType [m], sorted and unique.
      codes: int8 [m], TRAIN, VALIDATION or TEST.
    """

    keys: np.ndarray
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Looks keys up.

        Args:
          keys: [n] of str.

        Returns:
          int8 [n]: TRAIN, VALIDATION, TEST, or LEFT_OUT of a key that is not there.
        """
        found = np.full(len(keys), splits.LEFT_OUT, np.int8)
        for row, place in self._look_up(keys):
            found[row] = self.codes[place]
        return found

    def find_others(self, parts: Iterable[np.ndarray]) -> np.ndarray:
        """Keys of the file that the data do not have.

        Args:
          parts: keys of the data, [n] of str each.

        Returns:
          StringDType [k], sorted.
        """
        is_known = np.zeros(len(self), bool)
        for keys in parts:
            for _, place in self._look_up(keys):
                is_known[place] = True
        return self.keys[~is_known]

    def _look_up(self, keys: np.ndarray) -> Iterator[tuple[int, int]]:
        """(row, place in the file) of the keys that are there."""
        # np.searchsorted of NumPy 2.4 compares long strings of two StringDType arrays wrongly.
        place = 0
        for row, key in enumerate(keys):
            # Both are sorted, so the next is mostly the one.
            if place >= len(self) or self.keys[place] != key:
                place = bisect.bisect_left(self.keys, key)
            if place < len(self) and self.keys[place] == key:
                yield row, place
                place += 1


def read_split_file(path: str) -> Assignments:
    """Reads the split.csv of an earlier run.

    Args:
      path: a CSV with the header key,split.

    Returns:
      What it says.

    Raises:
      findings.RefusedError: the file does not exist, is no CSV with that header, names another
        split, or names a key twice; every line.
    """
    shown = f"--split_file={findings.one_line(path)}"
    try:
        with regular_files.open_regular(path) as file:
            reader = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""))
            rows = ((row, reader.line_num) for row in reader if row)
            if tuple(next(rows, ([], 0))[0]) != HEADER:
                message = f"{shown}, line 1: expected the header key,split of a run's split.csv."
                raise findings.RefusedError(_problem(path, message))
            return _read_assignments(rows, path)
    except OSError as error:
        message = f"{shown} cannot be read: {error.strerror}. Expected a split.csv."
        raise findings.RefusedError(_problem(path, message)) from error
    except (UnicodeDecodeError, csv.Error) as error:
        message = f"{shown} is no CSV in UTF-8. Expected a split.csv of an earlier run."
        raise findings.RefusedError(_problem(path, message)) from error


def format_split_file(assignments: list[tuple[str, str]]) -> str:
    """The text of a split.csv.

    Args:
      assignments: (key, "train", "validation" or "test") of each example.

    Returns:
      CSV with the header key,split. A key that a spreadsheet would run as a formula gets "./" in
      front, which reading takes away.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for key, split in assignments:
        writer.writerow((f"./{key}" if key.startswith(_FORMULA_STARTS) else key, split))
    return text.getvalue()


def _read_assignments(rows: Iterator[tuple[list[str], int]], path: str) -> Assignments:
    shown = f"--split_file={findings.one_line(path)}"
    packed: list[np.ndarray] = [np.empty(0, columns.STRINGS)]
    codes, lines = growing_array.GrowingArray(np.int8), growing_array.GrowingArray(np.int64)
    faults: list[tuple[int, str]] = []
    while chunk := list(itertools.islice(rows, _CHUNK_ROWS)):
        good = []
        for row, number in chunk:
            if len(row) != 2:
                faults.append((number, f"expected 2 columns (key,split). Received {len(row)}."))
            elif row[1] not in examples.SPLIT_NAMES:
                received = findings.one_line(row[1])
                text = f"expected train, validation or test. Received '{received}'."
                faults.append((number, text))
            else:
                good.append((row[0].removeprefix("./"), row[1], number))
        packed.append(np.array([key for key, _, _ in good], columns.STRINGS))
        codes.extend(np.array([examples.SPLIT_NAMES.index(name) for _, name, _ in good], np.int8))
        lines.extend(np.array([number for _, _, number in good], np.int64))
    keys = np.concatenate(packed)
    packed.clear()
    found, order = _sort(keys, codes.finish())
    repeated = np.flatnonzero(found.keys[1:] == found.keys[:-1]) + 1
    numbers = lines.finish()
    for place in repeated.tolist():
        text = f"'{findings.one_line(found.keys[place])}' is there twice."
        faults.append((int(numbers[order[place]]), text))
    if faults:
        raise findings.RefusedError(
            *(
                _problem(path, f"{shown}, line {number}: {text}", line=number)
                for number, text in sorted(faults)
            )
        )
    return found


def _sort(keys: np.ndarray, codes: np.ndarray) -> tuple[Assignments, np.ndarray]:
    """The assignments in the order of their keys, and that order."""
    if (keys[1:] >= keys[:-1]).all():  # as it was written
        return Assignments(keys, codes), np.arange(len(keys))
    order = np.argsort(keys, kind="stable")
    return Assignments(keys[order], codes[order]), order


def _problem(path: str, message: str, *, line: int | None = None) -> findings.Problem:
    return findings.Problem(message, path=path, line=line, flag="--split_file")
