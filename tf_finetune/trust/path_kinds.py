"""What a path is, before anything is opened: by its file type, then by its first bytes.

One idea: opening a FIFO waits for ever and opening a device may do anything, so the file system is
asked first; a name's ending decides nothing.

Reference: HDF5 File Format Specification 3.0, section II.A; PKWARE APPNOTE 6.3.10, section 4.3.7;
POSIX.1-2017 pax.
"""

import dataclasses
import os
import stat

from tf_finetune import findings
from tf_finetune.trust import refusals

HDF5, KERAS, ARCHIVE, JSON, SAVED_MODEL, PRESET = (
    "hdf5",
    "keras",
    "archive",
    "json",
    "saved_model",
    "preset",
)
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_EXPECTED = "Expected a .h5 or .keras file, a SavedModel folder or a .tar.gz of one."
# HDF5 allows a block of the user's own before the signature: 512 bytes, or that doubled.
_USER_BLOCKS = (0, 512, 1024, 2048, 4096)
_HEAD_BYTES = 8192
_MAX_FILES = 20_000
_SAVED_MODEL_NAMES = frozenset({"saved_model.pb", "saved_model.pbtxt", "tfhub_module.pb"})
_PRESET_ENDINGS = (".weights.h5", ".safetensors")
_TYPES = (
    (stat.S_ISFIFO, "a named pipe, which would be waited for without end"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# What people give instead of a model: (first bytes, what they are, what to do).
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself", "Run 'git lfs pull'."),
    (b"\x80\x02", "a Python pickle, which is a program", "Save the model as .keras or .h5."),
    (b"\x80\x03", "a Python pickle, which is a program", "Save the model as .keras or .h5."),
    (b"\x80\x04", "a Python pickle, which is a program", "Save the model as .keras or .h5."),
    (b"\x80\x05", "a Python pickle, which is a program", "Save the model as .keras or .h5."),
    (b"\x93NUMPY", "a NumPy array, not a model", _EXPECTED),
    (b"\x08\x01\x12", "an ONNX or frozen TensorFlow graph", _EXPECTED),
    (b"\x7fELF", "a program for Linux, not a model", _EXPECTED),
    (b"MZ", "a program for Windows, not a model", _EXPECTED),
    (b"#!", "a script, not a model", _EXPECTED),
    (b"%PDF", "a PDF document, not a model", _EXPECTED),
    (b"\x89PNG", "a picture, not a model", _EXPECTED),
    (b"\xff\xd8\xff", "a picture, not a model", _EXPECTED),
    (b"Rar!", "a RAR archive", "Pack the model as .tar.gz."),
    (b"7z\xbc\xaf", "a 7z archive", "Pack the model as .tar.gz."),
    (b"\xfd7zXZ", "an .xz archive", "Pack the model as .tar.gz."),
    (b"BZh", "a .bz2 archive", "Pack the model as .tar.gz."),
)


@dataclasses.dataclass(frozen=True)
class PathKind:
    """What lies at a path.

    Attributes:
      kind: one of this module's constants; "" where it is nothing that is examined further.
      size: bytes of the file, or of all files of the folder.
      finding: why it is nothing, or None.
    """

    kind: str
    size: int
    finding: findings.Finding | None = None


def find_kind(path: str, *, is_preset: bool = False) -> PathKind:
    """Tells what lies at a path. Reads at most 8 KiB, and only of a regular file.

    Args:
      path: any path.
      is_preset: a folder is taken for one, complete or not.

    Returns:
      What it is.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return _nothing(f"cannot be opened: {reason}.", advice=_EXPECTED)
    for is_type, name in _TYPES:
        if is_type(status.st_mode):
            return _nothing(f"is {name}. It is not opened.", advice=_EXPECTED)
    if stat.S_ISDIR(status.st_mode):
        return _find_folder(path, is_preset=is_preset)
    if status.st_size == 0:
        return _nothing("is empty.")
    try:
        # O_NONBLOCK: the path may have become a FIFO since.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        return _nothing(f"cannot be read: {error.strerror}.", advice=_EXPECTED)
    return _find_file(head, status.st_size)


def _find_file(head: bytes, size: int) -> PathKind:
    if any(head[at:].startswith(HDF5_SIGNATURE) for at in _USER_BLOCKS):
        return PathKind(HDF5, size)
    if head.startswith(b"PK\x03\x04"):
        return PathKind(KERAS, size)
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar":
        return PathKind(ARCHIVE, size)
    if head.lstrip().startswith(b"{"):
        return PathKind(JSON, size)
    for start, what, advice in _OTHERS:
        if head.startswith(start):
            return _nothing(f"is {what}.", advice=advice)
    if head[4:8] == b"TFL3":
        return _nothing(
            "is a TensorFlow Lite model, which cannot be trained.",
            advice="Give the model it was made from.",
        )
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return _nothing("is an HTML page, not a model: the download went wrong.")
    if b"\0" not in head and all(byte in b"\t\r\n\f" or byte >= 32 for byte in head):
        return _nothing("is a text file, not a model.", advice=_EXPECTED)
    return _nothing("is neither HDF5 nor a .keras archive.", advice=_EXPECTED)


def _find_folder(path: str, *, is_preset: bool) -> PathKind:
    try:
        names = set(os.listdir(path))
    except OSError as error:
        return _nothing(f"cannot be listed: {error.strerror}.", advice=_EXPECTED)
    size = _folder_size(path)
    if size is None:
        return _nothing(f"holds more than {_MAX_FILES:,} files.", advice=_EXPECTED)
    if is_preset:
        return PathKind(PRESET, size)
    if names & _SAVED_MODEL_NAMES:
        return PathKind(SAVED_MODEL, size)
    if "config.json" in names and any(name.endswith(_PRESET_ENDINGS) for name in names):
        return PathKind(PRESET, size)
    what = "is an empty folder" if not names else "is a folder without saved_model.pb"
    return _nothing(f"{what}.", advice=_EXPECTED)


def _folder_size(path: str) -> int | None:
    total = count = 0
    waiting = [path]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue  # the examiner says which
        for entry in entries:
            count += 1
            if count > _MAX_FILES:
                return None
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.is_file(follow_symlinks=True):
                total += entry.stat().st_size
    return total


def _nothing(message: str, *, advice: str = "Copy or download it again.") -> PathKind:
    return PathKind("", 0, refusals.broken("", message, advice=advice))
