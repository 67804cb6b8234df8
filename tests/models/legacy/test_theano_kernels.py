import json

import h5py
import numpy as np
import pytest

from tf_finetune import specs
from tf_finetune.models import hdf5
from tf_finetune.models.legacy import theano_kernels
from tf_finetune.models.stored import stored_weights

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(0, 0.5, shape).astype("float32")


def write(path, config, layers, *, version, backend=""):
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version
        if backend:
            file.attrs["backend"] = backend
        file.attrs["model_config"] = json.dumps(config)
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for name, arrays in layers.items():
            inner = group.create_group(name)
            inner.attrs["weight_names"] = [key.encode() for key in arrays]
            for key, array in arrays.items():
                inner[key] = array


def convolve(inputs, kernel, bias):
    """A true convolution of [n, c, h, w] with [filters, c, rows, columns], as Theano's."""
    filters, _, rows, columns = kernel.shape
    height, width = inputs.shape[2] - rows + 1, inputs.shape[3] - columns + 1
    output = np.zeros((len(inputs), filters, height, width))
    for row in range(rows):
        for column in range(columns):
            # The kernel runs against the image.
            part = inputs[:, :, rows - 1 - row :, columns - 1 - column :][:, :, :height, :width]
            output += np.einsum("nchw,fc->nfhw", part, kernel[:, :, row, column])
    return output + bias[:, None, None]


def keras1_config(ordering):
    shape = [None, 2, 6, 7] if ordering == "th" else [None, 6, 7, 2]
    config = {"name": "conv", "nb_filter": 3, "nb_row": 3, "nb_col": 2, "subsample": [1, 1]}
    config |= {"border_mode": "valid", "dim_ordering": ordering, "bias": True}
    config |= {"activation": "linear", "batch_input_shape": shape}
    return {
        "class_name": "Sequential",
        "config": [{"class_name": "Convolution2D", "config": config}],
    }


@pytest.mark.parametrize("ordering", ["th", "tf"])
@pytest.mark.parametrize("end", ["", ":0"])
def test_keras_1_tells_its_backend_by_the_names_of_its_arrays(tmp_path, ordering, end):
    kernel, bias, image = normal(3, 2, 3, 2), normal(3), normal(2, 2, 6, 7)
    stored = kernel if ordering == "th" else kernel.transpose(2, 3, 1, 0)
    path = tmp_path / "conv.h5"
    arrays = {f"conv_W{end}": stored, f"conv_b{end}": bias}
    write(path, keras1_config(ordering), {"conv": arrays}, version="1.2.2")
    loaded = hdf5.load_model(str(path), specs.ModelSpec(model=str(path)))
    given = image if ordering == "th" else image.transpose(0, 2, 3, 1)
    output = np.asarray(loaded.model(given))
    if ordering == "tf":
        output = output.transpose(0, 3, 1, 2)
    true = convolve(image, kernel, bias)
    correlated = convolve(image, kernel[:, :, ::-1, ::-1], bias)
    expected = correlated if end else true
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(true - correlated).max() > 0.1
    line = (
        "Convolution kernels were rotated by 180 degrees: the model was trained under Theano (its "
        "arrays are named without ':0')."
    )
    assert (line in loaded.notes) == (end == "")


def test_a_stored_backend_decides(tmp_path):
    kernel, bias, image = normal(3, 2, 3, 2), normal(3), normal(2, 2, 6, 7)
    config = {"name": "conv", "filters": 3, "kernel_size": [3, 2], "strides": [1, 1]}
    config |= {"padding": "valid", "data_format": "channels_first", "use_bias": True}
    config |= {"activation": "linear", "batch_input_shape": [None, 2, 6, 7], "dtype": "float32"}
    model = {"class_name": "Sequential", "config": [{"class_name": "Conv2D", "config": config}]}
    path = tmp_path / "conv.h5"
    arrays = {"conv/kernel": kernel.transpose(2, 3, 1, 0), "conv/bias": bias}
    write(path, model, {"conv": arrays}, version="2.1.3", backend="theano")
    loaded = hdf5.load_model(str(path), specs.ModelSpec(model=str(path)))
    output = np.asarray(loaded.model(image))
    np.testing.assert_allclose(output, convolve(image, kernel, bias), rtol=1e-4, atol=1e-5)
    assert any(note.endswith("Theano (the file says so).") for note in loaded.notes)


def keras2_layer(class_name, name, **config):
    return {"class_name": class_name, "config": {"name": name, **config}}


def test_wrapped_and_nested_kernels_are_rotated_and_depthwise_ones_are_not():
    inner = [keras2_layer("Conv2D", "deep"), keras2_layer("DepthwiseConv2D", "depth")]
    wrapped = {"class_name": "Conv2D", "config": {"name": "conv2d_1"}}
    config = {
        "class_name": "Model",
        "config": {
            "name": "model",
            "layers": [
                keras2_layer("TimeDistributed", "frames", layer=wrapped),
                {"class_name": "Model", "config": {"name": "nested", "layers": inner}},
                keras2_layer("ConvLSTM2D", "memory"),
                keras2_layer("LSTM", "plain"),
            ],
        },
    }
    kernel = normal(3, 3, 1, 2)
    layers = [
        stored_weights.StoredLayer("frames", (("frames/kernel", kernel),)),
        stored_weights.StoredLayer(
            "nested", (("deep/kernel", kernel), ("depth/depthwise_kernel", kernel))
        ),
        stored_weights.StoredLayer(
            "memory", (("memory/kernel", kernel), ("memory/recurrent_kernel", kernel))
        ),
        stored_weights.StoredLayer("plain", (("plain/kernel", kernel),)),
    ]
    turned = {
        path: np.array_equal(array, kernel[::-1, ::-1])
        for layer in theano_kernels.rotate_kernels(layers, config)
        for path, array in layer.weights
    }
    assert turned == {
        "frames/kernel": True,
        "deep/kernel": True,
        "depth/depthwise_kernel": False,
        "memory/kernel": True,
        "memory/recurrent_kernel": True,
        "plain/kernel": False,
    }


def stored(*names):
    return [stored_weights.StoredLayer("conv", tuple((name, normal(1)) for name in names))]


@pytest.mark.parametrize(
    ("ordering", "decision", "why"),
    [
        ("th", True, "(only dim_ordering='th' hints at its backend)."),
        ("tf", False, "does not say whether Theano wrote it"),
    ],
)
def test_without_names_the_ordering_hints(ordering, decision, why):
    rotate, line = theano_kernels.find_theano(
        stored("param_0"), keras1_config(ordering), version="1.0.6", backend=""
    )
    assert rotate is decision
    assert why in line


def test_nothing_is_said_without_convolutions_or_of_another_backend():
    dense = {"class_name": "Sequential", "config": [keras2_layer("Dense", "conv")]}
    decide = theano_kernels.find_theano
    assert decide(stored("a"), dense, version="1.2.2", backend="") == (False, "")
    config = keras1_config("th")
    assert decide(stored("a"), config, version="2.1.3", backend="cntk") == (False, "")


def test_other_padding_of_even_strides_is_said():
    config = keras1_config("th")
    config["config"][0]["config"] |= {"border_mode": "same", "subsample": [2, 2]}
    _, line = theano_kernels.find_theano(stored("c_W"), config, version="1.2.2", backend="")
    assert line.endswith("outputs differ a little from those under Theano, as in Keras 2.")
