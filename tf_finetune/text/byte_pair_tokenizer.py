"""The tokenizer of GPT-2 and RoBERTa as a Keras layer that carries its vocabulary.

One idea: as in `wordpiece`, core TensorFlow operations and constants only, so that the graph needs
neither TF-Text nor a file.

Reference: Radford et al., 2019, https://github.com/openai/gpt-2/blob/master/src/encoder.py; Liu et
al., 2019, RoBERTa, https://arxiv.org/abs/1907.11692.
"""

import json
import typing

import keras
import tensorflow as tf

from tf_finetune.text import byte_pairs

# Not the id of a token: GPT-2 has none for padding.
PADDING_ID = -1


@keras.saving.register_keras_serializable(package="tf_finetune")
class BytePairTokenizer(keras.layers.Layer):
    """Strings to token ids: the first token, those of the text, the last token, padding (-1).

    The name of a special token that stands in a text is text like any other.

    Args:
      vocabulary: {token: id} as JSON, as in vocab.json.
      merges: "left right" on each line, the first merged first, as in merges.txt without its
        heading.
      first_token: what stands before the text.
      last_token: what stands behind the text.
      unknown_token: what a byte becomes that the vocabulary lacks; None: nothing.
      space_first: a space is put before each text, so that its first word is like the others.
      sequence_length: longest output in tokens, first and last included; at least 3.

    Raises:
      ValueError: a special token is not in the vocabulary, a merge joins unknown parts, or
        sequence_length is below 3.
    """

    def __init__(
        self,
        vocabulary: str,
        merges: str,
        *,
        first_token: str,
        last_token: str,
        unknown_token: str | None = None,
        space_first: bool = False,
        sequence_length: int = 128,
        **kwargs: typing.Any,
    ):
        super().__init__(trainable=kwargs.pop("trainable", False), **kwargs)
        # XLA has no strings.
        self.supports_jit = False
        if sequence_length < 3:
            raise ValueError(f"sequence_length expects 3 or more. Received {sequence_length}.")
        ids = json.loads(vocabulary)
        for name in (first_token, last_token, unknown_token):
            if name is not None and name not in ids:
                raise ValueError(f"The vocabulary lacks the special token {name!r}.")
        self._first_id, self._last_id = ids[first_token], ids[last_token]
        self._unknown_id = None if unknown_token is None else ids[unknown_token]
        self._merges = byte_pairs.make_merges(ids, merges.split("\n") if merges else [])
        self._space_first = space_first
        self.num_pieces = max(ids.values()) + 1
        self.padding_id = PADDING_ID
        self.sequence_length = sequence_length
        self._config = {
            "vocabulary": vocabulary,
            "merges": merges,
            "first_token": first_token,
            "last_token": last_token,
            "unknown_token": unknown_token,
            "space_first": space_first,
            "sequence_length": sequence_length,
        }

    def call(self, texts: tf.Tensor) -> tf.Tensor:
        """Tokenizes.

        Args:
          texts: string [batch], UTF-8.

        Returns:
          int32 [batch, longest], at most sequence_length wide.
        """
        # The kernels of strings are on the CPU, and so should be all that is between them.
        with tf.device("CPU:0"):
            batch = tf.size(texts)
            if self._space_first:
                texts = tf.strings.regex_replace(texts, r"^([^\s])", r" \1")
            ids, rows = byte_pairs.merge_pairs(byte_pairs.split_bytes(texts), self._merges)
            known = ids >= 0
            if self._unknown_id is None:
                ids, rows = tf.boolean_mask(ids, known), tf.boolean_mask(rows, known)
            else:
                ids = tf.where(known, ids, self._unknown_id)
            pieces = tf.RaggedTensor.from_value_rowids(
                ids, tf.cast(rows, tf.int64), nrows=tf.cast(batch, tf.int64), validate=False
            )[:, : self.sequence_length - 2]
            ones = tf.ones([batch, 1], tf.int32)
            parts = [ones * self._first_id, pieces, ones * self._last_id]
            return tf.concat(parts, axis=1).to_tensor(PADDING_ID)

    def shorten(self, sequence_length: int) -> None:
        """Cuts texts earlier from now on.

        Args:
          sequence_length: longest output in tokens, at least 3 and at most what it was.
        """
        self.sequence_length = self._config["sequence_length"] = sequence_length

    def compute_output_spec(self, texts: keras.KerasTensor) -> keras.KerasTensor:
        """See `keras.layers.Layer`."""
        return keras.KerasTensor((texts.shape[0], None), dtype="int32")

    def get_config(self) -> dict[str, typing.Any]:
        """See `keras.layers.Layer`."""
        return {**super().get_config(), **self._config}
