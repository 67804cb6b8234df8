import io
import json
import pathlib
import zipfile

import h5py
import keras
import numpy as np
import pytest

from tf_finetune import findings, specs
from tf_finetune.models import hdf5
from tf_finetune.models.legacy import keras1_weights
from tf_finetune.models.stored import stored_weights

# Written by the real Keras 1.2.2, see tools/write_keras1_goldens.py.
GOLDENS = pathlib.Path(__file__).parents[2] / "golden" / "keras1_2_2.zip"
NAMES = sorted(
    name.removesuffix(".h5") for name in zipfile.ZipFile(GOLDENS).namelist() if name.endswith(".h5")
)
RANDOM = np.random.default_rng(0)


def write_keras1(path, config, layers, *, version="1.1.0"):
    """A file as Keras 1 laid it out: a group per layer, arrays under their names."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version
        file.attrs["model_config"] = json.dumps(config)
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for name, arrays in layers.items():
            inner = group.create_group(name)
            inner.attrs["weight_names"] = [key.encode() for key in arrays]
            for key, array in arrays.items():
                inner[key] = array


def load(path):
    return hdf5.load_model(str(path), specs.ModelSpec(model=str(path))).model


def normal(*shape):
    return RANDOM.normal(0, 0.5, shape).astype("float32")


def outputs_of(model, inputs):
    outputs = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]


@pytest.mark.parametrize("name", NAMES)
def test_files_of_keras_1_give_their_outputs(tmp_path, name):
    with zipfile.ZipFile(GOLDENS) as archive:
        (tmp_path / f"{name}.h5").write_bytes(archive.read(f"{name}.h5"))
        golden = np.load(io.BytesIO(archive.read(f"{name}.npz")))
    inputs = [
        golden[f"input_{number}"]
        for number in range(len(golden.files))
        if f"input_{number}" in golden
    ]
    outputs = outputs_of(load(tmp_path / f"{name}.h5"), inputs)
    for number, output in enumerate(outputs):
        expected = golden[f"output_{number}"]
        assert output.shape == expected.shape
        assert np.linalg.norm(output - expected) <= 1e-5 * np.linalg.norm(expected)


def test_goldens_cover_both_orderings_and_every_recurrent_mode():
    assert len(NAMES) == 57
    assert {"conv_th", "conv_tf", "lstm_gpu", "gru_mem", "merge_deep"} <= set(NAMES)


def layer(class_name, name, **config):
    return {"class_name": class_name, "config": {"name": name, **config}}


def dense(name, units, **config):
    return layer("Dense", name, output_dim=units, activation="linear", bias=True, **config)


def test_a_convolution_of_keras_1_0_has_another_layout(tmp_path):
    kernel, bias = normal(4, 2, 3, 1), normal(4)
    config = {
        "class_name": "Sequential",
        "config": [
            layer(
                *("Convolution1D", "conv"),
                nb_filter=4,
                filter_length=3,
                border_mode="valid",
                subsample_length=1,
                activation="linear",
                bias=True,
                batch_input_shape=[None, 6, 2],
            )
        ],
    }
    path = tmp_path / "old.h5"
    write_keras1(path, config, {"conv": {"conv_W:0": kernel, "conv_b:0": bias}}, version="1.0.8")
    inputs = normal(2, 6, 2)
    expected = [
        np.einsum("btc,fct->bf", inputs[:, start : start + 3], kernel[..., 0]) + bias
        for start in range(4)
    ]
    (output,) = outputs_of(load(path), [inputs])
    np.testing.assert_allclose(output, np.stack(expected, 1), rtol=1e-4, atol=1e-5)


def nested_config():
    inner = [
        dense("a", 3, batch_input_shape=[None, 2]),
        layer("BatchNormalization", "norm"),
        dense("b", 2),
    ]
    return {
        "class_name": "Sequential",
        "config": [
            {"class_name": "Sequential", "config": inner},
            dense("c", 1),
        ],
    }


NESTED = {
    "a_W": normal(2, 3),
    "a_b": normal(3),
    "norm_gamma": normal(3),
    "norm_beta": normal(3),
    "b_W": normal(3, 2),
    "b_b": normal(2),
    "norm_running_mean": normal(3),
    "norm_running_std": np.abs(normal(3)) + 0.5,
}


def nested_reference(inputs, last):
    n = NESTED
    hidden = inputs @ n["a_W"] + n["a_b"]
    hidden = (hidden - n["norm_running_mean"]) / np.sqrt(n["norm_running_std"] + 1e-3)
    hidden = (hidden * n["norm_gamma"] + n["norm_beta"]) @ n["b_W"] + n["b_b"]
    return hidden @ last["c_W:0"] + last["c_b:0"]


@pytest.mark.parametrize("named", [True, False])
def test_arrays_of_a_nested_model_are_shared_out_by_name_or_by_number(tmp_path, named):
    arrays = {
        (f"{key}:0" if named else f"param_{number}"): value
        for number, (key, value) in enumerate(NESTED.items())
    }
    last = {"c_W:0": normal(2, 1), "c_b:0": normal(1)}
    path = tmp_path / "nested.h5"
    write_keras1(path, nested_config(), {"sequential_7": arrays, "c": last})
    inputs = normal(4, 2)
    (output,) = outputs_of(load(path), [inputs])
    np.testing.assert_allclose(output, nested_reference(inputs, last), rtol=1e-4, atol=1e-5)


def test_names_of_keras_2_are_given_and_statistics_come_last():
    stored = [
        stored_weights.StoredLayer("sequential_7", tuple((f"{k}:0", v) for k, v in NESTED.items()))
    ]
    (converted,) = keras1_weights.convert_weights(stored, nested_config())
    assert [path for path, _ in converted.weights] == [
        "sequential_2/a/kernel:0",
        "sequential_2/a/bias:0",
        "sequential_2/norm/gamma:0",
        "sequential_2/norm/beta:0",
        "sequential_2/b/kernel:0",
        "sequential_2/b/bias:0",
        "sequential_2/norm/moving_mean:0",
        "sequential_2/norm/moving_variance:0",
    ]


def test_gates_are_found_by_name_where_the_order_differs():
    units, order = 2, "ofci"
    gates = {
        f"{k}_{g}": normal(*shape)
        for g in order
        for k, shape in (("W", (3, units)), ("U", (units, units)), ("b", (units,)))
    }
    stored = [
        stored_weights.StoredLayer(
            "lstm_1", tuple((f"scope/lstm_1_{key}_1:0", value) for key, value in gates.items())
        )
    ]
    config = {"class_name": "Sequential", "config": [layer("LSTM", "lstm_1", output_dim=units)]}
    (converted,) = keras1_weights.convert_weights(stored, config)
    values = dict(converted.weights)
    expected = np.concatenate([gates[f"U_{gate}"] for gate in "ifco"], axis=-1)
    np.testing.assert_array_equal(values["lstm_1/recurrent_kernel:0"], expected)
    assert list(values) == ["lstm_1/kernel:0", "lstm_1/recurrent_kernel:0", "lstm_1/bias:0"]


def test_a_layer_with_a_wrong_number_of_arrays_is_refused():
    stored = [stored_weights.StoredLayer("d", (("d_W:0", normal(2, 2)),) * 3)]
    config = {"class_name": "Sequential", "config": [dense("d", 2)]}
    with pytest.raises(findings.RefusedError) as caught:
        keras1_weights.convert_weights(stored, config, where="old.h5")
    assert str(caught.value) == (
        "old.h5: layer 'd' (Dense) has 3 stored arrays. Expected 2 or 1 arrays. The file is "
        "damaged, or the layer is not Keras's own."
    )


def test_a_nested_model_with_missing_arrays_is_refused():
    stored = [stored_weights.StoredLayer("s", (("a_W:0", normal(2, 3)),))]
    with pytest.raises(findings.RefusedError, match="Expected the arrays of its layers"):
        keras1_weights.convert_weights(stored, nested_config(), where="old.h5")
