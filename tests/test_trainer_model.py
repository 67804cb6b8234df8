import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import mask_data, tag_data
from tf_finetune import (
    distribution,
    head_kinds,
    objectives,
    optimizers,
    option_values,
    specs,
    trainer_model,
)
from tf_finetune.data import (
    image_stores,
    loading,
    mixing,
    pipeline,
    preprocessing,
    reading,
    text_store,
)

SHARE = np.array([0.25, 1.0, 0.6], np.float32)
OWN = {
    "kind": np.array([0, 2, -1], np.int32),
    "flag": np.array([[1.0], [0.0], [1.0]], np.float32),
    "tags": np.array([[1, 0], [1, 1], [np.nan, 0]], np.float32),
    "price": np.array([[3.0], [np.nan], [-1.0]], np.float32),
}
PARTNER = {name: np.roll(values, -1, axis=0) for name, values in OWN.items()}
LOGITS = {
    "kind": np.array([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3], [-1.0, 1.0, 0.0]], np.float32),
    "flag": np.array([[0.7], [-1.5], [2.0]], np.float32),
    "tags": np.array([[1.0, -2.0], [0.3, 0.4], [-0.5, 0.6]], np.float32),
    "price": np.array([[2.5], [1.0], [0.5]], np.float32),
}
CLASS_WEIGHTS = np.array([0.5, 1.0, 2.0])
SMOOTHING, GAMMA, DEVIATION = 0.1, 2.0, 4.0
FRACTIONS = {"kind": 2 / 3, "flag": 1.0, "tags": 5 / 6, "price": 2 / 3}
LOSS_WEIGHTS = {"kind": 1.0, "flag": 0.5, "tags": 2.0, "price": 3.0}


def make_losses():
    return {
        "kind": objectives.HeadLoss(
            "multiclass",
            class_weights=CLASS_WEIGHTS.astype(np.float32),
            label_smoothing=SMOOTHING,
            labelled_fraction=FRACTIONS["kind"],
        ),
        "flag": objectives.HeadLoss("binary", focal_gamma=GAMMA),
        "tags": objectives.HeadLoss("multilabel", labelled_fraction=FRACTIONS["tags"]),
        "price": objectives.HeadLoss(
            "regression", deviation=DEVIATION, labelled_fraction=FRACTIONS["price"]
        ),
    }


def make_trainer(losses):
    """A trainer whose output is its input, so that logits can be chosen."""
    inputs = {name: keras.Input(LOGITS[name].shape[1:], name=name) for name in losses}
    outputs = {name: keras.layers.Identity(name=f"{name}_out")(x) for name, x in inputs.items()}
    trainer = trainer_model.TrainerModel(inputs, outputs)
    trainer.compile(
        loss=losses,
        loss_weights={name: LOSS_WEIGHTS[name] for name in losses},
        metrics={"flag": [objectives.Accuracy("binary")]} if "flag" in losses else None,
        auto_scale_loss=False,
    )
    return trainer


def loss_of_one(name, label, logits):
    """The loss of one example by hand; 0 without a label."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    if name == "kind":
        if label < 0:
            return 0.0
        log_p = logits - np.log(np.exp(logits).sum())
        targets = np.eye(3)[label] * (1 - SMOOTHING) + SMOOTHING / 3
        return -(targets * log_p).sum() * CLASS_WEIGHTS[label] / FRACTIONS[name]
    if name == "flag":
        right = p[0] if label[0] else 1 - p[0]
        return -((1 - right) ** GAMMA) * np.log(right)
    if name == "tags":
        terms = -np.where(label == 1, np.log(p), np.log(1 - p))
        return np.where(np.isnan(label), 0.0, terms).mean() / FRACTIONS[name]
    if np.isnan(label[0]):
        return 0.0
    return ((logits[0] - label[0]) / DEVIATION) ** 2 / FRACTIONS[name]


def loss_of_head(name):
    own = [loss_of_one(name, *pair) for pair in zip(OWN[name], LOGITS[name], strict=True)]
    partner = [loss_of_one(name, *pair) for pair in zip(PARTNER[name], LOGITS[name], strict=True)]
    return np.mean(SHARE * own + (1 - SHARE) * partner)


def mixed_labels(names):
    return mixing.MixedLabels(
        {name: tf.constant(OWN[name]) for name in names},
        {name: tf.constant(PARTNER[name]) for name in names},
        tf.constant(SHARE),
    )


@pytest.mark.parametrize("names", [(name,) for name in OWN] + [tuple(OWN)])
def test_the_loss_of_mixed_labels_is_that_of_both_by_their_shares(names):
    losses = {name: loss for name, loss in make_losses().items() if name in names}
    value = make_trainer(losses).compute_loss(
        y=mixed_labels(names),
        y_pred={name: tf.constant(LOGITS[name]) for name in names},
        sample_weight={name: tf.fill([3], 1 / 3) for name in names},
    )
    expected = sum(LOSS_WEIGHTS[name] * loss_of_head(name) for name in names)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_gradients_are_finite_where_labels_are_missing():
    names = tuple(OWN)
    trainer = make_trainer(make_losses())
    logits = {name: tf.constant(LOGITS[name]) for name in names}
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = trainer.compute_loss(
            y=mixed_labels(names),
            y_pred=logits,
            sample_weight={name: tf.fill([3], 1 / 3) for name in names},
        )
    for name, gradient in tape.gradient(value, logits).items():
        assert np.isfinite(gradient).all(), name
    # Both of the pair lack the label.
    both = mixing.MixedLabels(
        {"price": tf.fill([3, 1], np.nan)}, {"price": tf.fill([3, 1], np.nan)}, tf.constant(SHARE)
    )
    value = make_trainer({"price": make_losses()["price"]}).compute_loss(
        y=both,
        y_pred={"price": logits["price"]},
        sample_weight={"price": tf.fill([3], 1 / 3)},
    )
    assert float(value) == 0.0


def test_losses_of_layers_count_once():
    inputs = {"price": keras.Input((1,), name="price")}
    layer = keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(1.0), name="dense")
    trainer = trainer_model.TrainerModel(inputs, {"price": layer(inputs["price"])})
    trainer.compile(loss={"price": objectives.HeadLoss("regression")}, auto_scale_loss=False)
    layer.kernel.assign([[3.0]])
    zeros = {"price": tf.zeros([2, 1])}
    value = trainer.compute_loss(
        y=mixing.MixedLabels(zeros, zeros, tf.constant([0.5, 0.5])),
        y_pred=zeros,
        sample_weight={"price": tf.ones([2])},
    )
    assert float(value) == pytest.approx(9.0)


def test_metrics_look_at_the_own_labels():
    names = ("flag", "price")
    logits = {name: tf.constant(LOGITS[name]) for name in names}
    weights = {name: tf.fill([3], 1 / 3) for name in names}
    labels = mixed_labels(names)
    turned = mixing.MixedLabels(labels.partner, labels.own, labels.share)
    found = []
    for y in (labels.own, labels, turned):
        trainer = make_trainer({name: make_losses()[name] for name in names})
        metrics = trainer.compute_metrics(logits, y, logits, weights)
        found.append(float(metrics["flag_accuracy"]))
    assert found == pytest.approx([1.0, 1.0, 1 / 3])


def test_mixed_labels_need_weights():
    trainer = make_trainer({"flag": make_losses()["flag"]})
    with pytest.raises(
        ValueError,
        match=r"^Mixed labels need weights: make the data set with with_weights=True\.$",
    ):
        trainer.compute_loss(
            y=mixed_labels(("flag",)), y_pred={"flag": tf.constant(LOGITS["flag"])}
        )


def make_color_data(num_replicas):
    """Batches of 6 mixed images of 3 colours, 20 in all: the last has 2."""
    colors = np.eye(3, dtype=np.uint8)[np.arange(20) % 3] * 255
    pixels = np.ascontiguousarray(np.broadcast_to(colors[:, None, None], (20, 4, 4, 3)))
    labels = {
        "kind": (np.arange(20) % 3).astype(np.int32),
        "flag": (np.arange(20)[:, None] % 3 == 0).astype(np.float32),
    }
    keys = np.array([str(number) for number in range(20)], object)
    return pipeline.make_dataset(
        loading.Split("train", keys, image_stores.DecodedImages(pixels), np.arange(20), labels),
        preprocessing.PreprocessingSpec(4, 4, 3),
        batch_size=6,
        shuffle_seed=1,
        with_weights=True,
        num_replicas=num_replicas,
        views=option_values.read_augment("mixup:1,cutmix"),
    )


def fit_colors(strategy, *, accumulate_steps=1, **options):
    """(weights, loss of the last epoch)"""
    infos = [
        head_kinds.HeadInfo("kind", "multiclass", ("a", "b", "c")),
        head_kinds.HeadInfo("flag", "binary", ("no", "yes")),
    ]
    data = make_color_data(strategy.num_replicas_in_sync)
    with strategy.scope():
        keras.utils.set_random_seed(0)
        image = keras.Input((4, 4, 3), name="image")
        x = keras.layers.GlobalAveragePooling2D()(image / 255.0)
        outputs = {
            "kind": keras.layers.Dense(3, name="kind")(x),
            "flag": keras.layers.Dense(1, name="flag")(x),
        }
        trainer = trainer_model.TrainerModel({"image": image}, outputs)
        trainer.use_plain_batch(data)
        trainer.use_accumulation(accumulate_steps)
        labels = {"kind": np.array([0, 1, 2], np.int32), "flag": np.array([[0.0], [1.0]])}
        heads = [specs.HeadSpec(name="kind"), specs.HeadSpec(name="flag", kind="binary")]
        trainer.compile(
            optimizer=keras.optimizers.SGD(0.5),
            loss=objectives.make_losses(heads, infos, labels),
            metrics=objectives.make_metrics(infos),
            auto_scale_loss=False,
            jit_compile=False,
            **options,
        )
    history = trainer.fit(data, epochs=4, shuffle=False, verbose=0).history
    return trainer.get_weights(), history["loss"][-1]


def test_devices_parts_and_several_steps_at_once_learn_the_same():
    plain, loss = fit_colors(tf.distribute.get_strategy())
    others = [
        # The last batch has 2 examples: one of 3 parts has none.
        fit_colors(tf.distribute.get_strategy(), accumulate_steps=3),
        fit_colors(distribution.make_strategy("mirrored"), accumulate_steps=3),
        fit_colors(distribution.make_strategy("mirrored")),
        fit_colors(tf.distribute.get_strategy(), steps_per_execution=2),
    ]
    for weights, other_loss in others:
        for own, other in zip(plain, weights, strict=True):
            np.testing.assert_allclose(own, other, atol=1e-5)
        assert other_loss == pytest.approx(loss, rel=1e-4)


class WordVectors(keras.layers.Layer):
    """A vector of each word of a text by its length, [batch, words of the longest text, 4]."""

    def call(self, texts):
        words = tf.strings.split(texts)
        return tf.one_hot(tf.strings.length(words).to_tensor() % 4, 4)


def load_tags(folder):
    """20 texts of one to six words, the longest of them in any place."""
    generator = np.random.default_rng(0)
    texts = [["abcd"[: generator.integers(1, 4)]] * (1 + number % 6) for number in range(20)]
    path = tag_data.write_csv(
        folder / "tags.csv", [(words, [f"t{len(word)}" for word in words]) for words in texts]
    )
    head = specs.HeadSpec(name="label", kind="token_classification", label="tags")
    spec = specs.DataSpec(data=str(path), split=(1.0, 0.0, 0.0))
    return loading.load_data(spec, heads=(head,)), text_store.TextSpec(), None


def load_masks(folder):
    path = mask_data.write_folder(folder / "masks", count=20, size=(6, 8))
    head = specs.HeadSpec(name="label", kind="segmentation", label="mask", num_classes=4)
    spec = specs.DataSpec(data=str(path), image_column="image", split=(1.0, 0.0, 0.0))
    splits = loading.load_data(spec, heads=(head,))
    splits, pre, _ = reading.read_images(
        splits, preprocessing.PreprocessingSpec(6, 8, 3), on_bad_example="error"
    )
    return splits, pre, option_values.read_augment("flip,rotate:20")


def fit_positions(strategy, splits, pre, views):
    """(weights, the logs of the last of three epochs)"""
    data = pipeline.make_dataset(
        splits.train,
        pre,
        batch_size=6,
        shuffle_seed=1,
        with_weights=True,
        num_replicas=strategy.num_replicas_in_sync,
        views=views,
    )
    (info,) = splits.heads
    with strategy.scope():
        keras.utils.set_random_seed(0)
        if views is None:
            given = keras.Input((), name="text", dtype="string")
            x = WordVectors()(given)
        else:
            given = keras.Input((6, 8, 3), name="image")
            x = given / 255.0
        outputs = {"label": keras.layers.Dense(len(info.classes), name="label")(x)}
        trainer = trainer_model.TrainerModel({given.name: given}, outputs)
        trainer.use_plain_batch(data)
        losses = objectives.make_losses(
            (specs.HeadSpec(name="label", kind=info.kind),),
            (info,),
            splits.train.labels,
            counts=splits.train.count_positions(),
        )
        trainer.compile(
            optimizer=keras.optimizers.SGD(0.5),
            loss=losses,
            metrics=objectives.make_metrics((info,)),
            auto_scale_loss=False,
            jit_compile=False,
        )
    history = trainer.fit(data, epochs=3, shuffle=False, verbose=0).history
    return trainer.get_weights(), {name: values[-1] for name, values in history.items()}


@pytest.mark.parametrize("load", [load_tags, load_masks])
def test_two_devices_learn_positions_as_one(tmp_path, load):
    """Labels are as wide as the longest text of a batch, which is on one of the devices."""
    given = load(tmp_path)
    weights, logs = fit_positions(tf.distribute.get_strategy(), *given)
    others, other_logs = fit_positions(distribution.make_strategy("mirrored"), *given)
    for own, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5)
    assert other_logs.keys() == logs.keys() and "accuracy" in logs
    for name in logs:
        # Keras's own loss depends on a replica's share of the batch.
        assert name == "loss" or other_logs[name] == pytest.approx(logs[name], rel=1e-4)


def add_weights(x, y):
    ones = tf.ones_like(y["flag"][:, 0])
    return x, y, {"flag": ones / tf.reduce_sum(ones)}


def fit_words(accumulate_steps):
    """(weights, history) of 10 texts in batches of 6: the last has 4."""
    keras.utils.set_random_seed(0)
    words = keras.Input((4,), dtype="int32", name="words")
    x = keras.layers.Embedding(9, 3, embeddings_regularizer="l2")(words)
    x = keras.layers.GlobalAveragePooling1D()(x)
    x = keras.layers.Dense(4, activity_regularizer=keras.regularizers.L2(0.1))(x)
    # A gradient that is None.
    x = x + keras.ops.stop_gradient(keras.layers.Dense(4, name="cut_off")(x))
    trainer = trainer_model.TrainerModel(
        {"words": words}, {"flag": keras.layers.Dense(1, name="flag")(x)}
    )
    trainer.use_accumulation(accumulate_steps)
    trainer.compile(
        optimizer=optimizers.Adam(0.1, weight_decay=0.1, batch_clipnorm=0.02),
        loss={"flag": objectives.HeadLoss("binary")},
        metrics={"flag": [objectives.CrossEntropy("binary"), objectives.Accuracy("binary")]},
        auto_scale_loss=False,
        jit_compile=False,
    )
    generator = np.random.default_rng(0)
    inputs = {"words": generator.integers(0, 9, (10, 4)).astype(np.int32)}
    labels = {"flag": generator.integers(0, 2, (10, 1)).astype(np.float32)}
    data = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(6)
    data = data.map(add_weights)
    trainer.use_plain_batch(data)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        history = trainer.fit(data, epochs=3, shuffle=False, verbose=0).history
    return trainer.get_weights(), history


def test_parts_add_up_to_the_clipped_and_regularized_step():
    weights, history = fit_words(1)
    for num_parts in (2, 5):  # 5: of 4 examples one part has none
        own_weights, own_history = fit_words(num_parts)
        for expected, own in zip(weights, own_weights, strict=True):
            np.testing.assert_allclose(own, expected, atol=1e-5)
        for name, values in history.items():
            assert own_history[name] == pytest.approx(values, abs=1e-5), name


def test_parts_need_weights():
    trainer = make_trainer({"flag": make_losses()["flag"]})
    trainer.use_accumulation(2)
    with pytest.raises(
        ValueError,
        match=r"^Accumulated steps need weights: make the data set with with_weights=True\.$",
    ):
        trainer.train_step(({"flag": LOGITS["flag"]}, {"flag": OWN["flag"]}))
