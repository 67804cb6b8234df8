"""The mask images of --mode=predict: a PNG of class numbers for each image, beside the table.

One idea: what is predicted can be learnt from. The files are masks as training reads them, of the
size of their images, and the table names them relative to its own folder, as training wants it.
"""

import json
import os
import re
from collections.abc import Iterable

import numpy as np

from tf_finetune import findings, head_kinds, regular_files, workdir
from tf_finetune.data import mask_files

_ODD_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]")
_MAX_NAME = 100
# The first line of a table of ours is read no further than this.
_MAX_HEADER_BYTES = 2**20


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
    """Whether a file begins as `prediction_files.write_predictions` begins."""
    try:
        with regular_files.open_regular(path) as file:
            line = file.readline(_MAX_HEADER_BYTES)
    except OSError:
        return False
    if path.lower().endswith(".csv"):
        cells = line.decode("utf-8", "replace").rstrip("\n").split(",")
        return (cells[0], cells[-1]) == ("path", "error")
    try:
        first = json.loads(line)
    except ValueError:
        return False
    return isinstance(first, dict) and "path" in first and bool({"predictions", "error"} & {*first})


class MaskWriter:
    """Writes masks and gives each a name.

    Args:
      output: path of the table.
    """

    def __init__(self, output: str):
        self._folder = name_folder(output)
        self._used: set[str] = set()

    def write(self, mask: np.ndarray, *, path: str, suffix: str = "") -> str:
        """Writes a mask; a former file of the name is replaced.

        Args:
          mask: uint8 [height, width].
          path: the image.
          suffix: what tells the masks of an image apart.

        Returns:
          The file's path relative to the table's folder.

        Raises:
          OSError: it cannot be written.
        """
        stem = os.path.splitext(os.path.basename(path))[0]
        stem = _ODD_CHARACTERS.sub("_", stem)[:_MAX_NAME].lstrip(".-") or "image"
        stem += suffix
        name, number = f"{stem}.png", 1
        # Folded, for disks that do not tell A from a.
        while name.casefold() in self._used:
            number += 1
            name = f"{stem}_{number}.png"
        self._used.add(name.casefold())
        os.makedirs(self._folder, exist_ok=True)
        with (
            workdir.replace_file(os.path.join(self._folder, name)) as temporary,
            open(temporary, "xb") as file,
        ):
            file.write(mask_files.encode_mask(mask))
        return os.path.join(os.path.basename(self._folder), name)
