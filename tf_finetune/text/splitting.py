"""From strings to words as graph code: BERT's basic tokenizer over code points.

One idea: all texts of a batch are one flat row of code points; replacing, dropping and splitting
are gathers and masks over it, so that a thousand sentences cost a handful of operations.

Reference: Devlin et al., 2018, BERT, https://github.com/google-research/bert/blob/master/
tokenization.py (BasicTokenizer).
"""

import typing

import numpy as np
import tensorflow as tf

from tf_finetune.text import unicode_tables


class Words(typing.NamedTuple):
    """The words of a batch of texts, one behind the other, as n code points.

    Attributes:
      code_points: int32 [n], without white space.
      rows: int32 [n], the text that each comes from, ascending.
      starts: bool [n], the first code point of each word.
    """

    code_points: tf.Tensor
    rows: tf.Tensor
    starts: tf.Tensor


def split_words(
    texts: tf.Tensor, *, lower_case: bool, strip_accents: bool, space_cjk: bool
) -> Words:
    """Cleans texts and splits them at white space and around punctuation.

    Args:
      texts: string [batch], UTF-8; bytes that are none are dropped.
      lower_case: letters become small ones.
      strip_accents: characters are decomposed (NFD) and nonspacing marks dropped.
      space_cjk: each CJK ideograph is a word of its own.

    Returns:
      The words in order.
    """
    decoded = tf.strings.unicode_decode(texts, "UTF-8")
    replacements = unicode_tables.make_replacements(
        lower_case=lower_case, strip_accents=strip_accents
    )
    code_points, rows = _replace(
        decoded.values, tf.cast(decoded.value_rowids(), tf.int32), replacements
    )
    kinds = look_up(unicode_tables.make_kinds(space_cjk=space_cjk), code_points)[:, 0]
    apart = tf.equal(kinds, unicode_tables.APART)
    space = tf.equal(kinds, unicode_tables.SPACE)
    ends_word = tf.logical_or(apart, space)
    behind_end = tf.concat([tf.ones_like(ends_word[:1]), ends_word[:-1]], axis=0)
    new_row = tf.concat([tf.ones_like(ends_word[:1]), tf.not_equal(rows[1:], rows[:-1])], axis=0)
    starts = apart | behind_end | new_row
    kept = tf.logical_not(space)
    return Words(*(tf.boolean_mask(values, kept) for values in (code_points, rows, starts)))


def look_up(table: unicode_tables.PagedTable, code_points: tf.Tensor) -> tf.Tensor:
    """Reads a table.

    Args:
      table: over all code points.
      code_points: int32 [n].

    Returns:
      int32 [n, width].
    """
    bits = unicode_tables.PAGE_BITS
    page = tf.gather(tf.constant(table.pages), tf.bitwise.right_shift(code_points, bits))
    row = tf.bitwise.left_shift(page, bits) + tf.bitwise.bitwise_and(
        code_points, np.int32((1 << bits) - 1)
    )
    return tf.gather(tf.constant(table.values), row)


def _replace(
    code_points: tf.Tensor, rows: tf.Tensor, table: unicode_tables.PagedTable
) -> tuple[tf.Tensor, tf.Tensor]:
    replaced = look_up(table, code_points)
    itself = tf.equal(replaced, unicode_tables.ITSELF)
    replaced = tf.where(itself, code_points[:, tf.newaxis], replaced)
    kept = tf.not_equal(replaced, unicode_tables.NOTHING)
    rows = tf.broadcast_to(rows[:, tf.newaxis], tf.shape(replaced))
    return tf.boolean_mask(replaced, kept), tf.boolean_mask(rows, kept)
