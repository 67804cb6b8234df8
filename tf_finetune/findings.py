"""What every check returns: plain data that can be printed, counted or written as a row."""

import dataclasses
from collections.abc import Sequence

ERROR = "error"
WARNING = "warning"
# Severities of a Finding, beside WARNING.
REFUSE = "refuse"
INFO = "info"
# Of many places or names a message tells so many, and how many more there are.
MAX_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that stops a run (error) or that its user should know (warning).

    Attributes:
      message: one line: what is wrong, what was expected, what was received, what to do.
      severity: "error" or "warning".
      path: the file it is about, or "".
      line: 1-based line in that file, or None.
      flag: the flag that would help, for example "--on_bad_example=skip", or "".
    """

    message: str
    severity: str = ERROR
    path: str = ""
    line: int | None = None
    flag: str = ""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What an untrusted file could do, or what is wrong with it.

    Attributes:
      message: one line, starting small, to stand behind the file's name: which part, why it
        matters, what to do.
      severity: "refuse", "warning" or "info".
      kind: "code" (would run somebody's program), "file" (reaches outside itself, or asks for too
        much), "broken" (damaged, or no model) or "custom" (needs the user's own classes).
      where: the layer's path, the operation, the member or the array; "" for the whole file.
    """

    message: str
    severity: str = REFUSE
    kind: str = "file"
    where: str = ""


class RefusedError(ValueError):
    """The data or a model file cannot be used; the command line ends with exit code 2.

    Attributes:
      problems: what is wrong, at least one.
    """

    def __init__(self, *problems: Problem):
        super().__init__("\n".join(problem.message for problem in problems))
        self.problems = problems


def one_line(text: object) -> str:
    """A name as it may be printed: control characters and line ends escaped.

    Args:
      text: anything that came from a file name or a file.

    Returns:
      Printable text without line ends or terminal escape codes; lone surrogates (names that are
      not UTF-8) become backslash escapes.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )


def list_first(names: Sequence[str], *, limit: int = MAX_LISTED) -> str:
    """Names for an error text: the first few, then how many more.

    Args:
      names: any number of names.
      limit: how many to write out.

    Returns:
      For example "'a', 'b', 'c' and 31 more".
    """
    return list_values([f"'{one_line(name)}'" for name in names[:limit]], total=len(names))


def list_values(
    values: Sequence[object], *, total: int | None = None, limit: int = MAX_LISTED
) -> str:
    """Numbers, or texts that are printable, as they are: the first few, then how many more.

    Args:
      values: such as places or lines.
      total: how many there are, where `values` are the first of them and all to be shown.
      limit: how many to write out without `total`.

    Returns:
      For example "3, 8, 9, 10, 14 and 12 more".
    """
    shown = values[:limit] if total is None else values
    more = (len(values) if total is None else total) - len(shown)
    return ", ".join(map(str, shown)) + (f" and {more:,} more" if more else "")
