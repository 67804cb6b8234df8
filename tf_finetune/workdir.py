"""The names of everything a run leaves behind, and the only way files get there.

One idea: a reader never sees half a file. Content goes to a temporary name in the same folder,
is flushed to the disk, and takes its name by a rename; a full disk leaves the former file whole.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import typing
from collections.abc import Iterator

from tf_finetune import disk_room, findings, regular_files

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
REQUEST = "state/request.flags"
REPORT_JSON = "report.json"
REPORT_MARKDOWN = "report.md"
# As `replace_file` names what is not whole yet.
_OWN_NAMES = (
    *(RUN_FLAGS, ENVIRONMENT, DATASET_INFO, SPLIT, FREEZE_PLAN, PROBLEMS, SUMMARY),
    *(HISTORY, LR_RANGE, MODEL, MODEL_INFO, REQUEST, REPORT_JSON, REPORT_MARKDOWN),
)
_UNFINISHED = re.compile(
    rf"\.[0-9a-f]{{8}}\.({'|'.join(re.escape(os.path.basename(name)) for name in _OWN_NAMES)})"
)
# What this process has begun and not given a name yet, for whoever ends it at once.
_begun: set[str] = set()
_SPLITS = ("validation", "test")


def write_atomic(path: str, content: bytes | str) -> None:
    """Writes a file whole or not at all.

    Args:
      path: the file; missing folders are made.
      content: bytes, or text that is written as UTF-8.

    Raises:
      OSError: the folder cannot be written or the disk is full; a former file is untouched.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with (
        replace_file(path, num_bytes=len(data)) as temporary,
        open(temporary, "wb") as file,
    ):
        file.write(data)


@contextlib.contextmanager
def replace_file(path: str, *, num_bytes: int | None = None) -> Iterator[str]:
    """Lends a temporary name beside `path`, and renames to `path` when the block ends well.

    For writers that insist on opening the file themselves, such as `keras.Model.save`.

    Args:
      path: the file to make or replace; missing folders are made.
      num_bytes: what it will take, for the error of a full disk; None: nobody knows before.

    Yields:
      The temporary name, with the same ending. It is removed when the block raises.

    Raises:
      OSError: the folder cannot be written; a former file is untouched.
      disk_room.FullDiskError: the disk is full, likewise.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{secrets.token_hex(4)}.{name}")
    with disk_room.naming(path, num_bytes=num_bytes), begun(temporary):
        os.makedirs(folder, exist_ok=True)
        try:
            yield temporary
            sync_path(temporary)
            os.replace(temporary, path)
            sync_path(folder)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)


@contextlib.contextmanager
def replace_pair(first: str, second: str) -> Iterator[tuple[str, str]]:
    """As `replace_file` for two files that belong together: where one has no room, both stay.

    Args:
      first: a file to make or replace.
      second: another one.

    Yields:
      Their temporary names.

    Raises:
      OSError, disk_room.FullDiskError: as of `replace_file`; the former files are untouched.
    """
    with replace_file(first) as one, replace_file(second) as other:
        yield one, other
        # Both are on the disk before either has its name.
        for path, temporary in ((first, one), (second, other)):
            with disk_room.naming(path):
                sync_path(temporary)


@contextlib.contextmanager
def begun(path: str) -> Iterator[None]:
    """Has `remove_begun` remove a file or folder while the block, which makes it, runs.

    Args:
      path: under a temporary name.

    Yields:
      None.
    """
    _begun.add(path)
    try:
        yield
    finally:
        _begun.discard(path)


def remove_begun() -> None:
    """Removes what this process has under temporary names: it ends before it can do so itself."""
    for path in list(_begun):
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.remove(path)


def remove_unfinished(folder: str) -> None:
    """Removes what a run that was killed was writing, while no other run writes there.

    Args:
      folder: the workdir; it need not exist.
    """
    evaluations = (os.path.join(base, EVALUATION_DIR) for base in ("", OTHER_DATA_DIR))
    places = ["", STATE_DIR, LOGS_DIR]
    places += [os.path.join(base, split) for base in evaluations for split in _SPLITS]
    for place in places:
        path = os.path.join(folder, place)
        # Of a stranger's folder nothing is removed that lies elsewhere.
        if os.path.islink(path) or not os.path.isdir(path):
            continue
        for name in os.listdir(path):
            if is_unfinished(name):
                with contextlib.suppress(OSError):
                    os.remove(os.path.join(path, name))


def is_unfinished(name: str) -> bool:
    """Whether a name is one that `replace_file` gives to a run's file that is not whole yet.

    Args:
      name: of a file, without its folder.

    Returns:
      True if it is.
    """
    return _UNFINISHED.fullmatch(name) is not None


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
    write_atomic(path, format_json(value))


def format_json(value: typing.Any) -> str:
    """A value as indented JSON; equal values give equal texts.

    Args:
      value: what `json` can write. NaN and infinities are refused: they are not JSON.

    Returns:
      The text, with a line end at its end.

    Raises:
      ValueError: the value holds NaN or an infinity.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


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
