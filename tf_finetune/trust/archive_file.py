"""Tar archives of models: which members, how much they unpack to, and that one model is inside.

One idea: an archive is read forwards, piece by piece, and nothing is written. What passes here can
be extracted by the same rules (`open_members`), and what comes out is examined again as a folder.

Reference: POSIX.1-2017, pax, "ustar Interchange Format",
https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html; RFC 1952 (gzip).
"""

import contextlib
import gzip
import os
import tarfile
import typing
import zlib
from collections.abc import Iterator

from tf_finetune import findings
from tf_finetune.trust import member_rules, refusals, saved_model_file

_GZIP = b"\x1f\x8b"
_MAX_HEADER_BYTES = 2**20
_PIECE_BYTES = 2**20
_MAX_GRAPH_BYTES = 256 * 2**20
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}
_SAVED_MODEL = (saved_model_file.GRAPH, saved_model_file.TEXT_GRAPH)
_MODEL_ENDINGS = (".h5", ".hdf5", ".keras")
_EXPECTED = "Expected one SavedModel folder, .h5 or .keras file in it."


def examine(path: str) -> Iterator[findings.Finding]:
    """Examines a .tar or .tar.gz.

    Args:
      path: of the file.

    Yields:
      Findings.

    Raises:
      refusals.BrokenFileError: a member is none that may be extracted, there are too many or they
        are too large; the archive is truncated or damaged.
    """
    names: list[str] = []
    graphs: list[tuple[str, bytes]] = []
    with open_members(path) as members:
        for member, stream in members:
            names.append(member.name)
            is_graph = os.path.basename(member.name) in _SAVED_MODEL
            if stream is not None and is_graph and member.size <= _MAX_GRAPH_BYTES:
                graphs.append((os.path.basename(member.name), stream.read()))
    yield from _count_models(names)
    for name, content in graphs:
        yield from saved_model_file.examine_graph(content, name, assets=None)


@contextlib.contextmanager
def open_members(
    path: str,
) -> Iterator[Iterator[tuple[tarfile.TarInfo, typing.IO[bytes] | None]]]:
    """Opens an archive for reading its members in order, each checked before it is handed out.

    An extractor writes what it gets; the rules stand here alone.

    Args:
      path: a tar file, plain or gzipped.

    Yields:
      An iterator of (member, its content or None for a folder). When it ends, the archive's end and
      checksum have been checked.

    Raises:
      refusals.BrokenFileError: see `examine`. Also while iterating.
    """
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == _GZIP
        with (gzip.open if compressed else open)(path, "rb") as stream:
            reader = _LimitedReader(
                typing.cast(typing.IO[bytes], stream), member_rules.Members(os.path.getsize(path))
            )
            with tarfile.TarFile(fileobj=typing.cast(typing.IO[bytes], reader)) as archive:
                yield _read_members(archive, reader, compressed=compressed)
    except refusals.BrokenFileError:
        raise
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(str(error)) from error
    except (RecursionError, ValueError, OverflowError) as error:
        raise _damaged("its headers make no sense") from error


def _read_members(
    archive: tarfile.TarFile, reader: "_LimitedReader", *, compressed: bool
) -> Iterator[tuple[tarfile.TarInfo, typing.IO[bytes] | None]]:
    for member in archive:
        finding = _check_kind(member) or reader.members.add(
            member.name, member.size, is_folder=member.isdir(), mode=member.mode
        )
        if finding is not None:
            raise refusals.BrokenFileError(finding)
        yield member, None if member.isdir() else archive.extractfile(member)
    # tarfile takes a broken header in the middle for the end. The true end is a block of zeros; a
    # gzip stream that closes with its checksum is whole without it too.
    last = reader.last_block
    if last.strip(b"\0") or not (last or compressed):
        raise tarfile.ReadError("it ends without an end-of-archive block")
    while reader.read(_PIECE_BYTES):
        pass  # gzip compares its checksum at the end


def _check_kind(member: tarfile.TarInfo) -> findings.Finding | None:
    if member.isdir() or (member.type in _REGULAR and not member.issparse()):
        return None
    kind = _KINDS.get(member.type, "of an unusual kind")
    shown = findings.one_line(member.name)[:200]
    return refusals.outside(
        member.name,
        f"member '{shown}' is {kind}, which could reach outside of the archive. Only regular files "
        "and folders are extracted.",
    )


class _LimitedReader:
    """A stream for tarfile: forwards only, no huge header, and no more bytes than allowed."""

    def __init__(self, stream: typing.IO[bytes], members: member_rules.Members):
        self._stream = stream
        self._position = 0
        self.members = members
        self.last_block = b""

    def read(self, size: int) -> bytes:
        if size > _MAX_HEADER_BYTES:
            # tarfile reads members in small pieces, but a header's extension at once.
            message = f"the archive has a header of {size:,} bytes. It is damaged or hostile."
            raise refusals.BrokenFileError(refusals.outside("", message))
        data = self._stream.read(size)
        self._position += len(data)
        self.last_block = data if size == tarfile.BLOCKSIZE else self.last_block
        if self._position > self.members.allowed_bytes + _overhead(self.members.count):
            raise refusals.BrokenFileError(
                refusals.outside(
                    "",
                    f"the archive unpacks to more than {self.members.allowed_bytes:,} bytes, "
                    f"{member_rules.MAX_RATIO} times its own size or the most that is extracted. "
                    "It is hostile, or no model.",
                )
            )
        return data

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("it points backwards")
        while self._position < position:
            if not self.read(min(_PIECE_BYTES, position - self._position)):
                raise tarfile.ReadError("unexpected end of data")


def _overhead(count: int) -> int:
    # A header and half a block of padding per member, and the end of the last record.
    return 4 * tarfile.BLOCKSIZE * count + tarfile.RECORDSIZE


def _count_models(names: list[str]) -> Iterator[findings.Finding]:
    # What macOS adds to archives are no models.
    names = [name for name in names if not os.path.basename(name).startswith("._")]
    folders = {os.path.dirname(name) for name in names if os.path.basename(name) in _SAVED_MODEL}
    folders |= {
        os.path.dirname(name)
        for name in names
        if os.path.basename(name) == saved_model_file.TF1_HUB
    }
    models = sorted(folder or "." for folder in folders)
    models += sorted(
        name
        for name in names
        if name.lower().endswith(_MODEL_ENDINGS)
        and not any(name.startswith(f"{folder}/" if folder else "") for folder in folders)
    )
    if not models:
        yield refusals.broken("", "the archive holds no model.", advice=_EXPECTED)
    whole = [name for name in models if not name.endswith(".weights.h5")] or models
    presets = {os.path.dirname(name) for name in names if os.path.basename(name) == "config.json"}
    if len(whole) > 1 and not presets:
        listed = findings.list_first(whole)
        yield refusals.outside("", f"the archive holds {len(whole)} models: {listed}. {_EXPECTED}")


def _damaged(reason: str) -> refusals.BrokenFileError:
    reason = findings.one_line(reason)[:200].rstrip(".") or "it ends too early"
    return refusals.BrokenFileError(
        refusals.broken("", f"the archive is truncated or damaged: {reason}.")
    )
