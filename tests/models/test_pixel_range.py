import dataclasses
import io
import typing
import zipfile

import keras
import numpy as np
import PIL.Image
import pytest

from tests import tiny
from tf_finetune import findings
from tf_finetune.models import loading, pixel_range, surgery

L = keras.layers
NAMES = ("0..1", "-1..1", "0..255", "caffe", "torch")
FALLBACK = "0..1 is the most common range; set --pixel_range if you know better"


def _natural(count=40, *, size=16, channels=3, seed=0) -> np.ndarray:
    """Smooth images with the contrast of photographs, channels of their own brightness."""
    generator = np.random.default_rng(seed)
    coarse = generator.normal(0, 60, (count, 5, 5, channels))
    images = np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)[:, :size, :size]
    means = np.array([140.0, 115.0, 90.0])[:channels]
    return np.clip(images + means, 0, 255).astype(np.float32)


def _trained(name: str, pixels: np.ndarray) -> keras.Model:
    """A model whose BatchNormalization saw these pixels in a range."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(pixels.shape[1:])
    x = L.BatchNormalization(momentum=0.0)(L.Conv2D(16, 3, use_bias=False)(inputs))
    x = L.BatchNormalization(momentum=0.0)(L.Conv2D(8, 3)(L.ReLU()(x)))
    model = keras.Model(inputs, x)
    for _ in range(2):
        model(pixel_range.scale_pixels(pixels, name), training=True)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_statistics_tell_every_range(name):
    model = _trained(name, _natural(seed=5))
    assert pixel_range.find_pixel_range(model) is None
    found = pixel_range.range_from_statistics(model, _natural())
    assert (found.name, found.warning) == (name, False)
    assert found.reason.startswith(
        f"the data then fits the statistics of the first BatchNormalization ({name}: 0.0"
    )


def test_statistics_tell_the_range_in_half_precision():
    model = _trained("torch", _natural(seed=5))
    half = surgery.cut_model(model, precision="bfloat16").model
    assert half.outputs[0].dtype == "bfloat16"
    assert pixel_range.range_from_statistics(half, _natural()).name == "torch"


@pytest.mark.parametrize("name", ["0..1", "-1..1", "0..255"])
def test_statistics_tell_the_range_of_grey_images(name):
    model = _trained(name, _natural(seed=5, channels=1))
    found = pixel_range.range_from_statistics(model, _natural(channels=1))
    assert (found.name, found.warning) == (name, False)


def test_data_unlike_the_training_data_gives_a_warning():
    model = _trained("0..1", _natural(seed=5))
    found = pixel_range.range_from_statistics(model, 0.05 * _natural() + 240)
    assert (found.name, found.warning) == ("0..1", True)
    assert found.reason.startswith(
        "the statistics of the first BatchNormalization fit no range clearly ("
    )
    assert found.reason.endswith(f": {FALLBACK}")


def test_untrained_statistics_and_none_at_all_give_a_warning():
    expected = pixel_range.PixelRange(
        "0..1", f"nothing in the model tells its range: {FALLBACK}", warning=True
    )
    inputs = keras.Input((16, 16, 3))
    x = L.Conv2D(4, 3)(inputs)
    for output in (x, L.BatchNormalization()(x)):
        model = keras.Model(inputs, output)
        assert pixel_range.find_pixel_range(model) == expected
        assert pixel_range.range_from_statistics(model, _natural()) == expected


def _rename(model: keras.Model) -> None:
    for number, layer in enumerate(model.layers):
        layer.name = f"layer_{number}"


def test_statistics_of_a_real_mobilenet_tell_its_range_on_photographs(shared):
    model = loading.load_pretrained(str(shared / "zoo/h5/mobilenet_v1_025_128_notop_keras3.h5"))
    assert (
        pixel_range.find_pixel_range(model).reason == "its layers are named as those of MobileNet"
    )
    _rename(model)
    assert pixel_range.find_pixel_range(model) is None
    found = pixel_range.range_from_statistics(model, _photographs(shared, 48))
    assert (found.name, found.warning) == ("-1..1", False)


def _photographs(shared, count: int) -> np.ndarray:
    with zipfile.ZipFile(shared / "zoo/data/sign_language_digits.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith(".jpg"))
        names = names[:: len(names) // count][:count]
        images = [PIL.Image.open(io.BytesIO(archive.read(name))) for name in names]
    return np.stack([np.asarray(image.resize((128, 128)), np.float32) for image in images])


@dataclasses.dataclass(frozen=True)
class Holder:
    model: typing.Any
    pixel_range: pixel_range.PixelRange | None


def test_settle_asks_the_statistics_only_where_the_model_did_not_tell():
    model = _trained("torch", _natural(seed=5))
    assert pixel_range.settle(Holder(model, None), _natural()).pixel_range.name == "torch"
    known = Holder(model, pixel_range.PixelRange("caffe", "because"))
    assert pixel_range.settle(known, _natural()) is known


@pytest.mark.parametrize("name", NAMES)
def test_layers_equal_the_formula_and_are_plain(name, tmp_path):
    pixels = _natural(3)
    inputs = keras.Input((None, None, 3))
    x = inputs
    for layer in pixel_range.scaling_layers(name, 3):
        assert layer.compute_dtype == "float32"
        x = layer(x)
    model = keras.Model(inputs, L.ZeroPadding2D(0)(x))
    assert model.trainable_weights == []
    expected = pixel_range.scale_pixels(pixels, name)
    np.testing.assert_allclose(model(pixels), expected, rtol=1e-5, atol=1e-5)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(pixels), model(pixels))


@pytest.mark.parametrize(
    ("name", "module"), [("-1..1", "mobilenet"), ("caffe", "resnet"), ("torch", "densenet")]
)
def test_ranges_equal_keras_preprocess_input(name, module):
    pixels = _natural(2)
    expected = getattr(keras.applications, module).preprocess_input(pixels.copy())
    np.testing.assert_allclose(
        pixel_range.scale_pixels(pixels, name), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["caffe", "torch"])
def test_colour_ranges_are_refused_for_one_channel(name):
    message = (
        f"--pixel_range={name} is for models of 3 channels. The model has 1: use 0..1, -1..1 or "
        "0..255."
    )
    with pytest.raises(findings.RefusedError) as caught:
        pixel_range.scaling_layers(name, 1)
    assert str(caught.value) == message
    with pytest.raises(findings.RefusedError) as caught:
        pixel_range.find_pixel_range(tiny.make_classifier(channels=1), requested=name)
    assert str(caught.value) == message


def _with_scaling(*layers) -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, L.Conv2D(4, 3, name="conv")(x))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (lambda: [L.Rescaling(1 / 255, name="scale")], "0..255"),
        (lambda: [L.Rescaling(1 / 127.5, -1, name="scale")], "0..255"),
        (
            lambda: [
                L.RandomFlip(),
                L.Rescaling(1 / 255),
                L.Normalization(mean=(0.485, 0.456, 0.406), variance=(0.05, 0.05, 0.05)),
            ],
            "0..255",
        ),
        (lambda: [L.Normalization(mean=(120, 115, 100), variance=(3000, 3000, 3000))], "0..255"),
        (lambda: [L.Rescaling(1.0, (-124, -117, -104))], "0..255"),
        (lambda: [L.Rescaling(2.0, -1)], "0..1"),
        (lambda: [L.Rescaling(255.0), L.ZeroPadding2D()], "0..1"),
        (lambda: [L.Normalization(mean=(0.5, 0.5, 0.5), variance=(0.06, 0.06, 0.06))], "0..1"),
        (lambda: [L.Rescaling(0.5, 0.5)], "-1..1"),
        (lambda: [L.Rescaling(127.5, 127.5)], "-1..1"),
    ],
)
def test_scaling_inside_the_model_tells_the_range(layers, expected):
    assert pixel_range.find_pixel_range(_with_scaling(*layers())).name == expected


def test_scaling_inside_the_model_is_named():
    found = pixel_range.find_pixel_range(_with_scaling(L.Rescaling(1 / 255, name="scale")))
    assert found == pixel_range.PixelRange("0..255", "the model scales pixels itself ('scale')")


@pytest.mark.parametrize("name", ["0..1", "-1..1", "caffe", "torch"])
def test_models_with_our_own_scaling_take_0_to_255(name):
    found = pixel_range.find_pixel_range(_with_scaling(*pixel_range.scaling_layers(name, 3)))
    assert found.name == "0..255"
    assert found.reason == "the model scales pixels itself ('scale_pixels')"


def test_arithmetic_inside_the_model_counts_as_scaling():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, L.Conv2D(4, 3)(inputs / 127.5 - 1.0))
    assert pixel_range.find_pixel_range(model).name == "0..255"


def test_layers_that_scale_nothing_do_not_count():
    model = _with_scaling(L.ZeroPadding2D(), L.RandomFlip(), L.Dropout(0.1), L.Rescaling(1.0))
    found = pixel_range.find_pixel_range(model)
    assert found.warning


def test_requested_range_wins():
    model = _with_scaling(L.Rescaling(1 / 255))
    found = pixel_range.find_pixel_range(model, requested="torch", application="resnet")
    assert found == pixel_range.PixelRange("torch", "as --pixel_range says")


def test_application_of_one_channel_falls_back_with_a_warning():
    model = tiny.make_classifier(channels=1)
    found = pixel_range.find_pixel_range(model, application="resnet")
    assert found == pixel_range.PixelRange(
        "0..1", "caffe is for 3 channels, the model has 1: set --pixel_range", warning=True
    )


@pytest.mark.parametrize(
    ("application", "expected"),
    [("MobileNetV2", "-1..1"), ("VGG16", "caffe")],
)
def test_architecture_is_known_by_its_layer_names(application, expected):
    build = getattr(keras.applications, application)
    model = build(weights=None, include_top=False, input_shape=(32, 32, 3))
    assert pixel_range.find_pixel_range(model).name == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("application", "module"),
    [
        ("DenseNet121", "densenet"),
        ("EfficientNetB0", "efficientnet"),
        ("InceptionResNetV2", "inception_resnet_v2"),
        ("InceptionV3", "inception_v3"),
        ("MobileNetV3Small", "mobilenet_v3"),
        ("NASNetMobile", "nasnet"),
        ("ResNet152", "resnet"),
        ("ResNet50", "resnet"),
        ("ResNet101V2", "resnet_v2"),
        ("VGG19", "vgg19"),
        ("Xception", "xception"),
    ],
)
def test_names_and_application_agree(application, module):
    build = getattr(keras.applications, application)
    model = build(weights=None, include_top=False, input_shape=(96, 96, 3))
    by_names = pixel_range.find_pixel_range(model)
    assert by_names.name == pixel_range.find_pixel_range(model, application=module).name


def test_statistics_behind_columns_say_nothing_of_pixels():
    # A scale by a column, as in a network that is conditioned on one, ends what pixels alone reach.
    image, size = keras.Input((16, 16, 3), name="image"), keras.Input((4,), name="size")
    x = keras.layers.Conv2D(4, 3, name="conv")(image)
    x = keras.layers.Multiply()([x, keras.layers.Reshape((1, 1, 4))(size)])
    x = keras.layers.BatchNormalization(name="norm")(x)
    model = keras.Model([image, size], x)
    model.get_layer("norm").moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    sample = np.random.default_rng(0).uniform(0, 255, (30, 16, 16, 3)).astype(np.float32)
    assert pixel_range.find_pixel_range(model).name == "0..1"
    assert pixel_range.range_from_statistics(model, sample).warning
