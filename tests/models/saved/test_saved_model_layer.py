"""SavedModels as layers: they train, freeze, save and load like any other."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import saved_models
from tf_finetune import (
    distribution,
    exporting,
    findings,
    freezing,
    head_kinds,
    heads,
    specs,
    trainer_model,
)
from tf_finetune.data import preprocessing, text_store
from tf_finetune.models import loading
from tf_finetune.models.saved import saved_model_layer

INFO = head_kinds.HeadInfo("label", "multiclass", ("a", "b"))
IMAGES = np.random.default_rng(1).uniform(0, 255, (6, 8, 8, 3)).astype(np.float32)
TEXTS = np.array(["good film", "bad film", "very good", "very bad", "good", "bad"])
LABELS = np.array([0, 1, 0, 1, 0, 1])
IMAGE_INPUTS, TEXT_INPUTS = {"image": IMAGES}, {"text": TEXTS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    saved_models.write_image_module(folder / "image")
    saved_models.write_encoder(folder / "encoder")
    saved_models.write_preprocessor(folder / "preprocessor")
    return folder


def attach(strategy, **options):
    with strategy.scope():
        backbone = loading.load_backbone(specs.ModelSpec(**options))
        model = heads.attach_heads(
            backbone, heads=(specs.HeadSpec(name="label", kind="multiclass"),), infos=(INFO,)
        )
    return backbone, model


def fit(model, inputs, strategy, *, epochs=2):
    data = tf.data.Dataset.from_tensor_slices((inputs, {"label": LABELS})).batch(4)
    with strategy.scope():
        trainer = trainer_model.TrainerModel(model.input, model.output)
        trainer.use_plain_batch(data)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trainer.compile(optimizer=keras.optimizers.Adam(0.02), loss=loss)
    history = trainer.fit(data, epochs=epochs, shuffle=False, verbose=0).history["loss"]
    # What replicas counted apart, such as moving statistics, is one value again.
    model.set_weights(model.get_weights())
    return history


def weights_of(model):
    (layer, *_) = (
        layer for layer in saved_model_layer.find_layers(model) if layer.name == "module"
    )
    return {
        f"{group.name}/{member.name}": member.numpy()
        for group in layer.weight_groups
        for member in group.members
    }


def changed(before, after):
    return {name for name, value in before.items() if not np.array_equal(value, after[name])}


TRAINED = {"conv/kernel", "norm/gamma", "norm/beta", "dense/kernel"}
STATISTICS = {"norm/moving_mean", "norm/moving_variance"}


@pytest.mark.parametrize(
    ("devices", "freeze", "batch_norm", "expected"),
    [
        ("one_device", "all", "train", set()),
        ("one_device", "2", "frozen", {"dense/kernel"}),
        ("one_device", "none", "frozen", {"conv/kernel", "dense/kernel"}),
        ("one_device", "none", "train", TRAINED | STATISTICS),
        ("mirrored", "2", "frozen", {"dense/kernel"}),
        ("mirrored", "none", "train", TRAINED | STATISTICS),
    ],
)
def test_exactly_what_the_plan_says_trains(folders, devices, freeze, batch_norm, expected):
    strategy = distribution.make_strategy(devices)
    backbone, model = attach(strategy, model=str(folders / "image"))
    plan = freezing.plan_freeze(freeze, backbone.table, batch_norm=batch_norm)
    freezing.apply_plan(plan, backbone.model)
    before = weights_of(model)
    fit(model, IMAGE_INPUTS, strategy)
    freezing.release_plan(backbone.model)
    assert changed(before, weights_of(model)) == expected


def test_a_partly_frozen_graph_cannot_train_its_batch_normalization(folders):
    table = loading.load_backbone(specs.ModelSpec(model=str(folders / "image"))).table
    with pytest.raises(findings.RefusedError) as caught:
        freezing.plan_freeze("1", table, batch_norm="train")
    assert str(caught.value) == (
        "--batch_norm=train with --freeze=1: 1 of 3 weight groups are frozen, and the graph runs "
        "its 1 BatchNormalizations all in training mode or none. Expected --freeze=none, "
        "--freeze=all or --batch_norm=frozen."
    )
    text = freezing.format_plan(freezing.plan_freeze("1", table))
    assert "--freeze=1: 1 of 3 weight groups frozen, 1 trainable, 1 BatchNormalization held" in text
    with pytest.raises(
        findings.RefusedError, match=r"^--freeze: unknown weight group 'nor'\. Did you mean "
    ):
        freezing.plan_freeze("until:nor", table)


def test_the_own_losses_of_a_module_count(folders):
    _, model = attach(tf.distribute.get_strategy(), model=str(folders / "image"))
    model(IMAGE_INPUTS)
    (loss,) = model.losses
    assert float(loss) == pytest.approx(
        0.01 * np.sum(weights_of(model)["dense/kernel"] ** 2), rel=1e-5
    )
    with tf.GradientTape() as tape:
        model(IMAGE_INPUTS)
        total = model.losses[0]
    kernel = next(w for w in model.trainable_weights if w.path == "dense/kernel")
    (gradient,) = tape.gradient(total, [kernel.value])
    np.testing.assert_allclose(gradient, 0.02 * kernel.numpy(), rtol=1e-5)


def open_elsewhere(model, tmp_path):
    model.save(tmp_path / "model.keras")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "model.keras", tmp_path / "elsewhere" / "model.keras")
    return keras.saving.load_model(tmp_path / "elsewhere" / "model.keras")


def assert_export_equals(model, inputs, folder, *, spec, warmup):
    (name,) = inputs
    exported = exporting.write_export(
        model, heads=(INFO,), preprocessing=spec, export_dir=str(folder), warmup_inputs=warmup
    )
    served = tf.saved_model.load(exported.path).signatures["serving_default"]
    received = served(**{name: tf.constant(inputs[name])})["probabilities"]
    logits = model({name: tf.constant(inputs[name])})["label"]
    np.testing.assert_allclose(received, tf.nn.softmax(logits), atol=1e-5)
    return exported


def test_a_trained_module_survives_saving_and_export_without_its_folder(folders, tmp_path):
    strategy = distribution.make_strategy("mirrored")
    shutil.copytree(folders / "image", tmp_path / "image")
    backbone, model = attach(strategy, model=str(tmp_path / "image"))
    plan = freezing.plan_freeze("1", backbone.table)
    freezing.apply_plan(plan, backbone.model)
    fit(model, IMAGE_INPUTS, strategy)
    freezing.release_plan(backbone.model)
    shutil.rmtree(tmp_path / "image")
    again = open_elsewhere(model, tmp_path)
    for one, other in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert [w.path for w in model.trainable_weights] == [w.path for w in again.trainable_weights]
    np.testing.assert_allclose(
        again(IMAGE_INPUTS)["label"], model(IMAGE_INPUTS)["label"], atol=1e-6
    )
    spec = preprocessing.PreprocessingSpec(8, 8, 3)
    assert_export_equals(model, IMAGE_INPUTS, tmp_path / "export", spec=spec, warmup=[])
    fit(again, IMAGE_INPUTS, tf.distribute.get_strategy(), epochs=1)
    assert changed(weights_of(model), weights_of(again)) == {"dense/kernel"}


def test_an_encoder_and_its_preprocessor_train_on_strings_and_travel(folders, tmp_path):
    strategy = tf.distribute.get_strategy()
    for name in ("encoder", "preprocessor"):
        shutil.copytree(folders / name, tmp_path / name)
    backbone, model = attach(
        strategy, model=str(tmp_path / "encoder"), preprocessor=str(tmp_path / "preprocessor")
    )
    freezing.apply_plan(freezing.plan_freeze("1", backbone.table), backbone.model)
    before = weights_of(model)
    losses = fit(model, TEXT_INPUTS, strategy, epochs=30)
    assert losses[-1] < 0.3 * losses[0]
    freezing.release_plan(backbone.model)
    assert changed(before, weights_of(model)) == {
        "layer_0.dense/kernel", "layer_0.dense/bias", "pooler/kernel"
    }  # fmt: skip
    for name in ("encoder", "preprocessor"):
        shutil.rmtree(tmp_path / name)
    again = open_elsewhere(model, tmp_path)
    texts = tf.constant(TEXTS)
    logits = model({"text": texts})["label"]
    np.testing.assert_allclose(again({"text": texts})["label"], logits, atol=1e-6)
    assert list(np.argmax(logits, axis=-1)) == list(LABELS)
    exported = assert_export_equals(
        again,
        {"text": TEXTS},
        tmp_path / "export",
        spec=text_store.TextSpec(),
        warmup=[b"good film"],
    )
    names = {path.name for path in (tmp_path / "export" / "1" / "assets").iterdir()}
    assert names == {"labels_label.txt", "vocabulary.txt"}
    assert exported.num_bytes < 200_000


def test_tensorflow_1_modules_train_on_one_device(shared, tmp_path):
    path = str(shared / "zoo" / "savedmodel" / "guesslang")
    backbone, model = attach(tf.distribute.get_strategy(), model=path)
    before = weights_of(model)
    freezing.apply_plan(freezing.plan_freeze("1", backbone.table), backbone.model)
    fit(model, TEXT_INPUTS, tf.distribute.get_strategy(), epochs=1)
    others = [row.name for row in backbone.table.rows[1:]]
    moved = changed(before, weights_of(model))
    assert {name.rpartition("/")[0] for name in moved} == set(others)
    again = open_elsewhere(model, tmp_path)
    for one, other in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert_export_equals(
        again, {"text": TEXTS}, tmp_path / "export", spec=text_store.TextSpec(), warmup=[b"x"]
    )
    mirrored = distribution.make_strategy("mirrored")
    backbone, model = attach(mirrored, model=path)
    assert backbone.notes[1] == (
        "Variables of TensorFlow 1 train on one device only: under this strategy they stay as they "
        "are. --strategy=one_device trains them."
    )
    assert len(model.trainable_weights) == 2


def test_a_layer_from_a_configuration_alone_says_what_it_lacks(folders):
    layer = saved_model_layer.find_layers(loading.load_pretrained(str(folders / "image")))[0]
    copy = saved_model_layer.SavedModelLayer.from_config(layer.get_config())
    assert copy.count_params() == layer.count_params()
    assert not copy.supports_jit
    with pytest.raises(RuntimeError) as caught:
        copy(IMAGES)
    assert str(caught.value).splitlines()[2] == (
        "\x1b[1mLayer 'module' has no graph: it was made from a configuration. Expected a whole "
        "model.keras, opened with keras.saving.load_model.\x1b[0m"
    )


def test_a_copy_of_a_module_is_independent(folders):
    layer = saved_model_layer.find_layers(loading.load_pretrained(str(folders / "image")))[0]
    copy = saved_model_layer.copy_module(layer)
    inputs = tf.constant(IMAGES / 255)
    before = layer(inputs).numpy()
    layer.weights[0].assign(tf.zeros_like(layer.weights[0]))
    assert not np.allclose(layer(inputs), before)
    with layer.calling(copy.module):
        np.testing.assert_allclose(layer(inputs), before, atol=1e-6)
    assert not np.allclose(layer(inputs), before)
