"""Every family of keras.applications, written as .h5 by tf_keras."""

import numpy as np
import pytest

pytest.importorskip("tf_keras")
import tf_keras

from tf_finetune.models import loading

# Application -> (size, options); a size that the family accepts, as small as it can be.
FAST = {"MobileNet": (32, {"alpha": 0.25}), "MobileNetV3Small": (32, {"alpha": 0.75})}
SLOW = {
    "MobileNetV2": (32, {"alpha": 0.35}),
    "MobileNetV3Large": (32, {"minimalistic": True}),
    "EfficientNetB0": (32, {}),
    "EfficientNetV2B0": (32, {}),
    "EfficientNetV2S": (32, {}),
    "ConvNeXtTiny": (32, {}),
    "RegNetX002": (32, {}),
    "RegNetY002": (32, {}),
    "ResNet50": (32, {}),
    "ResNet50V2": (32, {}),
    "ResNetRS50": (32, {}),
    "DenseNet121": (32, {}),
    "NASNetMobile": (75, {}),
    "Xception": (71, {}),
    "InceptionV3": (75, {}),
    "InceptionResNetV2": (75, {}),
    "VGG16": (32, {}),
}
TAKES_BYTES = ("EfficientNet", "MobileNetV3", "ConvNeXt", "RegNet", "ResNetRS")


def _make(name, size, options):
    tf_keras.backend.clear_session()
    model = getattr(tf_keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=7, **options
    )
    generator = np.random.default_rng(0)
    values = []
    for weight in model.weights:
        value = weight.numpy()
        # Harsh statistics would let rounding alone move the outputs.
        if "variance" in weight.name or "gamma" in weight.name:
            value = generator.uniform(0.8, 1.2, value.shape)
        elif any(part in weight.name for part in ("bias", "beta", "mean")):
            value = generator.normal(0, 0.1, value.shape)
        values.append(value)
    model.set_weights(values)
    return model


def _by_name(model) -> dict[str, np.ndarray]:
    found = {}
    for layer in model.layers:
        for index, weight in enumerate(layer.weights):
            leaf = weight.name.rpartition("/")[2].removesuffix(":0")
            leaf = leaf.replace("depthwise_kernel", "kernel")
            found[layer.name.replace("/", "_"), index, leaf] = np.asarray(weight)
    return found


def _check(name, size, options, path):
    written = _make(name, size, options)
    scale = 255 if name.startswith(TAKES_BYTES) else 1
    shape = (2, size, size, 3)
    pixels = np.random.default_rng(1).uniform(0, scale, shape).astype(np.float32)
    expected = np.asarray(written(pixels, training=False))
    written.save(path)
    loaded = loading.load_pretrained(str(path))
    own, reference = _by_name(loaded), _by_name(written)
    assert set(own) == set(reference)
    for key, value in reference.items():
        np.testing.assert_array_equal(own[key], value)
    difference = np.abs(np.asarray(loaded(pixels, training=False)) - expected).max()
    assert difference < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", FAST)
def test_small_application(tmp_path, name):
    _check(name, *FAST[name], tmp_path / "model.h5")


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_application(tmp_path, name):
    _check(name, *SLOW[name], tmp_path / "model.h5")
