import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny
from tf_finetune import findings, specs
from tf_finetune.models import formats, loading

EXPECTED = (
    "Expected a .h5, .hdf5, .keras or .json file, a SavedModel folder or a .tar or .tar.gz of one, "
    "an address (https://, http://, gs://, hf://), keras:NAME, hf:FOLDER or kerashub:NAME."
)


def _refusal(path, **options) -> str:
    with pytest.raises(findings.RefusedError) as caught:
        loading.load_backbone(specs.ModelSpec(model=str(path), **options))
    (problem,) = caught.value.problems
    assert "\n" not in problem.message
    return problem.message


def _pixels(shape) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (2, *shape)).astype(np.float32)


@pytest.fixture(params=["model.h5", "model.hdf5", "model.keras"])
def saved(request, tmp_path):
    model = tiny.make_classifier()
    path = tmp_path / request.param
    model.save(path)
    return model, path


def test_every_format_loads_whole_and_equal(saved):
    model, path = saved
    loaded = loading.load_pretrained(str(path))
    np.testing.assert_array_equal(loaded(_pixels((12, 12, 3))), model(_pixels((12, 12, 3))))
    assert not loaded.compiled


def test_backbone_of_every_format(saved):
    model, path = saved
    features = keras.Model(model.inputs[0], model.get_layer("relu_b").output)
    backbone = loading.load_backbone(specs.ModelSpec(model=str(path)))
    expected = features(_pixels((12, 12, 3)))
    np.testing.assert_array_equal(backbone.model(_pixels((12, 12, 3))), expected)
    assert backbone.input_shape == (12, 12, 3)
    assert backbone.pooling == "avg"
    assert backbone.dropped == ("pool", "drop", "classifier")
    assert backbone.table.names == ("conv_a", "norm_a", "relu_a", "conv_b", "norm_b", "relu_b")
    assert backbone.pixel_range is None
    assert backbone.outputs == (("classifier", (None, 5)),)
    kind = ".keras" if path.suffix == ".keras" else "HDF5"
    assert backbone.source == f"{kind} of Keras {keras.__version__}"
    assert backbone.sha256 == formats.file_sha256(str(path))


def test_bytes_tell_the_format_not_the_name(saved, tmp_path):
    model, path = saved
    other = tmp_path / "weird [1] näme.bin"
    path.rename(other)
    loaded = loading.load_pretrained(str(other))
    np.testing.assert_array_equal(loaded(_pixels((12, 12, 3))), model(_pixels((12, 12, 3))))


def test_precision_and_flags_reach_the_backbone(saved):
    spec = specs.ModelSpec(
        model=str(saved[1]), cut_layer="relu_a", pooling="max", pixel_range="-1..1"
    )
    backbone = loading.load_backbone(spec, precision="bfloat16")
    assert backbone.model.get_layer("conv_a").compute_dtype == "bfloat16"
    assert backbone.model.get_layer("conv_a").kernel.dtype == "float32"
    assert backbone.pooling == "max"
    assert backbone.table.names[-1] == "relu_a"
    assert backbone.pixel_range.name == "-1..1"
    assert backbone.requested_pixel_range == "-1..1"


def test_missing_path(tmp_path):
    (tmp_path / "flowers.keras").touch()
    path = tmp_path / "flower.keras"
    assert _refusal(path) == (
        f"--model: '{path}' does not exist. Did you mean '{tmp_path}/flowers.keras'? {EXPECTED}"
    )
    assert _refusal(tmp_path / "no" / "x") == (
        f"--model: '{tmp_path}/no/x' does not exist. {EXPECTED}"
    )
    assert _refusal("") == f"--model is missing. {EXPECTED}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty."),
        (b"hello\nworld\n", "is a text file, not a model."),
        ("Grüße".encode(), "is a text file, not a model."),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "is a Git LFS pointer, not the model itself: run 'git lfs pull'.",
        ),
        (b"\n<!DOCTYPE html><p>404", "is an HTML page, not a model: the download went wrong."),
        (b"\x00\x01\x02\x03" * 9, "is neither HDF5 nor a .keras archive."),
    ],
)
def test_file_of_another_kind(tmp_path, content, reason):
    path = tmp_path / "model.h5"
    path.write_bytes(content)
    assert _refusal(path) == f"{path}: {reason} {EXPECTED}"


def test_folders(tmp_path):
    message = f"{tmp_path}: is a folder without saved_model.pb. {EXPECTED}"
    assert _refusal(tmp_path) == message
    (tmp_path / "saved_model.pb").touch()
    message = f"{tmp_path}: saved_model.pb is empty. Copy or download it again."
    assert _refusal(tmp_path) == message


def test_device_is_not_opened():
    assert _refusal("/dev/zero") == f"/dev/zero: is no regular file. {EXPECTED}"


def test_truncated_h5_says_both_sizes(tmp_path):
    path = tmp_path / "model.h5"
    tiny.make_classifier().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert _refusal(path) == (
        f"{path}: the HDF5 file is truncated: its header says {len(content):,} bytes, it has "
        f"{len(content) // 2:,}. Copy or download it again."
    )


def test_damaged_h5(tmp_path):
    path = tmp_path / "model.h5"
    tiny.make_classifier().save(path)
    content = bytearray(path.read_bytes())
    content[96:2000] = b"\xff" * 1904
    path.write_bytes(content)
    message = _refusal(path)
    assert message.startswith(f"{path}: the HDF5 file is damaged: ")
    assert message.endswith("Copy or download it again.")


def test_hdf5_without_a_model(tmp_path):
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["pixels"] = np.zeros(3)
    assert _refusal(path) == (
        f"{path}: is an HDF5 file without a Keras model (no model_config attribute). Expected a "
        "file written by model.save."
    )


def test_weights_only_file(tmp_path):
    path = tmp_path / "model.weights.h5"
    tiny.make_classifier().save_weights(path)
    assert _refusal(path) == (
        f"{path}: holds weights only, without the layers they belong to. Give them as --weights, "
        "and name the architecture: --model=keras:NAME, or a .json file of model.to_json()."
    )


@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_lambda_is_never_run(tmp_path, name):
    ran = tmp_path / "ran"
    scale = keras.layers.Lambda(
        lambda x, ran=str(ran): (open(ran, "w").close(), x)[1], name="scale"
    )
    block = keras.Sequential([keras.Input((8, 8, 3)), scale], name="block")
    model = keras.Sequential([keras.Input((8, 8, 3)), block, keras.layers.Conv2D(2, 1)])
    path = tmp_path / name
    model.save(path)
    ran.unlink()
    assert _refusal(path) == (
        f"{path}: layer 'block/scale' is a Lambda: it is stored Python code, and is never run "
        "unasked. Build the model from plain layers and save it again. --trust_model opens it all "
        "the same, if you know who made it."
    )
    assert not ran.exists()


class Swirl(keras.layers.Layer):
    def call(self, x):
        return x


@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_custom_layer_is_named_with_its_class(tmp_path, name):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), Swirl(name="twist"), keras.layers.Conv2D(2, 1)]
    )
    path = tmp_path / name
    model.save(path)
    module = f"{__name__}." if name == "model.keras" else ""
    assert _refusal(path) == (
        f"{path}: layer 'twist' needs the custom class '{module}Swirl'. --custom_objects=MODULE "
        "names the Python module that defines it."
    )


def test_file_that_keras_refuses(tmp_path):
    path = tmp_path / "model.h5"
    tiny.make_classifier().save(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["config"]["groovy"] = 1
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "3.1.0"
    assert _refusal(path) == (
        f"{path}: written by Keras 3.1.0, it does not open in Keras {keras.__version__}: "
        "Unrecognized keyword arguments passed to Conv2D: {'groovy': 1}. Build the same model in "
        "Keras 3, load its weights and save it again."
    )


def test_layers_in_another_order_than_the_weights_are_refused(tmp_path):
    path = tmp_path / "model.h5"
    inputs = keras.Input((8, 8, 3))
    a, b = (keras.layers.Conv2D(2, 1, name=name)(inputs) for name in "ab")
    keras.Model(inputs, keras.layers.Add()([a, b])).save(path)
    with h5py.File(path, "r+") as file:
        names = list(file["model_weights"].attrs["layer_names"])
        a, b = names.index("a"), names.index("b")
        names[a], names[b] = names[b], names[a]
        file["model_weights"].attrs["layer_names"] = names
    assert _refusal(path) == (
        f"{path}: Keras {keras.__version__} orders its layers otherwise than the Keras that wrote "
        "it, from 'b' on: weights would be swapped. Save it again as .keras."
    )


def test_truncated_keras_archive(tmp_path):
    path = tmp_path / "model.keras"
    tiny.make_classifier().save(path)
    path.write_bytes(path.read_bytes()[:5000])
    assert _refusal(path) == (
        f"{path}: the .keras archive is truncated or damaged: File is not a zip file. Copy or "
        "download it again."
    )


def test_zip_that_is_no_keras_archive(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    assert _refusal(path) == (
        f"{path}: is a zip archive without metadata.json, model.weights.h5. Expected a .keras file "
        "written by model.save."
    )


def _rewrite(path, changed) -> None:
    """Saves a good .keras file with other content in some members."""
    tiny.make_classifier().save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**parts, **changed}.items():
            archive.writestr(name, content)


def test_keras_archive_without_a_version(tmp_path):
    path = tmp_path / "model.keras"
    _rewrite(path, {"metadata.json": b"{}"})
    assert _refusal(path) == (
        f"{path}: metadata.json names no keras_version. Copy or download it again."
    )


def test_keras_archive_with_damaged_weights(tmp_path):
    path = tmp_path / "model.keras"
    _rewrite(path, {"model.weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(4000)})
    assert _refusal(path).startswith(f"{path}: model.weights.h5 is damaged: ")


def test_what_is_wrong_with_the_model_is_said_of_its_file(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((7, 7)), keras.layers.Dense(2)]).save(path)
    assert _refusal(path) == (
        f"{path}: The model's input has the shape (None, 7, 7). This version fine-tunes models of "
        "one image input, (batch, height, width, channels) with 1 or 3 channels, or of one string "
        "input."
    )


def test_wrong_flag_is_said_of_the_flag(saved):
    assert _refusal(saved[1], cut_layer="conv") == (
        "--cut_layer: unknown layer 'conv'. Did you mean 'conv_b'? --mode=inspect lists all 9."
    )


def _zoo(shared) -> list[dict]:
    return json.loads((shared / "zoo" / "manifest.json").read_text())


def test_zoo_files_equal_their_goldens(shared):
    checked = 0
    for entry in _zoo(shared):
        if entry["kind"] == "savedmodel" or entry["expected"] != "loads":
            continue
        golden = np.load(shared / "zoo" / entry["golden"])
        model = loading.load_pretrained(str(shared / "zoo" / entry["file"]))
        outputs = keras.tree.flatten(model(golden["input_0"], training=False))
        for number, output in enumerate(outputs):
            expected = golden[f"output_{number}"]
            error = np.linalg.norm(np.asarray(output) - expected) / np.linalg.norm(expected)
            assert error < 1e-5, entry["file"]
        checked += 1
    assert checked >= 28


def test_zoo_backbones_equal_their_goldens(shared):
    entries = {entry["file"]: entry for entry in _zoo(shared)}
    for name in ("mobilenet_v1_025_128_notop_keras3.h5",):
        path = shared / "zoo" / "h5" / name
        golden = np.load(shared / "zoo" / entries[f"h5/{name}"]["golden"])
        backbone = loading.load_backbone(specs.ModelSpec(model=str(path)))
        output = np.asarray(backbone.model(golden["input_0"]))
        expected = golden["output_0"]
        assert np.linalg.norm(output - expected) < 1e-5 * np.linalg.norm(expected)
        assert len(backbone.table) == 85
        assert backbone.pixel_range.name == "-1..1"


def test_zoo_files_that_carry_code_or_no_model_are_refused_line_by_line(shared):
    refused = []
    for entry in _zoo(shared):
        if entry["kind"] == "savedmodel" or entry["expected"] == "loads":
            continue
        path = str(shared / "zoo" / entry["file"])
        with pytest.raises(findings.RefusedError) as caught:
            loading.load_pretrained(path)
        for line in str(caught.value).splitlines():
            assert line.startswith(f"{path}: ")
        refused.append(entry["file"])
    assert "h5/k2.0.9_dl4j_lambda_functional.h5" in refused
    assert len(refused) >= 3


def test_files_that_are_given_by_mistake(tmp_path):
    path = tmp_path / "doc.pdf"
    path.write_bytes(b"%PDF-1.4\n")
    assert _refusal(path) == f"{path}: is a PDF document, not a model. {EXPECTED}"
    path = tmp_path / "saved_model.pb"
    path.write_bytes(b"\x08\x01\x12\x00")
    assert _refusal(path) == (
        f"{path}: is one file of a SavedModel. Name its folder: '{tmp_path}'."
    )


def test_a_model_that_fits_no_memory_is_refused():
    with pytest.raises(findings.RefusedError) as caught, loading.refusing_what_does_not_run("m.h5"):
        np.empty(2**60, np.uint8)
    assert str(caught.value) == (
        "m.h5: building it needs more memory than there is. Expected a model that fits this "
        "computer."
    )
    with pytest.raises(findings.RefusedError) as caught, loading.refusing_what_does_not_run("m.h5"):
        tf.reshape(tf.zeros([2]), [3])
    assert str(caught.value).startswith("m.h5: does not run on this computer: ")
