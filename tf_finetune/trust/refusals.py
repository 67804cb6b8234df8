"""How the examiners say what they found.

One idea: an examiner yields findings; what makes further reading pointless it raises, and the one
place that runs examiners turns that into a finding too.
"""

import unicodedata

from tf_finetune import findings

CODE, FILE, BROKEN, CUSTOM = "code", "file", "broken", "custom"
TRUST_ADVICE = "--trust_model opens it all the same, if you know who made it."
# What inspection goes by: such a file is refused as a model, and listed all the same.
WEIGHTS_ONLY = "holds weights only"
# Marks, embeddings, overrides and isolates: they make a text look like another.
_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_AGAIN = "Copy or download it again."


class BrokenFileError(ValueError):
    """The rest of a file cannot be examined.

    Attributes:
      finding: why.
    """

    def __init__(self, finding: findings.Finding):
        super().__init__(finding.message)
        self.finding = finding


def code(where: str, message: str) -> findings.Finding:
    """A part that would run somebody's program.

    Args:
      where: the layer's path or the operation.
      message: which part and why it matters, a sentence that starts small.

    Returns:
      The finding, which says what to do.
    """
    return findings.Finding(f"{message} {TRUST_ADVICE}", kind=CODE, where=where)


def outside(where: str, message: str) -> findings.Finding:
    """A part that reaches outside the file, or asks for more than a model needs.

    Args:
      where: the layer, operation, member or array.
      message: which part, why it matters, what to do.

    Returns:
      The finding. Nothing lifts it.
    """
    return findings.Finding(message, kind=FILE, where=where)


def broken(where: str, message: str, *, advice: str = _AGAIN) -> findings.Finding:
    """A damaged part.

    Args:
      where: the member or array.
      message: what is wrong, a sentence that starts small.
      advice: what to do.

    Returns:
      The finding. Nothing lifts it.
    """
    return findings.Finding(f"{message} {advice}", kind=BROKEN, where=where)


def custom(where: str, message: str) -> findings.Finding:
    """A class that neither Keras nor this package has.

    Args:
      where: the layer's path.
      message: which class, a sentence that starts small.

    Returns:
      The finding, which says what to do.
    """
    advice = "--custom_objects=MODULE names the Python module that defines it."
    return findings.Finding(f"{message} {advice}", kind=CUSTOM, where=where)


def has_control_characters(text: str) -> bool:
    """Whether printing a name could move the cursor or begin a line.

    Args:
      text: a name from a file.

    Returns:
      True for control characters, line separators and changes of the writing direction.
    """
    return not text.isprintable() and any(_is_control(character) for character in text)


def _is_control(character: str) -> bool:
    category = unicodedata.category(character)
    # Cf holds the joiners of many scripts too; only changes of direction hide text.
    return category in ("Cc", "Zl", "Zp") or character in _DIRECTIONS
