"""Where a text model has a vector for each token, and which tokenizer made them.

One idea: what follows the tokens' vectors is a pooling, which is left out; everything before it is
shared with the model, so a freeze plan holds for both.
"""

import dataclasses
import typing

import keras

from tf_finetune.models.encoders import encoder_layers
from tf_finetune.text import wordpiece

_POOLINGS = (
    encoder_layers.TokenPooling,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalMaxPooling1D,
)


@dataclasses.dataclass(frozen=True)
class TokenFeatures:
    """A text model before its pooling.

    Attributes:
      model: strings to [batch, tokens, width]; its layers are the given model's.
      tokenizer: the layer that makes the tokens.
    """

    model: keras.Model
    tokenizer: wordpiece.WordPieceTokenizer


def find(model: keras.Model) -> TokenFeatures | str:
    """Looks for a vector per token.

    Args:
      model: a backbone of texts.

    Returns:
      What was found, or why there is none: a clause that follows "the model".
    """
    tokenizers = [
        layer for layer in model.layers if isinstance(layer, wordpiece.WordPieceTokenizer)
    ]
    if len(tokenizers) != 1:
        return "has no WordPiece tokenizer of ours"
    hidden: typing.Any = model.output
    layer, node_index, _ = hidden._keras_history
    if isinstance(layer, _POOLINGS):
        hidden = layer._inbound_nodes[node_index].input_tensors[0]
    tokens: typing.Any = tokenizers[0].output
    if len(hidden.shape) != 3 or hidden.shape[1] != tokens.shape[1]:
        return (
            f"has features of the shape {tuple(hidden.shape)}, and not [batch, tokens, width] with "
            "a vector for each token"
        )
    return TokenFeatures(keras.Model(model.input, hidden, name=model.name), tokenizers[0])
