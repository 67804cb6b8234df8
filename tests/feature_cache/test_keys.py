"""What features depend on, and what they do not."""

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny, tiny_text
from tests.models import saved_models
from tf_finetune import freezing, specs
from tf_finetune.data import image_stores, loading, pipeline, preprocessing, text_store
from tf_finetune.feature_cache import keys
from tf_finetune.models import loading as model_loading
from tf_finetune.models import splitting

L = keras.layers
PIXELS = preprocessing.make_preprocessing(specs.DataSpec(data="x"), input_shape=(12, 12, 3))
TEXTS = text_store.TextSpec()


def cut(model, *, frozen):
    """The model of a dense head on all layers, the first of them frozen."""
    inputs = {
        "given": keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype, name="given")
    }
    flat = L.Flatten()(model(inputs["given"]))
    whole = keras.Model(inputs, {"label": L.Dense(2)(L.Dense(3)(flat))})
    for layer in model.layers[: frozen + 1]:
        layer.trainable = False
        for inner in layer._flatten_layers():
            freezing._silence(inner)
    return splitting.split_model(whole, freezing.is_fixed, opened=[model])


def images(**changes):
    model = tiny.make_classifier(seed=changes.pop("seed", 0))
    return cut(model, frozen=changes.pop("frozen", 3))


def name(split, pre=PIXELS, *, precision="float32"):
    return keys.name_space(split, pre, precision=precision)


def test_a_space_is_named_by_all_that_makes_features():
    split = images()
    same = name(split)
    assert len(same) == 64 and int(same, 16)
    assert name(images()) == same
    changed = images()
    weight = changed.prefix_layers[-2].weights[0]
    weight.assign(np.array(weight) + np.float32(1e-7))
    others = [
        name(images(seed=1)),
        name(images(frozen=4)),
        name(changed),
        name(split, precision="bfloat16"),
        name(split, dataclasses.replace(PIXELS, resize="crop")),
        name(split, dataclasses.replace(PIXELS, height=13)),
        name(split, dataclasses.replace(PIXELS, pixel_max=4095)),
    ]
    assert len({same, *others}) == len(others) + 1


def test_what_is_behind_the_cut_changes_nothing():
    split, other = images(), images()
    for layer in other._model.layers[-2:]:
        for weight in layer.weights:
            weight.assign(weight + 1)
    assert name(split) == name(other)


def test_a_space_has_the_same_name_in_another_process(tmp_path):
    """Names of layers count up within a process, and hashes of strings are salted."""
    code = (
        "from tests.feature_cache import test_keys\n"
        "import keras\nkeras.layers.Dense(1), keras.layers.Flatten()\n"
        "print(test_keys.name(test_keys.images()), test_keys.name(test_keys.words(), "
        "test_keys.TEXTS))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert printed.split() == [name(images()), name(words(), TEXTS)]


def words(vocabulary=None):
    model = tiny_text.make_classifier(pooled=False)
    if vocabulary is not None:
        model.get_layer("tokens").set_vocabulary(vocabulary)
    return cut(model, frozen=2)


def test_a_vocabulary_that_was_learnt_from_data_counts():
    """Keras does not write it into the configuration."""
    known = tiny_text.make_classifier(pooled=False).get_layer("tokens").get_vocabulary()
    first, second = known[2:4]
    swapped = [{first: second, second: first}.get(word, word) for word in known]
    assert name(words(), TEXTS) == name(words(), TEXTS)
    assert len({name(words(given), TEXTS) for given in (known, swapped)}) == 2


def scaled_product(weight, factor):
    return lambda x: {"y": factor * tf.tanh(tf.reduce_mean(x, (1, 2)) @ weight)}


def test_the_graph_of_a_saved_model_counts(tmp_path):
    """Two graphs on equal weights are told apart by what they compute."""
    found = []
    weight = tf.Variable(np.eye(3, dtype=np.float32), name="w")
    for number, factor in enumerate((1.0, 2.0)):
        saved_models.write_function(
            tmp_path / str(number),
            scaled_product(weight, factor),
            tf.TensorSpec([None, 4, 4, 3], tf.float32, name="x"),
            variables=[weight],
        )
    shutil.copytree(tmp_path / "0", tmp_path / "2")
    for number in range(3):
        folder = tmp_path / str(number)
        backbone = model_loading.load_backbone(
            specs.ModelSpec(model=str(folder), pixel_range="0..1")
        )
        plan = freezing.plan_freeze("all", backbone.table)
        freezing.apply_plan(plan, backbone.model)
        x = keras.Input((4, 4, 3), name="x")
        whole = keras.Model({"x": x}, {"label": L.Dense(2)(backbone.model(x))})
        split = splitting.split_model(whole, freezing.is_fixed, opened=[backbone.model])
        found.append(name(split, TEXTS))
    assert found[0] == found[2] != found[1]


def test_the_code_of_own_layers_counts(tmp_path):
    source = (
        "import keras\nclass Own(keras.layers.Layer):\n"
        "    def build(self, shape):\n        self.w = self.add_weight(shape=(), "
        "initializer='ones')\n"
        "    def call(self, x):\n        return x * self.w * FACTOR\n"
    )
    found = []
    for factor in (1.0, 2.0, 1.0):
        path = tmp_path / "own_layers.py"
        path.write_text(source.replace("FACTOR", str(factor)))
        spec = importlib.util.spec_from_file_location("own_layers", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["own_layers"] = module
        spec.loader.exec_module(module)
        x = keras.Input((4,))
        found.append(name(cut(keras.Model(x, module.Own(name="own")(x)), frozen=1)))
    del sys.modules["own_layers"]
    assert found[0] == found[2] != found[1]


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colors") / "data"
    tiny.write_color_folder(folder, per_class=6)
    return folder


def digest(folder, **flags):
    """{key: digest} of all training examples, undecoded."""
    splits = loading.load_data(specs.DataSpec(data=str(folder), **flags))
    rows = keys.digest_examples(splits.train, PIXELS, fingerprint=splits.info.fingerprint)
    assert rows.shape == (len(splits.train), 16) and rows.dtype == np.uint8
    return dict(zip(splits.train.keys, map(bytes, rows), strict=True))


def test_an_image_is_named_by_its_bytes(colors, tmp_path):
    before = digest(colors)
    assert len(set(before.values())) == len(before)
    copy = tmp_path / "copy"
    shutil.copytree(colors, copy)
    for path in copy.rglob("*.png"):
        os.utime(path, (1, 1))
    assert digest(copy) == before
    first, second = sorted(before)[:2]
    shutil.copy(copy / second, copy / first)
    after = digest(copy)
    assert after[first] == after[second] == before[second]
    assert {key: after[key] for key in before if key != first} == {
        key: value for key, value in before.items() if key != first
    }


def test_decoded_images_are_named_by_their_pixels(colors):
    splits = loading.load_data(specs.DataSpec(data=str(colors)))
    splits, prepared, _ = pipeline.read_images(splits, PIXELS, on_bad_example="error")
    assert isinstance(splits.train.inputs, image_stores.DecodedImages)
    rows = keys.digest_examples(splits.train, prepared, fingerprint="f")
    assert len({bytes(row) for row in rows}) == len(splits.train)
    store = image_stores.DecodedImages(np.array(splits.train.inputs.pixels))
    store.pixels[splits.train.indices[0], 5, 5, 1] ^= 1
    changed = dataclasses.replace(splits.train, inputs=store)
    again = keys.digest_examples(changed, prepared, fingerprint="other")
    assert (rows != again).any(axis=1).tolist() == [True] + [False] * (len(rows) - 1)


def test_texts_and_columns(tmp_path):
    table = tiny_text.write_table(tmp_path / "t.csv", tiny_text.make_rows(20))
    splits = loading.load_data(specs.DataSpec(data=table))
    rows = keys.digest_examples(splits.train, TEXTS, fingerprint="f")
    assert len({bytes(row) for row in rows}) == len(splits.train)
    store = dataclasses.replace(splits.train.inputs, texts=splits.train.inputs.texts.copy())
    store.texts[splits.train.indices[2]] += " "
    changed = dataclasses.replace(splits.train, inputs=store)
    again = keys.digest_examples(changed, TEXTS, fingerprint="other")
    assert np.flatnonzero((rows != again).any(axis=1)).tolist() == [2]
