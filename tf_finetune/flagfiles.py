"""Flagfiles with what absl leaves out: nesting by place, no cycles, no comment in a value.

Reference: Abseil, "Flags", section on flagfiles, https://abseil.io/docs/python/guides/flags
"""

import os
import re
from collections.abc import Sequence

from tf_finetune import specs


def expand_flagfiles(arguments: Sequence[str]) -> list[str]:
    """Replaces each --flagfile by the flags of its file, in place.

    A nested file is found beside the file that names it; a later flag wins over an earlier one.

    Args:
      arguments: command-line arguments.

    Returns:
      Arguments without --flagfile.

    Raises:
      SpecError: a file is missing or not text, files name each other in a cycle, or a line holds a
        comment behind a value or in front of which there are blanks.
    """
    return _expand(arguments, folder="", chain=())


def _expand(arguments: Sequence[str], *, folder: str, chain: tuple[str, ...]) -> list[str]:
    expanded: list[str] = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        name, equals, value = argument.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            expanded.append(argument)
            continue
        if not equals:
            if not pending:
                raise specs.SpecError("--flagfile needs a file. Received nothing.")
            value = pending.pop(0)
        path = os.path.normpath(os.path.join(folder, os.path.expanduser(value)))
        expanded += _read_flag_lines(path, chain)
    return expanded


def _read_flag_lines(path: str, chain: tuple[str, ...]) -> list[str]:
    if path in chain:
        raise specs.SpecError(
            f"Flagfiles name each other in a cycle: {' -> '.join((*chain, path))}."
        )
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        named_by = f" (named by {chain[-1]})" if chain else ""
        raise specs.SpecError(f"--flagfile={path}{named_by} cannot be read: {reason}.") from error
    arguments = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(("#", "//")):
            continue
        if line.lstrip().startswith("#") or re.search(r"\s# ", line):
            raise specs.SpecError(
                f"{path}, line {number}: a comment needs a line of its own that begins with '#'. "
                f"Received {line.strip()!r}."
            )
        if not line.strip().startswith("-"):
            raise specs.SpecError(
                f"{path}, line {number}: expected --flag=value. Received {line.strip()!r}."
            )
        arguments.append(line.strip())
    return _expand(arguments, folder=os.path.dirname(path), chain=(*chain, path))
