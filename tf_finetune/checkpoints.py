"""The files from which an interrupted run goes on.

One idea: a checkpoint is one file that is whole or is not there. It is written beside, read back,
flushed and renamed; the one before stays until that is done, and where the newest cannot be read
the one before it serves.

The arrays lie in an uncompressed zip archive of .npy files, as `numpy.savez` writes them, whose
checksums tell a damaged file; what is no array is JSON in the same archive.

Reference: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

import dataclasses
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tf_finetune import findings, workdir

_NAME = re.compile(r"(\d{8})\.npz")
# As `workdir.replace_file` names what is not whole yet.
_UNFINISHED = re.compile(r"\.[0-9a-f]{8}\.\d{8}\.npz")
_STATE = "state.json"
_ENDING = ".npy"
_KINDS = "fiub"


class DamagedError(ValueError):
    """A checkpoint's file is not what was written."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a run wrote down.

    Attributes:
      number: of the file, 1 for the run's first.
      state: what JSON can hold.
      arrays: {name: array}.
    """

    number: int
    state: dict[str, Any]
    arrays: dict[str, np.ndarray]


def write(
    folder: str, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, keep: int
) -> int:
    """Writes the next checkpoint, then removes the oldest ones.

    Args:
      folder: of the run's checkpoints; made where it is missing.
      state: what JSON can hold; NaN and infinities too.
      arrays: {name: array of numbers or booleans, of a type that NumPy has}; names are made of
        letters, digits and slashes.
      keep: how many checkpoints stay, at least 1.

    Returns:
      The checkpoint's number.

    Raises:
      OSError: the folder cannot be written or the disk is full; former checkpoints are untouched.
      DamagedError: what was written reads otherwise: the disk or the memory is faulty.
      TypeError: an array of another type.
    """
    numbers = list_numbers(folder)
    number = numbers[-1] + 1 if numbers else 1
    num_bytes = sum(array.nbytes for array in arrays.values())
    with workdir.replace_file(_path(folder, number), num_bytes=num_bytes) as temporary:
        _write_archive(temporary, state, arrays)
        _check_archive(temporary)
    for old in list_numbers(folder)[:-keep]:
        os.remove(_path(folder, old))
    return number


def read_newest(folder: str) -> tuple[Checkpoint | None, tuple[findings.Problem, ...]]:
    """Reads the newest checkpoint that is whole.

    Args:
      folder: of the run's checkpoints; it need not exist.

    Returns:
      (the checkpoint, or None where none can be read; a warning for each that is damaged).

    Raises:
      OSError: a file cannot be read.
    """
    warnings: list[findings.Problem] = []
    for number in reversed(list_numbers(folder)):
        path = _path(folder, number)
        try:
            state, arrays = _read_archive(path)
        except DamagedError as error:
            reason = findings.one_line(error)
            message = f"{findings.one_line(path)} is damaged ({reason}). It is not used."
            warnings.append(findings.Problem(message, path=path, severity=findings.WARNING))
            continue
        return Checkpoint(number, state, arrays), tuple(warnings)
    return None, tuple(warnings)


def describe_rest(folder: str) -> str:
    """What a user whose disk is full can go on from.

    Args:
      folder: of the run's checkpoints; it need not exist.

    Returns:
      A sentence.
    """
    if not list_numbers(folder):
        return "Make room, and run the same command again."
    return (
        "The former ones are whole: make room, and run the same command again to go on from the "
        "newest."
    )


def digest_weights(weights: Iterable[np.ndarray]) -> str:
    """Identifies weights.

    Args:
      weights: of a model, in its order.

    Returns:
      64 hex digits.
    """
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(f"{weight.dtype.str}{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).data)
    return digest.hexdigest()


def remove_all(folder: str) -> None:
    """Removes the checkpoints of a run that has ended.

    Args:
      folder: of the run's checkpoints; it need not exist.
    """
    remove_unfinished(folder)
    for number in list_numbers(folder):
        os.remove(_path(folder, number))


def list_numbers(folder: str) -> list[int]:
    """The checkpoints of a run.

    Args:
      folder: of the run's checkpoints; it need not exist.

    Returns:
      Their numbers, in ascending order.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(found[1]) for found in map(_NAME.fullmatch, names) if found)


def remove_unfinished(folder: str) -> None:
    """Removes what an interrupted `write` has left, while nobody else writes there.

    Args:
      folder: of the run's checkpoints; it need not exist.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if _UNFINISHED.fullmatch(name):
            os.remove(os.path.join(folder, name))


def _path(folder: str, number: int) -> str:
    return os.path.join(folder, f"{number:08}.npz")


def _write_archive(path: str, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_STATE, json.dumps(state))
        for name, array in arrays.items():
            if array.dtype.kind not in _KINDS:
                raise TypeError(f"{name}: expected numbers. Received {array.dtype}.")
            with archive.open(name + _ENDING, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def _check_archive(path: str) -> None:
    """Compares all checksums, piece by piece: the arrays are in memory once already."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise DamagedError(str(error)) from error
    if damaged is not None:
        raise DamagedError(f"{damaged} is not what was written")


def _read_archive(path: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with zipfile.ZipFile(path) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise DamagedError("a member is packed")
            state = json.loads(archive.read(_STATE))
            if not isinstance(state, dict):
                raise DamagedError(f"{_STATE} holds no object")
            arrays = {}
            for name in archive.namelist():
                if name.endswith(_ENDING):
                    # Whole first: only then is its checksum compared.
                    stream = io.BytesIO(archive.read(name))
                    array = np.lib.format.read_array(stream, allow_pickle=False)
                    arrays[name.removesuffix(_ENDING)] = array
            return state, arrays
    except (
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        EOFError,
        MemoryError,
        NotImplementedError,
        RecursionError,
    ) as error:
        raise DamagedError(str(error) or type(error).__name__) from error
