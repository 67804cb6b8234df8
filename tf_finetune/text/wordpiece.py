"""BERT's tokenizer as a Keras layer that carries its vocabulary.

One idea: the layer is made of core TensorFlow operations and constants, so a model that starts with
it takes strings wherever its graph is loaded: no TF-Text, no vocabulary file, no tables to
initialise.

Reference: Devlin et al., 2018, BERT, https://github.com/google-research/bert/blob/master/
tokenization.py
"""

import typing

import keras
import tensorflow as tf

from tf_finetune.text import splitting, word_pieces


@keras.saving.register_keras_serializable(package="tf_finetune")
class WordPieceTokenizer(keras.layers.Layer):
    """Strings to token ids: [CLS], the pieces of the text, [SEP], padding.

    The name of a special token that stands in a text ("[SEP]") is text like any other, so nobody
    who writes a text can end it early.

    Args:
      vocabulary: the pieces in the order of their ids, joined by line feeds, as in vocab.txt.
      lower_case: letters become small ones.
      strip_accents: characters are decomposed (NFD) and nonspacing marks dropped; None: as
        lower_case, BERT's rule.
      space_cjk: each CJK ideograph is a word of its own.
      sequence_length: longest output in tokens, [CLS] and [SEP] included; at least 3.
      first_token: what stands before the text.
      last_token: what stands behind the text.
      padding_token: what fills up the shorter texts of a batch.
      unknown_token: what a word becomes that has no pieces.
      fixed_length: every text is padded to sequence_length, not only to the longest of its batch.

    Raises:
      ValueError: a special token is not in the vocabulary, or sequence_length is below 3.
    """

    def __init__(
        self,
        vocabulary: str,
        *,
        lower_case: bool = True,
        strip_accents: bool | None = None,
        space_cjk: bool = True,
        sequence_length: int = 128,
        first_token: str = "[CLS]",
        last_token: str = "[SEP]",
        padding_token: str = "[PAD]",
        unknown_token: str = "[UNK]",
        fixed_length: bool = False,
        **kwargs: typing.Any,
    ):
        super().__init__(trainable=kwargs.pop("trainable", False), **kwargs)
        # XLA has no strings.
        self.supports_jit = False
        if sequence_length < 3:
            raise ValueError(f"sequence_length expects 3 or more. Received {sequence_length}.")
        pieces = vocabulary.split("\n")
        ids = {piece: number for number, piece in enumerate(pieces)}
        names = (first_token, last_token, padding_token, unknown_token)
        missing = [name for name in names if name not in ids]
        if missing:
            raise ValueError(f"The vocabulary lacks the special token {missing[0]!r}.")
        self._first_id, self._last_id, self.padding_id, self._unknown_id = (
            ids[name] for name in names
        )
        self.num_pieces = len(pieces)
        self._trie = word_pieces.make_trie(pieces)
        self._splitting = {
            "lower_case": lower_case,
            "strip_accents": lower_case if strip_accents is None else strip_accents,
            "space_cjk": space_cjk,
        }
        self._config = {
            "vocabulary": vocabulary,
            **self._splitting,
            "sequence_length": sequence_length,
            "first_token": first_token,
            "last_token": last_token,
            "padding_token": padding_token,
            "unknown_token": unknown_token,
            "fixed_length": fixed_length,
        }
        self.sequence_length = sequence_length
        self._width = sequence_length if fixed_length else None

    def call(self, texts: tf.Tensor) -> tf.Tensor:
        """Tokenizes.

        Args:
          texts: string [batch], UTF-8.

        Returns:
          int32 [batch, longest], at most sequence_length wide; with fixed_length so wide.
        """
        # The kernels of strings are on the CPU, and so should be all that is between them.
        with tf.device("CPU:0"):
            words = splitting.split_words(texts, **self._splitting)
            ids, rows = word_pieces.find_pieces(words, self._trie, unknown_id=self._unknown_id)
            batch = tf.size(texts)
            pieces = tf.RaggedTensor.from_value_rowids(
                ids, tf.cast(rows, tf.int64), nrows=tf.cast(batch, tf.int64), validate=False
            )[:, : self.sequence_length - 2]
            ones = tf.ones([batch, 1], tf.int32)
            parts = [ones * self._first_id, pieces, ones * self._last_id]
            return tf.concat(parts, axis=1).to_tensor(self.padding_id, shape=[None, self._width])

    def shorten(self, sequence_length: int) -> None:
        """Cuts texts earlier from now on.

        Args:
          sequence_length: longest output in tokens, at least 3 and at most what it was.
        """
        self.sequence_length = self._config["sequence_length"] = sequence_length

    def compute_output_spec(self, texts: keras.KerasTensor) -> keras.KerasTensor:
        """See `keras.layers.Layer`."""
        return keras.KerasTensor((texts.shape[0], self._width), dtype="int32")

    def get_config(self) -> dict[str, typing.Any]:
        """See `keras.layers.Layer`."""
        return {**super().get_config(), **self._config}
