import marshal
import platform

import keras
import numpy as np
import pytest

pytest.importorskip("tf_keras")
import base64
import json

import h5py
import tf_keras

from tests.models import keras2_files
from tf_finetune import specs
from tf_finetune.models import hdf5, loading


def _write_lambda(path):
    model = tf_keras.Sequential(
        [tf_keras.Input((3,)), tf_keras.layers.Lambda(lambda x: x * 2.0, name="twice")]
    )
    model.save(path)


def test_trusted_lambda_runs_and_is_said(tmp_path):
    path = tmp_path / "model.h5"
    _write_lambda(path)
    assert "layer 'twice' is a Lambda" in keras2_files.refusal(path)
    loaded = hdf5.load_model(str(path), specs.ModelSpec(model=str(path), trust_model=True))
    np.testing.assert_array_equal(loaded.model(np.ones((1, 3), np.float32)), 2 * np.ones((1, 3)))
    assert loaded.notes == ("Ran Python code of the file: twice (--trust_model).",)


def test_lambda_of_another_python_is_refused(tmp_path):
    path = tmp_path / "model.h5"
    _write_lambda(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        code = base64.b64encode(marshal.dumps("no code")[:-2]).decode()
        config["config"]["layers"][1]["config"]["function"] = [code, None, None]
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(ValueError) as caught:
        loading.load_pretrained(str(path), trust_model=True)
    text = str(caught.value)
    assert text == (
        f"{path}: the code of its Lambda layer 'twice' is damaged, or compiled by another version "
        f"of Python than this one, {platform.python_version()}, which cannot read it. Save the "
        "model with a plain layer instead (Rescaling, for example), or under this Python."
    )


def test_channels_first_is_computed_with_channels_last(tmp_path):
    path = tmp_path / "model.h5"
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((3, 6, 6)),
            layers.Conv2D(2, 3, data_format="channels_first", name="conv"),
            layers.GlobalAveragePooling2D(data_format="channels_first"),
        ]
    )
    model.save(path)
    loaded = hdf5.load_model(str(path), specs.ModelSpec(model=str(path)))
    (note,) = loaded.notes
    assert note == "Computes with the channels last: 'conv' and others had them first."
    x = np.random.default_rng(0).uniform(size=(2, 3, 6, 6)).astype(np.float32)
    kernel, bias = (np.asarray(weight) for weight in model.layers[0].weights)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    expected = np.einsum("bcijkl,klcf->bfij", windows, kernel).mean((2, 3)) + bias
    np.testing.assert_allclose(loaded.model(x), expected, rtol=1e-4, atol=1e-5)


def test_no_input_shape_is_said(tmp_path):
    path = tmp_path / "model.h5"
    model = tf_keras.Sequential([tf_keras.layers.Dense(3, name="a")])
    model.build((None, 4))
    model.save(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        dense = next(
            layer for layer in config["config"]["layers"] if layer["class_name"] == "Dense"
        )
        dense["config"].pop("batch_input_shape", None)
        config["config"] = {"name": "m", "layers": [dense]}
        file.attrs["model_config"] = json.dumps(config)
    assert keras2_files.refusal(path) == (
        "its configuration records no input shape, so its layers cannot be built. Build the model "
        "in Keras with an Input layer, load these weights and save it again."
    )
