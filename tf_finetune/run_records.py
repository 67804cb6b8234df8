"""The JSON files of a run's folder, read as a stranger's: bounded, and refused by name.

One idea: whatever is wrong with a file of a run, its reader gets one kind of error, one line that
names the file and what to do.
"""

import json
import os
from typing import Any

from tf_finetune import findings, regular_files
from tf_finetune.trust import json_text, refusals


def read_record(folder: str, name: str) -> dict[str, Any]:
    """Reads a JSON object that a run wrote.

    Args:
      folder: the workdir.
      name: of the file in it.

    Returns:
      The object; its values are not checked.

    Raises:
      RefusedError: the file cannot be read, is no regular file, too large or nested too deeply, or
        holds no JSON object.
    """
    try:
        content = regular_files.read_regular(os.path.join(folder, name), limit=json_text.MAX_BYTES)
        record = json.loads(content.decode("utf-8"))
        json_text.check_depth(record, what=name)
    except OSError as error:
        raise damaged(folder, name, error.strerror or str(error)) from error
    except (RecursionError, refusals.BrokenFileError) as error:
        reason = f"it is nested more than {json_text.MAX_DEPTH} levels deep"
        raise damaged(folder, name, reason) from error
    except ValueError as error:
        raise damaged(folder, name, f"no JSON: {error}") from error
    if not isinstance(record, dict):
        raise damaged(folder, name, "expected a JSON object")
    return record


def damaged(folder: str, name: str, reason: str) -> findings.RefusedError:
    """The refusal of a file in a run's folder.

    Args:
      folder: the workdir.
      name: of the file in it.
      reason: what is wrong with it, without a full stop; it may hold a stranger's text.

    Returns:
      The error to raise.
    """
    path = os.path.join(folder, name)
    return findings.RefusedError(
        findings.Problem(
            f"{findings.one_line(path)}: is damaged, or was not written by this package "
            f"({findings.one_line(reason)[:200].rstrip('.')}). Copy the run's folder again.",
            path=path,
        )
    )


def is_line(value: object) -> bool:
    """Whether a value is a name that may stand in files and on a terminal.

    Args:
      value: as parsed from JSON.

    Returns:
      True for a text of at least one character, in UTF-8, without line ends and control characters.
    """
    if not isinstance(value, str) or not value or refusals.has_control_characters(value):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_number(value: object, *, lower: float, upper: float) -> bool:
    """Whether a value is a number within bounds.

    Args:
      value: as parsed from JSON.
      lower: smallest, inclusive.
      upper: largest, inclusive.

    Returns:
      False also for true, false and NaN.
    """
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and lower <= value <= upper
    )
