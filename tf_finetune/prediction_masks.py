"""The mask images of --mode=predict: a PNG of class numbers for each image, beside the table.

One idea: what is predicted can be learnt from. The files are masks as training reads them, of the
size of their images, and the table names them relative to its own folder, as training wants it.
They come with their table or not at all: until it is whole they are in a hidden folder.
"""

import csv
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import numpy as np

from tf_finetune import findings, head_kinds, regular_files, workdir
from tf_finetune.data import mask_files

MASK_COLUMN = "mask"

_ODD_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]")
_MAX_NAME = 100
# A line of a table of ours is read no further than this.
_MAX_LINE_BYTES = 2**20


def name_folder(output: str) -> str:
    """The folder of the masks of a table.

    Args:
      output: path of the table.

    Returns:
      Its path without the ending, and "_masks".
    """
    return f"{os.path.splitext(output)[0]}_masks"


def check_folder(
    output: str, heads: tuple[head_kinds.HeadInfo, ...], *, inputs: Iterable[str]
) -> None:
    """Refuses a folder in which masks could not be written or would replace what is not ours.

    The masks of a former prediction are replaced, as its table is.

    Args:
      output: path of the table.
      heads: of the model; without one about pixels nothing is asked.
      inputs: what is read.

    Raises:
      RefusedError: there is something else of that name, or an input lies in the folder, or files
        that no table of a former prediction stands beside.
    """
    if not any(head_kinds.HEAD_KINDS[head.kind].positions == "pixels" for head in heads):
        return
    folder = name_folder(output)
    shown = f"--output={findings.one_line(output)}: masks go to {findings.one_line(folder)}"
    if os.path.lexists(folder) and (not os.path.isdir(folder) or os.path.islink(folder)):
        message = f"{shown}, which is no folder. Choose another name."
        raise findings.RefusedError(findings.Problem(message, path=folder, flag="--output"))
    own = os.path.realpath(folder)
    for text in inputs:
        if os.path.commonpath([own, os.path.realpath(text)]) == own:
            message = f"{shown}, where an --input lies, which would be lost. Choose another name."
            raise findings.RefusedError(findings.Problem(message, path=folder, flag="--output"))
    if os.path.isdir(folder) and os.listdir(folder) and not _has_former_table(output):
        message = (
            f"{shown}, which holds files and belongs to no table of predictions. Choose another "
            "name, or move it away."
        )
        raise findings.RefusedError(findings.Problem(message, path=folder, flag="--output"))


def _has_former_table(output: str) -> bool:
    """Whether a prediction wrote a table that shares its masks' folder with this one."""
    stem = os.path.splitext(output)[0]
    return any(_is_table(path) for path in {output, f"{stem}.csv", f"{stem}.jsonl"})


def _is_table(path: str) -> bool:
    """Whether a file begins as `prediction_files.write_predictions` begins, and names masks."""
    has_masks = _is_header if path.lower().endswith(".csv") else _find_mask
    try:
        with regular_files.open_regular(path) as file:
            return has_masks(iter(lambda: file.readline(_MAX_LINE_BYTES), b""))
    # Of what is no text, no CSV and no JSON, or is nested without end.
    except (OSError, ValueError, csv.Error, RecursionError):
        return False


def _is_header(lines: Iterator[bytes]) -> bool:
    cells = next(csv.reader(line.decode() for line in lines), []) or [""]
    is_ours = (cells[0], cells[-1]) == ("path", "error")
    return is_ours and any(f"_{cell}".endswith(f"_{MASK_COLUMN}") for cell in cells)


def _find_mask(lines: Iterator[bytes]) -> bool:
    for line in lines:
        row = json.loads(line)
        if not isinstance(row, dict) or "path" not in row:
            return False
        if "error" not in row:  # An image that cannot be read has no mask.
            heads = row.get("predictions")
            heads = heads.values() if isinstance(heads, dict) else ()
            return any(isinstance(head, dict) and MASK_COLUMN in head for head in heads)
    return False


class MaskWriter:
    """Writes masks and gives each a name; to be used in a `with` block.

    Args:
      output: path of the table.
    """

    def __init__(self, output: str):
        self._folder = name_folder(output)
        parent, name = os.path.split(self._folder)
        self._temporary = os.path.join(parent, f".{secrets.token_hex(4)}.{name}")
        self._names: list[str] = []
        self._folded: set[str] = set()
        self._is_new = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Removes masks whose table did not come to be; a folder without one blocks the next."""
        shutil.rmtree(self._temporary, ignore_errors=True)
        if error is not None and self._is_new:
            shutil.rmtree(self._folder, ignore_errors=True)

    def write(self, mask: np.ndarray, *, path: str, suffix: str = "") -> str:
        """Writes a mask where nobody sees it before `publish`.

        Args:
          mask: uint8 [height, width].
          path: the image.
          suffix: what tells the masks of an image apart.

        Returns:
          The path that the file will have, relative to the table's folder.

        Raises:
          OSError: it cannot be written.
        """
        stem = os.path.splitext(os.path.basename(path))[0]
        stem = _ODD_CHARACTERS.sub("_", stem)[:_MAX_NAME].lstrip(".-") or "image"
        stem += suffix
        name, number = f"{stem}.png", 1
        # Folded, for disks that do not tell A from a.
        while name.casefold() in self._folded:
            number += 1
            name = f"{stem}_{number}.png"
        self._folded.add(name.casefold())
        self._names.append(name)
        os.makedirs(self._temporary, exist_ok=True)
        path = os.path.join(self._temporary, name)
        with open(path, "xb") as file:
            file.write(mask_files.encode_mask(mask))
        workdir.sync_path(path)
        return os.path.join(os.path.basename(self._folder), name)

    def publish(self) -> None:
        """Puts the masks where their table says, just before it gets its name.

        A former file of a name is replaced, and others of the folder stay.

        Raises:
          OSError: they cannot be moved.
        """
        if not self._names:
            return
        try:
            # Also in the place of an empty folder.
            os.rename(self._temporary, self._folder)
            self._is_new = True
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            for name in self._names:
                os.replace(os.path.join(self._temporary, name), os.path.join(self._folder, name))
        workdir.sync_path(self._folder)
