"""Tar archives of models: told by their bytes, extracted, searched for the model inside.

One idea: which members may come out is decided in one place, `trust.archive_file`; here they are
written below one folder. The extraction filters of `tarfile` are not used: they allow links, and
set no limit on counts and sizes.
"""

import os
import shutil
import tarfile
import typing
from collections.abc import Iterator

from tf_finetune import findings
from tf_finetune.models.stored import stored_config
from tf_finetune.trust import archive_file, refusals

GZIP_SIGNATURE = b"\x1f\x8b"
_TAR_SIGNATURE, _TAR_SIGNATURE_AT = b"ustar", 257
_CHUNK_BYTES = 2**20
_SAVED_MODEL = frozenset({"saved_model.pb", "saved_model.pbtxt", "tfhub_module.pb"})
_SIGNATURES = (b"\x89HDF\r\n\x1a\n", b"PK\x03\x04")
_MODEL_ENDINGS = (".h5", ".hdf5", ".keras")
_EXPECTED = "Expected one SavedModel folder, .h5 or .keras file in it."


def is_archive(head: bytes) -> bool:
    """Whether a file is a .tar.gz, .tgz or .tar, by its first bytes.

    Args:
      head: at least the first 262 bytes of the file, or all of a shorter one.

    Returns:
      True for gzip data of any kind and for a tar archive.
    """
    at = _TAR_SIGNATURE_AT
    return head.startswith(GZIP_SIGNATURE) or head[at : at + 5] == _TAR_SIGNATURE


def extract(path: str, folder: str, *, where: str) -> None:
    """Extracts an archive.

    Args:
      path: the archive, a tar file, plain or gzipped.
      folder: an empty folder that nobody else can write.
      where: the archive's name in error texts.

    Raises:
      findings.RefusedError: see `trust.archive_file.open_members`; or the disk is full.
    """
    try:
        with archive_file.open_members(path) as members:
            _write_members(members, folder)
    except refusals.BrokenFileError as error:
        raise stored_config.refused(where, error.finding.message) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise stored_config.refused(where, f"the archive cannot be extracted: {reason}.") from error


def find_model(folder: str, *, where: str) -> str:
    """The one model in an extracted archive.

    Args:
      folder: what was extracted.
      where: the archive's name in error texts.

    Returns:
      Path of the SavedModel or preset folder, or of the .h5 or .keras file.

    Raises:
      findings.RefusedError: there is no model, or more than one.
    """
    found = []
    for here, folders, names in os.walk(folder):
        if _is_model_folder(here, names):
            found.append(here)
            folders.clear()
            continue
        folders.sort()
        found += [
            path for name in sorted(names) if _is_model_file(path := os.path.join(here, name))
        ]
    whole = [path for path in found if not path.endswith(".weights.h5")]
    found = whole or found
    if not found:
        raise stored_config.refused(where, f"holds no model. {_EXPECTED}")
    if len(found) > 1:
        names = [os.path.relpath(path, folder) for path in found]
        raise stored_config.refused(
            where,
            f"holds {len(found)} models: {findings.list_first(names)}. {_EXPECTED} Extract it, and "
            "give --model one of them.",
        )
    return found[0]


def _write_members(
    members: Iterator[tuple[tarfile.TarInfo, typing.IO[bytes] | None]], folder: str
) -> None:
    total = 0
    free = shutil.disk_usage(folder).free
    for member, content in members:
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        target = os.path.join(folder, *parts)
        if content is None:
            os.makedirs(target, mode=0o700, exist_ok=True)
            continue
        total += member.size
        if total > free:
            message = f"the archive unpacks to {total:,} bytes or more; the disk has {free:,} left."
            raise refusals.BrokenFileError(refusals.outside(member.name, message))
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        with open(target, "xb") as file:
            shutil.copyfileobj(content, file, _CHUNK_BYTES)
            written = file.tell()
        if written != member.size:
            raise tarfile.ReadError("unexpected end of data.")


def _is_model_folder(folder: str, names: list[str]) -> bool:
    if _SAVED_MODEL.intersection(names):
        return True
    # A Keras preset or Hugging Face folder: its weights are no model without config.json.
    weights = [name for name in names if name.endswith((".weights.h5", ".safetensors"))]
    return "config.json" in names and bool(weights)


def _is_model_file(path: str) -> bool:
    if not path.lower().endswith(_MODEL_ENDINGS):
        return False
    with open(path, "rb") as file:
        return file.read(8).startswith(_SIGNATURES)
