"""Words to the ids of a vocabulary, as a Keras layer: what models of token ids were trained on.

One idea: a few rules (case, which characters part words, which vanish) cover both of Keras's word
tokenizers, so that a model of either keeps the ids that it knows; they are core TensorFlow
operations and one lookup table, which an export carries along.

Reference: keras.layers.TextVectorization; keras.preprocessing.text.Tokenizer and
keras.preprocessing.sequence.pad_sequences of Keras 2,
https://github.com/keras-team/keras-preprocessing.
"""

import json
import re
import typing

import keras
import tensorflow as tf

from tf_finetune.text import word_rules

PADDING_ID = 0
# Behind the ids, until the words that the vocabulary lacks are left out.
_NO_ID = -1
PRE, POST = word_rules.PRE, word_rules.POST
ASCII, UNICODE = word_rules.ASCII, word_rules.UNICODE


@keras.saving.register_keras_serializable(package="tf_finetune")
class WordTokenizer(keras.layers.Layer):
    """Strings to as many ids as the model takes: too long texts are cut, short ones padded with 0.

    Args:
      vocabulary: {word: id} as JSON, ids from 1.
      sequence_length: ids of each text, at least 1.
      unknown_id: of a word that the vocabulary lacks; None: it is left out.
      lower_case: "unicode" or "ascii" (only A to Z, as TextVectorization): letters become small;
        None: they stay.
      parted_at: characters that stand between words, beside white space.
      dropped: characters that vanish.
      padding: "pre" or "post", the side that is padded, and cut.

    Raises:
      ValueError: an id is below 1, or an argument has none of these values.
    """

    def __init__(
        self,
        vocabulary: str,
        *,
        sequence_length: int,
        unknown_id: int | None = None,
        lower_case: str | None = UNICODE,
        parted_at: str = "",
        dropped: str = "",
        padding: str = POST,
        **kwargs: typing.Any,
    ):
        super().__init__(trainable=kwargs.pop("trainable", False), **kwargs)
        # XLA has no strings.
        self.supports_jit = False
        ids: dict[str, int] = json.loads(vocabulary)
        if sequence_length < 1 or any(number < 1 for number in ids.values()):
            raise ValueError("sequence_length and the ids of words expect 1 or more.")
        if padding not in (PRE, POST) or lower_case not in (None, ASCII, UNICODE):
            raise ValueError(
                f"padding expects pre or post, lower_case None, ascii or unicode. Received "
                f"{padding!r} and {lower_case!r}."
            )
        self.sequence_length = sequence_length
        self.padding_id = PADDING_ID
        self.num_pieces = 1 + max([*ids.values(), unknown_id or 0])
        self._lower_case, self._padding = lower_case, padding
        self._parted_at, self._dropped = _one_of(parted_at + "\t\n\v\f\r"), _one_of(dropped)
        values = tf.constant(list(ids.values()), tf.int32)
        self._table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.constant(list(ids), tf.string), values),
            _NO_ID if unknown_id is None else unknown_id,
        )
        self._config = {
            "vocabulary": vocabulary,
            "sequence_length": sequence_length,
            "unknown_id": unknown_id,
            "lower_case": lower_case,
            "parted_at": parted_at,
            "dropped": dropped,
            "padding": padding,
        }

    def call(self, texts: tf.Tensor) -> tf.Tensor:
        """Tokenizes.

        Args:
          texts: string [batch], UTF-8.

        Returns:
          int32 [batch, sequence_length].
        """
        length = self.sequence_length
        # The kernels of strings are on the CPU, and so should be all that is between them.
        with tf.device("CPU:0"):
            if self._lower_case is not None:
                encoding = "utf-8" if self._lower_case == UNICODE else ""
                texts = tf.strings.lower(texts, encoding=encoding)
            if self._dropped:
                texts = tf.strings.regex_replace(texts, self._dropped, "")
            texts = tf.strings.regex_replace(texts, self._parted_at, " ")
            words = tf.strings.split(texts, sep=" ")
            ids = tf.ragged.map_flat_values(self._table.lookup, words)
            # What two blanks part is no word, also where unknown words have an id.
            ids = tf.ragged.boolean_mask(ids, (words != "") & (ids != _NO_ID))
            if self._padding == POST:
                return ids[:, :length].to_tensor(PADDING_ID, shape=[None, length])
            ids = ids[:, -length:].with_row_splits_dtype(tf.int32)
            rows = ids.value_rowids()
            columns = tf.range(tf.size(ids.flat_values))
            columns += length - tf.gather(ids.row_splits[1:], rows)
            indices = tf.stack([rows, columns], axis=1)
            return tf.scatter_nd(indices, ids.flat_values, [ids.nrows(), length])

    def compute_output_spec(self, texts: keras.KerasTensor) -> keras.KerasTensor:
        """See `keras.layers.Layer`."""
        return keras.KerasTensor((texts.shape[0], self.sequence_length), dtype="int32")

    def get_config(self) -> dict[str, typing.Any]:
        """See `keras.layers.Layer`."""
        return {**super().get_config(), **self._config}


def _one_of(characters: str) -> str:
    return f"[{re.escape(characters)}]" if characters else ""
