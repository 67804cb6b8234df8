"""What parts the words of a text, without TensorFlow; `first_pieces` has the same rule as a graph.

One idea: BERT's tokenizer splits here and drops other control characters, so a word that is counted
in the data is one for the model too.

Reference: Devlin et al., 2018, BERT, https://github.com/google-research/bert/blob/master/
tokenization.py (_is_whitespace)
"""

import re

_SPACE = re.compile("[\\t\\n\\r \\u00a0\\u1680\\u2000-\\u200a\\u202f\\u205f\\u3000]+")


def split_words(text: str) -> list[str]:
    """Splits a text at white space.

    Args:
      text: any.

    Returns:
      Its words; none is empty.
    """
    return [word for word in _SPACE.split(text) if word]
