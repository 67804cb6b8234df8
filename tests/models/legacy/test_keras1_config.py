import copy
import subprocess
import sys

import pytest

from tf_finetune import findings
from tf_finetune.models.legacy import keras1_config


def layer(class_name, name="it", **config):
    return {"class_name": class_name, "config": {"name": name, **config}}


def sequential(*layers):
    return {"class_name": "Sequential", "config": list(layers)}


def translate(class_name, **config):
    whole = keras1_config.translate_config(sequential(layer(class_name, **config)))
    (only,) = whole["config"]["layers"]
    assert only["config"].pop("name") == "it"
    return only["class_name"], only["config"]


def test_it_imports_neither_keras_nor_tensorflow():
    code = (
        "import sys; from tf_finetune.models.legacy import keras1_config; "
        "assert not {'keras', 'tensorflow', 'h5py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_configuration_that_it_reads_is_not_changed():
    config = sequential(layer("Dense", output_dim=2, W_regularizer={"name": "L1L2", "l1": 1.0}))
    before = copy.deepcopy(config)
    keras1_config.translate_config(config)
    assert config == before


def test_a_convolution():
    class_name, config = translate(
        "Convolution2D",
        nb_filter=4,
        nb_row=3,
        nb_col=2,
        subsample=[2, 1],
        border_mode="same",
        dim_ordering="th",
        bias=True,
        init="one",
        W_regularizer={"name": "WeightRegularizer", "l1": 0.0, "l2": 0.1},
        W_constraint={"name": "MaxNorm", "m": 2, "axis": [1, 2, 3]},
        b_constraint={"name": "NonNeg"},
        batch_input_shape=[None, 3, 8, 8],
        input_dtype="float32",
    )
    assert class_name == "Conv2D"
    assert config == {
        "filters": 4,
        "kernel_size": [3, 2],
        "strides": [2, 1],
        "padding": "same",
        "data_format": "channels_first",
        "use_bias": True,
        "kernel_initializer": {"class_name": "Ones", "config": {}},
        "kernel_regularizer": {"class_name": "L1L2", "config": {"l1": 0.0, "l2": 0.1}},
        "kernel_constraint": {
            "class_name": "MaxNorm",
            "config": {"max_value": 2, "axis": [0, 1, 2]},
        },
        "bias_constraint": {"class_name": "NonNeg", "config": {}},
        "batch_input_shape": [None, 3, 8, 8],
    }


@pytest.mark.parametrize(
    ("class_name", "config", "expected"),
    [
        ("ZeroPadding1D", {"padding": 2}, {"padding": [2, 2]}),
        ("ZeroPadding1D", {"padding": {"right_pad": 3}}, {"padding": [0, 3]}),
        ("ZeroPadding2D", {"padding": [1, 2]}, {"padding": [[1, 1], [2, 2]]}),
        ("ZeroPadding2D", {"padding": [1, 2, 3, 4]}, {"padding": [[1, 2], [3, 4]]}),
        ("ZeroPadding2D", {"padding": {"top_pad": 1}}, {"padding": [[1, 0], [0, 0]]}),
        ("ZeroPadding3D", {"padding": [1, 2, 3]}, {"padding": [[1, 1], [2, 2], [3, 3]]}),
        ("MaxPooling1D", {"pool_length": 3, "stride": 2}, {"pool_size": [3], "strides": [2]}),
        ("UpSampling1D", {"length": 3}, {"size": 3}),
        ("Dropout", {"p": 0.25}, {"rate": 0.25}),
        ("GaussianNoise", {"sigma": 0.1}, {"stddev": 0.1}),
        ("Flatten", {}, {"data_format": "channels_last"}),
        ("Reshape", {"dims": [2, 3]}, {"target_shape": [2, 3]}),
        ("GRU", {"output_dim": 2}, {"units": 2, "reset_after": False, "use_bias": True,
                                     "recurrent_activation": "hard_sigmoid"}),
        ("Embedding", {"input_dim": 9, "output_dim": 2, "dropout": 0.1, "W_constraint": None,
                       "init": "uniform", "input_length": 3},
         {"input_dim": 9, "output_dim": 2, "input_length": 3, "embeddings_regularizer": None,
          "embeddings_constraint": None, "embeddings_initializer":
          {"class_name": "RandomUniform", "config": {"minval": -0.05, "maxval": 0.05}}}),
    ],
)  # fmt: skip
def test_arguments(class_name, config, expected):
    found = translate(class_name, **config)[1]
    found.pop("data_format", None) if "data_format" not in expected else None
    assert found == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("TimeDistributedDense", "Dense"),
        ("MaxoutDense", "tf_finetune>MaxoutDense"),
        ("AtrousConvolution1D", "Conv1D"),
        ("Activation", "Activation"),
    ],
)
def test_classes(old, new):
    assert translate(old, output_dim=2)[0] == new


@pytest.mark.parametrize(
    ("mode", "class_name"),
    [
        ("sum", "Add"),
        ("mul", "Multiply"),
        ("ave", "Average"),
        ("max", "Maximum"),
        ("concat", "Concatenate"),
        ("dot", "Dot"),
        ("cos", "tf_finetune>CosineMerge"),
    ],
)
def test_a_merge_of_branches_becomes_a_functional_model(mode, class_name):
    branches = [
        sequential(layer("Dense", f"d{number}", output_dim=2, batch_input_shape=[None, number]))
        for number in (3, 4)
    ]
    merge = layer("Merge", "both", mode=mode, mode_type="raw", dot_axes=1, layers=branches)
    model = keras1_config.translate_config(sequential(merge, layer("Activation", "end")))
    layers = {entry["name"]: entry for entry in model["config"]["layers"]}
    assert model["class_name"] == "Model"
    assert list(layers) == ["d3_input", "d3", "d4_input", "d4", "both", "end"]
    assert layers["both"]["class_name"] == class_name
    assert layers["both"]["inbound_nodes"] == [[["d3", 0, 0, {}], ["d4", 0, 0, {}]]]
    assert model["config"]["input_layers"] == [["d3_input", 0, 0], ["d4_input", 0, 0]]
    assert model["config"]["output_layers"] == [["end", 0, 0]]


def test_layers_without_a_stored_ordering_use_that_of_the_others():
    model = sequential(
        layer("ZeroPadding2D", padding=[1, 1]),
        layer("MaxPooling2D", dim_ordering="th"),
        layer("UpSampling2D", dim_ordering="default"),
    )
    translated = keras1_config.translate_config(model)["config"]["layers"]
    formats = {entry["config"]["data_format"] for entry in translated}
    assert formats == {"channels_first"}
    assert translate("UpSampling2D")[1] == {"data_format": "channels_last"}


def test_shared_axes_are_read_from_the_shapes():
    config = sequential(layer("PReLU", init="zero"))
    whole = keras1_config.translate_config(config, shapes={"it": [(1, 1, 3)]})
    assert whole["config"]["layers"][0]["config"]["shared_axes"] == [1, 2]
    assert translate("PReLU", init="zero")[1]["shared_axes"] is None


def test_what_matters_in_training_only_is_said():
    config = sequential(
        layer("Embedding", "words", input_dim=2, output_dim=2, dropout=0.5),
        layer("Dense", "d", output_dim=2, W_regularizer={"name": "EigenvalueRegularizer"}),
    )
    assert keras1_config.find_losses_dropped(config) == (
        "'words': the dropout of whole words is left out (training only).",
        "'d': EigenvalueRegularizer is left out (training only).",
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            sequential(layer("Merge", "m", mode="gA==", mode_type="lambda")),
            "old.h5: layer 'm' is a Merge whose mode is a function (lambda), which is stored "
            "Python code and is never run. Build the model with a plain mode (sum, concat, ...) "
            "and save it again.",
        ),
        (
            sequential(layer("Convolution2D", "c", border_mode="full")),
            "old.h5: layer 'c' (Convolution2D) has border_mode 'full', which Keras 3 cannot do. "
            "Expected 'valid' or 'same': build the model so in Keras 1, load its weights and save "
            "it again.",
        ),
        (
            sequential(layer("BatchNormalization", "b", mode=3)),
            "old.h5: layer 'b' (BatchNormalization) has mode 3, which Keras 3 cannot do. Expected "
            "0, 1 or 2: build the model so in Keras 1, load its weights and save it again.",
        ),
        (
            {"class_name": "Graph", "config": {}},
            "old.h5: its model is a 'Graph', which Keras 1 wrote and no later Keras reads. "
            "Expected a Sequential or functional model: load it in Keras 1.2.2 and save it again "
            "as one of these.",
        ),
        (
            sequential({"class_name": "Dense"}),
            "old.h5: its stored configuration is not one that Keras 1 wrote (KeyError: 'config'.) "
            "The file is damaged.",
        ),
    ],
)
def test_refusals(config, message):
    with pytest.raises(findings.RefusedError) as caught:
        keras1_config.translate_config(config, where="old.h5")
    assert str(caught.value) == message
