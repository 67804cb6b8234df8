"""Texts on their way to the model: batches, leaks, what validate says."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_text
from tf_finetune import specs
from tf_finetune.data import doctor, leaks, loading, pipeline, preprocessing, samples, text_store

SPEC = text_store.TextSpec(column="review")


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "reviews.csv"
    return loading.load_data(
        specs.DataSpec(data=tiny_text.write_table(path, tiny_text.make_rows()))
    )


def collect(dataset):
    texts, labels = [], []
    for inputs, targets in dataset:
        texts += [text.decode() for text in inputs["text"].numpy()]
        labels += targets["label"].numpy().tolist()
    return texts, labels


def test_batches_hold_each_text_once_with_its_label(splits):
    dataset = pipeline.make_dataset(splits.train, SPEC, batch_size=10)
    assert int(dataset.cardinality()) == 5
    assert dataset.element_spec[0] == {"text": tf.TensorSpec([None], tf.string)}
    texts, labels = collect(dataset)
    assert texts == splits.train.texts
    expected = dict(tiny_text.make_rows())
    assert [("neg", "pos")[label] for label in labels] == [expected[text] for text in texts]


def test_the_order_is_that_of_images(splits):
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
    options = {"batch_size": 7, "shuffle_seed": 3, "epoch": epoch}
    dataset = pipeline.make_dataset(splits.train, SPEC, **options)
    orders = []
    for number in (0, 1, 0):
        epoch.assign(number)
        orders.append(collect(dataset)[0])
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(splits.train.texts)


def test_weights_and_an_empty_split(splits):
    dataset = pipeline.make_dataset(splits.test, SPEC, batch_size=4, with_weights=True)
    weights = [batch[2]["label"].numpy().tolist() for batch in dataset]
    assert weights == [[0.25] * 4, [0.5] * 2]
    nothing = dataclasses.replace(
        splits.test, keys=splits.test.keys[:0], indices=splits.test.indices[:0], labels={}
    )
    assert len(list(pipeline.make_dataset(nothing, SPEC, batch_size=4))) == 0


def test_the_wrong_spec_is_told(splits):
    pre = preprocessing.PreprocessingSpec(4, 4, 3)
    with pytest.raises(ValueError, match=r"^The split holds texts\. Received PreprocessingSpec"):
        pipeline.make_dataset(splits.train, pre, batch_size=4)
    with pytest.raises(ValueError, match="Texts are not decoded: give a TextSpec"):
        pipeline.read_images(splits, pre, on_bad_example="error")


def test_reading_leaves_texts_alone(splits):
    assert pipeline.read_images(splits, SPEC, on_bad_example="error") == (splits, SPEC, ())


def test_samples_are_of_the_split(splits):
    sample = samples.sample_texts(splits.train, count=5, seed=1)
    assert len(set(sample)) == 5 and set(sample) <= set(splits.train.texts)
    assert samples.sample_texts(splits.test, count=99, seed=1) == splits.test.texts


def test_input_specs_are_read_back():
    for spec in (SPEC, preprocessing.PreprocessingSpec(4, 6, 1, "crop", 4095.0)):
        assert preprocessing.read_input_spec(spec.to_dict()) == spec


def test_texts_that_training_has_too(tmp_path):
    rows = tiny_text.make_rows()
    data = tiny_text.write_table(tmp_path / "a.csv", rows)
    test = tiny_text.write_table(tmp_path / "b.csv", [*rows[:2], ("so\nnew", "pos")])
    spec = specs.DataSpec(data=data, test_data=test, split=(1.0, 0.0, 0.0))
    splits = loading.load_data(spec)
    (problem,) = leaks.find_equal_inputs(splits)
    texts = [text for text in splits.test.texts if text != "so\nnew"]
    assert problem.message == (
        "2 of 3 test texts are equal to a training text, so test numbers are too good: "
        f"'{text_store.shorten(texts[0])}', '{text_store.shorten(texts[1])}'. --mode=validate "
        "lists the pairs; remove one of each."
    )
    assert leaks.count_shared(splits.test, splits.train) == 2
    (section,) = (found for found in doctor.examine(spec).sections if found.title == "Duplicates")
    lines = {text: number for number, (text, _) in enumerate(rows[:2], 2)}
    assert [(problem.path, problem.line, problem.message) for problem in section.problems] == [
        (
            data,
            lines[text],
            f"{data}, line {lines[text]}: '{text_store.shorten(text)}' is identical to {test}, "
            f"line {lines[text]}, in train and test: test measures memory. Keep one.",
        )
        for text, _ in rows[:2]
    ]


def test_long_texts_are_shortened():
    assert text_store.shorten("a\n b") == "a b"
    assert text_store.shorten("x" * 41) == "x" * 40 + "..."
    assert np.char.str_len(text_store.shorten("x" * 40)) == 40
