"""What is said of pixels without the model against what running it says."""

import keras
import numpy as np
import pytest

from tests import tiny
from tf_finetune import specs
from tf_finetune.models import loading, pixel_range
from tf_finetune.models.stored import graph_reader, stored_model, stored_table, weight_sizes

L = keras.layers


def _scaled_by(*layers, channels=3):
    first = [keras.Input((8, 8, channels)), *layers]
    return keras.Sequential([*first, L.Conv2D(4, 3, name="first"), L.ReLU()])


def _found(path):
    stored = stored_model.read_stored_model(path)
    graph = graph_reader.read_graph(stored.config)
    with weight_sizes.open_weights(path) as weights:
        weights.assign(graph)
        return stored_table.describe_graph(graph, weights, specs.ModelSpec(model=path)).backbone


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (lambda: [L.Rescaling(1 / 255, name="scale")], "0..255"),
        (lambda: [L.Rescaling([0.01, 0.02, 0.03], offset=[-1.0, 0.0, 1.0])], "0..255"),
        (lambda: [L.ZeroPadding2D(1), L.Rescaling(2.0, offset=-1.0)], "0..1"),
        (lambda: [L.Rescaling(0.5, offset=0.5)], "-1..1"),
        (lambda: [L.RandomFlip(), L.Rescaling(1 / 127.5, offset=-1)], "0..255"),
        (lambda: [L.Normalization(mean=[120.0, 110, 100], variance=[9.0, 4, 1])], "0..1"),
        (lambda: [L.Resizing(6, 6), L.Activation("tanh")], "0..255"),
        (lambda: pixel_range.scaling_layers("caffe", 3), "0..255"),
        (lambda: pixel_range.scaling_layers("torch", 3), "0..255"),
        (lambda: [L.Rescaling(1.0)], "0..1"),
        (lambda: [], "0..1"),
    ],
)
def test_scaling_inside_the_model(tmp_path, layers, expected, ending):
    path = str(tmp_path / f"model.{ending}")
    _scaled_by(*layers()).save(path)
    found = _found(path)
    assert found.unknown_scaling is None
    assert found.pixel_range == loading.load_backbone(specs.ModelSpec(model=path)).pixel_range
    assert found.pixel_range.name == expected


def test_adapted_normalization(tmp_path):
    scale = L.Normalization()
    scale.adapt(np.random.default_rng(0).uniform(0, 255, (20, 8, 8, 3)))
    path = str(tmp_path / "model.h5")
    _scaled_by(scale).save(path)
    built = loading.load_backbone(specs.ModelSpec(model=path)).pixel_range
    assert _found(path).pixel_range == built
    assert built.name == "0..255"


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("options", [{}, {"center": False, "scale": False}, {"axis": 1}])
def test_trained_statistics_leave_it_to_the_data(tmp_path, options, ending):
    for trained in (False, True):
        model = _scaled_by(L.BatchNormalization(**options))
        if trained:
            tiny.randomize_statistics(model)
        path = str(tmp_path / f"{trained}.{ending}")
        model.save(path)
        expected = None if trained and "axis" not in options else pixel_range.PixelRange("0..1", "")
        found = _found(path).pixel_range
        assert found == loading.load_backbone(specs.ModelSpec(model=path)).pixel_range
        assert (found is None) == (expected is None)
