"""Words that tf_keras leaves out of configurations and keeps beside them."""

import keras
import numpy as np
import pytest

pytest.importorskip("tf_keras")
import tensorflow as tf
import tf_keras

from tests.models import keras2_files
from tf_finetune.models import loading
from tf_finetune.models.stored import archive_vocabularies

L = tf_keras.layers
TEXTS = ["red fox", "a dog", "blue", "the red dog runs"]
GIVEN = [["red fox"], ["a dog"], ["the unknown cat, red"]]
STRING, INTEGER = tf.string, tf.int64


def adapted(layer, data, dtype=STRING):
    layer.adapt(data)
    inputs = tf_keras.Input((1,), dtype=dtype)
    return tf_keras.Model(inputs, layer(inputs))


def check_loads(model, path, given):
    expected = model(given)
    model.save(path)
    loaded = loading.load_pretrained(str(path))
    np.testing.assert_allclose(loaded(given), expected, rtol=1e-6)
    loaded.save(path)
    np.testing.assert_allclose(keras.saving.load_model(path)(given), expected, rtol=1e-6)


def test_names_are_numbered_by_class():
    names = archive_vocabularies.number_names(["My>Dense", "Conv2D", "Dense", "LSTM", "Dense"])
    assert names == ["dense", "conv2d", "dense_1", "lstm", "dense_2"]


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 10, "output_sequence_length": 5},
        {"output_mode": "count"},
        {"output_mode": "tf_idf", "max_tokens": 20, "pad_to_max_tokens": True},
        {"split": "character", "ngrams": 2, "standardize": None},
    ],
)
def test_texts(tmp_path, options):
    model = adapted(L.TextVectorization(**options), TEXTS)
    check_loads(model, tmp_path / "model.keras", tf.constant(GIVEN))


def test_words_and_numbers(tmp_path):
    words = [["red"], ["fox"], ["red"], ["dog"]]
    given = tf.constant([["fox"], ["cat"], ["red"]])
    options = {"mask_token": "", "num_oov_indices": 2}
    model = adapted(L.StringLookup(**options), words)
    check_loads(model, tmp_path / "words.keras", given)
    model = adapted(L.StringLookup(output_mode="tf_idf", num_oov_indices=3), words)
    check_loads(model, tmp_path / "weighted.keras", given)
    model = adapted(L.IntegerLookup(), np.array([[5], [7], [5], [1000]]), INTEGER)
    numbers = tf.constant([[1000], [5], [3]], INTEGER)
    check_loads(model, tmp_path / "numbers.keras", numbers)


def test_nested_models_have_words_of_their_own(tmp_path):
    parts = []
    for texts in (TEXTS, TEXTS[1:]):
        layer = L.TextVectorization(output_sequence_length=4)
        layer.adapt(texts)
        parts.append(
            tf_keras.Sequential([tf_keras.Input((1,), dtype=STRING), layer, L.Embedding(12, 3)])
        )
    inputs = tf_keras.Input((1,), dtype=STRING)
    merged = L.Concatenate()([part(inputs) for part in parts])
    model = tf_keras.Model(inputs, L.GlobalAveragePooling1D()(merged))
    check_loads(model, tmp_path / "model.keras", tf.constant(GIVEN))


def test_bins_that_were_learned_are_refused(tmp_path):
    model = adapted(L.Discretization(num_bins=3, name="bins"), np.arange(20.0)[:, None], tf.float32)
    path = tmp_path / "model.keras"
    model.save(path)
    assert keras2_files.refusal(path) == (
        "layer 'bins' learned its bins from data, and Keras 2 stored a summary of that data in "
        "their place. Make the layer with bin_boundaries=[...], or export the model as a "
        "SavedModel."
    )
