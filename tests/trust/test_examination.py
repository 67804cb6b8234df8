"""The public door: what a path is, who examines it, and what the user is told."""

import json
import os
import socket
import struct

import h5py
import keras
import numpy as np
import pytest

from tf_finetune import findings, trust

EXPECTED = "Expected a .h5 or .keras file, a SavedModel folder or a .tar.gz of one."
AGAIN = "Copy or download it again."
TRUST = " --trust_model opens it all the same, if you know who made it."


@pytest.fixture
def lambda_model(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x, name="evil")])
    path = str(tmp_path / "model.keras")
    model.save(path)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", f"is empty. {AGAIN}"),
        (b"hello\n", f"is a text file, not a model. {EXPECTED}"),
        (b"<!DOCTYPE html>", f"is an HTML page, not a model: the download went wrong. {AGAIN}"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a Git LFS pointer, not the model itself. Run 'git lfs pull'.",
        ),
        (
            b"\x80\x04\x95\x00",
            "is a Python pickle, which is a program. Save the model as .keras or .h5.",
        ),
        (
            b"\x1c\0\0\0TFL3",
            "is a TensorFlow Lite model, which cannot be trained. Give the model it was made from.",
        ),
        (b"\0\1\2\3", f"is neither HDF5 nor a .keras archive. {EXPECTED}"),
    ],
)
def test_files_that_are_no_model(tmp_path, content, message):
    path = tmp_path / "model.h5"
    path.write_bytes(content)
    assert trust.examine(str(path)) == (findings.Finding(message, kind="broken"),)


def test_pipes_sockets_devices_and_folders_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "folder.h5").mkdir()
    os.symlink(tmp_path / "pipe.h5", tmp_path / "link.h5")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s.h5"))
    pipe = f"is a named pipe, which would be waited for without end. It is not opened. {EXPECTED}"
    for path, message in (
        (tmp_path / "pipe.h5", pipe),
        (tmp_path / "link.h5", pipe),
        (tmp_path / "s.h5", f"is a socket. It is not opened. {EXPECTED}"),
        ("/dev/zero", f"is a device. It is not opened. {EXPECTED}"),
        (tmp_path / "folder.h5", f"is an empty folder. {EXPECTED}"),
        (tmp_path / "none", f"cannot be opened: No such file or directory. {EXPECTED}"),
    ):
        assert [item.message for item in trust.examine(str(path))] == [message]
    server.close()


def test_an_ending_that_lies(lambda_model, tmp_path):
    path = str(tmp_path / "model.h5")
    os.rename(lambda_model, path)
    message = "is named .h5 and is a zip archive (.keras). Rename it to what it is."
    assert [item.message for item in trust.examine(path)] == [message]


def test_a_good_model_has_no_findings(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    for ending in ("keras", "h5"):
        path = str(tmp_path / f"mé 模型.{ending}")
        model.save(path)
        assert trust.examine(path) == ()
        assert trust.check(path) == ()
    architecture = tmp_path / "model.json"
    architecture.write_text(model.to_json())
    assert trust.examine(str(architecture)) == ()


def test_a_refusal_names_the_file_the_layer_and_what_to_do(lambda_model):
    message = (
        f"{lambda_model}: layer 'evil' is a Lambda: it is stored Python code, and is never run "
        "unasked. Build the model from plain layers and save it again." + TRUST
    )
    with pytest.raises(trust.UntrustedModelError) as error:
        trust.check(lambda_model)
    assert str(error.value) == message
    assert isinstance(error.value, findings.RefusedError)
    assert [problem.path for problem in error.value.problems] == [lambda_model]


def test_trust_model_lifts_code_and_nothing_else(lambda_model, tmp_path):
    (finding,) = trust.check(lambda_model, trust_model=True)
    assert (finding.severity, finding.kind, finding.where) == ("warning", "code", "evil")
    assert finding.message == (
        "--trust_model is given, so it is opened all the same, and its code runs: layer 'evil' is "
        "a Lambda: it is stored Python code, and is never run unasked. Build the model from plain "
        "layers and save it again."
    )
    os.truncate(lambda_model, 1000)
    with pytest.raises(trust.UntrustedModelError):
        trust.check(lambda_model, trust_model=True)


def test_presets(tmp_path):
    values = np.arange(4, dtype="f4")
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", len(header)) + header + values.tobytes())
    (finding,) = trust.check(str(tmp_path))
    assert finding.message == "'pytorch_model.bin' may hold code; it is not opened."
    values[2] = np.inf
    weights.write_bytes(struct.pack("<Q", len(header)) + header + values.tobytes())
    with pytest.raises(
        trust.UntrustedModelError, match=r"tensor 'a' of 'model\.safetensors' holds NaN"
    ):
        trust.check(str(tmp_path))
    weights.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(trust.UntrustedModelError, match="lies outside of the file or overlaps"):
        trust.check(str(tmp_path))


def test_links_inside_the_cache_of_hugging_face(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "1").write_text('{"hidden_size": 4}')
    (blobs / "2").write_bytes(struct.pack("<Q", 2) + b"{}")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    (snapshot / "model.safetensors").symlink_to("../../blobs/2")
    assert trust.examine(str(snapshot)) == ()
    (tmp_path / "other.json").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to("../../other.json")
    (finding,) = trust.examine(str(snapshot))
    assert finding.message.startswith("'tokenizer.json' is a symbolic link, which could lead to")


def test_weights_alone_are_asked_for_by_their_role(tmp_path):
    path = str(tmp_path / "w.weights.h5")
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(path)
    assert [item.kind for item in trust.examine(path)] == ["broken"]
    assert trust.examine(path, role="weights") == ()


def test_the_models_of_the_zoo(shared):
    entries = json.loads((shared / "zoo" / "manifest.json").read_text())
    small = [entry for entry in entries if "savedmodel" in entry["file"] or "k1" in entry["file"]]
    for entry in small:
        assert trust.examine(str(shared / "zoo" / entry["file"])) == (), entry["file"]


@pytest.mark.slow
def test_random_damage_never_reaches_this_process(tmp_path):
    generator = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    for ending in ("h5", "keras"):
        good = tmp_path / f"good.{ending}"
        model.save(good)
        content = good.read_bytes()
        bad = tmp_path / f"bad.{ending}"
        for _ in range(100):
            data = bytearray(content)
            for position in generator.integers(0, len(data), 8):
                data[position] = generator.integers(0, 256)
            bad.write_bytes(data)
            assert isinstance(trust.examine(str(bad)), tuple)


def test_a_crash_of_libhdf5_is_a_refusal(shared):
    path = shared / "hostile" / "cases" / "h5" / "h5_fuzz_segv" / "model.h5"
    (finding,) = trust.examine(str(path))
    assert finding.kind == "broken"
    with pytest.raises(ValueError, match=r"model\.h5: "):
        trust.check(str(path))


def test_the_child_reads_what_h5py_here_reads(tmp_path):
    path = str(tmp_path / "m.h5")
    with h5py.File(path, "w") as file:
        file["x"] = 1
    message = (
        "is an HDF5 file without a Keras model (no model_config attribute). Expected a file "
        "written by model.save."
    )
    assert [item.message for item in trust.examine(path)] == [message]
