"""What tokenizers know of Unicode, as small integer tables that fit into a graph.

One idea: a character's fate depends on its code point alone, so that a table of pages of 256 code
points, equal pages stored once, says everything: what it becomes (nothing, a space, lower-case
letters without accents) and whether it stands apart.

Reference: Devlin et al., 2018, BERT, https://github.com/google-research/bert/blob/master/
tokenization.py (BasicTokenizer); Hugging Face tokenizers, normalizers/bert.rs, which maps each
character alone: a final capital sigma becomes an ordinary small one.
"""

import dataclasses
import functools
import sys
import unicodedata

import numpy as np

LETTER, SPACE, APART, NUMBER, OTHER = 0, 1, 2, 3, 4
NOTHING, ITSELF = -1, -2
PAGE_BITS = 8

_NUM_CODE_POINTS = sys.maxunicode + 1
# Ranges of CJK ideographs by BERT's rule. Hangul, kana and later extensions are not among them.
_CJK = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
_ASCII_PUNCTUATION = ((33, 47), (58, 64), (91, 96), (123, 126))


@dataclasses.dataclass(frozen=True)
class PagedTable:
    """A table over all code points.

    Attributes:
      pages: int32 [0x1100], the row of `values` where a page of 256 code points starts, over 256.
      values: int32 [rows, width].
    """

    pages: np.ndarray
    values: np.ndarray


@functools.cache
def make_replacements(*, lower_case: bool, strip_accents: bool) -> PagedTable:
    """What each character becomes before words are split.

    Control characters, those of private use and U+FFFD (which stands for bytes that are no UTF-8)
    become nothing, and every kind of white space a space. Characters that this Python's Unicode
    does not know stay as they are.

    Args:
      lower_case: letters become small ones.
      strip_accents: characters are decomposed (NFD) and nonspacing marks dropped.

    Returns:
      Code points, `NOTHING` behind the last; `ITSELF` first where a character stays as it is, so
      that most pages are the same.
    """
    texts = {0xFFFD: ""}
    for code_point, category in enumerate(_categories()):
        character = chr(code_point)
        if category[0] == "Z" or character in "\t\n\r":
            texts[code_point] = " "
        elif category in ("Cc", "Cf", "Co", "Cs"):
            texts[code_point] = ""
        elif category != "Cn" and code_point not in texts:
            text = _replace(character, lower_case=lower_case, strip_accents=strip_accents)
            if text != character:
                texts[code_point] = text
    width = max(map(len, texts.values()))
    values = np.full([_NUM_CODE_POINTS, width], NOTHING, np.int32)
    values[:, 0] = ITSELF
    for code_point, text in texts.items():
        values[code_point] = [*map(ord, text), *[NOTHING] * (width - len(text))]
    return _paged(values)


@functools.cache
def make_kinds(*, space_cjk: bool) -> PagedTable:
    """Where words end.

    Args:
      space_cjk: each CJK ideograph is a word of its own.

    Returns:
      SPACE, APART (punctuation and, if so asked, ideographs: a word of their own) or LETTER.
    """
    values = np.full([_NUM_CODE_POINTS, 1], LETTER, np.int32)
    for code_point, category in enumerate(_categories()):
        if category[0] == "P":
            values[code_point] = APART
    for first, last in _ASCII_PUNCTUATION + (_CJK if space_cjk else ()):
        values[first : last + 1] = APART
    values[ord(" ")] = SPACE
    return _paged(values)


@functools.cache
def make_classes() -> PagedTable:
    """What a character is by GPT-2's pattern.

    Returns:
      OTHER, SPACE, LETTER or NUMBER.
    """
    values = np.full([_NUM_CODE_POINTS, 1], OTHER, np.int32)
    for code_point, category in enumerate(_categories()):
        if category[0] in "LNZ":
            values[code_point] = {"L": LETTER, "N": NUMBER, "Z": SPACE}[category[0]]
    for code_point in (*range(9, 14), 0x85):
        values[code_point] = SPACE
    return _paged(values)


@functools.cache
def _categories() -> tuple[str, ...]:
    return tuple(unicodedata.category(chr(code_point)) for code_point in range(_NUM_CODE_POINTS))


def _replace(character: str, *, lower_case: bool, strip_accents: bool) -> str:
    text = character
    if strip_accents:
        decomposed = unicodedata.normalize("NFD", text)
        text = "".join(part for part in decomposed if unicodedata.category(part) != "Mn")
    return "".join(part.lower() for part in text) if lower_case else text


def _paged(values: np.ndarray) -> PagedTable:
    pages = values.reshape(-1, (1 << PAGE_BITS) * values.shape[1])
    numbers: dict[bytes, int] = {}
    index = [numbers.setdefault(page.tobytes(), len(numbers)) for page in pages]
    different = np.frombuffer(b"".join(numbers), np.int32)
    return PagedTable(np.array(index, np.int32), different.reshape(-1, values.shape[1]))
