"""What saved_model.pb tells without TensorFlow is what loading tells."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import serving_models
from tests.models import saved_models
from tf_finetune import exporting, findings, inspection, specs
from tf_finetune.models import loading
from tf_finetune.models.saved import stored_module

IMAGE = tf.TensorSpec([None, 4, 4, 3], tf.float32)


def agree(path, *, runs=False, **options):
    """Compares both ways; `runs`: the shape of the features is learnt from a run alone."""
    spec = specs.ModelSpec(model=str(path), **options)
    stored = stored_module.describe_module(str(path), spec)
    loaded = loading.load_backbone(spec)
    assert stored.table == loaded.table
    assert stored.source == loaded.source
    assert stored.notes == loaded.notes
    assert stored.cut_reason == loaded.cut_reason
    assert [(end.name, end.shape) for end in stored.outputs] == list(loaded.outputs)
    assert stored.pixel_range == loaded.pixel_range
    assert [(end.name, end.shape, end.dtype) for end in stored.inputs] == [
        (tensor.name, tuple(tensor.shape), tensor.dtype) for tensor in loaded.model.inputs
    ]
    if runs:
        assert stored.features_shape is None or stored.features_shape[-1] is None
    else:
        assert stored.features_shape == tuple(loaded.model.output.shape)
        assert stored.pooling == loaded.pooling
    return stored


def refused_alike(path, **options):
    spec = specs.ModelSpec(model=str(path), **options)
    stored = stored_module.describe_module(str(path), spec)
    with pytest.raises(findings.RefusedError) as caught:
        loading.load_backbone(spec)
    assert f"{path}: {stored.refusal}" == str(caught.value)
    assert (stored.cut_reason, stored.features_shape, stored.pooling) == (None, None, None)
    return stored


def raised_alike(path, **options):
    spec = specs.ModelSpec(model=str(path), **options)
    texts = []
    for load in (lambda: stored_module.describe_module(str(path), spec),
                 lambda: loading.load_backbone(spec)):  # fmt: skip
        with pytest.raises(findings.RefusedError) as caught:
            load()
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    return texts[0]


def write(tmp_path, function, *specs, **options):
    saved_models.write_function(tmp_path / "module", function, *specs, **options)
    return tmp_path / "module"


# --- modules of real programs


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("google_tfexamples_hub_module_v1_mini", True),
        ("google_tfexamples_hub_module_v1_mini_train", True),
        ("google_tfexamples_saved_model_v2_mini", True),
        ("guesslang", False),
        ("hub_format_mobilenet_v1_025_128_fv", False),
    ],
)
def test_modules_of_the_zoo(shared, name, runs):
    agree(shared / "zoo" / "savedmodel" / name, runs=runs)


def test_other_signatures_and_refusals_of_the_zoo(shared):
    folder = shared / "zoo" / "savedmodel"
    agree(folder / "guesslang", cut_layer="predict:logits")
    text = raised_alike(folder / "guesslang", cut_layer="nothing:logits")
    assert "has no signature 'nothing'" in text
    text = raised_alike(folder / "guesslang", cut_layer="predict:scores")
    assert text == (
        "Unknown output 'scores' of the signature 'predict'. Its outputs of floats: 'logits', "
        "'probabilities'."
    )
    text = raised_alike(folder / "guesslang", cut_layer="classes")
    assert text == (
        "--cut_layer: the output 'classes' of the signature 'serving_default' is of type string, "
        "and features are floats. Its outputs of floats: 'scores'. Other signatures have "
        "'predict:logits'."
    )
    pitch = refused_alike(folder / "basic_pitch_nmp")
    assert len(pitch.table) == 9
    assert [(end.name, end.shape) for end in pitch.inputs] == [("input", (None, 43844, 1))]


def test_many_feature_maps_of_the_zoo(shared):
    path = shared / "zoo" / "savedmodel" / "google_tfexamples_fake_effdet_lite0_hub"
    maps = refused_alike(path)
    assert maps.refusal == (
        "__call__ has 10 outputs of different shapes (output_0/output_0 float32 [?, 40, 40, 64], "
        "output_0/output_1 float32 [?, 20, 20, 64], output_0/output_2 float32 [?, 10, 10, 64], "
        "output_0/output_3 float32 [?, 5, 5, 64] and 6 more). Name the one that the new heads "
        "should get with --cut_layer."
    )
    names = [row.name for row in agree(path, cut_layer="output_0/output_1").table.rows]
    assert names == ["conv2d", *(f"conv2d_{number}" for number in range(1, 10))]


# --- modules that TensorFlow 2 writes


def test_image_modules(tmp_path):
    saved_models.write_image_module(tmp_path / "fixed")
    saved_models.write_image_module(tmp_path / "free", size=None)
    assert [row.name for row in agree(tmp_path / "fixed").table.rows] == ["conv", "norm", "dense"]
    agree(tmp_path / "free")
    agree(tmp_path / "fixed", pixel_range="caffe", pooling="none")
    assert "--pooling=max" in raised_alike(tmp_path / "fixed", pooling="max")


def test_an_encoder_with_and_without_its_preprocessor(tmp_path):
    saved_models.write_encoder(tmp_path / "encoder")
    saved_models.write_preprocessor(tmp_path / "words")
    encoder, words = tmp_path / "encoder", str(tmp_path / "words")
    agree(encoder, preprocessor=words)
    agree(encoder, preprocessor=words, cut_layer="sequence_output")
    assert "name the SavedModel that makes them" in refused_alike(encoder).refusal
    assert "Unknown output 'pooled'" in raised_alike(
        encoder, preprocessor=words, cut_layer="pooled"
    )
    assert "expected one input" in raised_alike(encoder, preprocessor=str(encoder))
    assert "has no output of floats" in refused_alike(tmp_path / "words").refusal


@pytest.mark.parametrize("batch", [None, 2])
def test_signatures_alone(tmp_path, batch):
    scale = tf.Variable(tf.ones([3]), name="scale/value")
    steps = tf.Variable(5, name="steps/count", trainable=False)

    def run(images):
        mean = tf.reduce_mean(images, [1, 2]) * scale + tf.cast(steps, tf.float32)
        return {"features": mean, "map": images, "text": tf.constant(["a"])}

    spec = tf.TensorSpec([batch, 4, 4, 3], tf.float32)
    path = write(tmp_path, run, spec, variables=[scale, steps])
    assert [row.name for row in agree(path).table.rows] == ["scale"]
    agree(path, cut_layer="map", pooling="max")


def test_whole_numbers_and_texts(tmp_path):
    def run(images):
        return tf.cast(images[:, ::2, ::2], tf.float32)

    path = write(tmp_path / "pixels", run, tf.TensorSpec([None, None, None, 3], tf.uint8))
    assert agree(path).pixel_range.reason == "its input is uint8"
    path = write(
        tmp_path / "text",
        lambda text: {"scores": tf.strings.to_number(text)},
        tf.TensorSpec([None, 1], tf.string),
    )
    assert agree(path).inputs[0].dtype == "string"


def test_what_only_a_run_tells_is_left_open(tmp_path):
    def run(images):
        mean = tf.reduce_mean(images, [1, 2])
        return {"features": tf.raw_ops.PlaceholderWithDefault(input=mean, shape=None)}

    path = write(tmp_path, run, IMAGE)
    assert agree(path, runs=True).pooling is None
    text = inspection.describe_model(specs.ModelSpec(model=str(path)))
    lines = dict(line.split(":", 1) for line in text.splitlines() if ": " in line)
    assert {label: text.strip() for label, text in lines.items()}.items() >= {
        "Output": "features ? float32",
        "Signature": "serving_default: images float32 [?, 4, 4, 3] -> features float32 of any "
        "shape",
        "Features": "?",
        "Pooling": "settled when the model is loaded, by running it",
    }.items()


def test_a_keras_savedmodel_of_tf_keras(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    old = tf_keras.Sequential(
        [
            tf_keras.layers.Conv2D(2, 3, input_shape=(8, 8, 3), name="conv"),
            tf_keras.layers.BatchNormalization(name="norm"),
            tf_keras.layers.GlobalAveragePooling2D(),
        ]
    )
    old.compile("adam", "mse")
    old.fit(np.zeros((2, 8, 8, 3)), np.zeros((2, 2)), verbose=0)
    old.save(tmp_path / "old", save_format="tf")
    assert [row.name for row in agree(tmp_path / "old").table.rows] == ["conv", "norm"]


def test_an_export_of_keras_3(tmp_path):
    old = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(2, 3),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    old.layers[0].trainable = False
    old.export(tmp_path / "module", verbose=False)
    assert len(agree(tmp_path / "module").table) == 2


def test_probabilities_are_told_and_other_outputs_are_named(tmp_path, shared):
    told = agree(shared / "zoo" / "savedmodel" / "guesslang").notes
    assert told[-1] == (
        "The features 'scores' are the old classifier's probabilities (Softmax), which tell little "
        "about other classes. --cut_layer=OUTPUT chooses another: 'predict:logits'."
    )
    agree(tmp_path_of_scores(tmp_path, tf.nn.softmax), cut_layer="logits")
    path = tmp_path_of_scores(tmp_path, tf.sigmoid)
    assert (
        agree(path, cut_layer="scores")
        .notes[-1]
        .endswith(
            "(Sigmoid), which tell little about other classes. --cut_layer=OUTPUT chooses another: "
            "'logits'."
        )
    )


def tmp_path_of_scores(tmp_path, function):
    def run(images):
        logits = tf.reduce_mean(images, [1, 2])
        return {"logits": logits, "scores": tf.identity(function(logits))}

    return write(tmp_path / function.__name__, run, IMAGE)


def test_scaling_inside_a_keras_savedmodel(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    for scale, offset, expected in ((1 / 127.5, -1, "0..255"), (2.0, -1.0, "0..1")):
        layers = [
            tf_keras.layers.Rescaling(scale, offset=offset, input_shape=(8, 8, 3)),
            tf_keras.layers.ZeroPadding2D(),
            tf_keras.layers.Conv2D(2, 3, name="conv"),
            tf_keras.layers.GlobalAveragePooling2D(),
            tf_keras.layers.Dropout(0.5),
            tf_keras.layers.Dense(1, activation="sigmoid", name="old"),
        ]
        path = tmp_path / expected
        tf_keras.Sequential(layers).save(path, save_format="tf")
        found = agree(path)
        assert found.pixel_range.name == expected
        assert found.pixel_range.reason == "the model scales pixels itself ('Mul', 'AddV2')"
        assert found.notes[-1] == (
            "The features 'output' are the old classifier's probabilities (Sigmoid), which tell "
            "little about other classes. The SavedModel has no other output: features from before "
            "its classifier learn better."
        )


def test_an_own_export_is_refused(tmp_path):
    head = serving_models.MULTICLASS
    exported = exporting.write_export(
        serving_models.make_model(head),
        heads=(head,),
        preprocessing=serving_models.make_spec(),
        export_dir=str(tmp_path / "export"),
        warmup_inputs=(),
    )
    assert refused_alike(exported.path).refusal == (
        "is an export of this program, made for serving: it returns probabilities, no features. "
        "Train on from the model.keras in the WORKDIR of its run."
    )


def test_a_preprocessor_where_none_is_needed(tmp_path):
    saved_models.write_image_module(tmp_path / "image")
    saved_models.write_preprocessor(tmp_path / "words")
    text = raised_alike(tmp_path / "image", preprocessor=str(tmp_path / "words"))
    assert text == (
        f"--preprocessor is for a SavedModel that takes tokens. --model={tmp_path / 'image'} takes "
        "images: leave --preprocessor out."
    )


def test_several_inputs_and_nothing_to_call(tmp_path):
    path = write(tmp_path / "two", lambda a, b: {"y": a + b}, IMAGE, IMAGE)
    assert refused_alike(path).signatures[0].name == "serving_default"
    module = tf.Module()
    module.weight = tf.Variable(1.0)
    tf.saved_model.save(module, str(tmp_path / "none"))
    assert "nothing to run" in raised_alike(tmp_path / "none")


# --- inspection


def run_inspect(path, *flags):
    command = [sys.executable, "-X", "importtime", "-m", "tf_finetune.main", "--mode=inspect"]
    done = subprocess.run(
        [*command, f"--model={path}", *flags], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tf_finetune.inspection" in imported
    return done.stdout, imported & {"tensorflow", "keras", "tf_keras"}


def test_inspect_imports_no_tensorflow_and_lists_signatures(tmp_path):
    saved_models.write_image_module(tmp_path / "image")
    saved_models.write_preprocessor(tmp_path / "words")
    text, heavy = run_inspect(tmp_path / "image", "--freeze=1")
    assert not heavy
    assert "--freeze=1: 1 of 3 weight groups frozen" in text
    text, heavy = run_inspect(tmp_path / "words", "--inspect_format=json")
    assert not heavy
    document = json.loads(text)
    assert document["can_be_fine_tuned"] is False
    assert document["refusal"].startswith("has no output of floats, which features are. It ")
    assert document["inputs"] == [{"name": "input", "shape": [None], "dtype": "string"}]
    (signature,) = document["signatures"]
    assert (signature["name"], signature["inputs"]) == (
        "serving_default",
        [{"name": "text", "shape": [None], "dtype": "string"}],
    )
    assert signature["outputs"][0] == {"name": "input_mask", "shape": [None, 6], "dtype": "int32"}


def test_an_operation_that_is_not_known_is_left_to_tensorflow(tmp_path):
    path = write(tmp_path, lambda images: images[:, 0] + images[:, 1], IMAGE)
    graph = path / "saved_model.pb"
    spec = specs.ModelSpec(model=str(path))
    assert stored_module.describe_module(str(path), spec).features_shape == (None, 4, 3)
    graph.write_bytes(graph.read_bytes().replace(b"AddV2", b"AddV9"))
    with pytest.raises(stored_module.UnclearError, match=r"^TensorFlow may not have all its op"):
        stored_module.describe_module(str(path), spec)
    with pytest.raises(findings.RefusedError, match="AddV9"):
        inspection.describe(spec)
