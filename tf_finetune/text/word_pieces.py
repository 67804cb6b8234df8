"""Greedy longest-match WordPiece over a whole batch, as graph code.

One idea: the vocabulary is a trie in sorted arrays. From every code point of the batch at once the
trie is walked as far as it goes, which gives the longest piece that starts there; then the chains
of pieces are followed from the start of each word. The number of steps depends on the longest piece
and on the most pieces of a word, not on the number of words, and no table has to be initialised
where the graph is loaded.

Reference: Schuster and Nakajima, 2012, Japanese and Korean voice search; Devlin et al., 2018, BERT,
https://github.com/google-research/bert/blob/master/tokenization.py (WordpieceTokenizer).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_finetune.text import splitting

CONTINUATION = "##"
# As in BERT: a longer word is unknown as a whole.
MAX_WORD_LENGTH = 100

_WORD_ROOT, _CONTINUATION_ROOT = 0, 1
# A code point has 21 bits.
_CODE_POINT_BITS = 21
_NO_PIECE = -1


@dataclasses.dataclass(frozen=True)
class Trie:
    """A vocabulary as a tree of code points; node 0 starts a word, node 1 continues one.

    Attributes:
      keys: int64 [edges], ascending: node * 2**21 + code point.
      children: int32 [edges], the node where the edge leads.
      pieces: int32 [nodes], the piece that ends in a node, or -1.
      depth: length of the longest piece in code points.
    """

    keys: np.ndarray
    children: np.ndarray
    pieces: np.ndarray
    depth: int


def make_trie(vocabulary: Sequence[str]) -> Trie:
    """Builds the tree of a vocabulary.

    Args:
      vocabulary: pieces in the order of their ids; "##" leads those that continue a word. The last
        of equal ones counts, as in BERT.

    Returns:
      The tree; empty pieces are not in it.
    """
    edges: dict[int, int] = {}
    pieces = [_NO_PIECE, _NO_PIECE]
    depth = 0
    for number, piece in enumerate(vocabulary):
        continues = piece.startswith(CONTINUATION)
        text = piece.removeprefix(CONTINUATION)
        if not text:
            continue
        node = _CONTINUATION_ROOT if continues else _WORD_ROOT
        for character in text:
            key = (node << _CODE_POINT_BITS) + ord(character)
            node = edges.setdefault(key, len(pieces))
            if node == len(pieces):
                pieces.append(_NO_PIECE)
        pieces[node] = number
        depth = max(depth, len(text))
    keys = np.array(sorted(edges), np.int64)
    children = np.array([edges[key] for key in keys.tolist()], np.int32)
    return Trie(keys, children, np.array(pieces, np.int32), depth)


def find_pieces(
    words: splitting.Words, trie: Trie, *, unknown_id: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Splits words into the longest pieces of a vocabulary, from the left.

    Args:
      words: the words of a batch.
      trie: the vocabulary.
      unknown_id: what a word becomes that has no such pieces or over 100 code points.

    Returns:
      Ids, int32 [m], and the text of each, int32 [m], in the order of the words.
    """
    word_of = tf.cumsum(tf.cast(words.starts, tf.int32)) - 1
    first = tf.cast(tf.where(words.starts)[:, 0], tf.int32)
    num_code_points = tf.size(words.code_points)
    past = tf.concat([first[1:], tf.reshape(num_code_points, [1])[: tf.size(first)]], axis=0)
    ends = tf.gather(past, word_of)
    lengths, ids = _longest_pieces(words, trie, ends=ends)
    too_long = past - first > MAX_WORD_LENGTH
    reached, unknown = _follow(first, lengths, ends=ends, word_of=word_of, unknown=too_long)
    unknown = tf.gather(unknown, word_of)
    kept = tf.where(unknown, words.starts, reached)
    ids = tf.where(unknown, unknown_id, ids)
    return tf.boolean_mask(ids, kept), tf.boolean_mask(words.rows, kept)


def _longest_pieces(
    words: splitting.Words, trie: Trie, *, ends: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    keys, children, pieces = map(tf.constant, (trie.keys, trie.children, trie.pieces))
    lengths = tf.zeros_like(words.code_points)
    at = tf.range(tf.size(words.code_points))
    node = tf.where(words.starts, _WORD_ROOT, _CONTINUATION_ROOT)

    def goes_on(
        step: tf.Tensor, at: tf.Tensor, node: tf.Tensor, lengths: tf.Tensor, ids: tf.Tensor
    ) -> tf.Tensor:
        return tf.size(at) > 0

    def walk(
        step: tf.Tensor, at: tf.Tensor, node: tf.Tensor, lengths: tf.Tensor, ids: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        inside = at + step < tf.gather(ends, at)
        at, node = tf.boolean_mask(at, inside), tf.boolean_mask(node, inside)
        code_point = tf.gather(words.code_points, at + step)
        wanted = tf.bitwise.left_shift(
            tf.cast(node, tf.int64), np.int64(_CODE_POINT_BITS)
        ) + tf.cast(code_point, tf.int64)
        edge = tf.minimum(tf.searchsorted(keys, wanted), len(trie.keys) - 1)
        found = tf.equal(tf.gather(keys, edge), wanted)
        at, node = tf.boolean_mask(at, found), tf.gather(children, tf.boolean_mask(edge, found))
        piece = tf.gather(pieces, node)
        ends_here = tf.not_equal(piece, _NO_PIECE)
        where = tf.boolean_mask(at, ends_here)[:, tf.newaxis]
        lengths = tf.tensor_scatter_nd_update(
            lengths, where, tf.broadcast_to(step + 1, [tf.shape(where)[0]])
        )
        ids = tf.tensor_scatter_nd_update(ids, where, tf.boolean_mask(piece, ends_here))
        return step + 1, at, node, lengths, ids

    _, _, _, lengths, ids = tf.while_loop(
        goes_on,
        walk,
        (tf.constant(0), at, node, lengths, tf.zeros_like(lengths)),
        shape_invariants=(tf.TensorShape([]), *[tf.TensorShape([None])] * 4),
        maximum_iterations=trie.depth,
    )
    return lengths, ids


def _follow(
    first: tf.Tensor,
    lengths: tf.Tensor,
    *,
    ends: tf.Tensor,
    word_of: tf.Tensor,
    unknown: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    # Which code points start a piece of their word, and which words cannot be finished.
    def goes_on(at: tf.Tensor, reached: tf.Tensor, unknown: tf.Tensor) -> tf.Tensor:
        return tf.size(at) > 0

    def step(at: tf.Tensor, reached: tf.Tensor, unknown: tf.Tensor) -> tuple[tf.Tensor, ...]:
        length = tf.gather(lengths, at)
        stuck = tf.equal(length, 0)
        unknown = _mark(unknown, tf.gather(word_of, tf.boolean_mask(at, stuck)))
        reached = _mark(reached, at)
        following = at + length
        ahead = tf.logical_not(stuck) & (following < tf.gather(ends, at))
        return tf.boolean_mask(following, ahead), reached, unknown

    _, reached, unknown = tf.while_loop(
        goes_on,
        step,
        (
            tf.boolean_mask(first, tf.logical_not(unknown)),
            tf.zeros_like(lengths, tf.bool),
            unknown,
        ),
        shape_invariants=(tf.TensorShape([None]),) * 3,
        maximum_iterations=MAX_WORD_LENGTH,
    )
    return reached, unknown


def _mark(flags: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
    return tf.tensor_scatter_nd_update(
        flags, where[:, tf.newaxis], tf.ones_like(where, dtype=tf.bool)
    )
