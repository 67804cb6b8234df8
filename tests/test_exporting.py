import dataclasses
import os
import pathlib
import resource
import stat
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests import serving_models
from tf_finetune import distribution, exporting, findings, head_kinds
from tf_finetune.data import preprocessing

HEAD = serving_models.MULTICLASS


def write(model, export_dir, *, heads=(HEAD,), images=(), channels=3, **kwargs):
    return exporting.write_export(
        model,
        heads=heads,
        preprocessing=serving_models.make_spec(channels=channels),
        export_dir=str(export_dir),
        warmup_inputs=images,
        **kwargs,
    )


def answer(path, pixels, *, signature="serving_default"):
    function = tf.saved_model.load(str(path)).signatures[signature]
    if signature == "serve_bytes":
        return function(image_bytes=tf.constant(serving_models.encode_pngs(pixels)))
    return function(image=tf.constant(pixels, tf.float32))


@pytest.fixture(scope="module")
def model():
    return serving_models.make_model(HEAD)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    images = serving_models.encode_pngs(serving_models.make_pixels(3, size=(20, 31)))
    return write(model, tmp_path_factory.mktemp("models"), images=images)


def test_result_says_what_is_there(exported):
    path = pathlib.Path(exported.path)

    assert path.name == "1"
    assert exported.version == 1
    assert exported.signatures == ("serving_default", "serve_bytes")
    files = [file for file in path.rglob("*") if file.is_file()]
    assert exported.num_bytes == sum(file.stat().st_size for file in files)
    assert sorted(str(file.relative_to(path)) for file in files) == [
        "assets.extra/tf_serving_warmup_requests",
        "assets/labels_label.txt",
        "fingerprint.pb",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]


def test_loaded_export_answers_as_the_model_does(model, exported):
    pixels = serving_models.make_pixels(4)
    expected = serving_models.model_probabilities(model, pixels, HEAD)

    for signature in ("serving_default", "serve_bytes"):
        outputs = answer(exported.path, pixels, signature=signature)
        np.testing.assert_allclose(outputs["probabilities"].numpy(), expected, atol=1e-5)


def test_weights_are_written_once(tmp_path):
    image = keras.Input((serving_models.SIZE, serving_models.SIZE, 3), name="image")
    x = keras.layers.Dense(500)(keras.layers.Flatten()(image))
    x = keras.layers.Dense(3)(keras.layers.Dense(500)(x))
    model = keras.Model({"image": image}, {HEAD.name: x})

    exported = write(model, tmp_path)

    weights = 4 * model.count_params()
    files = pathlib.Path(exported.path, "variables").iterdir()
    written = sum(file.stat().st_size for file in files)
    assert weights <= written < weights + 10_000


def test_no_operation_is_bound_to_a_device_or_a_file_of_this_machine(exported):
    data = pathlib.Path(exported.path, "saved_model.pb").read_bytes()

    (meta_graph,) = saved_model_pb2.SavedModel.FromString(data).meta_graphs
    nodes = list(meta_graph.graph_def.node)
    for function in meta_graph.graph_def.library.function:
        nodes += function.node_def
    # Reading and writing checkpoints is bound to a CPU, of whatever machine.
    assert {node.device for node in nodes} <= {"", "/device:CPU:0", "/device:CPU:*"}
    assert tempfile.gettempdir().encode() not in data
    assert b"incomplete-" not in data


def test_labels_file_has_a_name_on_each_line(tmp_path):
    names = ("größe", "猫 of the house", "صقر", "<script>", "50 %", "a,b")
    head = head_kinds.HeadInfo("label", "multiclass", names)

    exported = write(serving_models.make_model(head), tmp_path, heads=(head,))

    labels = pathlib.Path(exported.path, "assets", "labels_label.txt").read_bytes()
    assert labels.decode("utf-8") == "".join(f"{name}\n" for name in names)


def test_every_head_has_labels_and_outputs(tmp_path):
    # A head's name may have dots and dashes.
    heads = (
        dataclasses.replace(serving_models.MULTICLASS, name="v1.0-rc_a"),
        serving_models.BINARY,
        serving_models.MULTILABEL,
    )
    model = serving_models.make_model(*heads)
    pixels = serving_models.make_pixels(3)

    exported = write(model, tmp_path, heads=heads)

    outputs = answer(exported.path, pixels, signature="serve_bytes")
    for head in heads:
        labels = pathlib.Path(exported.path, "assets", f"labels_{head.name}.txt")
        assert labels.read_text().split() == list(head.classes)
        assert outputs[f"{head.name}_classes"].shape[0] == 3
        np.testing.assert_allclose(
            outputs[f"{head.name}_probabilities"].numpy(),
            serving_models.model_probabilities(model, pixels, head),
            atol=1e-5,
        )


def test_grayscale_model(tmp_path):
    model = serving_models.make_model(HEAD, channels=1)
    pixels = serving_models.make_pixels(2, channels=1)

    exported = write(model, tmp_path, channels=1)

    outputs = answer(exported.path, pixels, signature="serve_bytes")
    expected = serving_models.model_probabilities(model, pixels, HEAD)
    np.testing.assert_allclose(outputs["probabilities"].numpy(), expected, atol=1e-5)


def test_bfloat16_model_trained_on_two_devices(tmp_path):
    strategy = distribution.make_strategy("mirrored")
    pixels = serving_models.make_pixels(8)
    with strategy.scope():
        model = serving_models.make_model(HEAD, dtype="mixed_bfloat16")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", {HEAD.name: loss})
    before = [weight.numpy() for weight in model.weights]
    images = {"image": pixels.astype(np.float32)}
    model.fit(images, {HEAD.name: np.arange(8) % 3}, batch_size=4, verbose=0)
    changed = [not np.array_equal(a, b.numpy()) for a, b in zip(before, model.weights, strict=True)]
    assert all(changed), "nothing was trained"

    exported = write(model, tmp_path)

    expected = serving_models.model_probabilities(model, pixels, HEAD)
    received = answer(exported.path, pixels)["probabilities"].numpy()
    np.testing.assert_allclose(received, expected, atol=1e-5)
    variables = pathlib.Path(exported.path, "variables").iterdir()
    assert sum(file.stat().st_size for file in variables) < 4 * model.count_params() + 10_000


def test_model_saved_and_opened_again(model, tmp_path):
    model.save(tmp_path / "model.keras")

    exported = write(keras.models.load_model(tmp_path / "model.keras"), tmp_path / "models")

    pixels = serving_models.make_pixels(2)
    np.testing.assert_allclose(
        answer(exported.path, pixels)["probabilities"].numpy(),
        serving_models.model_probabilities(model, pixels, HEAD),
        atol=1e-5,
    )


def test_warmup_requests_go_to_both_signatures(exported):
    prediction_log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    path = os.path.join(exported.path, "assets.extra", "tf_serving_warmup_requests")
    loaded = tf.saved_model.load(exported.path).signatures

    signatures = []
    for record in tf.data.TFRecordDataset(path):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        signatures.append(request.model_spec.signature_name)
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        outputs = loaded[signatures[-1]](**{k: tf.constant(v) for k, v in inputs.items()})
        assert outputs["probabilities"].shape == (1, 3)

    assert signatures == ["serving_default", "serve_bytes", "serve_bytes", "serve_bytes"]


def test_more_warmup_inputs_than_a_server_replays(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "MAX_WARMUP_INPUTS", 2)
    images = serving_models.encode_pngs(serving_models.make_pixels(4))

    exported = write(model, tmp_path, images=images)

    path = os.path.join(exported.path, "assets.extra", "tf_serving_warmup_requests")
    assert sum(1 for _ in tf.data.TFRecordDataset(path)) == 3


def test_next_version_is_readable_for_all_and_older_ones_stay(model, exported):
    folder = pathlib.Path(exported.path).parent
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    former = os.umask(0o022)
    try:
        second = write(model, folder)
    finally:
        os.umask(former)

    assert (second.version, second.path) == (2, str(folder / "2"))
    assert sorted(os.listdir(folder)) == ["1", "2"]
    assert all(file.read_bytes() == content for file, content in before.items())
    paths = [folder / "2", *(folder / "2").rglob("*")]
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in paths}
    assert modes == {(True, 0o755), (False, 0o644)}


def test_worker_that_is_not_the_chief_writes_nothing(model, tmp_path):
    exported = write(model, tmp_path / "models", is_chief=False)

    assert exported == exporting.ExportedModel("", 0, ("serving_default", "serve_bytes"), 0)
    assert os.listdir(tmp_path) == []


def test_lowest_server_version_is_stated():
    assert exporting.LOWEST_TF_SERVING == "2.21"
    assert f"TF Serving {exporting.LOWEST_TF_SERVING}" in exporting.write_export.__doc__


# What is refused, and what is then left.


def test_file_in_the_way_is_refused(model, tmp_path):
    (tmp_path / "models").write_text("")

    with pytest.raises(findings.RefusedError) as error:
        write(model, tmp_path / "models")

    assert str(error.value) == (
        f"--export_dir expects a folder. Received '{tmp_path / 'models'}', where a file is in the "
        "way. Choose another folder."
    )
    assert os.listdir(tmp_path) == ["models"]


def test_class_names_that_fit_no_line_are_refused(tmp_path):
    heads = (
        head_kinds.HeadInfo("label", "multiclass", ("a\nb", "fine", "")),
        head_kinds.HeadInfo("other", "multiclass", ("fine", "\udcff")),
        head_kinds.HeadInfo("third", "multiclass", ("a", "b")),
    )

    with pytest.raises(findings.RefusedError) as error:
        write(serving_models.make_model(*heads), tmp_path, heads=heads)

    assert [problem.message for problem in error.value.problems] == [
        "Head 'label': the export expects class names of at least one character, in UTF-8 and on "
        "one line. Received 'a\\nb', ''. Rename them.",
        "Head 'other': the export expects class names of at least one character, in UTF-8 and on "
        "one line. Received '\\udcff'. Rename them.",
    ]
    assert os.listdir(tmp_path) == []


def test_warmup_image_that_is_none_is_refused(model, tmp_path):
    images = [*serving_models.encode_pngs(serving_models.make_pixels(1)), b"no image"]

    with pytest.raises(findings.RefusedError) as error:
        write(model, tmp_path, images=images)

    assert str(error.value).startswith("Warm-up image 2 expects an encoded image: ")
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def full_disk():
    """No file can grow beyond 40 kB, which the system reports as a write error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_is_refused_and_leaves_nothing(model, tmp_path, full_disk):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "older").touch()

    with pytest.raises(findings.RefusedError) as error:
        write(model, tmp_path)

    message = str(error.value)
    assert message.startswith(f"The export cannot be written below '{tmp_path}': ")
    assert message.endswith(". Free space there or choose another --export_dir.")
    assert "\n" not in message
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "1",
        "1/older",
    ]


@keras.saving.register_keras_serializable("tests")
class PythonLayer(keras.layers.Layer):
    def call(self, inputs):
        outputs = tf.numpy_function(lambda x: x * 2, [inputs], tf.float32)
        return tf.ensure_shape(outputs, inputs.shape)


@keras.saving.register_keras_serializable("tests")
class TracedLayer(keras.layers.Layer):
    """Adds the number of its calls, which a graph keeps from when it was traced."""

    def build(self, shape):
        self.num_calls = 0.0

    def call(self, inputs):
        self.num_calls += 1.0
        return inputs * 1e-3 * self.num_calls


@keras.saving.register_keras_serializable("tests")
class InterruptedLayer(keras.layers.Layer):
    """Ctrl-C while the written version is compared with the model."""

    def call(self, inputs):
        if tf.executing_eagerly():
            raise KeyboardInterrupt
        return inputs


def make_model_with(layer):
    image = keras.Input((serving_models.SIZE, serving_models.SIZE, 3), name="image")
    x = keras.layers.GlobalAveragePooling2D()(layer(image))
    return keras.Model({"image": image}, {HEAD.name: keras.layers.Dense(3)(x)})


def test_layer_that_runs_python_is_refused(tmp_path):
    with pytest.raises(findings.RefusedError) as error:
        write(make_model_with(PythonLayer()), tmp_path)

    message = str(error.value)
    assert message.startswith(
        "The model cannot be exported: a server has no Python, and its operations "
    )
    assert message.endswith(
        "call Python code (tf.py_function or tf.numpy_function). Write those layers with "
        "TensorFlow or keras.ops operations."
    )
    assert os.listdir(tmp_path) == []


def test_export_that_answers_differently_is_not_published(tmp_path):
    with pytest.raises(RuntimeError) as error:
        write(make_model_with(TracedLayer()), tmp_path)

    assert "its probabilities for head 'label' differ from the trained model's by" in str(
        error.value
    )
    assert os.listdir(tmp_path) == []


def test_nan_weights_are_not_published(tmp_path):
    model = serving_models.make_model(HEAD)
    model.weights[-1].assign([np.nan, 0.0, 0.0])

    with pytest.raises(RuntimeError, match="by nan, and 1e-05 is allowed"):
        write(model, tmp_path)

    assert os.listdir(tmp_path) == []


def test_interrupted_export_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(make_model_with(InterruptedLayer()), tmp_path)

    assert os.listdir(tmp_path) == []


# What a caller in Python gets wrong.


def test_call_inside_a_strategys_scope(model, tmp_path):
    with (
        distribution.make_strategy("mirrored").scope(),
        pytest.raises(ValueError) as error,
    ):
        write(model, tmp_path)

    assert str(error.value) == (
        "The export holds plain variables. Call write_export outside strategy.scope()."
    )


def test_heads_of_another_model(model, tmp_path):
    with pytest.raises(ValueError) as error:
        write(model, tmp_path, heads=(serving_models.BINARY,))

    assert str(error.value).startswith(
        "The export expects a model with the outputs ['sharp']. Received "
    )


def test_wrong_number_of_classes(model, tmp_path):
    head = head_kinds.HeadInfo("label", "multiclass", ("a", "b"))

    with pytest.raises(ValueError) as error:
        write(model, tmp_path, heads=(head,))

    assert str(error.value) == (
        "Head 'label' (multiclass, 2 classes) expects logits of shape [batch, 2]. "
        "Received (None, 3)."
    )


@pytest.mark.parametrize(
    ("kind", "classes", "thresholds", "expected"),
    [
        ("multiclass", ("a", "b"), (0.5,), 0),
        ("binary", ("a", "b"), (), 1),
        ("multilabel", ("a", "b", "c"), (0.5,), 3),
    ],
)
def test_wrong_number_of_thresholds(tmp_path, kind, classes, thresholds, expected):
    head = head_kinds.HeadInfo("label", kind, classes, thresholds=thresholds)

    with pytest.raises(ValueError) as error:
        write(serving_models.make_model(head), tmp_path, heads=(head,))

    assert str(error.value) == (
        f"Head 'label' ({kind}) expects {expected} thresholds. Received {len(thresholds)}."
    )


def test_preprocessing_of_another_size(model, tmp_path):
    spec = preprocessing.PreprocessingSpec(
        height=12, width=13, channels=3, resize="squash", pixel_max=None
    )

    with pytest.raises(ValueError) as error:
        exporting.write_export(
            model, heads=(HEAD,), preprocessing=spec, export_dir=str(tmp_path), warmup_inputs=[]
        )

    assert str(error.value) == (
        "The preprocessing makes images of shape (12, 13, 3), and the model expects "
        "(None, 12, 12, 3). Use the PreprocessingSpec that the model was trained with."
    )
