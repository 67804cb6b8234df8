"""The layers of a text transformer, as plain Keras layers that save, load and freeze one by one.

One idea: a block is one layer, so that --freeze counts blocks; and each layer names its weights
(`named_weights`), so that every checkpoint is one table from those names to its own. Softmax, sums
of residuals and layer normalizations are computed in float32 whatever the precision.

Reference: Vaswani et al., 2017, Attention is all you need; Devlin et al., 2018, BERT,
https://github.com/google-research/bert/blob/master/modeling.py
"""

import functools
import typing

import keras

# --pooling of a text model: what becomes of the tokens' vectors.
MEAN, MAX, FIRST, LAST = "mean", "max", "first", "last"

# Added to the scores of padding; -inf would give NaN in a row that is padding throughout.
_MASKED_SCORE = -1e9

_ACTIVATIONS: dict[str, typing.Callable[[typing.Any], typing.Any]] = {
    "gelu": functools.partial(keras.ops.gelu, approximate=False),
    "gelu_tanh": functools.partial(keras.ops.gelu, approximate=True),
    "relu": keras.ops.relu,
    "silu": keras.ops.silu,
}
ACTIVATIONS = tuple(_ACTIVATIONS)


@keras.saving.register_keras_serializable(package="tf_finetune")
class TokenMask(keras.layers.Layer):
    """Which tokens are no padding: int [batch, length] to bool [batch, length].

    Args:
      padding_id: the id of the padding.
    """

    def __init__(self, padding_id: int, **kwargs: typing.Any):
        super().__init__(**kwargs)
        self.padding_id = padding_id

    def call(self, token_ids: typing.Any) -> typing.Any:
        """Compares, see the class."""
        return keras.ops.not_equal(token_ids, self.padding_id)

    def compute_output_spec(self, token_ids: keras.KerasTensor) -> keras.KerasTensor:
        """See `keras.layers.Layer`."""
        return keras.KerasTensor(token_ids.shape, dtype="bool")

    def get_config(self) -> dict[str, typing.Any]:
        """See `keras.layers.Layer`."""
        return {**super().get_config(), "padding_id": self.padding_id}


@keras.saving.register_keras_serializable(package="tf_finetune")
class TokenEmbeddings(keras.layers.Layer):
    """Token ids to vectors: the token's, the position's and the first segment's, summed.

    Args:
      vocabulary_size: number of tokens.
      max_positions: longest text in tokens.
      embedding_size: width of the three tables.
      hidden_size: width of the output; another than embedding_size is projected to.
      num_segments: rows of the segment table, of which the first is used; 0: no such table.
      epsilon: of the layer normalization; None: there is none.
      dropout: part of the values dropped in training.
    """

    def __init__(
        self,
        vocabulary_size: int,
        max_positions: int,
        *,
        embedding_size: int,
        hidden_size: int,
        num_segments: int = 0,
        epsilon: float | None = 1e-12,
        dropout: float = 0.0,
        **kwargs: typing.Any,
    ):
        super().__init__(**kwargs)
        self._config: dict[str, typing.Any] = {
            "vocabulary_size": vocabulary_size,
            "max_positions": max_positions,
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "num_segments": num_segments,
            "epsilon": epsilon,
            "dropout": dropout,
        }
        table = functools.partial(
            keras.layers.Embedding,
            output_dim=embedding_size,
            embeddings_initializer=_initializer(),
            dtype="float32",
        )
        self._token = table(vocabulary_size, name="token")
        self._position = table(max_positions, name="position")
        self._segment = table(num_segments, name="segment") if num_segments else None
        self._norm = _make_norm(epsilon, "norm") if epsilon is not None else None
        self._dropout = keras.layers.Dropout(dropout, dtype="float32", name="dropout")
        self._projection = None
        if hidden_size != embedding_size:
            self._projection = _make_dense(hidden_size, "projection", self.dtype_policy)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """See `keras.layers.Layer`."""
        width = self._config["embedding_size"]
        for layer in (self._token, self._position, self._segment):
            if layer is not None:
                layer.build(input_shape)
        for layer in (self._norm, self._projection):
            if layer is not None:
                layer.build((*input_shape, width))

    def call(self, token_ids: typing.Any, training: bool | None = None) -> typing.Any:
        """Embeds.

        Args:
          token_ids: int [batch, length], length at most max_positions; -1 is padding.
          training: whether values are dropped.

        Returns:
          [batch, length, hidden_size] in the layer's compute dtype.
        """
        positions = keras.ops.arange(keras.ops.shape(token_ids)[1])
        x = self._token(keras.ops.maximum(token_ids, 0)) + self._position(positions)
        if self._segment is not None:
            x = x + self._segment(keras.ops.zeros_like(positions))
        if self._norm is not None:
            x = self._norm(x)
        x = keras.ops.cast(self._dropout(x, training=training), self.compute_dtype)
        return x if self._projection is None else self._projection(x)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """See `keras.layers.Layer`."""
        return (*input_shape, self._config["hidden_size"])

    def named_weights(self) -> dict[str, typing.Any]:
        """The variables by names such as "token" and "norm/gamma".

        Returns:
          Every weight of the layer.
        """
        weights = {"token": self._token.weights[0], "position": self._position.weights[0]}
        if self._segment is not None:
            weights["segment"] = self._segment.weights[0]
        return weights | _name_weights([self._norm, self._projection])

    def get_config(self) -> dict[str, typing.Any]:
        """See `keras.layers.Layer`."""
        return {**super().get_config(), **self._config}


@keras.saving.register_keras_serializable(package="tf_finetune")
class TransformerBlock(keras.layers.Layer):
    """Self-attention over the tokens that are no padding, then two Dense layers.

    Args:
      num_heads: number of attention heads; divides hidden_size.
      hidden_size: width of input and output.
      intermediate_size: width between the two Dense layers.
      activation: one of `ACTIVATIONS`.
      epsilon: of both layer normalizations.
      dropout: part of the values dropped in training.
      attention_dropout: part of the attention dropped in training.
      norm_first: normalizes before attention and Dense layers (GPT-2) and not behind (BERT).
      causal: a token attends to itself and those before it.

    Raises:
      ValueError: hidden_size is no multiple of num_heads, or the activation is unknown.
    """

    def __init__(
        self,
        num_heads: int,
        hidden_size: int,
        *,
        intermediate_size: int,
        activation: str = "gelu",
        epsilon: float = 1e-12,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        norm_first: bool = False,
        causal: bool = False,
        **kwargs: typing.Any,
    ):
        super().__init__(**kwargs)
        if hidden_size % num_heads:
            raise ValueError(f"{hidden_size=} expects a multiple of {num_heads=}.")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation expects {ACTIVATIONS}. Received {activation!r}.")
        self._config = {
            "num_heads": num_heads,
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "activation": activation,
            "epsilon": epsilon,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "norm_first": norm_first,
            "causal": causal,
        }
        self._num_heads, self._head_size = num_heads, hidden_size // num_heads
        self._norm_first, self._causal = norm_first, causal
        self._activation = _ACTIVATIONS[activation]
        dense = functools.partial(_make_dense, policy=self.dtype_policy)
        self._query = dense(hidden_size, "query")
        self._key = dense(hidden_size, "key")
        self._value = dense(hidden_size, "value")
        self._attention_output = dense(hidden_size, "attention_output")
        self._attention_norm = _make_norm(epsilon, "attention_norm")
        self._intermediate = dense(intermediate_size, "intermediate")
        self._output = dense(hidden_size, "output")
        self._output_norm = _make_norm(epsilon, "output_norm")
        self._attention_dropout = keras.layers.Dropout(
            attention_dropout, dtype="float32", name="attention_dropout"
        )
        self._dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def build(
        self, hidden_shape: tuple[int | None, ...], attended_shape: tuple[int | None, ...]
    ) -> None:
        """See `keras.layers.Layer`."""
        for layer in self._parts():
            inner = layer is self._output
            width = self._config["intermediate_size"] if inner else hidden_shape[-1]
            layer.build((*hidden_shape[:-1], width))

    def call(
        self, hidden: typing.Any, attended: typing.Any, training: bool | None = None
    ) -> typing.Any:
        """One block.

        Args:
          hidden: [batch, length, hidden_size].
          attended: bool [batch, length], False for padding.
          training: whether values are dropped.

        Returns:
          [batch, length, hidden_size] in the layer's compute dtype.
        """
        x = self._attention_norm(hidden) if self._norm_first else hidden
        x = self._attention_output(self._attend(x, attended, training=training))
        x = self._add(hidden, self._dropout(x, training=training), norm=self._attention_norm)
        hidden = x
        x = self._output_norm(hidden) if self._norm_first else hidden
        x = self._output(self._activation(self._intermediate(x)))
        x = self._add(hidden, self._dropout(x, training=training), norm=self._output_norm)
        return keras.ops.cast(x, self.compute_dtype)

    def compute_output_shape(
        self, hidden_shape: tuple[int | None, ...], attended_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """See `keras.layers.Layer`."""
        return hidden_shape

    def named_weights(self) -> dict[str, typing.Any]:
        """The variables by names such as "query/kernel" and "output_norm/gamma".

        Returns:
          Every weight of the layer.
        """
        return _name_weights(self._parts())

    def get_config(self) -> dict[str, typing.Any]:
        """See `keras.layers.Layer`."""
        return {**super().get_config(), **self._config}

    def _parts(self) -> list[keras.layers.Layer]:
        return [
            self._query,
            self._key,
            self._value,
            self._attention_output,
            self._attention_norm,
            self._intermediate,
            self._output,
            self._output_norm,
        ]

    def _add(self, hidden: typing.Any, x: typing.Any, *, norm: typing.Any) -> typing.Any:
        total = keras.ops.cast(hidden, "float32") + keras.ops.cast(x, "float32")
        return total if self._norm_first else norm(total)

    def _attend(self, x: typing.Any, attended: typing.Any, *, training: bool | None) -> typing.Any:
        query, key, value = (
            self._split_heads(layer(x)) for layer in (self._query, self._key, self._value)
        )
        scores = keras.ops.einsum("bqhd,bkhd->bhqk", query * self._head_size**-0.5, key)
        allowed = attended[:, None, None, :]
        if self._causal:
            positions = keras.ops.arange(keras.ops.shape(x)[1])
            allowed = keras.ops.logical_and(allowed, positions[None, :] <= positions[:, None])
        scores = keras.ops.where(allowed, keras.ops.cast(scores, "float32"), _MASKED_SCORE)
        attention = self._attention_dropout(keras.ops.softmax(scores), training=training)
        attention = keras.ops.cast(attention, self.compute_dtype)
        mixed = keras.ops.einsum("bhqk,bkhd->bqhd", attention, value)
        length = keras.ops.shape(x)[1]
        return keras.ops.reshape(mixed, (-1, length, self._num_heads * self._head_size))

    def _split_heads(self, x: typing.Any) -> typing.Any:
        shape = (-1, keras.ops.shape(x)[1], self._num_heads, self._head_size)
        return keras.ops.reshape(x, shape)


@keras.saving.register_keras_serializable(package="tf_finetune")
class TokenPooling(keras.layers.Layer):
    """The vectors of a text's tokens become one, padding left out, in float32.

    Args:
      kind: MEAN, MAX, FIRST (BERT's [CLS]) or LAST (the last token that is no padding).

    Raises:
      ValueError: the kind is none of these.
    """

    def __init__(self, kind: str, **kwargs: typing.Any):
        super().__init__(**{**kwargs, "dtype": "float32"})
        if kind not in (MEAN, MAX, FIRST, LAST):
            raise ValueError(f"kind expects mean, max, first or last. Received {kind!r}.")
        self.kind = kind

    def call(self, hidden: typing.Any, attended: typing.Any) -> typing.Any:
        """Pools.

        Args:
          hidden: [batch, length, width].
          attended: bool [batch, length], False for padding; each text has a token.

        Returns:
          float32 [batch, width].
        """
        if self.kind == FIRST:
            return hidden[:, 0]
        if self.kind == MAX:
            lowest = keras.ops.full_like(hidden, hidden.dtype.min)
            return keras.ops.max(keras.ops.where(attended[..., None], hidden, lowest), axis=1)
        weights = keras.ops.cast(attended, "float32")
        if self.kind == LAST:
            weights = weights * (1.0 - keras.ops.pad(weights[:, 1:], ((0, 0), (0, 1))))
        total = keras.ops.sum(hidden * weights[..., None], axis=1)
        return total / keras.ops.sum(weights, axis=1, keepdims=True)

    def compute_output_shape(
        self, hidden_shape: tuple[int | None, ...], attended_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """See `keras.layers.Layer`."""
        return (hidden_shape[0], hidden_shape[-1])

    def get_config(self) -> dict[str, typing.Any]:
        """See `keras.layers.Layer`."""
        return {**super().get_config(), "kind": self.kind}


def _initializer() -> keras.Initializer:
    return keras.initializers.TruncatedNormal(stddev=0.02)


def _make_dense(units: int, name: str, policy: typing.Any) -> keras.layers.Dense:
    return keras.layers.Dense(units, kernel_initializer=_initializer(), dtype=policy, name=name)


def _make_norm(epsilon: float, name: str) -> keras.layers.LayerNormalization:
    return keras.layers.LayerNormalization(epsilon=epsilon, dtype="float32", name=name)


def _name_weights(layers: typing.Iterable[typing.Any]) -> dict[str, typing.Any]:
    return {
        f"{layer.name}/{weight.name}": weight
        for layer in layers
        if layer is not None
        for weight in layer.weights
    }
