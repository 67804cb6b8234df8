"""Strided convolutions of one pixel, trained without the kernel that oneDNN computes wrongly.

A convolution of kernel size 1 and stride s reads every s-th pixel: it is the slice of those pixels
and a convolution of stride 1. The weights' gradient of the strided form writes behind its buffer in
oneDNN (3.7.3 in TensorFlow 2.21; the report is open) where float32 pixels have fewer channels than
a vector register has numbers: 16 with AVX-512, 8 with AVX2. The process ends with SIGSEGV or
"corrupted size vs. prev_size", or the gradient is wrong and nothing tells.

Reference: https://github.com/uxlfoundation/oneDNN/issues/6035
"""

import contextlib
import typing
from collections.abc import Iterator

import keras

_VECTOR_FLOATS = 16


@contextlib.contextmanager
def slice_first(model: keras.Model) -> Iterator[None]:
    """Has the layers concerned slice their pixels first, for what is traced or run in the block.

    The layers concerned train, compute in float32 and are Conv1D or Conv2D; others, and the values
    of all, stay as they are. It does not ask for the processor: a model trains alike everywhere.

    Args:
      model: a built model; layers inside of layers count.

    Yields:
      Nothing. Afterwards the layers are as before.
    """
    sliced = [layer for layer in model._flatten_layers() if _is_concerned(layer)]
    for layer in sliced:
        layer.call = _SlicedCall(layer)
    try:
        yield
    finally:
        for layer in sliced:
            del layer.call


class _SlicedCall:
    """A layer's `call` on every s-th pixel with stride 1."""

    def __init__(self, layer: typing.Any):
        self._layer = layer
        self._call = layer.call
        strides = [slice(None, None, stride) for stride in layer.strides]
        is_last = layer.data_format == "channels_last"
        self._window = (slice(None), *strides) if is_last else (slice(None), slice(None), *strides)

    def __call__(self, inputs: typing.Any) -> typing.Any:
        strides = self._layer.strides
        # Only while it computes: shapes are asked of the layer at other times.
        self._layer.strides = (1,) * len(strides)
        try:
            return self._call(inputs[self._window])
        finally:
            self._layer.strides = strides


def _is_concerned(layer: typing.Any) -> bool:
    return (
        # A class made from them may pad its inputs, or read them otherwise, before it convolves.
        type(layer) in (keras.layers.Conv1D, keras.layers.Conv2D)
        and max(layer.kernel_size) == 1
        and max(layer.strides) > 1
        and layer.kernel.shape[-2] < _VECTOR_FLOATS
        and bool(layer.trainable_variables)
        and layer.compute_dtype == "float32"
        # Under a strategy the replicas enter the block one within the other.
        and "call" not in vars(layer)
    )
