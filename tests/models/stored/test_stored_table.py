"""What is read from a stored model against what is built from it."""

import os

import keras
import numpy as np
import pytest

from tests import tiny
from tf_finetune import findings, layer_table, specs
from tf_finetune.models import loading, surgery
from tf_finetune.models.stored import (
    graph_reader,
    stored_model,
    stored_shapes,
    stored_table,
    weight_sizes,
)

L = keras.layers


def describe(path, **options):
    """A stored model, described."""
    stored = stored_model.read_stored_model(str(path))
    graph = graph_reader.read_graph(stored.config)
    assert not stored_table.is_rearranged(graph)
    with weight_sizes.open_weights(str(path), renamed=stored.renamed) as weights:
        weights.assign(graph)
        return stored_table.describe_graph(
            graph, weights, specs.ModelSpec(model=str(path), **options)
        )


def assert_agrees(path, **options):
    """Compares every fact with those of the model that training would load."""
    found = describe(path, **options)
    built = loading.load_backbone(specs.ModelSpec(model=str(path), **options))
    assert found.refusal is None
    assert found.table.rows == built.table.rows
    backbone = found.backbone
    assert backbone.dropped == built.dropped
    assert backbone.pooling == built.pooling
    assert backbone.reason == built.cut_reason
    assert backbone.unknown_scaling is None
    assert backbone.pixel_range == built.pixel_range
    assert backbone.features_shape == tuple(built.model.outputs[0].shape)
    assert tuple((end.name, end.shape) for end in found.outputs) == built.outputs
    return found


def save(model, tmp_path, *, endings=("keras", "h5")):
    """Writes a model whose biases and statistics are random, in each format."""
    tiny.randomize_statistics(model)
    paths = [tmp_path / f"model.{ending}" for ending in endings]
    for path in paths:
        model.save(path)
    return paths


def _sequential():
    layers = [L.Rescaling(1 / 127.5, offset=-1), L.RandomFlip(), L.Conv2D(4, 3)]
    layers += [L.BatchNormalization(), L.MaxPooling2D(), L.Flatten(), L.Dropout(0.3, seed=1)]
    return keras.Sequential([keras.Input((16, 16, 3)), *layers, L.Dense(3, activation="softmax")])


def _inner(name="inner", *, size=16):
    inputs = keras.Input((size, size, 3))
    outputs = L.BatchNormalization(name="norm")(L.Conv2D(4, 3, name="conv")(inputs))
    return keras.Model(inputs, outputs, name=name)


def _nested():
    inputs = keras.Input((16, 16, 3))
    x = _inner()(L.Rescaling(1 / 255)(inputs))
    x = L.GlobalAveragePooling2D()(L.Conv2D(5, 3, name="conv")(x))
    return keras.Model(inputs, L.Dense(2)(x))


def _nested_sequential():
    first = keras.Sequential(
        [keras.Input((16, 16, 3)), L.Conv2D(3, 3, padding="same", name="c"), _inner("deep")],
        name="first",
    )
    end = [L.GlobalMaxPooling2D(), L.Dense(7, activation="sigmoid")]
    return keras.Sequential([keras.Input((16, 16, 3)), first, *end])


def _shared():
    inputs = keras.Input((12, 12, 3))
    twice = L.Conv2D(3, 3, padding="same", name="twice")
    a = twice(inputs)
    b = twice(L.ReLU()(a))
    x = L.Concatenate()([L.Add()([a, b, inputs]), L.AveragePooling2D(1)(a)])
    x = L.DepthwiseConv2D(3, depth_multiplier=2)(L.SeparableConv2D(8, 3, strides=2)(x))
    x = L.PReLU(shared_axes=[1, 2])(L.Conv2DTranspose(4, 3, strides=2)(x))
    x = L.Reshape((-1, 4))(L.ZeroPadding2D(2)(L.LayerNormalization()(x)))
    x = L.LSTM(5, return_sequences=True)(L.MultiHeadAttention(2, 4)(x, x))
    x = L.Dense(4, activation="relu")(L.Bidirectional(L.GRU(3))(x))
    return keras.Model(inputs, L.Dense(2, activation="softmax")(x))


def _free_size():
    inputs = keras.Input((None, None, 3))
    block = keras.Sequential([L.Conv2D(4, 1), L.BatchNormalization()], name="block")
    x = block(L.Conv2D(4, 3)(inputs))
    x = L.Multiply()([x, L.Reshape((1, 1, 4))(L.GlobalAveragePooling2D()(x))])
    x = L.GlobalAveragePooling2D()(L.TimeDistributed(L.Dense(3))(x))
    return keras.Model(inputs, L.Activation("softmax")(L.Dense(3)(x)))


def _model_called_twice():
    twice = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(3, 1), L.ReLU()], name="twice")
    inputs = keras.Input((8, 8, 3))
    x = L.Add()([twice(inputs), twice(twice(inputs))])
    return keras.Model(inputs, L.Dense(4)(L.Flatten()(x)))


def _many_branches():
    # As many depths and clashing names as fit: the order of layers is what is asked for.
    inputs = keras.Input((8, 8, 3))
    long = inputs
    for _ in range(4):
        long = L.Conv2D(3, 3, padding="same")(long)
    short = L.Conv2D(3, 1)(inputs)
    middle = L.BatchNormalization()(L.Conv2D(3, 1)(short))
    inner = _inner(size=8)
    pooled = [L.GlobalAveragePooling2D()(x) for x in (inner(middle), short, long)]
    x = L.Concatenate()(pooled[::-1])
    return keras.Model(inputs, L.Dense(3)(L.Dropout(0.1)(x)))


def _adapted():
    scale = L.Normalization()
    scale.adapt(np.random.default_rng(0).uniform(0, 255, (20, 8, 8, 3)))
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, L.Conv2D(2, 3)(scale(inputs)))


def _image_and_vector():
    sizes, image = keras.Input((4,), name="sizes"), keras.Input((8, 8, 3), name="image")
    x = L.Rescaling(1 / 127.5, offset=-1.0)(image)
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 1)(x))
    x = L.Dense(5, activation="relu")(L.Concatenate()([sizes, x]))
    return keras.Model([sizes, image], L.Dense(1, activation="sigmoid")(x))


MODELS = {
    "image_and_vector": _image_and_vector,
    "classifier": tiny.make_classifier,
    "sequential": _sequential,
    "nested": _nested,
    "nested_sequential": _nested_sequential,
    "shared": _shared,
    "free_size": _free_size,
    "model_called_twice": _model_called_twice,
    "many_branches": _many_branches,
    "adapted": _adapted,
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_stored_is_what_is_built(make, tmp_path):
    for path in save(make(), tmp_path):
        assert_agrees(path)


@pytest.mark.parametrize(
    "options",
    [
        {"cut_layer": "inner"},
        {"cut_layer": "conv"},
        {"cut_layer": "conv_1", "pooling": "max"},
        {"pooling": "flatten", "pixel_range": "torch"},
        {"pooling": "none"},
    ],
)
def test_flags_decide_alike(tmp_path, options):
    (path,) = save(_nested(), tmp_path, endings=["keras"])
    assert_agrees(path, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"cut_layer": "con"},
        {"cut_layer": "dense_units"},
        {"cut_layer": "conv", "pooling": "none"},
    ],
)
def test_wrong_flags_are_refused_alike(tmp_path, options):
    (path,) = save(_nested(), tmp_path, endings=["keras"])
    with pytest.raises(findings.RefusedError) as stored:
        describe(path, **options)
    with pytest.raises(findings.RefusedError) as built:
        loading.load_backbone(specs.ModelSpec(model=str(path), **options))
    assert str(stored.value) == str(built.value)


def _two_outputs():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 1)(inputs)
    ends = [L.Dense(2, name="a")(L.Flatten()(x)), L.Dense(3)(L.GlobalAveragePooling2D()(x))]
    return keras.Model(inputs, ends)


def _two_inputs():
    inputs = [keras.Input((8, 8, 3), name="left"), keras.Input((4, 4, 3), name="right")]
    parts = [L.GlobalAveragePooling2D()(L.Conv2D(4, 1)(part)) for part in inputs]
    return keras.Model(inputs, L.Dense(1)(L.Concatenate()(parts)))


def _steps():
    return keras.Sequential([keras.Input((6, 4)), L.LSTM(3)])


def _half():
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 1, dtype="float16", name="c")])
    return model


def _only_a_classifier():
    return keras.Sequential([keras.Input((8, 8, 3)), L.Flatten(), L.Dense(2, "softmax")])


@pytest.mark.parametrize(
    "make",
    [_two_outputs, _two_inputs, _steps, _half, _only_a_classifier],
    ids=lambda f: f.__name__,
)
def test_what_cannot_be_fine_tuned_says_why(tmp_path, make):
    model = make()
    for path in save(model, tmp_path):
        found = describe(path)
        with pytest.raises(findings.RefusedError) as built:
            loading.load_backbone(specs.ModelSpec(model=str(path)))
        assert str(built.value) == f"{path}: {found.refusal}"
        assert found.backbone is None
        assert found.table == layer_table.table_from_model(surgery.flattening.functional_of(model))
        assert [end.dtype for end in found.inputs] == [str(end.dtype) for end in model.inputs]
        assert [end.shape for end in found.outputs] == [tuple(end.shape) for end in model.outputs]


def test_a_cut_layer_makes_one_of_several_outputs_usable(tmp_path):
    for path in save(_two_outputs(), tmp_path):
        found = assert_agrees(path, cut_layer="a")
        assert found.backbone.features_shape == (None, 2)


def test_operations_are_no_layers(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3)(inputs / 127.5 - 1.0)
    model = keras.Model(inputs, L.BatchNormalization()(keras.ops.relu(x)))
    (path,) = save(model, tmp_path, endings=["keras"])
    found = assert_agrees(path)
    assert [row.class_name for row in found.table.rows] == ["Conv2D", "BatchNormalization"]
    assert found.backbone.pixel_range.reason.startswith("the model scales pixels itself ('true_")


def test_later_outputs_of_an_operation(tmp_path):
    inputs = keras.Input((16, 16, 4))
    part = keras.ops.split(inputs[..., :3], 3, axis=-1)[2]
    x = keras.layers.Conv2D(3, 3, name="conv")(part)
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(inputs, keras.layers.Dense(2, name="head")(x)).save(tmp_path / "m.keras")
    names = [row.name for row in describe(str(tmp_path / "m.keras")).table.rows]
    assert "conv" in names


def test_scaling_without_a_rule_is_said_to_be_unknown(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3)(L.UnitNormalization(name="unit")(inputs))
    (path,) = save(keras.Model(inputs, x), tmp_path, endings=["keras"])
    backbone = describe(path).backbone
    assert backbone.pixel_range is None
    assert backbone.unknown_scaling == "unit"


def test_a_shape_without_a_rule_leaves_the_cut_open(tmp_path, monkeypatch):
    (path,) = save(tiny.make_classifier(), tmp_path, endings=["h5"])
    monkeypatch.delitem(stored_shapes._RULES, "Dense")
    found = describe(path)
    assert found.refusal == (
        "The output shape of layer 'classifier' is only known once the model is built: where it "
        "is cut is decided then."
    )
    assert found.outputs == (stored_table.End("classifier", None, "float32"),)
    assert found.table.rows[-1] == layer_table.LayerRow(9, "classifier", "Dense", None, 45, False)


def test_zoo(shared):
    # Of models that cannot be a backbone the refusal is compared.
    folder = shared / "zoo" / "h5"
    compared = 0
    for name in sorted(os.listdir(folder)):
        path = folder / name
        try:
            built = loading.load_backbone(specs.ModelSpec(model=str(path)))
            if "channels_first" in name:
                continue
        except findings.RefusedError as error:
            refusal = str(error)
            if "fine-tunes models" in refusal or "--cut_layer" in refusal:
                assert refusal.endswith(describe(path).refusal)
            continue
        assert_agrees(path)
        assert len(built.table)
        compared += 1
    assert compared >= 10


_FAMILIES = {
    "MobileNetV2": {"alpha": 0.35},
    "MobileNetV3Small": {"alpha": 0.75},
    "EfficientNetB0": {},
    "EfficientNetV2B0": {},
    "ConvNeXtTiny": {},
    "DenseNet121": {},
    "NASNetMobile": {},
    "ResNet50V2": {},
    "InceptionResNetV2": {},
    "Xception": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", _FAMILIES)
def test_applications(tmp_path, name):
    size = 96 if "eption" in name else 64
    build = getattr(keras.applications, name)
    model = build(weights=None, classes=7, input_shape=(size, size, 3), **_FAMILIES[name])
    # Keras 3 does not open its own .h5 of some of them.
    for path in save(model, tmp_path, endings=["keras"]):
        assert_agrees(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNet", *_FAMILIES])
def test_applications_written_by_keras_2(tmp_path, name):
    tf_keras = pytest.importorskip("tf_keras")
    size = 96 if "eption" in name else 64
    build = getattr(tf_keras.applications, name)
    options = _FAMILIES.get(name, {"alpha": 0.25})
    path = tmp_path / "model.h5"
    build(weights=None, classes=7, input_shape=(size, size, 3), **options).save(path)
    assert_agrees(path)


def test_a_stateful_model_shows_its_batch(tmp_path):
    inputs = keras.Input(batch_shape=(3, 4, 6))
    model = keras.Model(inputs, L.Dense(2)(L.LSTM(5, stateful=True)(inputs)))
    for path in save(model, tmp_path):
        found = describe(path)
        assert found.inputs[0].shape == (3, 4, 6)
        with pytest.raises(findings.RefusedError) as caught:
            loading.load_backbone(specs.ModelSpec(model=str(path)))
        assert str(caught.value) == f"{path}: {found.refusal}"
