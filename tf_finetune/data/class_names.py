"""Class names that are one class to a person and two to a program: cat and Cat."""

import re
import unicodedata

from tf_finetune import findings
from tf_finetune.data import examples

# Only inside of a name: "-1" and "1" are two classes.
_SEPARATORS = re.compile(r"(?<=\w)[\s_-]+(?=\w)")
# What file managers add to the name of a copy.
_COPY = re.compile(r"(?: - copy| copy|\s?\(\d+\))$")
_JUNK = re.compile(r"(?:new|untitled|neuer|nouveau) (?:folder|ordner|dossier)(?: ?\(?\d+\)?)?")


def fold(name: str) -> str:
    """What a name means to a reader who does not look closely.

    Args:
      name: a class.

    Returns:
      The same text for names that differ in case, in Unicode form, in spaces, underscores and
      hyphens between words, or by the ending of a copy; a single letter as it is.
    """
    plain = unicodedata.normalize("NFKC", name).strip()
    visible = "".join(letter for letter in plain if unicodedata.category(letter) != "Cf")
    if len(visible) < 2:
        return visible  # where letters are told apart, A and a may be two classes
    return _SEPARATORS.sub(" ", _COPY.sub("", visible.casefold()))


def find_twins(
    part: examples.Examples, classes: tuple[str, ...], *, single: bool
) -> list[findings.Problem]:
    """Classes whose names differ only in what is easily mistyped.

    Args:
      part: the source that has them.
      classes: their names, as the labels have them; where --classes names them they are meant.
      single: whether there is one head, so that --classes could name them.

    Returns:
      A problem for each group of such names: an error where names were typed by hand (folders and
      tables) and --classes can say that they are meant, else a warning.
    """
    typed = part.stamps is not None or part.lines is not None
    severity = findings.ERROR if typed and single else findings.WARNING
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(fold(name), []).append(name)
    source = findings.one_line(part.source)
    return [
        findings.Problem(
            f"{source}: classes {findings.list_first(names)} are nearly the same name. Rename one, "
            "or name all classes in --classes if they are to be told apart.",
            severity=severity,
            path=part.source,
            flag="--classes",
        )
        for names in groups.values()
        if len(names) > 1
    ]


def is_junk(name: str) -> bool:
    """Whether a class has a name that a file manager gave it.

    Args:
      name: a class.

    Returns:
      True for example for "New folder (2)".
    """
    return _JUNK.fullmatch(name.casefold().strip()) is not None
