"""Weights of CuDNNLSTM and CuDNNGRU in the layout of LSTM and GRU.

Reference: tf_keras 2.21, src/saving/legacy/hdf5_format.py (`_convert_rnn_weights`).
"""

from collections.abc import Sequence

import numpy as np

# (name, shape that the model expects, stored value) of the weights of a layer, in order.
Weight = tuple[str, tuple[int, ...], np.ndarray]


def convert_cells(weights: Sequence[Weight]) -> list[np.ndarray] | None:
    """Converts every cell that was stored in cuDNN's layout.

    Args:
      weights: of one layer or nested model: a cell is kernel, recurrent_kernel and bias in a row.

    Returns:
      The values in the model's shapes; None where one does not fit and is no cell of cuDNN.
    """
    values = [value for _, _, value in weights]
    for index, (_, shape, value) in enumerate(weights):
        if shape == value.shape:
            continue
        names = tuple(name for name, _, _ in weights[max(0, index - 2) : index + 1])
        if names != ("kernel", "recurrent_kernel", "bias"):
            return None
        cell = _convert(values[index - 2], values[index - 1], value, shape)
        if cell is None:
            return None
        values[index - 2 : index + 1] = cell
    return values


def _convert(
    kernel: np.ndarray, recurrent_kernel: np.ndarray, bias: np.ndarray, bias_shape: tuple[int, ...]
) -> list[np.ndarray] | None:
    units = recurrent_kernel.shape[0]
    if bias.shape == (8 * units,) and bias_shape == (4 * units,):
        gates, merged = 4, bias.reshape(2, -1).sum(axis=0)
    elif bias.shape == (6 * units,) and bias_shape == (2, 3 * units):
        gates, merged = 3, bias.reshape(2, -1)
    else:
        return None
    kernels = [gate.T.reshape(gate.shape, order="F") for gate in np.split(kernel, gates, axis=1)]
    recurrent = [gate.T for gate in np.split(recurrent_kernel, gates, axis=1)]
    return [np.hstack(kernels), np.hstack(recurrent), merged]
