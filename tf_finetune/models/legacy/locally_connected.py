"""Convolutions whose kernel differs at every position: in Keras 1 and 2, not in Keras 3.

Reference: Chollet et al., 2017, Keras 2.1.3, keras/layers/local.py,
https://github.com/keras-team/keras/tree/2.1.3.
"""

import math
import typing

import keras
from keras import ops

from tf_finetune.models.legacy import keras1_layers


class _LocallyConnected(keras.layers.Layer):
    """A convolution whose kernel differs at every position; without padding."""

    _rank = 1

    def __init__(
        self,
        filters: int,
        kernel_size: typing.Any,
        strides: typing.Any = 1,
        *,
        padding: str = "valid",
        data_format: str | None = None,
        activation: typing.Any = None,
        use_bias: bool = True,
        kernel_initializer: typing.Any = "glorot_uniform",
        kernel_regularizer: typing.Any = None,
        bias_regularizer: typing.Any = None,
        kernel_constraint: typing.Any = None,
        bias_constraint: typing.Any = None,
        **kwargs: typing.Any,
    ):
        # Keras 2's other implementations store other weights; the first is what all had before.
        for name in ("implementation", "bias_initializer"):
            kwargs.pop(name, None)
        super().__init__(**kwargs)
        if padding != "valid":
            raise ValueError(f"padding: expected 'valid'. Received {padding!r}.")
        self.filters = filters
        self.kernel_size = _as_tuple(kernel_size, self._rank)
        self.strides = _as_tuple(strides, self._rank)
        self.data_format = data_format or "channels_last"
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)

    def build(self, input_shape: tuple) -> None:
        """See `keras.layers.Layer`."""
        sizes, channels = self._sizes(input_shape)
        window = math.prod(self.kernel_size) * channels
        shape = (math.prod(sizes), window, self.filters)
        keras1_layers.add_kernel_and_bias(self, shape, bias=(*sizes, self.filters))

    def call(self, inputs: typing.Any) -> typing.Any:
        """See `keras.layers.Layer`."""
        sizes, _ = self._sizes(inputs.shape)
        first = self.data_format == "channels_first" and self._rank == 2
        windows = []
        for position in _positions(sizes):
            starts = [at * step for at, step in zip(position, self.strides, strict=True)]
            slices = [
                slice(start, start + size)
                for start, size in zip(starts, self.kernel_size, strict=True)
            ]
            spatial = (slice(None), *slices) if first else (*slices, slice(None))
            windows.append(ops.reshape(inputs[(slice(None), *spatial)], (-1, self.kernel.shape[1])))
        outputs = ops.einsum("bpi,pio->bpo", ops.stack(windows, axis=1), self.kernel)
        if first:
            outputs = ops.transpose(outputs, (0, 2, 1))
        shape = (self.filters, *sizes) if first else (*sizes, self.filters)
        outputs = ops.reshape(outputs, (-1, *shape))
        if self.use_bias:
            # With the channels first, Keras 1 and 2 reshaped the bias without transposing it.
            outputs = outputs + ops.reshape(self.bias, (1, *shape))
        return self.activation(outputs)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """See `keras.layers.Layer`."""
        sizes, _ = self._sizes(input_shape)
        if self.data_format == "channels_first" and self._rank == 2:
            return (input_shape[0], self.filters, *sizes)
        return (input_shape[0], *sizes, self.filters)

    def get_config(self) -> dict[str, typing.Any]:
        """See `keras.layers.Layer`."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "data_format": self.data_format,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            **keras1_layers.kernel_config(self),
        }

    def _sizes(self, input_shape: tuple) -> tuple[tuple[int, ...], int]:
        # The sizes of the output, and the channels of the input.
        first = self.data_format == "channels_first" and self._rank == 2
        spatial = input_shape[2:] if first else input_shape[1:-1]
        sizes = tuple(
            (size - window) // step + 1
            for size, window, step in zip(spatial, self.kernel_size, self.strides, strict=True)
        )
        return sizes, input_shape[1 if first else -1]


@keras.saving.register_keras_serializable(package="tf_finetune")
class LocallyConnected1D(_LocallyConnected):
    """A convolution over steps whose kernel differs at every step, [batch, steps, channels].

    Weights: kernel [output steps, window * channels, filters], bias [output steps, filters].
    """


@keras.saving.register_keras_serializable(package="tf_finetune")
class LocallyConnected2D(_LocallyConnected):
    """A convolution over images whose kernel differs at every pixel.

    Weights: kernel [output pixels, window * channels, filters], bias [rows, columns, filters].
    """

    _rank = 2


def _positions(sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    if len(sizes) == 1:
        return [(at,) for at in range(sizes[0])]
    return [(row, column) for row in range(sizes[0]) for column in range(sizes[1])]


def _as_tuple(value: typing.Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)
