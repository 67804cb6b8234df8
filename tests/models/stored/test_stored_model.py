import fcntl
import json
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

from tf_finetune import findings
from tf_finetune.models.stored import stored_model

DENSE = {
    "class_name": "Dense",
    "config": {"name": "a/b", "units": 2, "batch_input_shape": [None, 3]},
}
CONFIG = {"class_name": "Sequential", "config": [DENSE]}


def _write(path, *, config=CONFIG, version="2.0.8"):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        if version:
            file.attrs["keras_version"] = version
        file.attrs["backend"] = "theano"
    return str(path)


def test_header_is_translated(tmp_path):
    stored = stored_model.read_stored_model(_write(tmp_path / "m.h5"))
    assert (stored.keras_version, stored.backend, stored.format) == ("2.0.8", "theano", "HDF5")
    assert stored.generation == 2
    first, dense = stored.config["config"]["layers"]
    assert first["class_name"] == "InputLayer"
    assert first["config"]["batch_shape"] == [None, 3]
    assert dense["config"]["name"] == "a_b"
    assert stored.renamed == {"a_b": "a/b"}
    assert stored.stored_config == CONFIG


def test_no_version_is_keras_1(tmp_path):
    layer = {"class_name": "Dense", "config": {"name": "a", "output_dim": 2, "input_dim": 3}}
    config = {"class_name": "Sequential", "config": [layer]}
    path = _write(tmp_path / "m.h5", config=config, version=None)
    assert stored_model.read_stored_model(path).generation == 1


def test_files_of_keras_3_pass_unchanged(tmp_path):
    stored = stored_model.read_stored_model(_write(tmp_path / "m.h5", version="3.2.0"))
    assert stored.config == CONFIG


def test_newer_generation_is_said(tmp_path):
    path = _write(tmp_path / "m.h5", version="4.0.0")
    with pytest.raises(findings.RefusedError) as caught:
        stored_model.read_stored_model(path)
    assert str(caught.value) == (
        f"{path}: was written by Keras 4.0.0, which is newer than this program knows. Expected "
        "Keras 1, 2 or 3: upgrade, or save it again with Keras 3."
    )


def test_lambda_is_refused_unless_trusted(tmp_path):
    layer = {"class_name": "Lambda", "config": {"name": "code", "function": ["4w==", None, None]}}
    config = {"class_name": "Sequential", "config": [DENSE, layer]}
    path = _write(tmp_path / "m.h5", config=config)
    with pytest.raises(findings.RefusedError, match="layer 'code' is a Lambda, which is stored"):
        stored_model.read_stored_model(path)
    stored = stored_model.read_stored_model(path, trust_model=True)
    function = stored.config["config"]["layers"][-1]["config"]["function"]
    assert function == {
        "class_name": "__lambda__",
        "config": {"code": "4w==", "defaults": None, "closure": None},
    }


def test_archive_of_keras_2(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(CONFIG))
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.13.1"}))
        archive.writestr("model.weights.h5", b"")
    stored = stored_model.read_stored_model(str(path))
    assert (stored.format, stored.keras_version, stored.generation) == (".keras", "2.13.1", 2)


def test_reading_imports_neither_keras_nor_tensorflow(tmp_path):
    code = (
        "import sys; from tf_finetune.models.stored import stored_model; "
        f"stored_model.read_stored_model({_write(tmp_path / 'm.h5')!r}); "
        "sys.exit('keras' in sys.modules or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_weights_only_file_is_named(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = np.array([b"a"])
    with pytest.raises(findings.RefusedError, match="holds weights only, without the layers"):
        stored_model.read_stored_model(str(tmp_path / "w.h5"))


def test_a_file_that_is_being_written(tmp_path):
    path = _write(tmp_path / "model.h5")
    with open(path, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as HDF5 does it while it writes
        with pytest.raises(findings.RefusedError, match="another process is writing it"):
            stored_model.read_stored_model(path)
