import json

import h5py
import keras
import pytest

from tests import tiny
from tf_finetune import findings, inspection, specs
from tf_finetune.models import formats, loading


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.keras"
    tiny.make_classifier().save(path)
    return str(path)


def test_text(path):
    text = inspection.describe_model(specs.ModelSpec(model=path), freeze="4")
    assert text.splitlines() == [
        f"Model:          {path}",
        f"Format:         .keras of Keras {keras.__version__}",
        f"SHA-256:        {formats.file_sha256(path)}",
        "Input:          pixels (12, 12, 3) float32",
        "Output:         classifier (5) float32",
        "Examined:       no findings",
        "Old classifier: The old classifier 'classifier' (Dense, 5 units) and what follows it are "
        "cut off.",
        "Cut off:        'pool', 'drop', 'classifier'",
        "Features:       (6, 6, 8)",
        "Pooling:        avg",
        "Pixel range:    settled with the data, by the statistics of the first BatchNormalization",
        "",
        "number  name    class               output shape  parameters  state",
        "     1  conv_a  Conv2D              (12, 12, 6)          162  frozen",
        "     2  norm_a  BatchNormalization  (12, 12, 6)           24  frozen",
        "     3  relu_a  ReLU                (12, 12, 6)            0  frozen",
        "     4  conv_b  Conv2D              (6, 6, 8)            440  frozen",
        "     5  norm_b  BatchNormalization  (6, 6, 8)             32  held",
        "     6  relu_b  ReLU                (6, 6, 8)              0  trainable",
        "--freeze=4: 4 of 6 layers frozen, 1 trainable, 1 BatchNormalization held in inference "
        "mode (--batch_norm=frozen).",
        "Parameters: 626 frozen, 0 trainable, 32 held.",
    ]


def test_application_without_a_file_and_with_a_warning():
    spec = specs.ModelSpec(model="keras:VGG16,weights=none,input_shape=32x32x1")
    lines = inspection.describe_model(spec).splitlines()
    assert lines[1].startswith("Format:         keras.applications.VGG16, weights none")
    assert lines[2].endswith(" (32, 32, 1) float32")
    assert lines[3:7] == [
        "Output:         block5_pool (1, 1, 512)",
        "Old classifier: No old classifier at the end: every layer is kept.",
        "Cut off:        nothing",
        "Features:       (1, 1, 512)",
    ]
    assert lines[8] == (
        "Pixel range:    0..1: caffe is for 3 channels, the model has 1: set --pixel_range "
        "(WARNING)"
    )
    assert lines[-2] == "--freeze=all: 18 of 18 layers frozen, 0 trainable."


def test_batch_norm_and_known_range(path):
    spec = specs.ModelSpec(model=path, pixel_range="0..255")
    text = inspection.describe_model(spec, freeze="none", batch_norm="train")
    assert "Pixel range:    0..255: as --pixel_range says\n" in text
    assert "held" not in text


def test_rule_that_does_not_fit(path):
    with pytest.raises(findings.RefusedError) as caught:
        inspection.describe_model(specs.ModelSpec(model=path), freeze="86")
    assert str(caught.value) == (
        "--freeze=86 is more than the 6 layers of the backbone. --mode=inspect lists them."
    )


def test_json_holds_the_same_facts(path):
    spec = specs.ModelSpec(model=path, pixel_range="torch")
    document = json.loads(inspection.describe_model(spec, freeze="50%", style="json"))
    layers = document.pop("layers")
    assert document == {
        "model": path,
        "format": f".keras of Keras {keras.__version__}",
        "keras_version": keras.__version__,
        "backend": None,
        "sha256": formats.file_sha256(path),
        "inputs": [{"name": "pixels", "shape": [None, 12, 12, 3], "dtype": "float32"}],
        "outputs": [{"name": "classifier", "shape": [None, 5], "dtype": "float32"}],
        "can_be_fine_tuned": True,
        "refusal": None,
        "cut_reason": "The old classifier 'classifier' (Dense, 5 units) and what follows it are "
        "cut off.",
        "dropped": ["pool", "drop", "classifier"],
        "features_shape": [None, 6, 6, 8],
        "pooling": "avg",
        "pixel_range": "torch",
        "pixel_range_reason": "as --pixel_range says",
        "pixel_range_warning": False,
        "unit": "layers",
        "freeze": {"rule": "50%", "batch_norm": "frozen", "num_frozen": 3, "cut": "relu_a"},
        "weights": [],
        "signatures": None,
        "notes": [],
        "findings": [],
    }
    assert layers[4] == {
        "number": 5,
        "name": "norm_b",
        "class": "BatchNormalization",
        "output_shape": [None, 6, 6, 8],
        "parameters": 32,
        "is_batch_norm": True,
        "state": "held",
    }


def test_both_ways_give_the_same_description(path):
    # --trust_model takes the way over the loaded model.
    stored = inspection.describe(specs.ModelSpec(model=path), freeze="3")
    loaded = inspection.describe(specs.ModelSpec(model=path, trust_model=True), freeze="3")
    assert stored.plan == loaded.plan
    for name in ("source", "sha256", "inputs", "cut_reason", "dropped", "features_shape"):
        assert getattr(stored, name) == getattr(loaded, name), name
    assert (stored.pooling, stored.pixels) == (loaded.pooling, loaded.pixels)


def test_a_model_that_cannot_be_fine_tuned_is_described(tmp_path):
    path = str(tmp_path / "model.h5")
    layers = [keras.layers.Dense(4, name="each"), keras.layers.LSTM(3, name="lstm")]
    keras.Sequential([keras.Input((6, 8), name="steps"), *layers]).save(path)
    assert inspection.describe_model(specs.ModelSpec(model=path)).splitlines() == [
        f"Model:          {path}",
        f"Format:         HDF5 of Keras {keras.__version__}, tensorflow backend",
        f"SHA-256:        {formats.file_sha256(path)}",
        "Input:          steps (6, 8) float32",
        "Output:         lstm (3) float32",
        "Examined:       no findings",
        "Cannot be fine-tuned as it is: The model's input has the shape (None, 6, 8). This "
        "version fine-tunes models of one image input, (batch, height, width, channels) with 1 or "
        "3 channels, or of one string input.",
        "",
        "number  name  class  output shape  parameters",
        "     1  each  Dense  (6, 4)                36",
        "     2  lstm  LSTM   (3)                   96",
        "Layers: 2. Parameters: 132.",
    ]


def test_a_sequential_that_knows_no_input(tmp_path):
    path = str(tmp_path / "model.keras")
    keras.Sequential([keras.layers.Dense(3, name="one")]).save(path)
    found = inspection.describe(specs.ModelSpec(model=path))
    assert found.refusal == (
        "The model is a Sequential without a fixed graph of layers. Expected a functional model, "
        "or a Sequential one that knows its input shape."
    )
    assert [row.name for row in found.table.rows] == ["one"]


def test_weights_only_are_listed(tmp_path):
    path = str(tmp_path / "some.weights.h5")
    layers = [keras.Input((4,)), keras.layers.Dense(3)]
    keras.Sequential(layers).save_weights(path)
    lines = inspection.describe_model(specs.ModelSpec(model=path)).splitlines()
    assert lines[1] == "Format:         HDF5, weights only, of Keras 3"
    assert lines[3] == "Examined:       no findings"
    assert lines[4].startswith("Cannot be fine-tuned as it is: holds weights only, without the ")
    assert "--model=keras:NAME" in lines[4]
    assert lines[5:] == [
        "",
        "number  layer         weight               shape   type",
        "     1  layers/dense  layers/dense/vars/0  (4, 3)  float32",
        "     1  layers/dense  layers/dense/vars/1  (3,)    float32",
        "Weights: 2. Parameters: 15.",
    ]


def test_an_architecture_is_listed_without_weights(tmp_path):
    path = tmp_path / "arch.json"
    model = keras.Sequential(
        [keras.Input((8, 8, 3), name="pixels"), keras.layers.Conv2D(2, 3, name="conv")]
    )
    path.write_text(model.to_json())
    lines = inspection.describe_model(specs.ModelSpec(model=str(path))).splitlines()
    assert lines[2] == "Input:          pixels (8, 8, 3) float32"
    assert lines[5:] == [
        "Cannot be fine-tuned as it is: is an architecture without weights. Add --weights=FILE.h5.",
        "",
        "number  name  class   output shape  parameters",
        "     1  conv  Conv2D  (6, 6, 2)             56",
        "Layers: 1. Parameters: 56.",
    ]
    with pytest.raises(findings.RefusedError, match=r"without weights. Add --weights=FILE.h5."):
        loading.load_backbone(specs.ModelSpec(model=str(path)))


def test_a_preprocessor_for_another_kind_of_model_is_refused(path):
    with pytest.raises(findings.RefusedError) as caught:
        inspection.describe(specs.ModelSpec(model=path, preprocessor="nonsense"))
    (problem,) = caught.value.problems
    assert (problem.flag, problem.message) == (
        "--preprocessor",
        f"--preprocessor is for a SavedModel that takes tokens. --model={path} is none: leave "
        "--preprocessor out.",
    )


def test_a_damaged_graph_is_one_line(tmp_path, path):
    model = str(tmp_path / "model.h5")
    tiny.make_classifier().save(model)
    with h5py.File(model, "r+") as file:
        config = file.attrs["model_config"].replace('["norm_a", 0, 0]', '["norm_a", 7, 0]')
        file.attrs["model_config"] = config
    with pytest.raises(findings.RefusedError) as caught:
        inspection.describe(specs.ModelSpec(model=model))
    assert str(caught.value) == f"{model}: its layer 'relu_a' has inputs that no layer makes."


def test_another_file_than_the_expected_one_is_refused(path):
    with pytest.raises(findings.RefusedError, match="--model_sha256 expects 0000"):
        inspection.describe(specs.ModelSpec(model=path, model_sha256="0" * 64))
