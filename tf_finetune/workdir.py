"""The names of everything a run leaves behind, and the only way files get there.

One idea: a reader never sees half a file. Content goes to a temporary name in the same folder,
is flushed to the disk, and takes its name by a rename; a full disk leaves the former file whole.
"""

import contextlib
import json
import os
import secrets
import typing
from collections.abc import Iterator

from tf_finetune import findings, regular_files

RUN_FLAGS = "run.flags"
ENVIRONMENT = "environment.json"
DATASET_INFO = "dataset_info.json"
SPLIT = "split.csv"
FREEZE_PLAN = "freeze_plan.txt"
PROBLEMS = "problems.txt"
SUMMARY = "summary.json"
STATE_DIR = "state"
CHECKPOINTS_DIR = "state/checkpoints"
LOGS_DIR = "logs"
HISTORY = "logs/history.csv"
LR_RANGE = "logs/lr_range.csv"
MODEL = "model.keras"
MODEL_INFO = "model.json"
EVALUATION_DIR = "evaluation"
OTHER_DATA_DIR = "other_data"
EXPORT_DIR = "export"


def write_atomic(path: str, content: bytes | str) -> None:
    """Writes a file whole or not at all.

    Args:
      path: the file; missing folders are made.
      content: bytes, or text that is written as UTF-8.

    Raises:
      OSError: the folder cannot be written or the disk is full; a former file is untouched.
    """
    with replace_file(path) as temporary, open(temporary, "wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def replace_file(path: str) -> Iterator[str]:
    """Lends a temporary name beside `path`, and renames to `path` when the block ends well.

    For writers that insist on opening the file themselves, such as `keras.Model.save`.

    Args:
      path: the file to make or replace; missing folders are made.

    Yields:
      The temporary name, with the same ending. It is removed when the block raises.

    Raises:
      OSError: the folder cannot be written or the disk is full; a former file is untouched.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{secrets.token_hex(4)}.{name}")
    try:
        yield temporary
        sync_path(temporary)
        os.replace(temporary, path)
        sync_path(folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def sync_path(path: str) -> None:
    """Flushes a file or folder to the disk.

    Args:
      path: an existing file or folder.

    Raises:
      OSError: the path does not exist or the disk reports an error.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_inside(folder: str, *names: str) -> None:
    """Refuses links in a run's folder that lead out of it, before something is written there.

    A run's folder may be a stranger's, and what is written through a link goes elsewhere.

    Args:
      folder: the workdir; it may be a link itself.
      *names: paths below it; they need not exist.

    Raises:
      RefusedError: one of them lies elsewhere.
    """
    root = os.path.realpath(folder)
    for name in names:
        path = os.path.join(folder, name)
        if regular_files.leads_outside(path, root):
            target = findings.one_line(os.path.realpath(path))
            raise findings.RefusedError(
                findings.Problem(
                    f"{findings.one_line(path)} leads out of the run's folder, to {target}. "
                    "Nothing is written there. Replace the link by a folder.",
                    path=path,
                )
            )


def write_json(path: str, value: typing.Any) -> None:
    """Writes a value as indented JSON, atomically; equal values give equal bytes.

    Args:
      path: the file.
      value: what `json` can write. NaN and infinities are refused: they are not JSON.

    Raises:
      OSError: see `write_atomic`.
      ValueError: the value holds NaN or an infinity.
    """
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str) -> typing.Any:
    """Reads a JSON file.

    Args:
      path: the file.

    Returns:
      Its value.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is not JSON; the text names the file.
    """
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON: {error}. Was it edited by hand?") from error
