"""What a server takes for a model of columns: an argument for each column, or for each input."""

import numpy as np
import tensorflow as tf

from tf_finetune.data import columns


def make_specs(spec: columns.ColumnsSpec) -> dict[str, tf.TensorSpec]:
    """The arguments of a signature.

    Args:
      spec: the inputs of the model.

    Returns:
      {argument: its TensorSpec}: [n] for each column (see `columns.serving_arguments`), or, of very
      many columns, what each input of the model takes.
    """
    arguments = columns.serving_arguments(spec)
    if not arguments:
        names = columns.make_arguments([part.name for part in spec.inputs])
        return {
            names[part.name]: tf.TensorSpec([None, *part.shape], part.dtype, name=names[part.name])
            for part in spec.inputs
        }
    return {
        argument: tf.TensorSpec([None], dtype, name=argument)
        for argument, dtype in zip(arguments.values(), _find_dtypes(spec).values(), strict=True)
    }


def _find_dtypes(spec: columns.ColumnsSpec) -> dict[str, str]:
    """{column: dtype of its argument}; of whole numbers that some input takes as floats, floats."""
    dtypes: dict[str, str] = {}
    for name in spec.columns:
        taken = [part.dtype for part in spec.inputs if name in part.columns]
        dtypes[name] = next((dtype for dtype in taken if "float" in dtype), taken[0])
    return dtypes


def stack_arguments(spec: columns.ColumnsSpec, given: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The arguments of a signature as the inputs of the model.

    Args:
      spec: the inputs of the model.
      given: {argument: tensor} of `make_specs`.

    Returns:
      {input: [n, *shape]}.
    """
    arguments = columns.serving_arguments(spec)
    if not arguments:
        names = columns.make_arguments([part.name for part in spec.inputs])
        return {
            part.name: tf.ensure_shape(given[names[part.name]], [None, *part.shape])
            for part in spec.inputs
        }
    inputs = {}
    for part in spec.inputs:
        taken = [
            tf.cast(given[arguments[name]], part.dtype)
            if part.dtype != "string"
            else given[arguments[name]]
            for name in part.columns
        ]
        inputs[part.name] = tf.stack(taken, axis=1) if part.shape else taken[0]
    return inputs


def make_request(spec: columns.ColumnsSpec, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs of a model as a client sends them.

    Args:
      spec: the inputs of the model.
      values: {input: [n, *shape]}.

    Returns:
      {argument: array} of `make_specs`.
    """
    arguments = columns.serving_arguments(spec)
    if not arguments:
        names = columns.make_arguments([part.name for part in spec.inputs])
        return {names[part.name]: values[part.name] for part in spec.inputs}
    dtypes = _find_dtypes(spec)
    request = {}
    for part in spec.inputs:
        array = values[part.name].reshape(-1, len(part.columns))
        for place, name in enumerate(part.columns):
            wanted = object if dtypes[name] == "string" else dtypes[name]
            request[arguments[name]] = array[:, place].astype(wanted)
    return request


def make_sample(spec: columns.ColumnsSpec) -> dict[str, np.ndarray]:
    """A row for a model that comes without an example: zeros and empty strings.

    Args:
      spec: the inputs of the model.

    Returns:
      {input: [1, *shape]}.
    """
    return {
        part.name: np.full((1, *part.shape), b"", object)
        if part.dtype == "string"
        else np.zeros((1, *part.shape), part.dtype)
        for part in spec.inputs
    }
