"""Encoded images to predict, read as strangers' files are.

One idea: what is no regular file is never opened, and what promises more pixels than it should
is never handed to a decoder: it costs its row, with the reason, and nothing else.
"""

import io
import os

from tf_finetune import regular_files
from tf_finetune.data import image_formats, image_sizes, tables

# No photograph is larger; a sparse file of terabytes would fill the memory.
MAX_FILE_BYTES = 2**29


def read_image(path: str | bytes, *, max_pixels: int = image_sizes.MAX_PIXELS) -> tuple[bytes, str]:
    """Reads a file that may hold an image.

    Args:
      path: of the file; links are followed.
      max_pixels: the most that its header may promise, all frames together.

    Returns:
      (its bytes, ""), or (b"", why it cannot be used, continuing a sentence that begins with the
      file's name).
    """
    try:
        with regular_files.open_regular(path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return b"", image_formats.describe_os_error(error)
    if len(content) > MAX_FILE_BYTES:
        return b"", f"is larger than {MAX_FILE_BYTES // 2**20} MiB"
    head = content[: image_formats.HEAD_BYTES]
    kind = image_formats.find_format(head)
    if kind is None:
        return b"", image_formats.describe_bad_image(head)
    size = image_sizes.read_size(io.BytesIO(content), kind)
    if size is None:
        return b"", image_formats.describe_bad_image(head)
    if size.pixels > max_pixels:
        return b"", f"is too large: {size}, more than --max_image_pixels={max_pixels}"
    return content, ""


def find_image(cell: str, folder: str) -> tuple[str, str]:
    """The image that a cell of a table names.

    Args:
      cell: the cell as written.
      folder: of the table.

    Returns:
      (its path, ""), or ("", what is wrong).
    """
    complaint = tables.find_cell_fault(cell)
    if complaint:
        return "", complaint
    path, _, complaint = tables.find_file(folder, cell)
    return os.fsdecode(path), complaint
