"""Image formats by their first bytes, and words for what is no image. No TensorFlow.

The reading pass looks here before and after TensorFlow does: before, so that a pipe, a text file
or a TIFF is named without a decoder; after, to say why a decoder gave up.
"""

import errno

from tf_finetune import findings, regular_files

HEAD_BYTES = 160
EXPECTED = "JPEG, PNG, BMP, GIF or WebP"
BAD_DATA = "is no image that can be decoded: its data is damaged or of an unsupported kind"
_DICOM_OFFSET = 128
_PNG_DEPTH_OFFSET = 24
_SHOWN_BYTES = 16

_READABLE = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("BMP", 0, b"BM"),
    ("GIF", 0, b"GIF87a"),
    ("GIF", 0, b"GIF89a"),
    ("WebP", 8, b"WEBP"),
)
_OTHERS = (
    ("a TIFF file, which is not supported; convert it to PNG", 0, b"II*\0"),
    ("a TIFF file, which is not supported; convert it to PNG", 0, b"MM\0*"),
    ("a DICOM file, which is not supported; convert it to PNG", _DICOM_OFFSET, b"DICM"),
    ("a HEIF or AVIF file, which is not supported; convert it to JPEG", 4, b"ftyp"),
    ("a JPEG XL file, which is not supported; convert it to JPEG", 0, b"\xff\x0a"),
    ("a JPEG XL file, which is not supported; convert it to JPEG", 4, b"JXL "),
    ("a JPEG 2000 file, which is not supported; convert it to PNG", 4, b"jP  "),
    ("a PDF file, not an image", 0, b"%PDF"),
    ("a zip archive, not an image", 0, b"PK\x03\x04"),
    ("a git-lfs pointer; fetch the file with git lfs pull", 0, b"version https://git-lfs"),
)


def read_head(path: bytes) -> tuple[bytes, str]:
    """Reads the first bytes of a regular file; anything else is never opened.

    Opening a pipe would wait forever, and opening a device can do anything.

    Args:
      path: the file, as `os.fsencode` gives it.

    Returns:
      (up to HEAD_BYTES bytes, why the file cannot be read or ""). The reason continues a
      sentence that begins with the file's name.
    """
    try:
        with regular_files.open_regular(path) as file:
            return file.read(HEAD_BYTES), ""
    except OSError as error:
        return b"", describe_os_error(error)


def describe_os_error(error: OSError) -> str:
    """Why a file could not be read, in words.

    Args:
      error: what the system reported.

    Returns:
      A reason that continues a sentence that begins with the file's name.
    """
    if isinstance(error, regular_files.NotRegularError):
        return str(error.strerror)
    if error.errno == errno.ENOENT:
        return "does not exist (a broken link, or removed meanwhile)"
    return f"cannot be read: {findings.one_line(error.strerror or error)}"


def find_format(head: bytes) -> str | None:
    """Name of the readable format that a file begins like.

    Args:
      head: its first HEAD_BYTES bytes.

    Returns:
      "JPEG", "PNG", "BMP", "GIF", "WebP", or None.
    """
    for name, offset, magic in _READABLE:
        if head[offset : offset + len(magic)] == magic and (name != "WebP" or head[:4] == b"RIFF"):
            return name
    return None


def has_16_bits(head: bytes) -> bool:
    """Tells 16-bit PNG, as `decoding.has_16_bits` does.

    Args:
      head: the first HEAD_BYTES bytes of a file.

    Returns:
      Whether its values have 16 bits.
    """
    depth = head[_PNG_DEPTH_OFFSET : _PNG_DEPTH_OFFSET + 1]
    return find_format(head) == "PNG" and depth == b"\x10"


def describe_bad_image(head: bytes) -> str:
    """Why a file's bytes cannot be decoded, in words.

    Args:
      head: its first HEAD_BYTES bytes.

    Returns:
      A reason that continues a sentence that begins with the file's name.
    """
    return f"is no image that can be decoded: {_describe_content(head)}"


def _describe_content(head: bytes) -> str:
    name = find_format(head)
    if name:
        return f"its {name} data is damaged, cut off or of an unsupported kind"
    if not head:
        return "it is empty"
    for text, offset, magic in _OTHERS:
        if head[offset : offset + len(magic)] == magic:
            return f"it is {text}"
    shown = findings.one_line(head[:_SHOWN_BYTES].decode("ascii", "backslashreplace"))
    return f"it begins with '{shown}'"
