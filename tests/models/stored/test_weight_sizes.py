import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest

from tests import tiny
from tf_finetune.models.stored import graph_reader, stored_model, weight_sizes

L = keras.layers


def _sizes(path):
    """Layer path -> shapes of its weights, of a stored model."""
    stored = stored_model.read_stored_model(str(path))
    graph = graph_reader.read_graph(stored.config)
    with weight_sizes.open_weights(str(path), renamed=stored.renamed) as weights:
        weights.assign(graph)
        return {
            layer.name: [weight.shape for weight in weights.weights_of(layer)]
            for layer in graph.layers
        }


def _expected(model):
    return {layer.name: [tuple(w.shape) for w in layer.weights] for layer in model._operations}


@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_shapes_by_layer(tmp_path, ending):
    model = tiny.make_classifier()
    model.save(tmp_path / f"model.{ending}")
    assert _sizes(tmp_path / f"model.{ending}") == _expected(model)


def test_more_than_ten_weights_stay_in_order(tmp_path):
    inputs = keras.Input((4, 8))
    cells = [L.LSTMCell(size) for size in (2, 3, 4, 5)]
    model = keras.Model(inputs, L.Bidirectional(L.RNN(cells))(inputs))
    for ending in ("h5", "keras"):
        model.save(tmp_path / f"model.{ending}")
        found = _sizes(tmp_path / f"model.{ending}")
        (layer,) = model.layers[1:]
        assert sorted(found[layer.name]) == sorted(tuple(w.shape) for w in layer.weights)


def test_seeds_of_random_layers_are_no_weights(tmp_path):
    layers = [L.RandomFlip(seed=1), L.Dropout(0.5, seed=2), L.GaussianNoise(0.1, seed=3)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    model.save(tmp_path / "model.keras")
    assert sum(map(len, _sizes(tmp_path / "model.keras").values())) == 0


def test_compressed_archive(tmp_path):
    model = tiny.make_classifier()
    model.save(tmp_path / "plain.keras")
    with zipfile.ZipFile(tmp_path / "plain.keras") as plain:
        packed = zipfile.ZipFile(tmp_path / "packed.keras", "w", zipfile.ZIP_DEFLATED)
        with packed:
            for name in plain.namelist():
                packed.writestr(name, plain.read(name))
    assert _sizes(tmp_path / "packed.keras") == _expected(model)


def test_values_are_read_in_place(tmp_path):
    model = tiny.make_classifier()
    model.save(tmp_path / "model.keras")
    stored = stored_model.read_stored_model(str(tmp_path / "model.keras"))
    graph = graph_reader.read_graph(stored.config)
    with weight_sizes.open_weights(str(tmp_path / "model.keras")) as weights:
        weights.assign(graph)
        (layer,) = [layer for layer in graph.layers if layer.name == "norm_a"]
        read = [weights.read(weight) for weight in weights.weights_of(layer)]
    for value, expected in zip(read, model.get_layer("norm_a").get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_names_of_another_session_go_by_order(tmp_path):
    # TensorFlow 1 numbered names per session: the layers were conv2d_1 and dense_1 when built.
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(2, 3, name="conv2d")(inputs)
    inner = keras.Model(inputs, L.Dense(4, name="dense")(x), name="inner")
    model = keras.Sequential([keras.Input((8, 8, 3)), inner])
    model.save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        group = file["model_weights/inner"]
        old = list(group.attrs["weight_names"])
        new = [f"strange_{name}" for name in old]
        for before, after in zip(old, new, strict=True):
            group.move(before, after)
        group.attrs["weight_names"] = new
    stored = stored_model.read_stored_model(str(tmp_path / "model.h5"))
    graph = graph_reader.read_graph(stored.config)
    with weight_sizes.open_weights(str(tmp_path / "model.h5")) as weights:
        weights.assign(graph)
        layers = graph.layers[1].graph.layers
        sizes = {layer.name: sum(w.size for w in weights.weights_of(layer)) for layer in layers}
    assert (sizes["conv2d"], sizes["dense"]) == (56, 12)


def test_weights_only_of_each_layout(tmp_path):
    model = tiny.make_classifier()
    model.save_weights(tmp_path / "new.weights.h5")
    model.save(tmp_path / "whole.h5")
    shutil.copy(tmp_path / "whole.h5", tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        for name, value in file["model_weights"].attrs.items():
            file.attrs[name] = value
        for name in list(file["model_weights"]):
            file.move(f"model_weights/{name}", name)
        del file["model_weights"], file.attrs["model_config"]
        file.attrs["keras_version"] = "2.4.0"
    old = weight_sizes.read_weights_only(str(tmp_path / "old.h5"))
    assert [name for name, _ in old.layers] == [
        *("conv_a", "norm_a", "conv_b", "norm_b", "classifier")
    ]
    assert (old.writer, old.backend) == ("Keras 2.4.0", "tensorflow")
    assert [weight.shape for weight in old.layers[0][1]] == [(3, 3, 3, 6)]
    new = weight_sizes.read_weights_only(str(tmp_path / "new.weights.h5"))
    assert new.writer == "Keras 3"
    assert sum(w.size for _, weights in new.layers for w in weights) == model.count_params()
    assert weight_sizes.read_weights_only(str(tmp_path / "whole.h5")) is None
    (tmp_path / "text").write_text("no HDF5")
    assert weight_sizes.read_weights_only(str(tmp_path / "text")) is None
