import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny
from tests.data import mixed_files
from tf_finetune import head_kinds, heads, specs
from tf_finetune.data import column_encoding, columns, mixed_spec, preprocessing
from tf_finetune.models import loading, pixel_range


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.h5"
    tiny.make_classifier().save(path)
    return loading.load_backbone(specs.ModelSpec(model=str(path), pixel_range="-1..1"))


INFOS = (
    head_kinds.HeadInfo("breed", "multiclass", ("a", "b", "c")),
    head_kinds.HeadInfo("wild", "binary", ("no", "yes"), (0.5,)),
    head_kinds.HeadInfo("tags", "multilabel", ("x", "y"), (0.5, 0.5)),
)


def test_each_head_has_its_own_layers(backbone):
    specs_of_heads = (
        specs.HeadSpec(name="breed", hidden_units=(7, 5), dropout=0.3),
        specs.HeadSpec(name="wild", dropout=0.0),
        specs.HeadSpec(name="tags"),
    )
    model = heads.attach_heads(backbone, heads=specs_of_heads, infos=INFOS)
    assert list(model.output) == ["breed", "wild", "tags"]
    assert [model.output[name].shape[-1] for name in model.output] == [3, 1, 2]
    names = {layer.name for layer in model.layers}
    assert {"breed_dropout", "breed_dense_1", "breed_dense_2", "breed_logits"} <= names
    assert "wild_dropout" not in names
    assert model.get_layer("breed_dense_1").units == 7
    assert model.get_layer("breed_dropout").rate == 0.3


def test_pixels_are_scaled_before_the_backbone(backbone):
    model = heads.attach_heads(
        backbone, heads=(specs.HeadSpec(name="breed", dropout=0.0),), infos=INFOS[:1]
    )
    image = np.random.default_rng(0).uniform(0, 255, (2, 12, 12, 3)).astype(np.float32)
    features = backbone.model.predict(image / 127.5 - 1, verbose=0).mean((1, 2))
    kernel, bias = model.get_layer("breed_logits").get_weights()
    np.testing.assert_allclose(
        model.predict({"image": image}, verbose=0)["breed"],
        features @ kernel + bias,
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_backbone_is_shared_not_copied(backbone):
    model = heads.attach_heads(backbone, heads=(specs.HeadSpec(name="breed"),), infos=INFOS[:1])
    assert any(layer is backbone.model for layer in model.layers)


@pytest.mark.parametrize(("pooling", "units"), [("avg", 8), ("max", 8), ("flatten", 288)])
def test_pooling(backbone, pooling, units):

    pooled = dataclasses.replace(backbone, pooling=pooling)
    model = heads.attach_heads(pooled, heads=(specs.HeadSpec(name="breed"),), infos=INFOS[:1])
    assert model.get_layer("breed_logits").kernel.shape == (units, 3)


def test_a_feature_map_needs_pooling(backbone):

    bare = dataclasses.replace(backbone, pooling="none")
    with pytest.raises(
        ValueError, match=r"--pooling=none leaves features of shape \(None, 6, 6, 8"
    ):
        heads.attach_heads(bare, heads=(specs.HeadSpec(name="breed"),), infos=INFOS[:1])


def test_the_pixel_range_must_be_settled(backbone):

    open_range = dataclasses.replace(backbone, pixel_range=None)
    with pytest.raises(ValueError, match="Call pixel_range"):
        heads.attach_heads(open_range, heads=(specs.HeadSpec(name="breed"),), infos=INFOS[:1])


def test_a_saved_model_opens_again_with_the_same_answers(backbone, tmp_path):
    settled = pixel_range.PixelRange("caffe", "asked for", warning=False)

    model = heads.attach_heads(
        dataclasses.replace(backbone, pixel_range=settled),
        heads=(specs.HeadSpec(name="breed"),),
        infos=INFOS[:1],
    )
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    image = np.random.default_rng(0).uniform(0, 255, (2, 12, 12, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        model.predict({"image": image}, verbose=0)["breed"],
        again.predict({"image": image}, verbose=0)["breed"],
    )


def test_biases_start_where_they_are_told(backbone):
    specs_of_heads = tuple(specs.HeadSpec(name=info.name) for info in INFOS)
    model = heads.attach_heads(
        backbone,
        heads=specs_of_heads,
        infos=INFOS,
        biases={"tags": np.array([-2.0, 1.0], np.float32)},
    )
    for name, expected in {"breed": [0, 0, 0], "wild": [0], "tags": [-2, 1]}.items():
        np.testing.assert_array_equal(model.get_layer(f"{name}_logits").bias.numpy(), expected)


def test_regression_answers_in_the_labels_unit(backbone, tmp_path):
    info = head_kinds.HeadInfo("age", "regression", (), mean=1000.0, deviation=4.0)
    model = heads.attach_heads(backbone, heads=(specs.HeadSpec(name="age"),), infos=(info,))
    layer = model.get_layer("age_logits")
    layer.kernel.assign(np.zeros(layer.kernel.shape))
    layer.bias.assign([0.5])
    image = np.zeros((2, 12, 12, 3), np.float32)
    path = tmp_path / "model.keras"
    model.save(path)
    for opened in (model, keras.saving.load_model(path)):
        answer = opened.predict({"image": image}, verbose=0)["age"]
        np.testing.assert_array_equal(answer, [[1002.0], [1002.0]])


PIXELS = head_kinds.HeadInfo("mask", "segmentation", ("a", "b", "c"))


def test_a_head_of_pixels_sees_the_map_and_fills_the_image(backbone, tmp_path):
    """Logits are a Dense layer of each position, enlarged bilinear; another head is pooled."""
    both = (specs.HeadSpec(name="mask", dropout=0.0), specs.HeadSpec(name="breed"))
    model = heads.attach_heads(backbone, heads=both, infos=(PIXELS, INFOS[0]))
    assert model.output["mask"].shape == (None, 12, 12, 3)
    assert model.output["breed"].shape == (None, 3)
    images = np.random.default_rng(0).uniform(0, 255, (2, 12, 12, 3)).astype(np.float32)
    found = model({"image": images}, training=False)
    maps = backbone.model(images / 127.5 - 1, training=False)
    layer = model.get_layer("mask_logits")
    logits = np.tensordot(maps, layer.kernel, 1) + np.array(layer.bias)
    expected = keras.ops.image.resize(logits, (12, 12), interpolation="bilinear")
    assert np.allclose(found["mask"], expected, atol=1e-5)
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.saving.load_model(path)({"image": images}, training=False)
    assert np.array_equal(again["mask"], found["mask"])


def test_a_head_of_pixels_needs_a_map(backbone):
    flat = keras.Model(backbone.model.input, keras.layers.Flatten()(backbone.model.output))
    vectors = dataclasses.replace(backbone, model=flat, pooling="none")
    with pytest.raises(
        ValueError,
        match=r"^Head 'mask' is about pixels, and the features have the shape \(None, 288",
    ):
        heads.attach_heads(vectors, heads=(specs.HeadSpec(name="mask"),), infos=(PIXELS,))


COLUMNS = columns.ColumnsSpec(
    (
        columns.ModelInput("numbers", ("age", "height"), "float32", (2,)),
        columns.ModelInput("categories", ("sex",), "string", (1,)),
    )
)
MIXED = mixed_spec.MixedSpec(preprocessing.PreprocessingSpec(12, 12, 3), "photo", COLUMNS)


def test_columns_join_the_features_before_the_heads(backbone):
    encoding = column_encoding.Encoding((40.0, 1.5), (100.0, 0.25), (("f", "m"),))
    model = heads.attach_heads(
        backbone,
        heads=(specs.HeadSpec(name="breed", dropout=0.0),),
        infos=INFOS[:1],
        mixed=MIXED,
        encoding=encoding,
    )
    assert list(model.input) == ["image", "numbers", "categories"]
    image = np.random.default_rng(0).uniform(0, 255, (3, 12, 12, 3)).astype(np.float32)
    numbers = np.array([[50, 1], [40, 1.5], [20, 3]], np.float32)
    given = {
        "image": tf.constant(image),
        "numbers": tf.constant(numbers),
        "categories": tf.constant([["m"], ["f"], ["d"]]),
    }
    features = backbone.model.predict(image / 127.5 - 1, verbose=0).mean((1, 2))
    scaled = (numbers - [40, 1.5]) / [10, 0.5]
    marked = np.array([[0, 1], [1, 0], [0, 0]])
    together = np.concatenate([features, scaled, marked], axis=1)
    kernel, bias = model.get_layer("breed_logits").get_weights()
    np.testing.assert_allclose(model(given)["breed"], together @ kernel + bias, atol=1e-4)
    # Scaling and categories do not train, and the backbone is counted as it is without columns.
    assert len(model.trainable_weights) == 2 + len(backbone.model.trainable_weights)


def test_a_backbone_of_several_inputs_takes_columns_by_name(tmp_path):
    path = tmp_path / "named.keras"
    mixed_files.make_named_network(size=12).save(path)
    named = loading.load_backbone(specs.ModelSpec(model=str(path)))
    spec = columns.ColumnsSpec(
        (
            columns.ModelInput("sex", ("gender",), "string", ()),
            columns.ModelInput("age", ("years",), "float32", (1,)),
        )
    )
    model = heads.attach_heads(
        named,
        heads=(specs.HeadSpec(name="breed", dropout=0.0),),
        infos=INFOS[:1],
        mixed=dataclasses.replace(MIXED, columns=spec),
    )
    assert list(model.input) == ["image", "sex", "age"]
    image = np.random.default_rng(0).uniform(0, 255, (2, 12, 12, 3)).astype(np.float32)
    age, sex = tf.constant([[20.0], [70.0]]), tf.constant(["m", "f"])
    assert [name for name, _, _ in named.inputs] == ["pixels", "age", "sex"]
    features = named.model([tf.constant(image), age, sex])
    kernel, bias = model.get_layer("breed_logits").get_weights()
    received = model({"image": tf.constant(image), "age": age, "sex": sex})["breed"]
    np.testing.assert_allclose(received, features.numpy() @ kernel + bias, atol=1e-5)
