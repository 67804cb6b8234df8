"""Tags that mark names in a text: B-PER begins one of kind PER, I-PER goes on with it, O is none.

Reference: Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task", section
2, https://aclanthology.org/W03-0419
"""

from collections.abc import Sequence

OUTSIDE = "O"
_BEGIN, _INSIDE = "B-", "I-"

# (kind, first word, the word behind the last).
Entity = tuple[str, int, int]


def are_bio(classes: Sequence[str]) -> bool:
    """Whether tags mark names.

    Args:
      classes: all tags.

    Returns:
      True where each is O, B-KIND or I-KIND, and one begins a name.
    """
    marked = all(name == OUTSIDE or name.startswith((_BEGIN, _INSIDE)) for name in classes)
    return marked and any(name.startswith(_BEGIN) for name in classes)


def find_entities(tags: Sequence[str]) -> set[Entity]:
    """The names that the tags of a text mark.

    As in CoNLL's own script, I-KIND behind O or another kind begins a name too.

    Args:
      tags: of the words of a text, in order.

    Returns:
      The names.
    """
    found = set()
    kind, first = "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        goes_on = tag.startswith(_INSIDE) and tag[len(_INSIDE) :] == kind
        if kind and not goes_on:
            found.add((kind, first, place))
            kind = ""
        if not goes_on and tag != OUTSIDE:
            kind, first = tag[len(_BEGIN) :], place
    return found
