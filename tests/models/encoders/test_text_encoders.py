import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import hugging_face_folders as folders
from tf_finetune import freezing, specs, trainer_model
from tf_finetune.models import loading
from tf_finetune.models.encoders import encoder_layers


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return folders.write(tmp_path_factory.mktemp("bert"), folders.make_weights())


def load(model_path, **options):
    return loading.load_backbone(specs.ModelSpec(model=model_path, **options))


def make_classifier(backbone):
    logits = keras.layers.Dense(2, name="logits", dtype="float32")(backbone.model.output)
    return keras.Model(backbone.model.input, logits)


def values_of(layer):
    return [keras.ops.convert_to_numpy(weight) for weight in layer.weights]


def same(before, after):
    return [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]


def test_strings_train_above_the_freeze_line_only(model_path, tmp_path):
    keras.utils.set_random_seed(0)
    backbone = load(model_path)
    model = make_classifier(backbone)
    plan = freezing.plan_freeze("2", backbone.table)
    assert (plan.cut, plan.num_frozen) == ("block_1", 2)
    freezing.apply_plan(plan, backbone.model)
    before = {layer.name: values_of(layer) for layer in model.layers}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    texts = ["the film was good", "a bad film", "good!", "bad. bad. bad. the film was bad"] * 4
    data = tf.data.Dataset.from_tensor_slices((texts, [1, 0, 1, 0] * 4)).batch(4)
    history = model.fit(data, epochs=4, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
    for name in ("embeddings", "block_1"):
        assert all(same(before[name], values_of(model.get_layer(name)))), name
    changed = same(before["block_2"], values_of(model.get_layer("block_2")))
    # The bias of the keys moves all scores of a query alike, so softmax gives it no gradient.
    assert sum(changed) <= 1
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(data, verbose=0), model.predict(data, verbose=0))


def test_dropout_acts_where_the_model_trains(model_path):
    keras.utils.set_random_seed(0)
    backbone = load(model_path)
    texts = tf.constant(folders.TEXTS)
    quiet = backbone.model(texts, training=False)
    assert np.abs(backbone.model(texts, training=True) - quiet).max() > 1e-2
    freezing.apply_plan(freezing.plan_freeze("all", backbone.table), backbone.model)
    np.testing.assert_array_equal(backbone.model(texts, training=True), quiet)


@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
def test_a_text_gives_the_same_features_in_any_batch(model_path, pooling):
    model = load(model_path, pooling=pooling).model
    together = model(tf.constant(folders.TEXTS))
    for row, text in zip(together, folders.TEXTS, strict=True):
        np.testing.assert_allclose(model(tf.constant([text]))[0], row, atol=1e-5)


@pytest.mark.slow
def test_it_trains_on_two_devices(model_path):
    data = tf.data.Dataset.from_tensor_slices((folders.TEXTS, [0, 1, 0, 1, 0])).batch(5)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        whole = make_classifier(load(model_path))
        # Keras 3.15 alone would take the mean of the replicas' strings.
        model = trainer_model.TrainerModel(whole.input, whole.output)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.use_plain_batch(data)
    before = values_of(model.get_layer("block_1"))
    assert np.isfinite(model.fit(data, verbose=0).history["loss"][0])
    assert not any(same(before[:1], values_of(model.get_layer("block_1"))[:1]))


def test_no_part_of_it_is_compiled_by_xla(model_path):
    model = load(model_path).model
    assert not model.get_layer("tokenizer").supports_jit
    assert all(layer.supports_jit for layer in model.layers if layer.name != "tokenizer")


def make_block(**options):
    block = encoder_layers.TransformerBlock(2, 8, intermediate_size=12, **options)
    hidden = keras.random.normal((2, 5, 8), seed=1)
    attended = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    block(hidden, attended)
    for number, weight in enumerate(block.weights):
        weight.assign(keras.random.normal(weight.shape, seed=number))
    return block, np.array(hidden), attended


@pytest.mark.parametrize("causal", [False, True])
def test_which_tokens_a_block_sees(causal):
    block, hidden, attended = make_block(causal=causal, norm_first=causal)
    before = np.array(block(hidden, attended))
    changed = hidden.copy()
    changed[:, 2] += 1
    padded = hidden.copy()
    padded[1, 3:] += 1
    moved = np.abs(np.array(block(changed, attended)) - before).max(axis=-1) > 1e-6
    assert moved[:, :2].all() != causal and moved[:, :2].any() != causal
    assert moved[:, 2:].all()
    still = np.abs(np.array(block(padded, attended)) - before).max(axis=-1)
    assert still[0].max() == 0 and still[1, :3].max() == 0


def test_a_row_of_padding_alone_gives_numbers():
    block, hidden, attended = make_block(dtype="mixed_float16")
    attended = attended & np.array([[True], [False]])
    assert np.isfinite(np.array(block(hidden, attended))).all()


def test_poolings_leave_padding_out():
    hidden = np.array([[[1.0], [2.0], [9.0]], [[-5.0], [-3.0], [-4.0]]], np.float32)
    attended = np.array([[True, True, False], [True, True, True]])
    pooled = {
        kind: encoder_layers.TokenPooling(kind)(hidden, attended)[:, 0].numpy().tolist()
        for kind in ("mean", "max", "first", "last")
    }
    assert pooled == {
        "mean": [1.5, -4.0],
        "max": [2.0, -3.0],
        "first": [1.0, -5.0],
        "last": [2.0, -4.0],
    }


def test_layers_refuse_what_they_cannot_do():
    with pytest.raises(
        ValueError, match=r"^kind expects mean, max, first or last. Received 'x'\.$"
    ):
        encoder_layers.TokenPooling("x")
    with pytest.raises(ValueError, match=r"^hidden_size=8 expects a multiple of num_heads=3\.$"):
        encoder_layers.TransformerBlock(3, 8, intermediate_size=4)
    with pytest.raises(ValueError, match=r"^activation expects \(.*\)\. Received 'x'\.$"):
        encoder_layers.TransformerBlock(2, 8, intermediate_size=4, activation="x")
