"""Columns of a table as the inputs of a model: where their cells are, and what serving must know.

One idea: numbers reach the model as they stand in the table. Scaling them is the model's own
business (a Normalization layer), so there is nothing here that serving could do otherwise. Numbers
that are too many for the memory are in an unnamed file, and a batch reads its rows from there, so
that memory does not grow with the table.
"""

import dataclasses
import os
import re
import tempfile
import typing
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_finetune.data import vector_columns

# More go through one tensor: a signature of hundreds of arguments serves nobody.
MAX_NAMED_COLUMNS = 64
NUMBER, STRING = "number", "string"
STRINGS = np.dtypes.StringDType()

_MAX_BYTES_IN_MEMORY = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class FeatureColumns:
    """The columns of a table that a model takes.

    Attributes:
      names: in the order in which they were asked for, each once.
      kinds: {name: NUMBER or STRING} of columns whose kind was asked for; the others' cells tell.
      inputs: {model's input: its columns}; empty: names tell, see `column_inputs.match_inputs`.
    """

    names: tuple[str, ...]
    kinds: dict[str, str]
    inputs: dict[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class ModelInput:
    """An input of a model and the columns that feed it.

    Attributes:
      name: of the model's input.
      columns: in order; one, but of a vector.
      dtype: "float32", "int32", "int64" or "string".
      shape: without the batch: (), (1,) or (number of columns,).
    """

    name: str
    columns: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ColumnsSpec:
    """What stands in the place of a PreprocessingSpec where the examples are rows of a table.

    Attributes:
      inputs: the inputs of the model.
      kind: "columns".
    """

    inputs: tuple[ModelInput, ...]
    kind: str = "columns"

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column once, in the order of the inputs."""
        return tuple(dict.fromkeys(name for part in self.inputs for name in part.columns))

    @property
    def kinds(self) -> dict[str, str]:
        """{column: NUMBER or STRING}."""
        return {
            name: STRING if part.dtype == "string" else NUMBER
            for part in self.inputs
            for name in part.columns
        }

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values.

        Returns:
          What JSON can hold and `from_dict` reads.
        """
        return {"kind": self.kind, "inputs": [dataclasses.asdict(part) for part in self.inputs]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ColumnsSpec":
        """Reads what `to_dict` gave.

        Args:
          values: {field: value}.

        Returns:
          The spec.

        Raises:
          TypeError: a field is missing, unknown or of another type.
        """
        inputs = tuple(
            ModelInput(**{**part, "columns": tuple(part["columns"]), "shape": tuple(part["shape"])})
            for part in values["inputs"]
        )
        return cls(inputs)


class Matrix(typing.Protocol):
    """Numbers of a table: float32 or float64 [n, columns]."""

    def __len__(self) -> int: ...

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Rows by number, in the order asked for."""


class MatrixWriter:
    """Takes the numbers of a table a chunk at a time, in memory while they are few.

    Args:
      num_columns: of the matrix.
      dtype: np.float32 or np.float64.
      max_bytes: the most that is kept in memory.
    """

    def __init__(self, num_columns: int, dtype: type, *, max_bytes: int = _MAX_BYTES_IN_MEMORY):
        self._shape = (0, num_columns)
        self._dtype = np.dtype(dtype)
        self._max_bytes = max_bytes
        self._chunks: list[np.ndarray] = []
        self._num_bytes = 0
        self._num_rows = 0
        self._file: typing.BinaryIO | None = None

    def write(self, numbers: np.ndarray) -> None:
        """Adds rows.

        Args:
          numbers: [m, num_columns].

        Raises:
          OSError: the disk is full.
        """
        chunk = np.ascontiguousarray(numbers, self._dtype)
        self._num_rows += len(chunk)
        self._num_bytes += chunk.nbytes
        if self._file is None:
            self._chunks.append(chunk)
            if self._num_bytes <= self._max_bytes:
                return
            # Not /tmp, which may be memory itself; without a name, so that nothing stays behind.
            folder = os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else None)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            for kept in self._chunks:
                self._file.write(kept.data)
            self._chunks = []
            return
        self._file.write(chunk.data)

    def finish(self, order: np.ndarray) -> Matrix:
        """The matrix, its rows in another order.

        Args:
          order: int64 [n], number of the written row that comes first, second and so on.

        Returns:
          The matrix.

        Raises:
          OSError: the disk is full.
        """
        if self._file is None:
            together = np.concatenate(self._chunks) if self._chunks else np.empty(self._shape)
            self._chunks = []
            return MemoryMatrix(together[order].astype(self._dtype, copy=False))
        self._file.flush()
        small = order.astype(np.uint32 if self._num_rows < 2**32 else np.int64)
        return FileMatrix(self._file, small, num_columns=self._shape[1], dtype=self._dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryMatrix:
    """Numbers in memory: [n, columns]."""

    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Rows by number.

        Args:
          rows: int64 [m].

        Returns:
          [m, columns].
        """
        return self.numbers[rows]


class FileMatrix:
    """Numbers in a file. Rows are read, not mapped: pages of a mapping would count as memory."""

    def __init__(
        self, file: typing.BinaryIO, order: np.ndarray, *, num_columns: int, dtype: np.dtype
    ):
        self._file = file
        self._order = order
        self._shape = (num_columns,)
        self._dtype = dtype
        self._row_bytes = num_columns * dtype.itemsize

    def __len__(self) -> int:
        return len(self._order)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Rows by number.

        Args:
          rows: int64 [m].

        Returns:
          [m, columns].

        Raises:
          OSError: the disk reports an error.
        """
        numbers = np.empty((len(rows), *self._shape), self._dtype)
        descriptor, size = self._file.fileno(), self._row_bytes
        for row, place in zip(numbers, self._order[rows].tolist(), strict=True):
            if os.preadv(descriptor, [row.data], place * size) != size:
                raise OSError(f"row {place} of a table's temporary file cannot be read")
        return numbers


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """Feature columns of the rows of a table.

    Attributes:
      found: what --feature_columns says.
      number_names: columns of `matrix`, in order.
      matrix: the numbers.
      strings: {column: StringDType [n]}.
      digests: uint64 [n], a hash of each row's features; equal rows of two tables have equal ones.
      examples_of: {column: a cell}, for messages about a column of the wrong kind.
      beside: name of the column of images or texts that stands in the same rows; "": none.
    """

    found: FeatureColumns
    number_names: tuple[str, ...]
    matrix: Matrix
    strings: dict[str, np.ndarray]
    digests: np.ndarray
    examples_of: dict[str, str] = dataclasses.field(default_factory=dict)
    beside: str = ""

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def kinds(self) -> dict[str, str]:
        """{column: NUMBER or STRING}, in the order of --feature_columns."""
        return {name: STRING if name in self.strings else NUMBER for name in self.found.names}

    def read(self, rows: np.ndarray, spec: ColumnsSpec) -> dict[str, np.ndarray]:
        """What the inputs of a model get.

        Args:
          rows: int64 [m].
          spec: the inputs; its columns are among these, of the same kinds.

        Returns:
          {input: [m, *shape] of its dtype; strings are objects of bytes in UTF-8}.

        Raises:
          OSError: the disk reports an error.
        """
        return gather(
            spec,
            dict(zip(self.number_names, self.matrix.read(rows).T, strict=True)),
            {name: self.strings[name][rows].tolist() for name in self.strings},
        )


def gather(
    spec: ColumnsSpec, numbers: dict[str, np.ndarray], strings: dict[str, list[str]]
) -> dict[str, np.ndarray]:
    """Columns as the inputs of a model.

    Args:
      spec: the inputs.
      numbers: {column: [m]}.
      strings: {column: m cells}.

    Returns:
      {input: [m, *shape] of its dtype; strings are objects of bytes in UTF-8}.
    """
    values = {}
    for part in spec.inputs:
        if part.dtype == "string":
            cells = [[cell.encode() for cell in strings[name]] for name in part.columns]
            array = np.array(cells, object).T
        else:
            array = np.stack([numbers[name] for name in part.columns], 1).astype(part.dtype)
        values[part.name] = array.reshape(-1, *part.shape)
    return values


def serving_arguments(spec: ColumnsSpec) -> dict[str, str]:
    """The arguments of an export's signature that take one column each.

    A name keeps its letters, digits and underscores; TensorFlow takes no others, nor a digit first.

    Args:
      spec: the inputs.

    Returns:
      {column: argument}; empty where there are more than MAX_NAMED_COLUMNS columns, or vectors
      among them: then each input of the model is one argument of its own name.
    """
    if len(spec.columns) > MAX_NAMED_COLUMNS or vector_columns.find_vectors(spec.columns):
        return {}
    return make_arguments(spec.columns)


def make_arguments(names: Sequence[str]) -> dict[str, str]:
    """Names that TensorFlow takes for the arguments of a signature.

    Args:
      names: any, each once.

    Returns:
      {name: argument}, the arguments differ.
    """
    arguments: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
        if not plain or not plain[0].isalpha():
            plain = f"column_{plain.lstrip('_')}"
        number, argument = 1, plain
        while argument in arguments.values():
            number += 1
            argument = f"{plain}_{number}"
        arguments[name] = argument
    return arguments
