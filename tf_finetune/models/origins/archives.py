"""Tar archives of models: told by their bytes, extracted with care, searched for the model inside.

One idea: an archive is somebody else's file. Regular files and folders come out of it and nothing
else, below one folder and within limits; `tarfile` reads only the headers. Its own extraction
filters are not used: they allow links, and set no limit on counts and sizes.

Reference: POSIX.1-2017, pax, "ustar Interchange Format",
https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html.
"""

import gzip
import os
import shutil
import tarfile
import typing
import zlib

from tf_finetune import findings
from tf_finetune.models.stored import stored_config

GZIP_SIGNATURE = b"\x1f\x8b"
_TAR_SIGNATURE, _TAR_SIGNATURE_AT = b"ustar", 257
MAX_MEMBERS = 20_000
MAX_BYTES = 64 * 2**30
# Weights shrink by a factor below 2, zeros by one of 1,000.
MAX_RATIO = 100
_RATIO_FROM_BYTES = 200 * 2**20
_MAX_HEADER_BYTES = 2**20
_CHUNK_BYTES = 2**20
_BLOCK_BYTES = tarfile.BLOCKSIZE
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}
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
      findings.RefusedError: the archive is truncated or damaged; a member leaves the folder, is no
        regular file or folder, or comes twice; there are too many of them or they are too large;
        the disk is full.
    """
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == GZIP_SIGNATURE
        with (gzip.open if compressed else open)(path, "rb") as stream:
            opened = typing.cast(typing.IO[bytes], stream)
            reader = _LimitedReader(opened, packed_bytes=os.path.getsize(path), where=where)
            with tarfile.TarFile(fileobj=typing.cast(typing.IO[bytes], reader)) as archive:
                _extract_members(archive, folder, where=where)
            _check_end(reader, compressed=compressed, where=where)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = stored_config.one_reason(error)
        message = f"the archive is truncated or damaged: {reason} Copy or download it again."
        raise stored_config.refused(where, message) from error
    except (RecursionError, ValueError, OverflowError) as error:
        if isinstance(error, findings.RefusedError):
            raise
        message = "the archive is damaged: its headers make no sense. Copy or download it again."
        raise stored_config.refused(where, message) from error
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


class _LimitedReader:
    """A stream for tarfile: forwards only, no huge header, and no more bytes than allowed."""

    def __init__(self, stream: typing.IO[bytes], *, packed_bytes: int, where: str):
        self._stream = stream
        self._allowed = min(MAX_BYTES, max(_RATIO_FROM_BYTES, MAX_RATIO * packed_bytes))
        self._where = where
        self._position = 0
        self.last_block = b""

    def read(self, size: int) -> bytes:
        if size > _MAX_HEADER_BYTES:
            # tarfile reads members in small pieces, but a header's extension at once.
            raise stored_config.refused(
                self._where,
                f"the archive has a header of {size:,} bytes. It is damaged or hostile.",
            )
        data = self._stream.read(size)
        self._position += len(data)
        self.last_block = data if size == _BLOCK_BYTES else self.last_block
        self.check_size(self._position)
        return data

    def check_size(self, size: int) -> None:
        if size > self._allowed:
            raise stored_config.refused(
                self._where,
                f"the archive unpacks to more than {self._allowed:,} bytes, {MAX_RATIO} times its "
                "own size or the most that is extracted. Extract it yourself if you trust it.",
            )

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("it points backwards.")
        self.check_size(position)
        while self._position < position:
            if not self.read(min(_CHUNK_BYTES, position - self._position)):
                raise tarfile.ReadError("unexpected end of data.")


def _extract_members(archive: tarfile.TarFile, folder: str, *, where: str) -> None:
    total = 0
    free = shutil.disk_usage(folder).free
    reader = typing.cast(_LimitedReader, archive.fileobj)
    for count, member in enumerate(archive, start=1):
        if count > MAX_MEMBERS:
            message = f"the archive has more than {MAX_MEMBERS:,} members. Extract it yourself."
            raise stored_config.refused(where, message)
        target = os.path.join(folder, *_safe_parts(member, where=where))
        if member.isdir():
            os.makedirs(target, mode=0o700, exist_ok=True)
            continue
        total += member.size
        reader.check_size(total)
        if total > free:
            raise stored_config.refused(
                where,
                f"the archive unpacks to {total:,} bytes or more; the disk has {free:,} left.",
            )
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        _write_member(archive, member, target, where=where)


def _safe_parts(member: tarfile.TarInfo, *, where: str) -> list[str]:
    shown = findings.one_line(member.name)
    if member.issparse() or not (member.isdir() or member.type in _REGULAR):
        kind = _KINDS.get(member.type, "of an unusual kind")
        raise stored_config.refused(
            where, f"member '{shown}' is {kind}. Only regular files and folders are extracted."
        )
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if member.name.startswith("/") or ".." in parts or "\0" in member.name:
        raise stored_config.refused(
            where, f"member '{shown}' leads out of the archive's folder. It is not extracted."
        )
    if not parts and not member.isdir():
        raise stored_config.refused(where, "the archive has a member without a name.")
    return parts


def _write_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, target: str, *, where: str
) -> None:
    source = archive.extractfile(member)
    if source is None:
        raise tarfile.ReadError("a member has no data.")
    try:
        # "x": a name that comes twice would let two readers see two contents.
        with open(target, "xb") as file:
            shutil.copyfileobj(source, file, _CHUNK_BYTES)
            written = file.tell()
    except (FileExistsError, IsADirectoryError) as error:
        message = f"member '{findings.one_line(member.name)}' comes twice in the archive."
        raise stored_config.refused(where, message) from error
    if written != member.size:
        raise tarfile.ReadError("unexpected end of data.")


def _check_end(reader: _LimitedReader, *, compressed: bool, where: str) -> None:
    # tarfile takes a broken header in the middle for the end. The true end is a block of zeros;
    # a gzip stream that closes with its checksum is whole without it too.
    last = reader.last_block
    if last.strip(b"\0") or not (last or compressed):
        raise tarfile.ReadError("it ends without an end-of-archive block.")
    while reader.read(_CHUNK_BYTES):
        pass  # gzip compares its checksum at the end


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
