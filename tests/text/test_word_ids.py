"""The word tokenizer against the two of Keras that it stands for."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.text import samples
from tf_finetune.text import word_ids

TEXTS = [
    "The film's a lovely, LOVELY story.",
    "don't\tmiss  it\nor do -- it's so-so",
    "",
    " , . ",
    "Été à la plage ÉTÉ",
    "one two three four five six seven eight nine ten eleven",
]
# What Keras 2 takes for no part of a word.
FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'


@pytest.fixture(scope="module")
def tokenizers():
    pytest.importorskip("tf_keras")
    from tf_keras.preprocessing import sequence, text

    return text.Tokenizer, sequence.pad_sequences


@pytest.mark.parametrize("padding", ["pre", "post"])
@pytest.mark.parametrize("unknown", [None, "<OOV>"])
def test_ids_are_those_of_the_tokenizer_of_keras_2(shared, tokenizers, unknown, padding):
    make, pad_sequences = tokenizers
    reviews = samples.read_reviews(shared, step=50)
    tokenizer = make(oov_token=unknown)
    tokenizer.fit_on_texts(TEXTS + reviews[:100])
    ids = {word: number for word, number in tokenizer.word_index.items() if word != unknown}
    layer = word_ids.WordTokenizer(
        json.dumps(ids),
        sequence_length=9,
        unknown_id=tokenizer.word_index.get(unknown),
        parted_at=FILTERS,
        padding=padding,
    )
    texts = TEXTS + reviews
    expected = pad_sequences(
        tokenizer.texts_to_sequences(texts), maxlen=9, padding=padding, truncating=padding
    )
    found = layer(tf.constant(texts))
    assert found.dtype == tf.int32
    np.testing.assert_array_equal(found, expected)


def test_ids_are_those_of_text_vectorization(shared):
    reviews = samples.read_reviews(shared, step=50)
    theirs = keras.layers.TextVectorization(output_sequence_length=9)
    theirs.adapt(TEXTS + reviews[:100])
    words = theirs.get_vocabulary()[2:]
    layer = word_ids.WordTokenizer(
        json.dumps({word: number for number, word in enumerate(words, start=2)}),
        sequence_length=9,
        unknown_id=1,
        lower_case=word_ids.ASCII,
        dropped=FILTERS + "'",
    )
    texts = TEXTS + reviews
    np.testing.assert_array_equal(layer(tf.constant(texts)), theirs(tf.constant(texts)))


def test_both_sides():
    options = {"sequence_length": 3, "unknown_id": 1, "lower_case": None}
    texts = tf.constant(["a b", "a b x B a", "", "a"])
    for padding, expected in (
        ("pre", [[0, 2, 3], [1, 1, 2], [0, 0, 0], [0, 0, 2]]),
        ("post", [[2, 3, 0], [2, 3, 1], [0, 0, 0], [2, 0, 0]]),
    ):
        layer = word_ids.WordTokenizer('{"a": 2, "b": 3}', padding=padding, **options)
        assert layer(texts).numpy().tolist() == expected
        assert layer(texts[:0]).shape == (0, 3)
        assert layer.num_pieces == 4


def test_it_is_saved_with_its_words(tmp_path):
    text = keras.Input((), dtype="string", name="text")
    layer = word_ids.WordTokenizer('{"a": 2, "é": 5}', sequence_length=4, padding="pre")
    keras.Model(text, layer(text)).save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert again.output.shape == (None, 4) and again.output.dtype == "int32"
    assert again(tf.constant(["É a c"])).numpy().tolist() == [[0, 0, 5, 2]]


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"^sequence_length and the ids of words expect 1 or more"):
        word_ids.WordTokenizer('{"a": 0}', sequence_length=4)
    with pytest.raises(ValueError, match=r"^sequence_length and the ids of words expect 1 or more"):
        word_ids.WordTokenizer('{"a": 1}', sequence_length=0)
    with pytest.raises(ValueError, match="padding expects pre or post, lower_case None, ascii or"):
        word_ids.WordTokenizer('{"a": 1}', sequence_length=1, padding="left")
    with pytest.raises(ValueError, match="Received 'post' and 'utf-8'"):
        word_ids.WordTokenizer('{"a": 1}', sequence_length=1, lower_case="utf-8")
