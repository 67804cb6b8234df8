import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny, tiny_text
from tests.models import saved_models
from tf_finetune import freezing, layer_table, specs, trainer_model
from tf_finetune.models import loading, splitting

L = keras.layers


def split(model, *, opened=()):
    return splitting.split_model(model, freezing.is_fixed, opened=opened)


def freeze(*layers):
    for layer in layers:
        layer.trainable = False
        for inner in layer._flatten_layers():
            freezing._silence(inner)


def as_tensors(inputs):
    return {name: tf.constant(value) for name, value in inputs.items()}


def check_equal(model, inputs, cut, *, training=False):
    """The suffix on features gives the outputs of the whole model, and its gradients."""
    inputs = as_tensors(inputs)
    suffix = cut.make_suffix(trainer_model.SuffixTrainer)
    with tf.GradientTape() as whole_tape:
        expected = model(inputs, training=training)
        whole_loss = tf.add_n([tf.reduce_sum(tf.square(value)) for value in expected.values()])
    # From a data set they come without the masks that Keras attaches.
    features = {name: tf.identity(value) for name, value in cut.run_prefix(inputs).items()}
    assert set(features) == set(cut.features)
    with tf.GradientTape() as tape:
        found = suffix(features, training=training)
        loss = tf.add_n([tf.reduce_sum(tf.square(value)) for value in found.values()])
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6)
    assert {id(v) for v in suffix.trainable_variables} == {id(v) for v in model.trainable_variables}
    variables = [variable.value for variable in model.trainable_variables]
    for own, other in zip(
        tape.gradient(loss, variables), whole_tape.gradient(whole_loss, variables), strict=True
    ):
        np.testing.assert_allclose(
            tf.convert_to_tensor(own), tf.convert_to_tensor(other), rtol=1e-5, atol=1e-5
        )
    return suffix


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_functional_model_is_cut_where_the_frozen_layers_end():
    image = keras.Input((12, 12, 3), name="image")
    conv, norm, second = L.Conv2D(4, 3), L.BatchNormalization(), L.Conv2D(5, 3, name="second")
    x = L.ReLU(name="relu")(norm(conv(image)))
    outputs = L.Dense(2)(L.Dropout(0.5)(L.GlobalAveragePooling2D()(second(x))))
    model = keras.Model({"image": image}, {"label": outputs})
    freeze(conv, norm)
    tiny.randomize_statistics(model)
    cut = split(model)
    assert [layer.name for layer in cut.prefix_layers] == [conv.name, norm.name, "relu"]
    assert [tuple(tensor.shape) for tensor in cut.features.values()] == [(None, 10, 10, 4)]
    assert cut.num_prefix_weights == 3 * 3 * 3 * 4 + 4 + 4 * 4
    suffix = check_equal(model, {"image": numbers(3, 12, 12, 3)}, cut)
    # Dropout above the cut is alive in training.
    features = cut.run_prefix(as_tensors({"image": numbers(3, 12, 12, 3)}))
    first, again = (suffix(features, training=True)["label"] for _ in range(2))
    assert not np.array_equal(first, again)


def test_a_nested_model_is_looked_into_or_one_layer():
    inner = tiny.make_classifier()
    image = keras.Input((12, 12, 3), name="image")
    model = keras.Model({"image": image}, {"label": L.Dense(2)(inner(image))})
    freeze(*inner.layers[:4])
    assert split(model) is None
    cut = split(model, opened=[inner])
    assert [layer.name for layer in cut.prefix_layers] == ["conv_a", "norm_a", "relu_a"]
    check_equal(model, {"image": numbers(2, 12, 12, 3)}, cut)
    freeze(inner)
    whole = split(model)
    assert [layer.name for layer in whole.prefix_layers] == [inner.name]
    check_equal(model, {"image": numbers(2, 12, 12, 3)}, whole)


def test_a_sequential_model():
    inner = keras.Sequential([keras.Input((6,)), L.Dense(5, name="a"), L.Dense(4, name="b")])
    x = keras.Input((6,), name="x")
    model = keras.Model({"x": x}, {"label": L.Dense(2)(inner(x))})
    freeze(inner.layers[0])
    cut = split(model, opened=[inner])
    assert [layer.name for layer in cut.prefix_layers] == ["a"]
    check_equal(model, {"x": numbers(3, 6)}, cut)


def test_branches_that_are_cut_in_the_middle_leave_several_features():
    image = keras.Input((8, 8, 3), name="image")
    stem, left, right = L.Conv2D(4, 1), L.Conv2D(4, 3, padding="same"), L.Conv2D(4, 1)
    x = stem(image)
    joined = L.Add()([left(x), right(x), x])
    model = keras.Model({"image": image}, {"label": L.Dense(2)(L.Flatten()(joined))})
    freeze(stem, left)
    cut = split(model)
    # The stem's output goes on twice, the left branch's once.
    assert cut.names == ("features_0", "features_1")
    check_equal(model, {"image": numbers(2, 8, 8, 3)}, cut)


def test_frozen_layers_above_a_trainable_one_stay_in_the_suffix():
    x = keras.Input((6,), name="x")
    layers = [L.Dense(6, name=name) for name in "abc"]
    y = x
    for layer in layers:
        y = layer(y)
    model = keras.Model({"x": x}, {"label": L.Dense(2)(y)})
    freeze(layers[0], layers[2])
    cut = split(model)
    assert [layer.name for layer in cut.prefix_layers] == ["a"]
    suffix = check_equal(model, {"x": numbers(3, 6)}, cut)
    assert "c" in [layer.name for layer in suffix.suffix_layers]


def test_a_layer_that_is_called_below_and_above_the_cut():
    x = keras.Input((6,), name="x")
    shared, own = L.Dense(6, name="shared"), L.Dense(6)
    model = keras.Model({"x": x}, {"label": L.Dense(2)(shared(own(shared(x))))})
    freeze(shared)
    cut = split(model)
    assert [layer.name for layer in cut.prefix_layers] == ["shared"]
    suffix = check_equal(model, {"x": numbers(3, 6)}, cut)
    assert len(suffix.weights) == len({id(weight) for weight in suffix.weights}) == 6


def test_wrappers_of_layers():
    steps = keras.Input((5, 3), name="steps")
    first, second = L.TimeDistributed(L.Dense(4)), L.Bidirectional(L.LSTM(3, dropout=0.5))
    model = keras.Model({"steps": steps}, {"label": L.Dense(2)(second(first(steps)))})
    freeze(first)
    cut = split(model)
    assert cut.prefix_layers == (first,)
    check_equal(model, {"steps": numbers(3, 5, 3)}, cut)
    freeze(second)
    cut = split(model)
    assert cut.prefix_layers == (first, second)
    check_equal(model, {"steps": numbers(3, 5, 3)}, cut, training=True)


@pytest.mark.parametrize("frozen", [1, 2])
def test_masks_go_across_the_cut(frozen):
    ids = keras.Input((7,), name="ids", dtype="int32")
    embedding = L.Embedding(20, 4, mask_zero=True)
    scale = L.TimeDistributed(L.Dense(4))
    x = scale(embedding(ids))
    model = keras.Model({"ids": ids}, {"label": L.Dense(2)(L.LSTM(3)(x))})
    freeze(*[embedding, scale][:frozen])
    cut = split(model)
    values = np.array([[3, 4, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7]], np.int32)
    check_equal(model, {"ids": values}, cut)
    masks = [name for name, tensor in cut.features.items() if tensor.dtype == "bool"]
    assert masks
    # The mask matters: without it the padding would be read.
    spoilt = {name: tf.ones_like(value) if name in masks else tf.identity(value)
              for name, value in cut.run_prefix(as_tensors({"ids": values})).items()}  # fmt: skip
    other = cut.make_suffix(trainer_model.SuffixTrainer)(spoilt)["label"]
    assert np.abs(other - model({"ids": values})["label"])[0].max() > 1e-4


def test_a_layer_that_keeps_a_state_is_not_fixed():
    steps = keras.Input(batch_shape=(2, 5, 3), name="steps")
    dense, lstm = L.TimeDistributed(L.Dense(3)), L.LSTM(4, stateful=True)
    model = keras.Model({"steps": steps}, {"label": L.Dense(2)(lstm(dense(steps)))})
    freeze(dense, lstm)
    assert split(model).prefix_layers == (dense,)
    inner = keras.Sequential([keras.Input(batch_shape=(2, 5, 3)), L.LSTM(4, stateful=True)])
    freeze(inner)
    assert not freezing.is_fixed(inner)


class Quiet(L.Layer):
    """Takes no `training`, but the Dropout in it does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = L.Dropout(0.5)

    def build(self, input_shape):
        self.built = True

    def call(self, inputs):
        return self.dropout(inputs)


def test_random_layers_without_weights_are_not_fixed_unless_they_are_silenced():
    layers = (Quiet(), L.Dropout(0.5), L.GaussianNoise(0.1), L.RandomFlip())
    assert not any(map(freezing.is_fixed, layers))
    freeze(*layers)
    assert all(map(freezing.is_fixed, layers))


def test_operations_and_slices_of_a_saved_model(tmp_path):
    x = keras.Input((8, 6), name="x")
    first, second = L.Dense(6), L.Dense(6)
    a = first(x)
    y = second(a[:, 2:5] + keras.ops.mean(a, axis=1, keepdims=True))
    y = keras.ops.concatenate([y, a[:, :1] * 2.0], axis=1)
    keras.Model({"x": x}, {"label": L.Dense(2)(L.Flatten()(y))}).save(tmp_path / "ops.keras")
    model = keras.models.load_model(tmp_path / "ops.keras")
    freeze(model.get_layer(first.name))
    cut = split(model)
    assert [layer.name for layer in cut.prefix_layers] == [first.name]
    assert len(cut.names) == 2
    check_equal(model, {"x": numbers(3, 8, 6)}, cut)


def test_configurations_of_operations_tell_them_apart():
    """Else features of one would be taken for those of the other."""

    def describe(function):
        x = keras.Input((8, 6), name="x")
        dense = L.Dense(6)
        y = function(dense(x))
        model = keras.Model({"x": x}, {"label": L.Dense(2)(L.Dense(3)(L.Flatten()(y)))})
        freeze(dense)
        return repr(split(model).describe_prefix())

    functions = (
        lambda a: a[:, 2:5] * 1.0,
        lambda a: a[:, 1:4] * 1.0,
        lambda a: a[:, 2:5] * 2.0,
        lambda a: a[:, 2:5] + 1.0,
        lambda a: keras.ops.mean(a, axis=1),
        lambda a: keras.ops.max(a, axis=1),
        lambda a: keras.ops.transpose(a, (0, 2, 1)),
        lambda a: keras.ops.roll(a, 1, axis=1),
        lambda a: keras.ops.roll(a, 2, axis=1),
        lambda a: L.ReLU(negative_slope=0.1)(a),
        lambda a: L.ReLU(negative_slope=0.2)(a),
    )
    assert len({describe(function) for function in functions}) == len(functions)
    assert describe(functions[0]) == describe(functions[0])


def test_an_input_that_also_goes_past_the_prefix():
    x, extra = keras.Input((6,), name="x"), keras.Input((2,), name="extra")
    first, second = L.Dense(4), L.Dense(4)
    y = L.Concatenate()([second(first(x)), x, extra])
    model = keras.Model({"x": x, "extra": extra}, {"label": L.Dense(2)(y)})
    freeze(first)
    cut = split(model)
    assert sorted(tuple(tensor.shape[1:]) for tensor in cut.features.values()) == [(2,), (4,), (6,)]
    check_equal(model, {"x": numbers(3, 6), "extra": numbers(3, 2)}, cut)


def test_several_inputs_and_heads():
    inputs = {name: keras.Input((3,), name=name) for name in ("width", "length", "age")}
    layers = {name: L.Dense(4) for name in inputs}
    x = L.Concatenate()([layers[name](inputs[name]) for name in ("length", "age", "width")])
    model = keras.Model(inputs, {"kind": L.Dense(3)(x), "size": L.Dense(1)(x)})
    freeze(layers["width"], layers["age"])
    cut = split(model)
    given = {name: numbers(2, 3, seed=seed) for seed, name in enumerate(inputs)}
    check_equal(model, given, cut)
    freeze(layers["length"])
    assert tuple(split(model).features["features_0"].shape) == (None, 12)
    check_equal(model, given, split(model))


def test_strings():
    inner = tiny_text.make_classifier(shape=(1,))
    words = keras.Input((1,), name="words", dtype="string")
    model = keras.Model({"words": words}, {"label": L.Dense(2)(inner(words))})
    freeze(*inner.layers[:-1])
    cut = split(model, opened=[inner])
    assert [type(layer).__name__ for layer in cut.prefix_layers] == [
        "TextVectorization", "Embedding", "GlobalAveragePooling1D",
    ]  # fmt: skip
    given = {"words": np.array([["lovely film"], ["dull music was a story"]], object)}
    check_equal(model, given, cut)


@pytest.mark.parametrize(("freeze_rule", "has_prefix"), [("all", True), ("1", False)])
def test_a_saved_model_is_in_the_prefix_as_a_whole_or_not_at_all(tmp_path, freeze_rule, has_prefix):
    saved_models.write_image_module(tmp_path / "module")
    backbone = loading.load_backbone(
        specs.ModelSpec(model=str(tmp_path / "module"), pixel_range="0..1")
    )
    image = keras.Input(backbone.input_shape, name="image")
    features = backbone.model(image)
    model = keras.Model({"image": image}, {"label": L.Dense(2)(features)})
    plan = freezing.plan_freeze(freeze_rule, backbone.table)
    freezing.apply_plan(plan, backbone.model)
    cut = split(model, opened=[backbone.model])
    assert (cut is not None) == has_prefix
    if cut is not None:
        check_equal(model, {"image": np.abs(numbers(2, *backbone.input_shape))}, cut)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_layers_get_what_they_would_get(policy):
    x = keras.Input((6,), name="x")
    first, second, third = (L.Dense(6, dtype=policy) for _ in range(3))
    y = first(x) + keras.ops.cast(second(x), "bfloat16" if "b" in policy else "float16")
    model = keras.Model({"x": x}, {"label": L.Dense(2, dtype="float32")(third(y))})
    freeze(first)
    cut = split(model)
    given = as_tensors({"x": numbers(3, 6)})
    features = {
        name: tf.cast(value, tf.float32) if value.dtype.is_floating else value
        for name, value in cut.run_prefix(given).items()
    }
    found = cut.make_suffix(trainer_model.SuffixTrainer)(features)["label"]
    np.testing.assert_array_equal(found, model(given)["label"])


def test_nothing_frozen_in_front_has_no_prefix():
    x = keras.Input((6,), name="x")
    rescaled, first, second = L.Rescaling(0.1)(x), L.Dense(4), L.Dense(4)
    model = keras.Model({"x": x}, {"label": L.Dense(2)(second(first(rescaled)))})
    freeze(second)
    assert split(model) is None  # a layer without weights is not worth it
    freeze(first)
    assert split(model) is not None


def test_features_of_free_size_are_not_kept():
    image = keras.Input((None, None, 3), name="image")
    first, second = L.Conv2D(4, 3), L.Conv2D(4, 3)
    pooled = L.GlobalAveragePooling2D()(second(first(image)))
    model = keras.Model({"image": image}, {"label": L.Dense(2)(pooled)})
    freeze(first)
    assert split(model) is None
    freeze(second)
    assert tuple(split(model).features["features_0"].shape) == (None, 4)


def test_every_layer_of_an_application_can_be_the_cut():
    """Residuals, squeeze-and-excite and depthwise convolutions, cut at each place."""
    backbone = loading.load_backbone(
        specs.ModelSpec(model="keras:MobileNetV3Small,input_shape=32x32x3,alpha=0.75,weights=none")
    )
    image = keras.Input((32, 32, 3), name="image")
    pooled = L.GlobalAveragePooling2D()(backbone.model(image))
    model = keras.Model({"image": image}, {"label": L.Dense(2)(pooled)})
    given = as_tensors({"image": 255 * np.abs(numbers(2, 32, 32, 3))})
    expected = model(given)["label"]
    total = len(backbone.table.rows)
    widths = set()
    for count in range(10, total + 1, 17):
        plan = freezing.plan_freeze(str(count), backbone.table)
        freezing.apply_plan(plan, backbone.model)
        cut = split(model, opened=[backbone.model])
        widths.add(len(cut.names))
        found = cut.make_suffix(trainer_model.SuffixTrainer)(cut.run_prefix(given))["label"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert max(widths) > 1
    assert layer_table.is_batch_norm(cut.prefix_layers[-1]) or cut.prefix_layers
