"""Text transformers as backbones: strings in, one vector per text out.

One idea: whoever reads a checkpoint (`hugging_face`, `keras_hub_presets`) says the sizes, the
tokenizer and the weights; the model is always built here, from our own layers, so that it freezes
block by block, saves, and is exported without the library that it came from.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from tf_finetune import findings, layer_table, specs
from tf_finetune.models import backbone
from tf_finetune.models.encoders import encoder_layers
from tf_finetune.models.stored import stored_config

INPUT = "text"
TOKENIZER = "tokenizer"
EMBEDDINGS = "embeddings"
FINAL_NORM = "final_norm"

# What becomes of the tokens' vectors, as it is said.
_KINDS = {
    encoder_layers.MEAN: "averaged over the tokens of a text",
    encoder_layers.MAX: "the largest over the tokens of a text",
    encoder_layers.FIRST: "those of the first token",
    encoder_layers.LAST: "those of the last token",
}


@dataclasses.dataclass(frozen=True)
class EncoderSizes:
    """The shape of a text transformer.

    Attributes:
      vocabulary_size: rows of the token table.
      max_positions: rows of the position table, the longest text in tokens.
      hidden_size: width of the blocks.
      num_layers: number of blocks.
      num_heads: attention heads of a block.
      intermediate_size: width inside a block's two Dense layers.
      embedding_size: width of the tables; None: hidden_size.
      num_segments: rows of the segment table; 0: none.
      activation: one of `encoder_layers.ACTIVATIONS`.
      epsilon: of the layer normalizations.
      dropout: part of the values dropped in training.
      attention_dropout: part of the attention dropped in training.
      decoder: GPT-2's order: each token sees those before it, normalization comes first, and a
        last one follows the blocks.
    """

    vocabulary_size: int
    max_positions: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    embedding_size: int | None = None
    num_segments: int = 0
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.0
    attention_dropout: float = 0.0
    decoder: bool = False


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A text transformer as its reader found it.

    Attributes:
      where: the --model value, for error texts.
      source: format and writer.
      sizes: shape of the encoder.
      tokenizer: layer from strings to token ids, with `padding_id` and `num_pieces`.
      read: our layer's and weight's name -> its values, float32; raises `KeyError` with the name
        that the checkpoint lacks.
      pooling: what --pooling=auto means: a kind of `encoder_layers.TokenPooling`.
      reason: why that pooling, a clause; "" where it is our default.
      dropped: parts of the checkpoint that are not used.
      sha256: of the weights file.
      notes: lines for the user.
    """

    where: str
    source: str
    sizes: EncoderSizes
    tokenizer: keras.layers.Layer
    read: Callable[[str, str], np.ndarray]
    pooling: str = encoder_layers.MEAN
    reason: str = ""
    dropped: tuple[str, ...] = ()
    sha256: str | None = None
    notes: tuple[str, ...] = ()


def make_backbone(
    checkpoint: Checkpoint, spec: specs.ModelSpec, *, precision: str
) -> backbone.Backbone:
    """Builds the model of a checkpoint and gives it its weights.

    Args:
      checkpoint: what a reader found.
      spec: pooling: auto is the checkpoint's, avg and max are over the tokens that are no padding,
        none is the first token ([CLS]; of a decoder the last token).
      precision: "float32", "bfloat16" or "float16": what its layers compute in.

    Returns:
      The backbone; its table counts the embeddings and each block, and of a decoder the last
      normalization: the layers that have weights.

    Raises:
      findings.RefusedError: --cut_layer or --pooling=flatten is given, a weight is missing or has
        another shape, or the vocabulary is larger than the token table.
    """
    pooling = _settle_pooling(checkpoint, spec)
    sizes = checkpoint.sizes
    if checkpoint.tokenizer.num_pieces > sizes.vocabulary_size:
        raise stored_config.refused(
            checkpoint.where,
            f"its vocabulary has {checkpoint.tokenizer.num_pieces} pieces, and its token table "
            f"only {sizes.vocabulary_size} rows. The files belong to different models.",
        )
    model = _build(checkpoint, pooling=pooling, precision=precision)
    _assign(model, checkpoint)
    table = layer_table.table_from_model(model)
    rows = [row for row in table.rows if row.num_parameters]
    reason = f"The features are {_KINDS[pooling]}{checkpoint.reason * (spec.pooling == 'auto')}."
    return backbone.Backbone(
        model=model,
        input_shape=(),
        pooling="none",
        pixel_range=None,
        table=layer_table.LayerTable(
            tuple(dataclasses.replace(row, number=n) for n, row in enumerate(rows, start=1))
        ),
        dropped=checkpoint.dropped,
        cut_reason=reason,
        source=checkpoint.source,
        sha256=checkpoint.sha256,
        outputs=((model.layers[-1].name, (None, sizes.hidden_size)),),
        input_kind=backbone.TEXT,
        notes=checkpoint.notes,
    )


def block_name(number: int) -> str:
    """The name of a block's layer.

    Args:
      number: from 0.

    Returns:
      For example "block_1", the first.
    """
    return f"block_{number + 1}"


def block_number(layer: str) -> int:
    """The position of a block.

    Args:
      layer: a name from `block_name`.

    Returns:
      From 0.
    """
    return int(layer.rpartition("_")[2]) - 1


def _settle_pooling(checkpoint: Checkpoint, spec: specs.ModelSpec) -> str:
    if spec.cut_layer is not None:
        message = (
            "--cut_layer does not apply to a text transformer, whose features are those of its "
            f"last block. Received {findings.one_line(spec.cut_layer)}. Leave it out."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--cut_layer"))
    if spec.pooling == "flatten":
        message = (
            "--pooling=flatten does not apply to texts, whose lengths differ. Expected auto, avg, "
            "max or none."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--pooling"))
    if spec.pooling == "auto":
        return checkpoint.pooling
    if spec.pooling == "none":
        return encoder_layers.LAST if checkpoint.sizes.decoder else encoder_layers.FIRST
    return {"avg": encoder_layers.MEAN, "max": encoder_layers.MAX}[spec.pooling]


def _build(checkpoint: Checkpoint, *, pooling: str, precision: str) -> keras.Model:
    sizes = checkpoint.sizes
    policy = precision if precision == "float32" else f"mixed_{precision}"
    text = keras.Input((), dtype="string", name=INPUT)
    token_ids = checkpoint.tokenizer(text)
    attended = encoder_layers.TokenMask(checkpoint.tokenizer.padding_id, name="token_mask")(
        token_ids
    )
    hidden = encoder_layers.TokenEmbeddings(
        sizes.vocabulary_size,
        sizes.max_positions,
        embedding_size=sizes.embedding_size or sizes.hidden_size,
        hidden_size=sizes.hidden_size,
        num_segments=sizes.num_segments,
        epsilon=None if sizes.decoder else sizes.epsilon,
        dropout=sizes.dropout,
        dtype=policy,
        name=EMBEDDINGS,
    )(token_ids)
    for number in range(sizes.num_layers):
        hidden = encoder_layers.TransformerBlock(
            sizes.num_heads,
            sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            activation=sizes.activation,
            epsilon=sizes.epsilon,
            dropout=sizes.dropout,
            attention_dropout=sizes.attention_dropout,
            norm_first=sizes.decoder,
            causal=sizes.decoder,
            dtype=policy,
            name=block_name(number),
        )(hidden, attended)
    if sizes.decoder:
        hidden = keras.layers.LayerNormalization(
            epsilon=sizes.epsilon, dtype="float32", name=FINAL_NORM
        )(hidden)
    features = encoder_layers.TokenPooling(pooling, name=f"{pooling}_pooling")(hidden, attended)
    return keras.Model(text, features, name="encoder")


def _assign(model: keras.Model, checkpoint: Checkpoint) -> None:
    for layer in model.layers:
        if isinstance(layer, keras.layers.LayerNormalization):
            variables = {variable.name: variable for variable in layer.weights}
        elif hasattr(layer, "named_weights"):
            variables = layer.named_weights()
        else:
            continue
        for name, variable in variables.items():
            try:
                values = checkpoint.read(layer.name, name)
            except KeyError as error:
                raise stored_config.refused(
                    checkpoint.where,
                    f"the weight '{findings.one_line(error.args[0])}' of layer '{layer.name}' is "
                    "missing. The file belongs to another model than its configuration.",
                ) from error
            if tuple(values.shape) != tuple(variable.shape):
                raise stored_config.refused(
                    checkpoint.where,
                    f"layer '{layer.name}' expects {name} of the shape {tuple(variable.shape)}. "
                    f"Received {tuple(values.shape)}.",
                )
            variable.assign(values)
