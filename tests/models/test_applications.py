import json

import h5py
import keras
import numpy as np
import pytest

from tests import tiny
from tf_finetune import findings, specs
from tf_finetune.models import applications, loading, pixel_range, surgery

FAMILIES = (
    "ConvNeXtTiny",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "InceptionResNetV2",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "MobileNetV3Large",
    "NASNetMobile",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
    "Xception",
)
WEIGHTS = "zoo/h5/k2.0.4_mobilenet_2_5_224_tf_no_top_weights.h5"
ADVICE = (
    "Set alpha, depth_multiplier and the channels of input_shape as they were for these weights, "
    "for example keras:MobileNet,alpha=0.25; or name the application they are of."
)


def load(text: str):
    return applications.load_model(text, specs.ModelSpec(model=text))


def _refusal(text: str) -> str:
    with pytest.raises(findings.RefusedError) as caught:
        loading.load_backbone(specs.ModelSpec(model=text))
    return str(caught.value)


def test_every_part_is_parsed():
    spec = applications.read_application(
        'keras:mobilenetv3small,alpha=0.75,minimalistic=True,input_shape=64x48x1,"weights=a,b=c.h5"'
    )
    assert spec == applications.ApplicationSpec(
        name="MobileNetV3Small",
        weights="a,b=c.h5",
        input_shape=(64, 48, 1),
        arguments={"alpha": 0.75, "minimalistic": True},
    )
    spec = applications.read_application("keras:MobileNet,depth_multiplier=2")
    assert spec.weights == "imagenet"
    assert spec.input_shape is None
    assert spec.arguments == {"depth_multiplier": 2}


def test_unknown_application_names_the_nearest_and_all():
    message = _refusal("keras:ResNet51")
    assert message.startswith(
        "Unknown Keras application 'ResNet51'. Did you mean 'keras:ResNet50'? Keras has "
        "ConvNeXtBase, ConvNeXtLarge,"
    )
    assert message.endswith("VGG16, VGG19, Xception.")
    assert "Did you mean" not in _refusal("keras:")


def test_every_wrong_argument_is_reported():
    message = _refusal(
        "keras:MobileNet,alfa=1,alpha=big,depth_multiplier=1.5,input_shape=64x64x4,weights"
    )
    keys = "weights, input_shape, alpha, depth_multiplier, dropout"
    assert message.splitlines() == [
        f"--model=keras:MobileNet takes KEY=VALUE with the keys {keys}. Received 'alfa=1'. Did you "
        "mean 'alpha'?",
        "--model=keras:MobileNet: alpha expects a number. Received 'big'.",
        "--model=keras:MobileNet: depth_multiplier expects a whole number. Received '1.5'.",
        "--model=keras:MobileNet: input_shape expects HEIGHTxWIDTHxCHANNELS in pixels, such as "
        "128x128x3, with 1 or 3 channels. Received '64x64x4'.",
        f"--model=keras:MobileNet takes KEY=VALUE with the keys {keys}. Received 'weights'.",
    ]
    assert _refusal("keras:MobileNetV3Small,minimalistic=1") == (
        "--model=keras:MobileNetV3Small: minimalistic expects true or false. Received '1'."
    )


def test_shape_that_the_application_refuses():
    assert _refusal("keras:VGG16,weights=none,input_shape=8x8x3") == (
        "--model=keras:VGG16: Keras cannot build it with these arguments: input size must be at "
        "least 32x32; Received: input_shape=(8, 8, 3)."
    )


def test_what_keras_quotes_is_one_plain_line():
    assert _refusal("keras:MobileNet,alpha=0.3,weights=imagenet") == (
        "--model=keras:MobileNet: Keras cannot build it with these arguments: if imagenet weights "
        "are being loaded, alpha can be one of 0.25, 0.50, 0.75 or 1.0 only. Received alpha=0.3."
    )


def test_weights_file_that_does_not_exist():
    assert _refusal("keras:MobileNet,weights=no.h5") == (
        "--model=keras:MobileNet: the weights file 'no.h5' does not exist."
    )


def test_weights_file_that_is_none(tmp_path):
    path = tmp_path / "weights.h5"
    path.write_text("text")
    assert _refusal(f"keras:MobileNet,weights={path}") == (
        f"{path}: is no HDF5 file. Expected weights in a .h5 file."
    )
    with h5py.File(path, "w") as file:
        file["pixels"] = np.zeros(3)
    assert _refusal(f"keras:MobileNet,weights={path}") == (
        f"{path}: the HDF5 file holds no Keras weights (no layer_names attribute)."
    )


def test_download_that_fails_is_one_line(tmp_path, monkeypatch):
    # A proxy that nobody answers at stands for a machine without network.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    message = _refusal("keras:MobileNet,alpha=0.25,input_shape=128x128x3")
    assert message.startswith(
        "--model=keras:MobileNet: the ImageNet weights cannot be downloaded: URL fetch failure on "
    )
    assert message.endswith(" Give weights=PATH, or weights=none.")
    assert "\n" not in message


def test_backbone_without_weights():
    backbone = loading.load_backbone(
        specs.ModelSpec(model="keras:MobileNet,alpha=0.25,input_shape=64x64x3,weights=none")
    )
    assert backbone.input_shape == (64, 64, 3)
    assert backbone.source == "keras.applications.MobileNet, weights none"
    assert backbone.sha256 is None
    assert backbone.dropped == ()
    assert backbone.pixel_range == pixel_range.PixelRange(
        "-1..1", "keras.applications.mobilenet expects it"
    )


def test_weights_of_another_version_and_file_layout(shared):
    path = shared / WEIGHTS
    text = f"keras:mobilenet,alpha=0.25,input_shape=128x128x3,weights={path}"
    backbone = loading.load_backbone(specs.ModelSpec(model=text))
    reference = loading.load_backbone(
        specs.ModelSpec(model=str(shared / "zoo/h5/mobilenet_v1_025_128_notop_keras3.h5"))
    )
    assert backbone.table == reference.table
    for layer, other in zip(backbone.model.layers, reference.model.layers, strict=True):
        for weight, expected in zip(layer.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, expected, err_msg=layer.name)
    entries = json.loads((shared / "zoo/manifest.json").read_text())
    (entry,) = [entry for entry in entries if entry["file"] == WEIGHTS.removeprefix("zoo/")]
    assert backbone.sha256 == entry["sha256"]


def test_weights_that_do_not_fit_name_the_first_layer(shared):
    path = shared / WEIGHTS
    assert _refusal(f"keras:MobileNet,alpha=0.5,weights={path}") == (
        f"{path}: does not fit keras:MobileNet,alpha=0.5: layer 'conv1' has the shape (3, 3, 3, 8) "
        f"in the file and (3, 3, 3, 16) in the architecture ('conv1'). {ADVICE}"
    )


def _save_legacy_weights(model: keras.Model, path, *, rename=lambda name: name, skip=0) -> None:
    """As Keras 2 wrote weights-only files."""
    layers = [layer for layer in model.layers if layer.weights]
    with h5py.File(path, "w") as file:
        for layer in layers[: len(layers) - skip]:
            for weight in layer.weights:
                file[f"{rename(layer.name)}/{weight.name}:0"] = np.asarray(weight)
            names = [f"{weight.name}:0" for weight in layer.weights]
            file[rename(layer.name)].attrs["weight_names"] = names
        file.attrs["layer_names"] = [rename(layer.name) for layer in layers[: len(layers) - skip]]


ARCHITECTURE = "keras:MobileNet,alpha=0.25,input_shape=32x32x3"


@pytest.fixture(scope="module")
def whole():
    model = keras.applications.MobileNet(
        alpha=0.25, input_shape=(32, 32, 3), weights=None, classes=7
    )
    tiny.randomize_statistics(model)
    return model


@pytest.mark.parametrize("rename", [lambda name: name, lambda name: f"{name}_9"])
def test_weights_with_the_old_classifier_are_taken_by_name_or_order(tmp_path, whole, rename):
    path = tmp_path / "w.h5"
    _save_legacy_weights(whole, path, rename=rename)
    backbone = loading.load_backbone(specs.ModelSpec(model=f"{ARCHITECTURE},weights={path}"))
    for layer in backbone.model.layers:
        for weight, expected in zip(
            layer.get_weights(),
            whole.get_layer(layer.name).get_weights() if layer.weights else [],
            strict=True,
        ):
            np.testing.assert_array_equal(weight, expected)


def test_weights_of_too_few_layers(tmp_path, whole):
    path = tmp_path / "w.h5"
    _save_legacy_weights(whole, path, skip=3)
    assert _refusal(f"{ARCHITECTURE},weights={path}") == (
        f"{path}: does not fit {ARCHITECTURE}: it has weights of 52 layers, the architecture of 54."
    )


def test_weights_of_keras_3(tmp_path):
    model = load(f"{ARCHITECTURE},weights=none").model
    tiny.randomize_statistics(model)
    path = tmp_path / "w.h5.weights.h5"
    model.save_weights(path)
    loaded = load(f"{ARCHITECTURE},weights={path}")
    assert loaded.source == f"keras.applications.MobileNet, weights from {path}"
    for weight, expected in zip(loaded.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    other = ARCHITECTURE.replace("0.25", "0.5")
    message = _refusal(f"{other},weights={path}")
    assert message == (
        f"{path}: does not fit {other}: layer 'conv1' has the shape (3, 3, 3, 8) in the file and "
        f"(3, 3, 3, 16) in the architecture ('conv1'). {ADVICE}"
    )


def _check_family(name: str) -> None:
    """The old classifier is found, and cutting and flattening keep the features."""
    build = getattr(keras.applications, name)
    size = 75 if name.startswith(("Inception", "Xception")) else 64
    model = build(weights=None, input_shape=(size, size, 3), classes=7)
    tiny.randomize_statistics(model)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    nested = keras.Sequential([keras.Input(batch_shape=(2, size, size, 3)), model])
    head = build(weights=None, input_shape=(size, size, 3), include_top=False)
    weights = {layer.name: layer for layer in model.layers}
    first = [layer for layer in head.layers if layer.weights]
    second = [layer for layer in model.layers if layer.weights][: len(first)]
    for layer, other in zip(first, second, strict=True):
        layer.set_weights(other.get_weights())
    expected = np.asarray(head(pixels, training=False))
    cut = surgery.cut_model(nested)
    assert cut.reason.startswith("The old classifier '")
    assert "7 units" in cut.reason
    assert weights.keys() >= set(cut.dropped)
    features = np.asarray(cut.model(pixels, training=False))
    if features.shape == expected.shape:
        np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)
    else:
        # The whole model does more before its classifier: a hidden layer, a normalization.
        assert name in ("ConvNeXtTiny", "MobileNetV3Small", "MobileNetV3Large", "VGG16")


def test_old_classifier_of_mobilenet():
    _check_family("MobileNet")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_old_classifier_of_every_family(name):
    _check_family(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_pixel_range_of_every_family_is_what_its_preprocess_input_makes(name):
    backbone = loading.load_backbone(specs.ModelSpec(model=f"keras:{name},weights=none"))
    module = load(f"keras:{name},weights=none").application
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype(np.float32)
    expected = getattr(keras.applications, module).preprocess_input(pixels.copy())
    scaled = pixel_range.scale_pixels(pixels, backbone.pixel_range.name)
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-4)
