"""Layers of Keras 3 with the masks of Keras 2.

One idea: a model of Keras 2 that makes masks (Embedding with mask_zero, Masking) becomes one of
these classes, which compute what their bases compute and treat masks as Keras 2 did. They bear the
names of their bases. `keras2_masks` decides which models get them.

A mask exists only beside a tensor of numbers, never while the graph is built: Keras 3 would add the
functions that compute it to the graph, under names that layers of the file have too.

Reference: tf_keras 2.21, `compute_mask` and `call` of each layer; Keras 3.15,
src/layers/layer.py (`Layer.__call__`).
"""

import functools
import typing

import keras

# Added to scores at masked positions, as Keras 2 did: all of them masked makes all of them alike.
_FAR_BELOW = {"float16": -65504.0}

register = keras.saving.register_keras_serializable(package="tf_finetune")


def _is_symbolic(inputs: typing.Any) -> bool:
    return any(isinstance(value, keras.KerasTensor) for value in keras.tree.flatten(inputs))


def _mask_beside(tensor: typing.Any) -> typing.Any:
    return getattr(tensor, "_keras_mask", None)


def _all_of(masks: typing.Any) -> typing.Any:
    present = [keras.ops.cast(mask, "bool") for mask in masks if mask is not None]
    merged = present[0]
    for mask in present[1:]:
        merged = keras.ops.logical_and(merged, mask)
    return merged


@register
class Embedding(keras.layers.Embedding):
    """Embedding, whose mask is no part of the graph."""

    def compute_mask(self, inputs: typing.Any, mask: typing.Any = None) -> typing.Any:
        """The mask of the words.

        Args:
          inputs: int [batch, time].
          mask: not used.

        Returns:
          bool [batch, time], False for the word 0; None without mask_zero or numbers.
        """
        return None if _is_symbolic(inputs) else super().compute_mask(inputs, mask)


@register
class Masking(keras.layers.Masking):
    """Masking, whose mask is no part of the graph."""

    def compute_mask(self, inputs: typing.Any, mask: typing.Any = None) -> typing.Any:
        """The mask of the steps.

        Args:
          inputs: float [batch, time, ...].
          mask: not used.

        Returns:
          bool, False where all features have the mask value; None without numbers.
        """
        return None if _is_symbolic(inputs) else super().compute_mask(inputs, mask)


@register
class MaskOf(keras.layers.Layer):
    """The mask of a tensor as a tensor: Keras 3 gives none to a layer called with states."""

    def __init__(self, **options: typing.Any):
        super().__init__(**options)
        self.built = True

    def call(self, inputs: typing.Any, mask: typing.Any = None) -> typing.Any:
        """Returns the mask.

        Args:
          inputs: [batch, time, ...].
          mask: bool [batch, time]; None: nothing is masked.

        Returns:
          bool [batch, time].
        """
        if mask is None:
            return keras.ops.ones(keras.ops.shape(inputs)[:2], dtype="bool")
        return keras.ops.cast(mask, "bool")

    def compute_mask(self, inputs: typing.Any, mask: typing.Any = None) -> None:
        """A mask has no mask.

        Args:
          inputs: [batch, time, ...].
          mask: bool [batch, time].
        """


class _Merged:
    """A step is valid where it is valid in every input that has a mask."""

    def compute_mask(self, inputs: typing.Any, mask: typing.Any = None) -> typing.Any:
        """The mask of the result.

        Args:
          inputs: the merged tensors.
          mask: a mask or None for each.

        Returns:
          A mask; None where no input has one, or without numbers.
        """
        if mask is None or _is_symbolic(inputs) or all(one is None for one in mask):
            return None
        return _all_of(mask)


@register
class Add(_Merged, keras.layers.Add):
    """Add with the masks of Keras 2."""


@register
class Subtract(_Merged, keras.layers.Subtract):
    """Subtract with the masks of Keras 2."""


@register
class Multiply(_Merged, keras.layers.Multiply):
    """Multiply with the masks of Keras 2; that of Keras 3 leaves masked values out."""

    def _merge_function(self, inputs: typing.Any) -> typing.Any:
        return functools.reduce(keras.ops.multiply, inputs)


@register
class Average(_Merged, keras.layers.Average):
    """Average with the masks of Keras 2."""


@register
class Maximum(_Merged, keras.layers.Maximum):
    """Maximum with the masks of Keras 2; that of Keras 3 leaves masked values out."""

    def _merge_function(self, inputs: typing.Any) -> typing.Any:
        return functools.reduce(keras.ops.maximum, inputs)


@register
class Minimum(_Merged, keras.layers.Minimum):
    """Minimum with the masks of Keras 2; that of Keras 3 leaves masked values out."""

    def _merge_function(self, inputs: typing.Any) -> typing.Any:
        return functools.reduce(keras.ops.minimum, inputs)


@register
class Concatenate(keras.layers.Concatenate):
    """Concatenate with the masks of Keras 2."""

    def compute_mask(self, inputs: typing.Any, mask: typing.Any = None) -> typing.Any:
        """The mask of the result.

        Args:
          inputs: the tensors.
          mask: a mask or None for each.

        Returns:
          Along the last axis the steps valid in every input with a mask; along another one the
          masks one behind the other. None where no input has one, or without numbers.
        """
        if mask is None or _is_symbolic(inputs) or all(one is None for one in mask):
            return None
        rank = len(inputs[0].shape)
        whole = [one for one in mask if one is not None and len(one.shape) == rank]
        if self.axis % rank == rank - 1 and not whole:
            return _all_of(mask)
        masks = [_filled(tensor, one) for tensor, one in zip(inputs, mask, strict=True)]
        return keras.ops.all(keras.ops.concatenate(masks, axis=self.axis), axis=-1)


def _filled(tensor: typing.Any, mask: typing.Any) -> typing.Any:
    if mask is None:
        return keras.ops.ones_like(tensor, dtype="bool")
    mask = keras.ops.cast(mask, "bool")
    if len(mask.shape) == len(tensor.shape):
        return mask
    return keras.ops.logical_and(mask[..., None], keras.ops.ones_like(tensor, dtype="bool"))


class _Unmasked:
    """Masks end here."""

    def compute_mask(self, inputs: typing.Any, mask: typing.Any = None) -> None:
        """Ends masks.

        Args:
          inputs: of the layer.
          mask: of them.
        """


@register
class Rescaling(_Unmasked, keras.layers.Rescaling):
    """Rescaling, where masks end as they did in Keras 2."""


@register
class Normalization(_Unmasked, keras.layers.Normalization):
    """Normalization, where masks end as they did in Keras 2."""


@register
class Identity(_Unmasked, keras.layers.Identity):
    """Identity, where masks end as they did in Keras 2."""

    def call(self, inputs: typing.Any) -> typing.Any:
        """Copies: the tensor itself would keep its mask.

        Args:
          inputs: tensor or structure of tensors.

        Returns:
          The same values.
        """
        return keras.tree.map_structure(keras.ops.copy, inputs)


@register
class Softmax(keras.layers.Softmax):
    """Softmax, alike everywhere in a row that is masked as a whole."""

    def call(self, inputs: typing.Any, mask: typing.Any = None) -> typing.Any:
        """Computes the probabilities.

        Args:
          inputs: float tensor.
          mask: bool, of a shape that stretches to that of `inputs`; None: nothing is masked.

        Returns:
          The same shape.
        """
        return super().call(_lowered(inputs, mask))


def _lowered(scores: typing.Any, mask: typing.Any) -> typing.Any:
    if mask is None:
        return scores
    dtype = keras.backend.standardize_dtype(scores.dtype)
    return scores + (1.0 - keras.ops.cast(mask, dtype)) * _FAR_BELOW.get(dtype, -1e9)


@register
class TimeDistributed(keras.layers.TimeDistributed):
    """TimeDistributed with the masks of Keras 2."""

    def compute_mask(self, inputs: typing.Any, mask: typing.Any = None) -> typing.Any:
        """The mask of the steps.

        Args:
          inputs: [batch, time, ...].
          mask: bool [batch, time, ...] or None.

        Returns:
          What the inner layer makes of it, with the steps before it; where that is nothing, bool
          [batch, time] with the steps that have anything valid. None without numbers.
        """
        if _is_symbolic(inputs):
            return None
        folded = _fold(inputs)
        inner = self._inner_mask(folded, None if mask is None else _fold(mask))
        if inner is not None:
            shape = keras.ops.shape(inputs)[:2]
            return keras.ops.reshape(inner, (*shape, *keras.ops.shape(inner)[1:]))
        if mask is None or len(mask.shape) <= 2:
            return mask
        return keras.ops.any(mask, axis=tuple(range(2, len(mask.shape))))

    def _inner_mask(self, inputs: typing.Any, mask: typing.Any) -> typing.Any:
        if isinstance(self.layer, keras.Model):
            return _mask_beside(self.layer(inputs, mask=mask))
        # The default of a layer without masks returns what it is given.
        return self.layer.compute_mask(inputs, mask) if self.layer.supports_masking else None


def _fold(tensor: typing.Any) -> typing.Any:
    return keras.ops.reshape(tensor, (-1, *keras.ops.shape(tensor)[2:]))


@register
class Bidirectional(keras.layers.Bidirectional):
    """Bidirectional, which in Keras 3 fails where it returns its states."""

    def compute_mask(self, inputs: typing.Any, mask: typing.Any = None) -> typing.Any:
        """The masks of what it returns.

        Args:
          inputs: [batch, time, ...].
          mask: bool [batch, time] or None.

        Returns:
          The mask for each sequence; the states have none.
        """
        mask = keras.tree.flatten(mask)[0] if self.return_sequences else None
        masks = [mask] if self.merge_mode else [mask, mask]
        if not self.return_state:
            return masks[0] if self.merge_mode else masks
        sizes = keras.tree.flatten(self.forward_layer.state_size)
        return [*masks, *[None] * (2 * len(sizes))]


@register
class MultiHeadAttention(keras.layers.MultiHeadAttention):
    """MultiHeadAttention, whose masked queries look everywhere alike as in Keras 2."""

    def call(
        self,
        query: typing.Any,
        value: typing.Any,
        key: typing.Any = None,
        query_mask: typing.Any = None,
        value_mask: typing.Any = None,
        key_mask: typing.Any = None,
        attention_mask: typing.Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> typing.Any:
        """Attends, and leaves its inputs' masks to other layers: Keras 3 takes them away.

        Args:
          query: float [batch, target, ...].
          value: float [batch, source, ...].
          key: float [batch, source, ...]; None: `value`.
          query_mask: bool [batch, target] or None.
          value_mask: bool [batch, source] or None.
          key_mask: bool [batch, source] or None.
          attention_mask: bool [batch, target, source] or None.
          return_attention_scores: also returns how much each query looked at each value.
          training: whether to drop.
          use_causal_mask: a query looks at nothing behind it.

        Returns:
          float [batch, target, ...], and the scores where they are asked for.
        """
        masks = [(tensor, _mask_beside(tensor)) for tensor in (query, value, key)]
        result = super().call(
            query,
            value,
            key=key,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
        )
        for tensor, mask in masks:
            if mask is not None:
                tensor._keras_mask = mask
        return result

    def _compute_attention(
        self,
        query: typing.Any,
        key: typing.Any,
        value: typing.Any,
        attention_mask: typing.Any = None,
        training: bool | None = None,
        return_attention_scores: bool = False,
    ) -> tuple[typing.Any, typing.Any]:
        query = query * keras.ops.cast(self._inverse_sqrt_key_dim, query.dtype)
        scores = keras.ops.einsum(self._dot_product_equation, key, query)
        if attention_mask is not None:
            while len(attention_mask.shape) < len(scores.shape):
                # The axis of the heads stands before those of queries and keys.
                axis = -len(self._attention_axes) * 2 - 1
                attention_mask = keras.ops.expand_dims(attention_mask, axis)
        scores = self._softmax(_lowered(scores, attention_mask))
        dropped = self._dropout_layer(scores, training=training)
        return keras.ops.einsum(self._combine_equation, dropped, value), scores
