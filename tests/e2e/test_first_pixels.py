"""The pixels that reach a model's first convolution are those it was trained on.

The first convolution is made to hand its pixels on (a kernel with one 1), everything behind it is
cut off and the head adds nothing, so that the logits are the pixels: in a training call, in
evaluation and, through sigmoid and back, in the export, from an encoded image.
"""

import io

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tests import tiny
from tf_finetune import evaluation, exporting, head_kinds, heads, prediction, specs
from tf_finetune.data import preprocessing
from tf_finetune.models import loading

SIZE = 32
COLOR = (200, 100, 50)
INFO = head_kinds.HeadInfo("label", "multilabel", ("a", "b", "c"), (0.5, 0.5, 0.5))
HEAD = specs.HeadSpec(name="label", kind="multilabel", dropout=0.0)


def hand_on(layer: keras.layers.Layer) -> None:
    """Makes a convolution copy its first three channels."""
    kernel = np.zeros(layer.kernel.shape, np.float32)
    for channel in range(3):
        kernel[kernel.shape[0] // 2, kernel.shape[1] // 2, channel, channel] = 1
    layer.kernel.assign(kernel)
    if layer.use_bias:
        layer.bias.assign(np.zeros(layer.bias.shape))
    layer.activation = keras.activations.linear


def first_convolution(model: keras.Model) -> keras.layers.Layer:
    return next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))


def attach(backbone, expected):
    """A model whose logits are the pixels times a scale that keeps sigmoid exact; the scale."""
    model = heads.attach_heads(backbone, heads=[HEAD], infos=[INFO], image_shape=(SIZE, SIZE, 3))
    scale = 4 / max(1.0, float(np.abs(expected).max()))
    dense = model.get_layer("label_logits")
    dense.kernel.assign(np.eye(dense.kernel.shape[0], 3) * scale)
    dense.bias.assign(np.zeros(3))
    return model, scale


def png() -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (SIZE, SIZE), COLOR).save(file, "PNG")
    return file.getvalue()


def check(backbone, expected, tmp_path) -> None:
    """Compares what reaches the first convolution of an image of one colour, on every way there."""
    model, scale = attach(backbone, expected)
    image = np.full((1, SIZE, SIZE, 3), COLOR, np.float32)

    @tf.function
    def train_call(pixels):
        return model({"image": pixels}, training=True)["label"]

    def compare(where, logits):
        pixels = np.asarray(logits) / scale
        np.testing.assert_allclose(pixels, expected, rtol=1e-3, atol=2e-3, err_msg=where)

    compare("training", train_call(tf.constant(image))[0])
    prepared = preprocessing.PreprocessingSpec(SIZE, SIZE, 3, "squash", None)
    predict = prediction.model_predictor(model, (INFO,), prepared)
    compare("prediction", to_logits(predict([png()])["label"].probabilities[0]))
    dataset = tf.data.Dataset.from_tensors(({"image": image}, {"label": np.zeros((1, 3))}))
    measured = evaluation.evaluate_model(model, dataset, heads=(INFO,), split="test")
    loss = np.log1p(np.exp(np.array(expected) * scale)).mean()
    np.testing.assert_allclose(measured.loss, loss, rtol=1e-3, err_msg="evaluation")
    exported = exporting.write_export(
        model,
        heads=(INFO,),
        preprocessing=prepared,
        export_dir=str(tmp_path / "export"),
        warmup_inputs=[],
    )
    served = tf.saved_model.load(exported.path).signatures["serve_bytes"]
    found = served(image_bytes=tf.constant([png()]))["probabilities"][0]
    compare("export", to_logits(found))


def to_logits(probabilities) -> np.ndarray:
    probabilities = np.asarray(probabilities, np.float64)
    return np.log(probabilities / (1 - probabilities))


def load_cut(path, **options):
    """A backbone that ends at the first convolution, and hands its pixels on."""
    whole = loading.load_backbone(specs.ModelSpec(model=str(path)))
    name = first_convolution(whole.model).name
    backbone = loading.load_backbone(specs.ModelSpec(model=str(path), cut_layer=name, **options))
    hand_on(first_convolution(backbone.model))
    return backbone


def scale_by_hand(name: str) -> list[float]:
    """The formulas of keras.applications.imagenet_utils, written out."""
    red, green, blue = COLOR
    if name == "-1..1":
        return [value / 127.5 - 1 for value in COLOR]
    if name == "caffe":
        return [blue - 103.939, green - 116.779, red - 123.68]
    if name == "torch":
        pairs = zip(COLOR, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
        return [(value / 255 - mean) / std for value, mean, std in pairs]
    return [value / {"0..1": 255, "0..255": 1}[name] for value in COLOR]


@pytest.mark.parametrize(
    ("application", "expected"),
    [
        ("MobileNet", "-1..1"),
        ("MobileNetV3Small", "-1..1"),  # by the rescaling inside
        ("VGG16", "caffe"),
        ("DenseNet121", "torch"),
        ("EfficientNetB0", "0..1"),  # by the rescaling inside; weights=none normalizes no further
    ],
)
def test_application(application, expected, tmp_path):
    model = f"keras:{application},weights=none,input_shape={SIZE}x{SIZE}x3"
    check(load_cut(model), scale_by_hand(expected), tmp_path)


@pytest.mark.parametrize("name", ["0..1", "-1..1", "0..255", "caffe", "torch"])
def test_named_range(name, tmp_path):
    path = tmp_path / "model.keras"
    tiny.make_classifier(size=SIZE).save(path)
    check(load_cut(path, pixel_range=name), scale_by_hand(name), tmp_path)


def test_rescaling_inside_is_not_doubled(tmp_path):
    pixels = keras.Input((SIZE, SIZE, 3))
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    features = keras.layers.Conv2D(4, 3, padding="same")(scaled)
    path = tmp_path / "model.h5"
    keras.Model(pixels, features).save(path)
    check(load_cut(path), scale_by_hand("-1..1"), tmp_path)


def test_saved_application_is_known_by_its_layers(tmp_path):
    path = tmp_path / "model.h5"
    keras.applications.MobileNet(weights=None, alpha=0.25, input_shape=(SIZE, SIZE, 3)).save(path)
    check(load_cut(path), scale_by_hand("-1..1"), tmp_path)


class Convolution(tf.Module):
    """A reusable module: a 1x1 convolution that hands its pixels on, and their mean."""

    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(np.eye(3, dtype=np.float32)[None, None], name="conv/kernel")

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32)])
    def __call__(self, images):
        return tf.reduce_mean(tf.nn.conv2d(images, self.kernel, 1, "SAME"), axis=[1, 2])


@pytest.mark.parametrize(("requested", "expected"), [("auto", "0..1"), ("-1..1", "-1..1")])
def test_hub_module(requested, expected, tmp_path):
    tf.saved_model.save(Convolution(), str(tmp_path / "module"))
    spec = specs.ModelSpec(model=str(tmp_path / "module"), pixel_range=requested)
    check(loading.load_backbone(spec), scale_by_hand(expected), tmp_path)


@pytest.mark.parametrize("inside", ["rescaling", "operations"])
def test_keras_2_file_that_scales_inside(inside, tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    pixels = tf_keras.Input((SIZE, SIZE, 3))
    if inside == "rescaling":
        scaled = tf_keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    else:
        scaled = pixels / 127.5 - 1.0
    features = tf_keras.layers.Conv2D(4, 3, padding="same")(scaled)
    path = tmp_path / "model.h5"
    tf_keras.Model(pixels, features).save(path)
    check(load_cut(path), scale_by_hand("-1..1"), tmp_path)


def test_channels_first(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    layers = tf_keras.layers
    pixels = tf_keras.Input((3, SIZE, SIZE))
    first = {"data_format": "channels_first"}
    x = layers.Conv2D(4, 3, padding="same", name="first", **first)(pixels)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.GlobalAveragePooling2D(**first)(x)
    path = tmp_path / "model.h5"
    tf_keras.Model(pixels, layers.Dense(2, activation="softmax")(x)).save(path)
    check(load_cut(path, pixel_range="0..1"), scale_by_hand("0..1"), tmp_path)
