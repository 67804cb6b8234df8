"""BERT's tokenizer in plain Python, a character at a time: what the graph is held against.

Written after google-research/bert's tokenization.py, with the two choices of Hugging Face's
tokenizers: a character is lower-cased alone (no final sigma), and one that Python's Unicode does
not know is a letter.
"""

import unicodedata

_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def split_words(text, *, lower_case, strip_accents, space_cjk):
    cleaned = []
    for character in text:
        category = unicodedata.category(character)
        if character in "\t\n\r" or category[0] == "Z":
            cleaned.append(" ")
        elif character == "\ufffd" or category in ("Cc", "Cf", "Co", "Cs"):
            continue
        elif space_cjk and any(first <= ord(character) <= last for first, last in _CJK):
            cleaned.append(f" {character} ")
        else:
            cleaned.append(character)
    words = []
    for word in "".join(cleaned).split(" "):
        if strip_accents:
            word = unicodedata.normalize("NFD", word)
            word = "".join(each for each in word if unicodedata.category(each) != "Mn")
        if lower_case:
            word = "".join(each.lower() for each in word)
        new_word = True
        for character in word:
            if _is_punctuation(character):
                words.append(character)
                new_word = True
            elif new_word:
                words.append(character)
                new_word = False
            else:
                words[-1] += character
    return words


def tokenize(text, vocabulary, *, length, unknown="[UNK]", **rules):
    """Token ids with [CLS] and [SEP], at most `length`."""
    ids = {piece: number for number, piece in enumerate(vocabulary)}
    pieces = []
    for word in split_words(text, **rules):
        pieces += _split_word(word, ids) or [unknown]
    return [ids[piece] for piece in ["[CLS]", *pieces[: length - 2], "[SEP]"]]


def _split_word(word, ids):
    pieces, start = [], 0
    if len(word) > 100:
        return None
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in ids:
                break
        else:
            return None
        pieces.append(piece)
        start = end
    return pieces


def _is_punctuation(character):
    code = ord(character)
    ascii_sign = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_sign or unicodedata.category(character)[0] == "P"
