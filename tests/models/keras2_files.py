"""Files that tf_keras writes, and what it says they compute."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.models import loading


def randomize(model, *, seed: int = 0) -> None:
    """Gives every weight a random value: fresh biases and statistics hide swapped weights."""
    generator = np.random.default_rng(seed)
    values = []
    for weight in model.weights:
        value = weight.numpy()
        if np.issubdtype(value.dtype, np.floating):
            positive = any(part in weight.name for part in ("variance", "gamma", "stddev"))
            draw = generator.uniform(0.5, 1.5, value.shape) if positive else None
            draw = generator.normal(0, 0.3, value.shape) if draw is None else draw
            value = draw.astype(value.dtype)
        values.append(value)
    model.set_weights(values)


def inputs_for(model, *, seed: int = 1) -> list[np.ndarray]:
    """Random inputs, 0.05 to 1, two examples."""
    generator = np.random.default_rng(seed)
    found = []
    for tensor in model.inputs:
        shape = (2, *(size or 6 for size in tensor.shape[1:]))
        dtype = tensor.dtype.as_numpy_dtype
        if np.issubdtype(dtype, np.integer):
            found.append(generator.integers(0, 4, shape).astype(dtype))
        else:
            found.append(generator.uniform(0.05, 1, shape).astype(dtype))
    return found


def check_loads(
    model, path, *, inputs=None, tolerance: float = 1e-5, saves_again: bool = True
) -> keras.Model:
    """Writes a model of tf_keras, loads it, and compares outputs, also after saving it again."""
    randomize(model)
    given = inputs if inputs is not None else inputs_for(model)
    given = given[0] if len(given) == 1 else given
    expected = [np.asarray(value) for value in tf.nest.flatten(model(given, training=False))]
    model.save(path)
    loaded = loading.load_pretrained(str(path))
    assert isinstance(loaded, keras.Model)
    outputs = _outputs(loaded, given)
    assert len(outputs) == len(expected)
    for output, reference in zip(outputs, expected, strict=True):
        assert output.shape == reference.shape
        scale = max(1e-9, float(np.abs(reference.astype(np.float64)).max()))
        np.testing.assert_allclose(output, reference, rtol=0, atol=tolerance * scale)
    if saves_again:
        again = path.with_name("again.keras")
        loaded.save(again)
        for output, other in zip(
            _outputs(keras.saving.load_model(again), given), outputs, strict=True
        ):
            np.testing.assert_array_equal(output, other)
    return loaded


def refusal(path) -> str:
    """The one line that loading a file ends with."""
    with pytest.raises(ValueError) as caught:
        loading.load_pretrained(str(path))
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def _outputs(model, given) -> list[np.ndarray]:
    return [np.asarray(value) for value in tf.nest.flatten(model(given, training=False))]
