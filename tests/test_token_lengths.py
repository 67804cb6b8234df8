"""Tokens counted once by the model's own tokenizer, and what batches make of it."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_text
from tests.models import hugging_face_folders
from tf_finetune import heads, specs, token_lengths
from tf_finetune.data import loading as data_loading
from tf_finetune.data import pipeline, text_store
from tf_finetune.models import loading

L = keras.layers
SPEC = text_store.TextSpec(column="review")


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    rows = [(f"{'good film ' * (number % 9)}{number}", ("pos", "neg")[number % 2])
            for number in range(120)]  # fmt: skip
    path = tmp_path_factory.mktemp("texts") / "reviews.csv"
    return data_loading.load_data(specs.DataSpec(data=tiny_text.write_table(path, rows)))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "bert"
    model = hugging_face_folders.write(folder, hugging_face_folders.make_weights())
    return loading.load_backbone(specs.ModelSpec(model=str(model)))


def words_model(**options):
    text = keras.Input(options.pop("shape", ()), dtype="string")
    layer = L.TextVectorization(vocabulary=["good", "film"], **options)
    return keras.Model(text, layer(text))


def words_in(texts):
    return [len(text.split()) for text in texts]


def test_a_text_encoder_counts_its_own_tokens(splits, encoder):
    counted = token_lengths.count_splits(splits, encoder.model)
    for split in (counted.train, counted.validation, counted.test):
        # [CLS], [SEP], the words, all digits of a number [UNK]; the longest are cut.
        longest = encoder.model.get_layer("tokenizer").sequence_length
        expected = [min(count + 2, longest) for count in words_in(split.texts)]
        assert split.inputs.lengths[split.indices].tolist() == expected
    assert counted.train.inputs is counted.test.inputs
    assert counted.train.texts == splits.train.texts
    model = heads.attach_heads(encoder, heads=(specs.HeadSpec(),), infos=splits.heads)
    again = token_lengths.count_splits(splits, model)
    np.testing.assert_array_equal(again.train.inputs.lengths, counted.train.inputs.lengths)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_words_of_text_vectorization(splits, shape):
    counted = token_lengths.count_splits(splits, words_model(shape=shape))
    lengths = counted.train.inputs.lengths[counted.train.indices]
    assert lengths.tolist() == words_in(splits.train.texts)


@pytest.mark.parametrize(
    "options", [{"output_sequence_length": 5}, {"output_mode": "multi_hot"}], ids=str
)
def test_nothing_is_counted_where_every_text_is_as_wide(splits, options):
    model = words_model(**options)
    assert token_lengths.count_splits(splits, model) is splits
    assert token_lengths.sort_split(splits.train, model) is splits.train


def test_other_models_and_data_are_left_alone(splits):
    images = keras.Sequential([keras.Input((2, 2, 3)), L.Flatten()])
    assert token_lengths.count_splits(splits, images) is splits
    array = dataclasses.replace(splits.train, inputs=("no", "texts"))
    assert token_lengths.sort_split(array, words_model()) is array


def test_a_sorted_split_is_the_same_examples(splits):
    expected = dict(zip(splits.train.keys, splits.train.labels["label"], strict=True))
    for given in (splits, token_lengths.count_splits(splits, words_model())):
        found = token_lengths.sort_split(given.train, words_model())
        counts = words_in(found.texts)
        assert counts == sorted(counts, reverse=True)
        assert dict(zip(found.keys, found.labels["label"], strict=True)) == expected
        texts = dict(zip(splits.train.keys, splits.train.texts, strict=True))
        assert [texts[key] for key in found.keys] == found.texts


def test_batches_of_training_are_of_like_length(splits):
    counted = token_lengths.count_splits(splits, words_model())
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
    options = {"batch_size": 8, "shuffle_seed": 3, "epoch": epoch}
    dataset = pipeline.make_dataset(counted.train, SPEC, **options)
    truth = dict(zip(splits.train.texts, splits.train.labels["label"], strict=True))

    def collect(number):
        epoch.assign(number)
        found = []
        for inputs, targets in dataset:
            texts = [text.decode() for text in inputs["text"].numpy()]
            assert [truth[text] for text in texts] == targets["label"].numpy().tolist()
            found.append(texts)
        return found

    first, second = collect(0), collect(1)
    assert first == collect(0) != second
    for batches in (first, second):
        assert sorted(text for batch in batches for text in batch) == sorted(truth)
    spreads = [np.ptp(words_in(batch)) for batch in first]
    assert max(spreads) <= 4
    plain = pipeline.make_dataset(splits.train, SPEC, **options)
    widest = [np.ptp([len(text.split()) for text in batch["text"].numpy()]) for batch, _ in plain]
    assert np.mean(widest) > 8
    kept = pipeline.make_dataset(counted.train, SPEC, batch_size=8)
    texts = [text.decode() for batch, _ in kept for text in batch["text"].numpy()]
    assert texts == splits.train.texts
