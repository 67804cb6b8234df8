import itertools
import sys

import pytest
import tensorflow as tf

from tests.text import bert_reference, samples
from tf_finetune.text import splitting


def words_of(texts, **rules):
    words = splitting.split_words(tf.constant(texts), **rules)
    found = [[] for _ in texts]
    parts = zip(words.code_points.numpy(), words.rows.numpy(), words.starts.numpy(), strict=True)
    for code_point, row, start in parts:
        if start:
            found[row].append("")
        found[row][-1] += chr(code_point)
    return found


RULES = [
    {"lower_case": lower, "strip_accents": strip, "space_cjk": cjk}
    for lower, strip, cjk in ((True, True, True), (False, False, True), (True, False, False))
]


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_nasty_and_random_texts_split_as_the_reference_splits_them(rules):
    texts = [*samples.NASTY, *samples.random_texts(1000, seed=1)]
    expected = [bert_reference.split_words(text, **rules) for text in texts]
    assert words_of(texts, **rules) == expected


@pytest.mark.parametrize("rules", RULES[:2], ids=str)
def test_characters_of_all_planes_alone_and_inside_a_word(rules):
    code_points = itertools.chain(range(0x3100), range(0x3100, sys.maxunicode + 1, 61))
    characters = [chr(code) for code in code_points if not 0xD800 <= code < 0xE000]
    texts = [f"a{character}b {character}" for character in characters]
    joined = ["\n".join(texts[start : start + 100]) for start in range(0, len(texts), 100)]
    expected = [bert_reference.split_words(text, **rules) for text in joined]
    assert words_of(joined, **rules) == expected


def test_bytes_that_are_no_utf8_are_dropped():
    assert words_of([b"caf\xe9 \xff\xfe ok", b"\xf0\x9f"], **RULES[0]) == [["caf", "ok"], []]


def test_no_text_gives_no_words():
    words = splitting.split_words(tf.constant([], tf.string), **RULES[0])
    assert words.code_points.shape == words.rows.shape == words.starts.shape == (0,)
