"""What kind of model a path holds, told by its bytes and without Keras.

The name's ending is not trusted: people rename files, and downloads leave web pages behind.

Reference: HDF5 File Format Specification 3.0, section II.A (signature and where it may stand),
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

import functools
import hashlib
import os
import re

from tf_finetune import findings
from tf_finetune.models import path_hints
from tf_finetune.models.origins import archives
from tf_finetune.models.stored import stored_config

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
ZIP_SIGNATURE = b"PK\x03\x04"
APPLICATION_PREFIX = "keras:"
_ADDRESSES = ("https://", "http://", "gs://", "hf://")
_EXPECTED = (
    "Expected a .h5, .hdf5, .keras or .json file, a SavedModel folder or a .tar or .tar.gz of one, "
    f"an address ({', '.join(_ADDRESSES)}), keras:NAME, hf:FOLDER or kerashub:NAME."
)

HDF5, KERAS = "hdf5", "keras"
APPLICATION = "application"
SAVED_MODEL = "saved_model"
_GRAPH_NAMES = ("saved_model.pb", "saved_model.pbtxt")
# How files begin that are given by mistake.
_OTHERS = {
    b"%PDF-": "a PDF document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
}
# What `hub_handles.fetch` turns into a local path of another format.
HANDLE, ARCHIVE = "handle", "archive"
ARCHITECTURE = "architecture"
HUGGING_FACE, KERAS_HUB = "hugging_face", "keras_hub"
# By what a --model value starts with, where it is no path.
_PREFIXES = {
    APPLICATION_PREFIX: APPLICATION,
    **dict.fromkeys(_ADDRESSES, HANDLE),
    # Behind the handle that starts alike.
    "hf:": HUGGING_FACE,
    "kerashub:": KERAS_HUB,
}


def find_problems(model: str) -> tuple[findings.Problem, ...]:
    """What is wrong with a --model value, as far as its first bytes tell.

    Args:
      model: a value of --model; of one that is no path nothing is said here.

    Returns:
      At most one error.
    """
    try:
        detect_format(model)
    except findings.RefusedError as error:
        return error.problems
    return ()


def detect_format(path: str, *, where: str = "") -> str:
    """The format of a model file.

    Args:
      path: value of --model.
      where: what the file is called in error texts; default: the path.

    Returns:
      One of this module's formats, for example HDF5, KERAS or APPLICATION.

    Raises:
      findings.RefusedError: nothing is there, or it has no format that can be opened.
    """
    shown = findings.one_line(path)
    if not path:
        raise findings.RefusedError(findings.Problem(f"--model is missing. {_EXPECTED}"))
    for prefix, kind in _PREFIXES.items():
        if path.startswith(prefix):
            return kind
    if not os.path.exists(path):
        if re.match(r"[a-z][a-z0-9+.-]*://", path, re.IGNORECASE):
            message = f"--model: '{shown}' is an address of a kind that cannot be fetched."
            message += f" Expected {', '.join(_ADDRESSES[:-1])} or {_ADDRESSES[-1]}."
        else:
            hint = path_hints.explain_missing(path)
            message = f"--model: '{shown}' does not exist.{hint} {_EXPECTED}"
        raise findings.RefusedError(findings.Problem(message, path=path))
    if os.path.isdir(path):
        if _is_saved_model(path):
            return SAVED_MODEL
        hint = path_hints.explain_folder(path)
        raise stored_config.refused(path, f"is a folder without saved_model.pb.{hint} {_EXPECTED}")
    if not os.path.isfile(path):
        raise stored_config.refused(path, f"is no regular file. {_EXPECTED}")
    try:
        with open(path, "rb") as file:
            head = file.read(8192)
    except OSError as error:
        raise stored_config.refused(path, f"cannot be read: {error.strerror}.") from error
    # HDF5 allows a block of the user's own before the signature, of 512 bytes or a multiple.
    if any(head[at:].startswith(HDF5_SIGNATURE) for at in (0, 512, 1024, 2048, 4096)):
        return HDF5
    if head.startswith(ZIP_SIGNATURE):
        return KERAS
    if archives.is_archive(head):
        return ARCHIVE
    if head.lstrip().startswith(b"{") and b'"class_name"' in head:
        return ARCHITECTURE
    if os.path.basename(path) in _GRAPH_NAMES:
        folder = findings.one_line(os.path.dirname(path) or os.curdir)
        message = f"is one file of a SavedModel. Name its folder: '{folder}'."
        raise stored_config.refused(where or path, message)
    raise stored_config.refused(where or path, f"{_what_it_is(head)} {_EXPECTED}")


def file_sha256(path: str) -> str:
    """The SHA-256 of a file.

    Args:
      path: an existing file.

    Returns:
      64 hex digits.

    Raises:
      OSError: the file cannot be read.
    """
    status = os.stat(path)
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _file_sha256(os.path.abspath(path), state)


@functools.lru_cache(maxsize=64)
def _file_sha256(path: str, state: tuple[int, ...]) -> str:
    # Asked for while the file is examined, and again when it is loaded.
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_weights_problems(path: str) -> tuple[findings.Problem, ...]:
    """What is wrong with a file of weights, as far as its first bytes tell.

    Args:
      path: a value of --weights.

    Returns:
      At most one error.
    """
    shown = findings.one_line(path)
    if not os.path.isfile(path):
        hint = path_hints.near_name(path)
        message = f"--weights: '{shown}' does not exist.{hint} Expected a .h5 file."
        return (findings.Problem(message, path=path, flag="--weights"),)
    try:
        kind = detect_format(path)
    except findings.RefusedError:
        kind = ""
    if kind not in (HDF5, KERAS):
        message = f"{shown}: is no HDF5 file. Expected weights in a .h5 file."
        return (findings.Problem(message, path=path, flag="--weights"),)
    return ()


def find_preprocessor_problems(path: str, *, model: str) -> tuple[findings.Problem, ...]:
    """What is wrong with --preprocessor, as far as the first bytes tell.

    Args:
      path: its value.
      model: the value of --model.

    Returns:
      At most one error.
    """
    flag = "--preprocessor"
    modules = (SAVED_MODEL, HANDLE, ARCHIVE)
    try:
        kind = detect_format(model)
    except findings.RefusedError:
        return ()  # which is said of --model
    if kind not in modules:
        message = (
            f"{flag} is for a SavedModel that takes tokens. --model={findings.one_line(model)} is "
            f"none: leave {flag} out."
        )
        return (findings.Problem(message, path=model, flag=flag),)
    shown, expected = findings.one_line(path), "Expected a SavedModel folder, an archive or address"
    if not path.startswith(_ADDRESSES) and not os.path.exists(path):
        message = f"{flag}: '{shown}' does not exist.{path_hints.near_name(path)} {expected}."
        return (findings.Problem(message, path=path, flag=flag),)
    try:
        kind = detect_format(path)
    except findings.RefusedError:
        kind = ""
    if kind not in modules:
        message = f"{flag}={shown}: is no SavedModel. {expected} of one."
        return (findings.Problem(message, path=path, flag=flag),)
    return ()


def check_preprocessor(path: str, *, model: str) -> None:
    """Refuses what `find_preprocessor_problems` finds.

    Args:
      path: value of --preprocessor.
      model: the value of --model.

    Raises:
      findings.RefusedError: the preprocessor is no SavedModel, or --model is none.
    """
    problems = find_preprocessor_problems(path, model=model)
    if problems:
        raise findings.RefusedError(*problems)


def read_sha256(text: str | None) -> str | None:
    """Checks the form of --model_sha256.

    Args:
      text: its value.

    Returns:
      64 small hex digits, or None where it is not given.

    Raises:
      findings.RefusedError: it has another form.
    """
    if text is None:
        return None
    digest = text.strip().lower().removeprefix("sha256:")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        message = f"--model_sha256 expects 64 hex digits. Received '{findings.one_line(text)}'."
        raise findings.RefusedError(findings.Problem(message, flag="--model_sha256"))
    return digest


def check_sha256(path: str, expected: str | None, *, where: str = "") -> str:
    """Compares a file with --model_sha256.

    Args:
      path: an existing file.
      expected: the expected digest, or None where any will do.
      where: what the file is called in the error's text; default: the path.

    Returns:
      The SHA-256 of the file, 64 hex digits.

    Raises:
      findings.RefusedError: the digests differ, or the expected one is malformed.
      OSError: the file cannot be read.
    """
    expected = read_sha256(expected)
    digest = file_sha256(path)
    if expected not in (None, digest):
        raise stored_config.refused(
            where or path,
            f"its SHA-256 is {digest}, but --model_sha256 expects {expected}. It is another file "
            "than the one you mean, or it was changed.",
        )
    return digest


def _what_it_is(head: bytes) -> str:
    if not head:
        return "is empty."
    for start, what in _OTHERS.items():
        if head.startswith(start):
            return f"is {what}, not a model."
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the model itself: run 'git lfs pull'."
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "is an HTML page, not a model: the download went wrong."
    printable = sum(byte in b"\t\r\n" or byte >= 32 for byte in head)
    if b"\0" not in head and printable == len(head):
        return "is a text file, not a model."
    return "is neither HDF5 nor a .keras archive."


def _is_saved_model(path: str) -> bool:
    return any(os.path.exists(os.path.join(path, name)) for name in _GRAPH_NAMES)
