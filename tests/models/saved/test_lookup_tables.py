"""Vocabularies inside SavedModels, also where only the variables' files hold the words."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.models import loading
from tf_finetune.models.saved import lookup_tables, saved_model_layer

WORDS = ["good", "film", "unknown", "nul\0"]


class Lookup(tf.Module):
    """Words into vectors, by a table that can learn."""

    def __init__(self):
        super().__init__()
        self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self.table.insert(tf.constant(WORDS[:2]), tf.constant([1, 2], tf.int64))
        self.table.insert(tf.constant(WORDS[3:]), tf.constant([3], tf.int64))
        self.vectors = tf.Variable(np.random.default_rng(0).normal(0, 1, (5, 3)).astype("f4"))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, words):
        return tf.gather(self.vectors, self.table.lookup(words) + 1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    module, folder = Lookup(), tmp_path_factory.mktemp("tables") / "module"
    tf.saved_model.save(module, str(folder))
    return loading.load_pretrained(str(folder)), module(tf.constant(WORDS)).numpy()


def test_a_learned_table_is_saved_with_the_model_and_copied(written, tmp_path):
    model, expected = written
    np.testing.assert_array_equal(model(tf.constant(WORDS)), expected)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(tf.constant(WORDS)), expected)
    (layer,) = saved_model_layer.find_layers(again)
    copy = saved_model_layer.copy_module(layer)
    np.testing.assert_array_equal(copy.module.call(tf.constant(WORDS), training=False), expected)


def test_a_content_that_is_missing_or_damaged_is_refused(written, tmp_path):
    (layer,) = saved_model_layer.find_layers(written[0])
    trackables = layer.module.trackables()
    with pytest.raises(ValueError, match=r"^The content of its tables is not in tables\.npz: "):
        lookup_tables.read_tables(trackables, str(tmp_path))
    np.savez_compressed(tmp_path / lookup_tables.FILE, a=np.zeros(3))
    with pytest.raises(
        ValueError, match=r"^tables\.npz is compressed, as this program writes none"
    ):
        lookup_tables.read_tables(trackables, str(tmp_path))


def test_an_adapted_vocabulary_of_tf_keras(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    layer = tf_keras.layers.TextVectorization(max_tokens=10, output_sequence_length=5)
    layer.adapt(["red fox", "a dog", "the red dog runs"])
    texts = tf_keras.Input((1,), dtype=tf.string)
    vectors = tf_keras.layers.Embedding(10, 4)(layer(texts))
    model = tf_keras.Model(texts, tf_keras.layers.GlobalAveragePooling1D()(vectors))
    model.export(str(tmp_path / "module"))
    given = tf.constant([["red fox"], ["a cat runs"]])
    restored = tf.saved_model.load(str(tmp_path / "module"))
    expected = restored.serve(given)
    # Its list of variables names the table too, which TensorFlow restores as None.
    loaded = loading.load_pretrained(str(tmp_path / "module"))
    np.testing.assert_array_equal(keras.tree.flatten(loaded(given))[0], expected)
    assert len(loaded.trainable_weights) == 1
    loaded.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.tree.flatten(again(given))[0], expected)
