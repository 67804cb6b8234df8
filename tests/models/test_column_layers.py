import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.models import column_layers

CATEGORIES = [["a", "Grün"], ["x", "a", "y"]]
CELLS = np.array([[b"a", b"a"], ["Grün".encode(), b""], [b"x", b"y"], [b" a", b"X"]], object)
EXPECTED = [[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]


def test_each_category_has_a_place_and_unknown_ones_none():
    layer = column_layers.OneHotColumns(CATEGORIES)
    found = layer(tf.constant(CELLS))
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found, EXPECTED)
    assert not layer.weights


def test_it_opens_again_and_computes_in_half_precision(tmp_path):
    cells = keras.Input((2,), dtype="string", name="cells")
    marked = column_layers.OneHotColumns(CATEGORIES, dtype="mixed_bfloat16", name="marked")(cells)
    assert (marked.shape, marked.dtype) == ((None, 5), "bfloat16")
    keras.Model({"cells": cells}, marked).save(tmp_path / "m.keras")
    model = keras.saving.load_model(tmp_path / "m.keras")
    found = model({"cells": tf.constant(CELLS)})
    np.testing.assert_array_equal(tf.cast(found, tf.float32), EXPECTED)


@pytest.mark.parametrize("categories", [[], [["a"], []]])
def test_a_column_needs_a_category(categories):
    with pytest.raises(ValueError, match="at least one column of at least one category"):
        column_layers.OneHotColumns(categories)
