"""The text of a table, in any encoding that Python knows, with bounded lines.

One idea: bytes that are not in the encoding have a line too, so a wrong --encoding is one error
that says where to look.

Reference: Unicode Standard 16.0, section 23.8, "Byte Order Mark".
"""

import codecs
import io
from collections.abc import Iterator

from tf_finetune import findings, regular_files

DEFAULT = "utf-8"
# Several times what `csv` takes as one cell, 131,072.
MAX_ROW_CHARACTERS = 2**22

_CHUNK_BYTES = 2**20
# The longer ones first: UTF-32 (little-endian) begins as UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_text(path: str, encoding: str = DEFAULT) -> io.TextIOWrapper:
    """Opens a regular file as text, line ends as they are.

    Args:
      path: the file.
      encoding: value of --encoding. A byte order mark at the start of the file tells more than the
        default does, and is no part of the text.

    Returns:
      The open file; reading raises UnicodeError where bytes are not in the encoding.

    Raises:
      regular_files.NotRegularError: it is a folder, pipe, socket or device.
      OSError: the system cannot open it.
    """
    binary = regular_files.open_regular(path)
    return io.TextIOWrapper(binary, _settle(binary.peek(4), encoding), newline="")


def _settle(start: bytes, encoding: str) -> str:
    if codecs.lookup(encoding).name != codecs.lookup(DEFAULT).name:
        return encoding
    return next((name for mark, name in _MARKS if start.startswith(mark)), encoding)


class BoundedLines:
    """The lines of a file, as long as no row of them is made to fill the memory.

    Attributes:
      num_characters: of the row so far; set to 0 where one ends.

    Args:
      file: open text.
      what: a row's name in the error, for example "a row".
      error: raised where a row is too long.
    """

    def __init__(self, file: io.TextIOWrapper, what: str, *, error: type[Exception]):
        self._file = file
        self._what = what
        self._error = error
        self.num_characters = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(MAX_ROW_CHARACTERS + 1):
            self.num_characters += len(line)
            if self.num_characters > MAX_ROW_CHARACTERS:
                raise self._error(f"{self._what} is longer than {MAX_ROW_CHARACTERS:,} characters")
            yield line


def refuse_bytes(path: str, encoding: str) -> findings.RefusedError:
    """The error of a file that is not in its encoding; reads it again to find the place.

    Args:
      path: the file.
      encoding: value of --encoding.

    Returns:
      The error to raise, with the line of the first bad byte.
    """
    byte, line = _find_bad_byte(path, encoding)
    shown = f"byte 0x{byte:02x} is" if byte is not None else "its end is"
    if codecs.lookup(encoding).name == codecs.lookup(DEFAULT).name:
        message = (
            f"{shown} not UTF-8. Save the file as UTF-8, or name its encoding with --encoding."
        )
    else:
        message = f"{shown} not {encoding}, as --encoding says. Name the file's own encoding."
    return refusal(path, message, line=line, flag="--encoding")


def _find_bad_byte(path: str, encoding: str) -> tuple[int | None, int]:
    """(the first byte that is not in the encoding, its line)."""
    line = 1
    with regular_files.open_regular(path) as file:
        decoder = codecs.getincrementaldecoder(_settle(file.peek(4), encoding))()
        while True:
            chunk = file.read(_CHUNK_BYTES)
            try:
                line += decoder.decode(chunk, final=not chunk).count("\n")
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(error.encoding, errors="ignore")
                bad = error.object[error.start : error.start + 1]
                return bad[0] if bad else None, line + before.count("\n")
            except UnicodeError:
                return None, line
            if not chunk:
                return None, line  # the file has changed meanwhile


def refusal(
    path: str, message: str, *, line: int | None = None, flag: str = ""
) -> findings.RefusedError:
    """An error about a table, with its place in front.

    Args:
      path: the file.
      message: what is wrong, without the place.
      line: 1-based, or None.
      flag: the flag that would help, or "".

    Returns:
      The error to raise.
    """
    place = findings.one_line(path) + ("" if line is None else f", line {line}")
    return findings.RefusedError(
        findings.Problem(f"{place}: {message}", path=path, line=line, flag=flag)
    )
