"""Byte-level byte-pair encoding over a whole batch, as graph code.

One idea: all texts are one flat row of symbols. In each step every word at once merges its pair of
lowest rank, found by binary search in sorted arrays, until no word has one left.

Reference: Radford et al., 2019, Language models are unsupervised multitask learners,
https://github.com/openai/gpt-2/blob/master/src/encoder.py.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tf_finetune.text import splitting, unicode_tables

_SYMBOL_BITS = 31
_NO_RANK = np.iinfo(np.int32).max
# 's 't 'm 'd, and 're 've 'll.
_SHORT_ENDINGS, _LONG_ENDINGS = ("s", "t", "m", "d"), ("re", "ve", "ll")


@dataclasses.dataclass(frozen=True)
class Merges:
    """What merges into what; symbols 0 to 255 are the bytes.

    Attributes:
      keys: int64 [merges], ascending: left symbol * 2**31 + right symbol.
      ranks: int32 [merges], the lowest merges first.
      results: int32 [merges], the symbol that a pair becomes.
      ids: int32 [symbols], the token of each symbol, or -1.
    """

    keys: np.ndarray
    ranks: np.ndarray
    results: np.ndarray
    ids: np.ndarray


def make_merges(vocabulary: Mapping[str, int], merges: Sequence[str]) -> Merges:
    """Reads the tables of a byte-level vocabulary.

    Args:
      vocabulary: {token in GPT-2's printable bytes: id}.
      merges: "left right" per rank.

    Returns:
      The tables.

    Raises:
      ValueError: a merge is no pair, or has a part that no byte and no earlier merge makes.
    """
    symbols = {character: byte for byte, character in enumerate(_printable_bytes())}
    table: dict[int, tuple[int, int]] = {}
    for rank, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        if left not in symbols or right not in symbols:
            raise ValueError(f"merge {rank + 1} joins what nothing makes: {merge!r}.")
        result = symbols.setdefault(left + right, len(symbols))
        key = (symbols[left] << _SYMBOL_BITS) + symbols[right]
        table.setdefault(key, (rank, result))
    # One key at least, so that a search has where to look.
    keys = sorted(table) or [-1]
    pairs = np.array([table.get(key, (_NO_RANK, 0)) for key in keys], np.int32)
    ids = np.array([vocabulary.get(symbol, -1) for symbol in symbols], np.int32)
    return Merges(np.array(keys, np.int64), pairs[:, 0], pairs[:, 1], ids)


def split_bytes(texts: tf.Tensor) -> splitting.Words:
    """Splits texts by GPT-2's pattern: words with the space before them, numbers, other signs.

    Args:
      texts: string [batch], UTF-8; bytes that are none become U+FFFD.

    Returns:
      The words in order, as bytes instead of code points; white space is kept.
    """
    decoded = tf.strings.unicode_decode(texts, "UTF-8")
    code_points = decoded.values
    rows = tf.cast(decoded.value_rowids(), tf.int32)
    starts = _find_starts(code_points, rows)
    return _to_bytes(code_points, rows, starts)


def merge_pairs(words: splitting.Words, merges: Merges) -> tuple[tf.Tensor, tf.Tensor]:
    """Merges the bytes of each word as far as they go.

    Args:
      words: bytes, from `split_bytes`.
      merges: the tables.

    Returns:
      Ids, int32 [m], -1 where the vocabulary lacks a symbol, and the text of each, int32 [m].
    """
    keys, ranks, results = map(tf.constant, (merges.keys, merges.ranks, merges.results))

    def goes_on(more: tf.Tensor, symbols: tf.Tensor, word: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        return more

    def step(
        more: tf.Tensor, symbols: tf.Tensor, word: tf.Tensor, rows: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        wanted = tf.bitwise.left_shift(
            tf.cast(symbols[:-1], tf.int64), np.int64(_SYMBOL_BITS)
        ) + tf.cast(symbols[1:], tf.int64)
        edge = tf.minimum(tf.searchsorted(keys, wanted), len(merges.keys) - 1)
        found = tf.equal(tf.gather(keys, edge), wanted) & tf.equal(word[:-1], word[1:])
        rank = tf.where(found, tf.gather(ranks, edge), _NO_RANK)
        lowest = tf.gather(tf.math.segment_min(rank, word[:-1]), word[:-1])
        merged = _every_second(found & tf.equal(rank, lowest))
        result = tf.gather(results, edge)
        symbols = tf.concat([tf.where(merged, result, symbols[:-1]), symbols[-1:]], axis=0)
        kept = tf.concat([tf.ones([1], tf.bool), tf.logical_not(merged)], axis=0)
        more = tf.reduce_any(merged)
        return more, *(tf.boolean_mask(values, kept) for values in (symbols, word, rows))

    word = tf.cumsum(tf.cast(words.starts, tf.int32)) - 1
    _, symbols, _, rows = tf.while_loop(
        goes_on,
        step,
        (tf.size(word) > 1, words.code_points, word, words.rows),
        shape_invariants=(tf.TensorShape([]), *[tf.TensorShape([None])] * 3),
    )
    return tf.gather(tf.constant(merges.ids), symbols), rows


def _every_second(flags: tf.Tensor) -> tf.Tensor:
    # Of a run such as "aaa", whose pairs overlap, the first pair merges, the third, and so on.
    numbers = tf.range(tf.size(flags))
    first = flags & tf.logical_not(tf.concat([[False], flags[:-1]], axis=0))
    run = tf.maximum(tf.cumsum(tf.cast(first, tf.int32)) - 1, 0)
    starts = tf.concat([tf.boolean_mask(numbers, first), [0]], axis=0)
    return flags & tf.equal((numbers - tf.gather(starts, run)) % 2, 0)


def _find_starts(code_points: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    kinds = splitting.look_up(unicode_tables.make_classes(), code_points)[:, 0]
    new_row = tf.not_equal(rows, _shift(rows, by=1, fill=-1))
    row_ends = tf.not_equal(rows, _shift(rows, by=-1, fill=-1))
    space = tf.equal(kinds, unicode_tables.SPACE)
    before = _shift(kinds, by=1, fill=unicode_tables.OTHER)
    space_before = tf.equal(before, unicode_tables.SPACE)
    blank_before = tf.equal(_shift(code_points, by=1, fill=-1), ord(" "))
    # The last of several spaces stands alone, or goes with the word behind it if it is a blank.
    word_follows = ~(row_ends | tf.equal(_shift(kinds, by=-1, fill=0), unicode_tables.SPACE))
    starts = new_row | tf.where(
        space,
        ~space_before | word_follows,
        tf.where(space_before, ~blank_before, tf.not_equal(kinds, before)),
    )
    return _split_contractions(code_points, rows, starts)


def _split_contractions(code_points: tf.Tensor, rows: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
    # "'s" and its like are a word where the apostrophe starts one.
    for endings in (_SHORT_ENDINGS, _LONG_ENDINGS):
        length = len(endings[0])
        found = tf.zeros_like(starts)
        for ending in endings:
            same = starts & tf.equal(code_points, ord("'"))
            for number, letter in enumerate(ending, start=1):
                same &= tf.equal(_shift(code_points, by=-number, fill=-1), ord(letter))
                same &= tf.equal(_shift(rows, by=-number, fill=-1), rows)
            found |= same
        starts &= ~_shift(found, by=1, fill=False)
        starts |= _shift(found, by=length + 1, fill=False)
    return starts


def _shift(values: tf.Tensor, *, by: int, fill: int | bool) -> tf.Tensor:
    # What stood `by` places before, or behind where `by` is negative.
    edge = tf.fill([abs(by)], tf.constant(fill, values.dtype))
    if by > 0:
        return tf.concat([edge, values], axis=0)[: tf.size(values)]
    return tf.concat([values, edge], axis=0)[-by:]


def _to_bytes(code_points: tf.Tensor, rows: tf.Tensor, starts: tf.Tensor) -> splitting.Words:
    # Reference: RFC 3629, UTF-8.
    six = [tf.bitwise.right_shift(code_points, 6 * n) & 0x3F | 0x80 for n in (2, 1, 0)]
    size = sum(tf.cast(code_points >= first, tf.int32) for first in (0x80, 0x800, 0x10000))
    marks = tf.gather(tf.constant([0, 0xC0, 0xE0, 0xF0]), size)
    first = tf.bitwise.right_shift(code_points, 6 * size) | marks
    table = tf.stack([first, *six], axis=1)
    kept = tf.stack([tf.ones_like(starts), size == 3, size >= 2, size >= 1], axis=1)
    starts = tf.stack([starts, *[tf.zeros_like(starts)] * 3], axis=1)
    rows = tf.broadcast_to(rows[:, tf.newaxis], tf.shape(table))
    return splitting.Words(*(tf.boolean_mask(values, kept) for values in (table, rows, starts)))


@functools.cache
def _printable_bytes() -> tuple[str, ...]:
    # GPT-2 writes a byte that is no visible Latin-1 character as one behind U+0100.
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(256, 512))
    return tuple(chr(byte if byte in visible else next(hidden)) for byte in range(256))
