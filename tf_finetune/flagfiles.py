"""Flagfiles with what absl leaves out: nesting by place, no cycles, no comment in a value.

One idea: a flagfile may be a stranger's, or name one, so only regular files are read, and of all
together no more than a program has flags for.

Reference: Abseil, "Flags", section on flagfiles, https://abseil.io/docs/python/guides/flags
"""

import dataclasses
import os
import re
from collections.abc import Sequence

from tf_finetune import findings, regular_files, specs

# All flagfiles of a command line together: a file that two others name is read twice.
MAX_BYTES = 2**20
_MAX_NESTED = 20
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")


@dataclasses.dataclass
class _Budget:
    """Bytes that may still be read."""

    left: int = MAX_BYTES


def expand_flagfiles(arguments: Sequence[str]) -> list[str]:
    """Replaces each --flagfile by the flags of its file, in place.

    A nested file is found beside the file that names it; a later flag wins over an earlier one.

    Args:
      arguments: command-line arguments.

    Returns:
      Arguments without --flagfile.

    Raises:
      SpecError: a file is missing, no regular file or not text; files are too large together,
        nested too deeply, or name each other in a cycle; a line holds control characters, or a
        comment behind a value or in front of which there are blanks.
    """
    return _expand(arguments, folder="", chain=(), budget=_Budget())


def read_lines(path: str) -> list[str]:
    """Reads a flagfile as it stands, with what it says of other files.

    Args:
      path: the flagfile.

    Returns:
      Its lines.

    Raises:
      OSError: it cannot be read, is no regular file or is larger than `MAX_BYTES`.
      ValueError: it is not UTF-8, or `path` is no path.
    """
    return regular_files.read_regular(path, limit=MAX_BYTES).decode("utf-8").splitlines()


def names_flagfile(argument: str) -> bool:
    """Whether an argument asks for another flagfile.

    Args:
      argument: of a command line or a line of a flagfile.

    Returns:
      True for --flagfile in every form.
    """
    return argument.strip().partition("=")[0] in ("--flagfile", "-flagfile")


def _expand(
    arguments: Sequence[str], *, folder: str, chain: tuple[str, ...], budget: _Budget
) -> list[str]:
    expanded: list[str] = []
    pending = iter(arguments)
    for argument in pending:
        if not names_flagfile(argument):
            expanded.append(argument)
            continue
        _, equals, value = argument.partition("=")
        if not equals:
            following = next(pending, None)
            if following is None:
                raise specs.SpecError("--flagfile needs a file. Received nothing.")
            value = following
        path = os.path.normpath(os.path.join(folder, os.path.expanduser(value)))
        expanded += _read_arguments(path, chain, budget)
    return expanded


def _read_arguments(path: str, chain: tuple[str, ...], budget: _Budget) -> list[str]:
    shown = findings.one_line(path)
    if path in chain:
        names = findings.one_line(" -> ".join((*chain, path)))
        raise specs.SpecError(f"Flagfiles name each other in a cycle: {names}.")
    if len(chain) == _MAX_NESTED:
        raise specs.SpecError(
            f"--flagfile={shown}: flagfiles are nested more than {_MAX_NESTED} levels deep. Write "
            "their flags into one."
        )
    try:
        lines = read_lines(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        named_by = f" (named by {findings.one_line(chain[-1])})" if chain else ""
        raise specs.SpecError(f"--flagfile={shown}{named_by} cannot be read: {reason}.") from error
    budget.left -= sum(len(line) + 1 for line in lines)
    if budget.left < 0:
        raise specs.SpecError(
            f"--flagfile={shown}: expected at most {MAX_BYTES:,} bytes in all flagfiles together."
        )
    arguments = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(("#", "//")):
            continue
        if line.lstrip().startswith("#") or re.search(r"\s# ", line):
            raise specs.SpecError(
                f"{shown}, line {number}: a comment needs a line of its own that begins with '#'. "
                f"Received {line.strip()!r}."
            )
        if not line.strip().startswith("-") or _CONTROL.search(line):
            raise specs.SpecError(
                f"{shown}, line {number}: expected --flag=value. Received {line.strip()!r}."
            )
        arguments.append(line.strip())
    return _expand(arguments, folder=os.path.dirname(path), chain=(*chain, path), budget=budget)
