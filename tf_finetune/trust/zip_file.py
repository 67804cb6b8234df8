""".keras archives: which members, how packed, and what is in them.

One idea: a zip says everything twice, before each member and in the directory at its end, and
readers differ in what they believe. An archive is let through where both agree, nothing is hidden
between or around the members, and only what Keras writes is in it.

Reference: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.16
(end record); https://keras.io/guides/serialization_and_saving/.
"""

import io
import stat
import struct
import typing
import zipfile
import zlib
from collections.abc import Iterator, Sequence

import h5py
import numpy as np

from tf_finetune import findings
from tf_finetune.trust import (
    dense_shapes,
    hdf5_file,
    json_text,
    keras_config,
    member_rules,
    refusals,
    saved_model_file,
    weight_values,
)

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_PARTS = (CONFIG, METADATA, WEIGHTS)
_ASSETS = "assets/"
_GRAPHS = ("saved_model.pb", "saved_model.pbtxt")
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_END_RECORD_BYTES = 22
_ENCRYPTED, _SIZES_FOLLOW = 1, 8
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PIECE_BYTES = 2**20
_MAX_IN_MEMORY_BYTES = 4 * 2**30


def examine(
    path: str, *, custom_objects: bool | Sequence[str] = False
) -> Iterator[findings.Finding]:
    """Examines a .keras archive.

    Args:
      path: of the file.
      custom_objects: the user has named a module that defines further classes; or the names of
        those that are registered with Keras.

    Yields:
      Findings.

    Raises:
      refusals.BrokenFileError: it cannot be read further.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                found = list(_check_members(archive, file))
                yield from found
                if not found:
                    yield from _examine_parts(archive, file, custom_objects=custom_objects)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise _damaged(error) from error


def _check_members(archive: zipfile.ZipFile, file: typing.BinaryIO) -> Iterator[findings.Finding]:
    size = file.seek(0, 2)
    members = member_rules.Members(size)
    for info in archive.infolist():
        finding = members.add(
            info.filename, info.file_size, is_folder=info.is_dir(), mode=info.external_attr >> 16
        )
        finding = finding or _check_kind(info) or _check_header(info, file)
        if finding is not None:
            yield finding
            return
    yield from _check_layout(archive, size)
    names = {info.filename for info in archive.infolist() if not info.is_dir()}
    missing = [part for part in _PARTS if part not in names]
    if missing and any(name.rpartition("/")[2] in _GRAPHS for name in names):
        advice = "Unpack it and name the folder, or pack that as .tar or .tar.gz."
        yield refusals.broken("", "is a zip archive of a SavedModel.", advice=advice)
        return
    if missing:
        what = ", ".join(missing)
        advice = "Expected a .keras file written by model.save."
        yield refusals.broken("", f"is a zip archive without {what}.", advice=advice)
    for name in sorted(names):
        if name not in _PARTS and not name.startswith(_ASSETS):
            shown = findings.one_line(name)
            yield refusals.outside(
                name, f"member '{shown}' is none that Keras writes. Save the model again."
            )
            return


def _check_kind(info: zipfile.ZipInfo) -> findings.Finding | None:
    shown = f"member '{findings.one_line(info.filename)}'"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if kind == stat.S_IFLNK else "of an unusual kind"
        return refusals.outside(info.filename, f"{shown} is {what}. Only regular files are read.")
    if info.flag_bits & _ENCRYPTED:
        return refusals.outside(info.filename, f"{shown} is encrypted. Pack it without a password.")
    if info.compress_type not in _METHODS:
        message = f"{shown} is packed by method {info.compress_type}. Expected stored or deflated."
        return refusals.outside(info.filename, message)
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        return _told_twice(info)
    small = member_rules.RATIO_FROM_BYTES // 4
    if info.file_size > max(small, member_rules.MAX_RATIO * info.compress_size):
        return refusals.outside(
            info.filename,
            f"{shown} unpacks from {info.compress_size:,} to {info.file_size:,} bytes, as no "
            "weights do: it would fill the memory. It is hostile.",
        )
    return None


def _check_header(info: zipfile.ZipInfo, file: typing.BinaryIO) -> findings.Finding | None:
    file.seek(info.header_offset)
    data = file.read(_LOCAL_HEADER.size)
    if len(data) < _LOCAL_HEADER.size:
        return refusals.broken(info.filename, "the archive is truncated.")
    (sign, _, flags, method, _, _, crc, packed, unpacked, name_size, _) = _LOCAL_HEADER.unpack(data)
    name = file.read(name_size)
    encoding = "utf-8" if flags & 0x800 else "cp437"
    same = sign == b"PK\x03\x04" and method == info.compress_type
    same = same and name.decode(encoding, "replace") == (info.orig_filename or info.filename)
    known = (crc, packed, unpacked)
    expected = (info.CRC, info.compress_size, info.file_size)
    # 0xFFFFFFFF: the sizes stand in the extension for large files.
    agree = all(here in (there, 0xFFFFFFFF) for here, there in zip(known, expected, strict=True))
    if same and (agree or (flags & _SIZES_FOLLOW and not any(known))):
        return None
    return _told_twice(info)


def _told_twice(info: zipfile.ZipInfo) -> findings.Finding:
    return refusals.outside(
        info.filename,
        f"member '{findings.one_line(info.filename)}' is described in two ways, so two readers "
        "could see two contents. Save the model again.",
    )


def _check_layout(archive: zipfile.ZipFile, size: int) -> Iterator[findings.Finding]:
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    position, hidden = 0, bool(archive.comment)
    for info in infos:
        start = info.header_offset + _LOCAL_HEADER.size + len(info.orig_filename.encode())
        hidden = hidden or info.header_offset < position
        position = start + info.compress_size
    # Between members stand only extra fields and data descriptors.
    hidden = hidden or (bool(infos) and infos[0].header_offset != 0)
    directory_end = archive.start_dir + sum(_directory_bytes(info) for info in infos)
    if hidden or not directory_end <= size <= directory_end + _END_RECORD_BYTES + 76:
        yield refusals.outside(
            "",
            "the archive holds bytes before, between or behind its members, so two readers could "
            "see two contents. Save the model again.",
        )


def _directory_bytes(info: zipfile.ZipInfo) -> int:
    encoded = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace")
    return 46 + len(encoded) + len(info.extra) + len(info.comment)


def _examine_parts(
    archive: zipfile.ZipFile, file: typing.BinaryIO, *, custom_objects: bool | Sequence[str]
) -> Iterator[findings.Finding]:
    config = json_text.parse(_read(archive, CONFIG), what=CONFIG)
    metadata = json_text.parse(_read(archive, METADATA), what=METADATA)
    if not isinstance(metadata, dict) or not isinstance(metadata.get("keras_version"), str):
        yield refusals.broken(METADATA, f"{METADATA} names no keras_version.")
    training = config.pop("compile_config", None) if isinstance(config, dict) else None
    arrays: list[hdf5_file.StoredArray] = []
    yield from _examine_weights(archive, file, arrays)
    size = sum(int(array.dataset.size) for array in arrays if array.is_weight)
    yield from keras_config.examine(config, custom_objects=custom_objects, stored_size=size)
    stored = {array.shape for array in arrays if array.is_weight}
    for name, expected in dense_shapes.find_mismatches(config, any_layer=stored):
        sides = " x ".join("?" if side is None else str(side) for side in expected)
        shown = findings.one_line(name)
        message = f"layer '{shown}' expects a kernel of shape {sides} and {WEIGHTS} has none."
        yield refusals.broken(name, message)
    yield from keras_config.examine_training(training)
    for info in archive.infolist():
        name = info.filename.rpartition("/")[2]
        if name.startswith("saved_model."):
            yield from saved_model_file.examine_graph(
                _read(archive, info.filename), name, assets=None
            )
        elif not info.is_dir() and info.filename.startswith(_ASSETS):
            _read_through(archive, info)


def _examine_weights(
    archive: zipfile.ZipFile, file: typing.BinaryIO, arrays: list[hdf5_file.StoredArray]
) -> Iterator[findings.Finding]:
    info = archive.getinfo(WEIGHTS)
    raw: typing.Any
    if info.compress_type == zipfile.ZIP_STORED:
        start = _data_start(info, file)
        _compare_checksum(file, start, info)
        raw = _Window(file, start, info.file_size)
    else:
        if info.file_size > _MAX_IN_MEMORY_BYTES:
            raise refusals.BrokenFileError(_too_large(info))
        raw = io.BytesIO(_read(archive, WEIGHTS))
    try:
        weights = h5py.File(raw, "r")
        yield from hdf5_file.examine_storage(weights, raw, info.file_size, arrays)
    except (OSError, KeyError, RuntimeError) as error:
        raise refusals.BrokenFileError(
            refusals.broken(
                WEIGHTS, f"{WEIGHTS} is damaged: {findings.one_line(error)[:200].rstrip('.')}."
            )
        ) from error


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if name.endswith(".json") and info.file_size > json_text.MAX_BYTES:
        raise refusals.BrokenFileError(_too_large(info))
    with archive.open(info) as stream:
        data = stream.read(info.file_size + 1)
        if len(data) == info.file_size:
            stream.read(1)  # compares the checksum
            return data
    raise zipfile.BadZipFile(f"{name} is not as long as it says")


def _read_through(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    with archive.open(info) as stream:
        while stream.read(_PIECE_BYTES):
            pass


def _compare_checksum(file: typing.BinaryIO, start: int, info: zipfile.ZipInfo) -> None:
    """As reading a stored member with zipfile does, without fresh memory for every piece."""
    checksum = 0
    for piece in weight_values.read_pieces(file, start, info.file_size, np.dtype(np.uint8)):
        checksum = zlib.crc32(piece.data, checksum)
    if checksum != info.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {info.filename!r}")


def _too_large(info: zipfile.ZipInfo) -> findings.Finding:
    message = f"member '{findings.one_line(info.filename)}' has {info.file_size:,} bytes unpacked."
    return refusals.outside(info.filename, f"{message} Expected less: it would fill the memory.")


def _data_start(info: zipfile.ZipInfo, file: typing.BinaryIO) -> int:
    file.seek(info.header_offset)
    header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return info.header_offset + _LOCAL_HEADER.size + header[9] + header[10]


class _Window(io.RawIOBase):
    """A stored member as a file of its own."""

    def __init__(self, file: typing.BinaryIO, start: int, size: int):
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: typing.Any) -> int:
        view = memoryview(buffer)
        length = max(0, min(len(view), self._size - self._position))
        self._file.seek(self._start + self._position)
        # The buffer is h5py's own: no copy in between.
        done = self._file.readinto(view[:length]) if length else 0  # type: ignore[attr-defined]
        self._position += done
        return int(done)


def _damaged(error: Exception) -> refusals.BrokenFileError:
    reason = findings.one_line(error)[:200].rstrip(".") or type(error).__name__
    return refusals.BrokenFileError(
        refusals.broken("", f"the .keras archive is truncated or damaged: {reason}.")
    )
