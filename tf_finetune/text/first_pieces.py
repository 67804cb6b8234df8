"""From a vector for each piece of a text to one for each of its words, as Keras layers.

One idea: white space parts words and no piece reaches across it, so a word has as many pieces in
its text as alone, and the pieces of the words before it tell where its first one stands. That one
speaks for the word, as in BERT's experiment on named entities.

Reference: Devlin et al., 2018, BERT, section 5.3, https://arxiv.org/abs/1810.04805
"""

import typing

import keras
import tensorflow as tf

# As `spaces.split_words`: tab, line ends and the category of spaces.
_SPACE = r"[\t\n\r\p{Zs}]"
# TensorFlow splits at these too, and the tokenizer drops them as it drops a space of no width.
_OTHER, _NO_WIDTH = r"[\x0b\x0c]", "\u200b"


def split_at_space(texts: tf.Tensor) -> tf.RaggedTensor:
    """Splits texts as `spaces.split_words` does.

    Args:
      texts: string [batch], UTF-8.

    Returns:
      string [batch, (words)].
    """
    texts = tf.strings.regex_replace(texts, _OTHER, _NO_WIDTH)
    # Without a separator TensorFlow splits at ASCII white space and leaves no empty words.
    return tf.strings.split(tf.strings.regex_replace(texts, _SPACE, " "))


@keras.saving.register_keras_serializable(package="tf_finetune")
class SplitAtSpace(keras.layers.Layer):
    """The words of all texts of a batch, one behind the other."""

    def __init__(self, **kwargs: typing.Any):
        super().__init__(trainable=kwargs.pop("trainable", False), **kwargs)
        self.supports_jit = False

    def call(self, texts: tf.Tensor) -> tf.Tensor:
        """Splits.

        Args:
          texts: string [batch], UTF-8.

        Returns:
          string [words of the batch].
        """
        with tf.device("CPU:0"):
            return split_at_space(texts).flat_values

    def compute_output_spec(self, texts: keras.KerasTensor) -> keras.KerasTensor:
        """See `keras.layers.Layer`."""
        return keras.KerasTensor((None,), dtype="string")


@keras.saving.register_keras_serializable(package="tf_finetune")
class FirstPieces(keras.layers.Layer):
    """Picks the vector of the first piece of each word.

    A word whose first piece was cut off gets zeros, and so does padding.

    Args:
      padding_id: what fills up the ids of shorter words.
    """

    def __init__(self, padding_id: int, **kwargs: typing.Any):
        super().__init__(trainable=kwargs.pop("trainable", False), **kwargs)
        self.supports_jit = False
        # A mask of the pieces is none of the words.
        self.supports_masking = True
        self.padding_id = padding_id

    def call(self, texts: tf.Tensor, word_ids: tf.Tensor, hidden: tf.Tensor) -> tf.Tensor:
        """Picks.

        Args:
          texts: string [batch], UTF-8.
          word_ids: int32 [words of the batch, longest], each word's ids: a token of the text's
            beginning, its pieces, a token of the end, padding.
          hidden: [batch, length, width], a vector for each piece, with those of the beginning and
            end.

        Returns:
          [batch, most words, width].
        """
        with tf.device("CPU:0"):
            words = split_at_space(texts)
            counts = tf.reduce_sum(tf.cast(word_ids != self.padding_id, tf.int32), axis=1) - 2
            counts = words.with_flat_values(counts).to_tensor(0)
            # The first token is that of the beginning.
            places = 1 + tf.cumsum(counts, axis=1, exclusive=True)
            is_there = tf.sequence_mask(words.row_lengths(), tf.shape(counts)[1])
            # The last token of a text that was cut is that of the end.
            is_there &= (places < tf.shape(hidden)[1] - 1) & (counts > 0)
        places = tf.minimum(places, tf.shape(hidden)[1] - 1)
        found = tf.gather(hidden, places, batch_dims=1)
        return tf.where(is_there[..., tf.newaxis], found, tf.zeros_like(found))

    def compute_mask(self, *arguments: typing.Any, **named: typing.Any) -> None:
        """See `keras.layers.Layer`; there is none."""

    def compute_output_spec(
        self, texts: keras.KerasTensor, word_ids: keras.KerasTensor, hidden: keras.KerasTensor
    ) -> keras.KerasTensor:
        """See `keras.layers.Layer`."""
        return keras.KerasTensor((texts.shape[0], None, hidden.shape[-1]), dtype=hidden.dtype)

    def get_config(self) -> dict[str, typing.Any]:
        """See `keras.layers.Layer`."""
        return {**super().get_config(), "padding_id": self.padding_id}
