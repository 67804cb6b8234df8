"""Configurations that would build, call or read something else than layers."""

import base64
import inspect
import marshal

import keras
import pytest
from keras.src.ops.operation import Operation

from tf_finetune.trust import keras_classes, keras_config, keras_operations

TRUST = " --trust_model opens it all the same, if you know who made it."
CUSTOM = " --custom_objects=MODULE names the Python module that defines it."
CODE = base64.b64encode(marshal.dumps((lambda x: x).__code__)).decode()


def layer(class_name, **config):
    return {"class_name": class_name, "config": {"name": class_name.lower(), **config}}


def model(*layers, **config):
    inner = {"name": "outer", "layers": list(layers), **config}
    return {"class_name": "Sequential", "config": inner}


def messages(config, **options):
    return [(item.kind, item.message) for item in keras_config.examine(config, **options)]


GOOD = model(
    layer("InputLayer", batch_shape=[None, 4]),
    layer(
        "Dense",
        units=3,
        activation="relu",
        kernel_initializer={"class_name": "Zeros", "config": {}},
    ),
    {
        **layer("Conv2D", filters=2, kernel_size=[3, 3]),
        "module": "keras.layers",
        "registered_name": None,
    },
    {**layer("Add"), "module": "keras.src.ops.numpy", "registered_name": "Add"},
    {**layer("Dense", units=1), "class_name": "Dense", "registered_name": "tf_finetune>Highway"},
    {**layer("Convolution2D"), "config": {"name": "lambda_os_system", "nb_filter": 2}},
    layer("TFOpLambda", function="math.multiply"),
    # EfficientNetV2 of Keras 2 stores an initializer of TensorFlow.
    layer(
        "Dense",
        bias_initializer={
            "module": "tensorflow.python.ops.init_ops_v2",
            "class_name": "Constant",
            "config": {"value": 0},
        },
    ),
    layer("StringLookup", vocabulary=["/etc/passwd", "https://example.org"]),
    layer(
        "Activation", activation={"class_name": "function", "config": "relu", "module": "builtins"}
    ),
)


def test_layers_of_all_keras_versions_pass():
    assert messages(GOOD, stored_size=10_000) == []


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (
            layer("Lambda", function=[CODE, None, None]),
            "code",
            "layer 'lambda' is a Lambda: it is stored Python code, and is never run unasked. "
            "Build the model from plain layers and save it again." + TRUST,
        ),
        (
            {**layer("TorchModuleWrapper"), "module": "keras.layers"},
            "code",
            "layer 'torchmodulewrapper' is a TorchModuleWrapper: it holds a Python pickle, which "
            "is a program, and is never run unasked. Build the model from plain layers and save "
            "it again." + TRUST,
        ),
        (
            {**layer("mkdir"), "module": "os"},
            "code",
            "layer 'mkdir' would call 'os.mkdir', which is no layer and no part of one." + TRUST,
        ),
        (
            {**layer("write_file"), "module": "tensorflow.python.ops.init_ops_v2"},
            "code",
            "layer 'write_file' would call 'tensorflow.python.ops.init_ops_v2.write_file', which "
            "is no layer and no part of one." + TRUST,
        ),
        (
            {**layer("get_file"), "module": "keras.utils"},
            "code",
            "layer 'get_file' would call 'keras.utils.get_file', which is no layer and no part of "
            "one." + TRUST,
        ),
        (
            {**layer("deserialize"), "module": "keras.layers"},
            "code",
            "layer 'deserialize' would call 'keras.layers.deserialize', which is no layer and no "
            "part of one." + TRUST,
        ),
        (
            layer("Dense", activation={"class_name": "__lambda__", "config": {"value": "x"}}),
            "code",
            "layer 'dense' holds a __lambda__, which is stored Python code." + TRUST,
        ),
        (
            layer("Dense", activation={"class_name": "__typespec__", "config": []}),
            "code",
            "layer 'dense' holds a __typespec__, which is stored Python code." + TRUST,
        ),
        (
            layer(
                "Activation",
                activation={"class_name": "function", "config": "mkdir", "module": "os"},
            ),
            "code",
            "layer 'activation' would call the function 'os.mkdir', which is no part of a layer."
            + TRUST,
        ),
        (
            layer("Dense", activation=[CODE, None, None]),
            "code",
            "layer 'dense' holds marshalled Python code in 'activation'." + TRUST,
        ),
        (
            layer("TFOpLambda", function="io.write_file"),
            "code",
            "layer 'tfoplambda' would call 'tf.io.write_file', which computes nothing." + TRUST,
        ),
        (
            layer("StringLookup", vocabulary="/etc/passwd"),
            "file",
            "layer 'stringlookup' would read the file '/etc/passwd' ('vocabulary'): a model that "
            "opens files of this computer is not loaded. Save it again with the values themselves.",
        ),
        (
            layer("Dense", comment="https://example.org/x"),
            "file",
            "layer 'dense' names the address 'https://example.org/x' in 'comment': a model that "
            "opens files of this computer is not loaded. Save it again with the values themselves.",
        ),
        (
            layer("Dense", value={"class_name": "__numpy__", "config": {"dtype": "<U1000000000"}}),
            "file",
            "layer 'dense' holds an array of the type '<U1000000000', which no model has. Save it "
            "again with numbers.",
        ),
        (
            {"class_name": "Dense", "config": {"name": "a\n[OK]\x1b[2J"}},
            "file",
            r"the name of layer 'a\n[OK]\x1b[2J' holds control characters, which could forge lines "
            "of a log or of a terminal. Rename it and save the model again.",
        ),
        (
            {**layer("Mine"), "registered_name": "shop>Mine", "module": "shop.layers"},
            "custom",
            "layer 'mine' needs the custom class 'shop>Mine'." + CUSTOM,
        ),
        (
            layer("Activation", activation={"class_name": "function", "config": "wave"}),
            "custom",
            "layer 'activation' needs the custom function 'builtins.wave'." + CUSTOM,
        ),
    ],
)
def test_what_is_refused(bad, kind, message):
    assert messages(model(layer("Flatten"), bad)) == [(kind, message)]


def test_a_layer_is_found_in_nested_models_and_wrappers_and_said_once():
    lambda_layer = layer("Lambda", function={"class_name": "__lambda__", "config": {"code": CODE}})
    inner = {**model(layer("TimeDistributed", layer=lambda_layer))}
    inner["config"]["name"] = "inner"
    (finding,) = keras_config.examine(model(inner))
    assert finding.where == "inner/timedistributed/lambda"


def test_the_sequential_of_keras_2_0_is_a_list_of_layers():
    config = {"class_name": "Sequential", "config": [layer("Dense", units=1), layer("Lambda")]}
    (finding,) = keras_config.examine(config)
    assert finding.where == "lambda"


def test_the_vocabulary_of_our_tokenizers_is_a_text_and_no_path():
    own = layer("WordPieceTokenizer", vocabulary="[PAD]\n[UNK]")
    for entry in (
        {**own, "registered_name": "tf_finetune>WordPieceTokenizer"},
        {**own, "class_name": "tf_finetune>WordPieceTokenizer"},
    ):
        assert messages(model(entry)) == []
    for entry in (
        {**layer("StringLookup", vocabulary="/etc/passwd")},
        {
            **layer("StringLookup", vocabulary="/etc/passwd"),
            "registered_name": "tf_finetune>WordPieceTokenizer",
        },
        {
            **layer("TokenMask", inner=layer("StringLookup", vocabulary="/etc/passwd")),
            "registered_name": "tf_finetune>TokenMask",
        },
    ):
        ((kind, message),) = messages(model(entry))
        assert kind == "file"
        assert "would read the file '/etc/passwd' ('vocabulary')" in message


def test_a_functional_subclass_is_a_functional_model():
    inner = {"name": "m", "layers": [layer("Dense", units=1)], "input_layers": []}
    mine = {"class_name": "Mine", "config": inner}
    assert messages(mine) == []
    assert messages({**mine, "module": "__main__"}) == []
    for module, kind in (("shop", "custom"), ("os", "code"), ("keras.utils", "code")):
        assert [found for found, _ in messages({**mine, "module": module})] == [kind]
    inner["layers"].append(layer("Lambda"))
    assert [kind for kind, _ in messages(mine)] == ["code"]


def test_custom_objects_lift_the_users_classes_only():
    mine = {**layer("Mine"), "registered_name": "shop>Mine", "module": "shop.layers"}
    assert messages(model(mine), custom_objects=True) == []
    evil = {**layer("system"), "module": "os"}
    assert [kind for kind, _ in messages(model(evil), custom_objects=True)] == ["code"]
    assert messages(model(mine), custom_objects=["shop>Mine"]) == []
    for names in ([], ["shop>Other"]):
        assert [kind for kind, _ in messages(model(mine), custom_objects=names)] == ["custom"]


@pytest.mark.parametrize("registered", ["Custom>Dense", "tf_finetune>Highway", "shop>Mine"])
@pytest.mark.parametrize(
    ("class_name", "module"),
    [("Lambda", "keras.layers"), ("get_file", "keras.utils"), ("system", "os")],
)
def test_a_registered_name_hides_no_class(registered, class_name, module):
    entry = {**layer(class_name), "module": module, "registered_name": registered}
    assert [kind for kind, _ in messages(model(entry), custom_objects=True)] == ["code"]


def test_a_training_configuration_is_searched_for_code_only():
    loss = {"class_name": "__lambda__", "config": {"value": CODE}}
    (finding,) = keras_config.examine_training({"loss": loss})
    assert finding.message == (
        "the training configuration holds a __lambda__, which is stored Python code." + TRUST
    )
    assert not list(keras_config.examine_training({"loss": "my_own_loss", "metrics": ["f2"]}))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            layer("Dense", units=2**31),
            "layer 'dense' asks for 2,147,483,648 weights or more, and the file stores 772 in all: "
            "building it would fill the memory. The file is damaged or hostile.",
        ),
        (
            layer("SpectralNormalization", power_iterations=10**9),
            "layer 'spectralnormalization' has power_iterations 1,000,000,000. Expected at most "
            "1,000, which no model exceeds.",
        ),
        (
            layer("InputLayer", batch_shape=[None, 10**6, 10**6, 3]),
            "layer 'inputlayer' has a batch_shape of 3,000,000,000,000 elements. Expected at most "
            "268,435,456: an example of that size fits no memory.",
        ),
    ],
)
def test_sizes_that_the_file_does_not_explain(bad, message):
    assert messages(model(bad), stored_size=772) == [("file", message)]


def test_a_bomb_of_many_layers():
    found = messages(model(*[layer("Dense", units=60_000)] * 100), stored_size=100_000)
    assert found[0][1].startswith("layer '' and all others together ask for 6,000,000 weights")
    found = messages(model(*[layer("Dropout")] * 10_001))
    assert found[0][1].startswith("has 10,001 layers. Expected at most 10,000")


def test_every_public_layer_is_listed_or_excluded_with_a_reason():
    public = {
        name
        for name in dir(keras.layers)
        if name[0].isupper() and inspect.isclass(getattr(keras.layers, name))
    } | {"Input"}
    listed = keras_classes.LAYERS | keras_classes.NOT_STORED | set(keras_classes.EXCLUDED_LAYERS)
    assert public - listed == set()
    assert listed - public == set()
    assert set(keras_classes.EXCLUDED_LAYERS) == {
        "FlaxLayer",
        "JaxLayer",
        "Lambda",
        "TFSMLayer",
        "TorchModuleWrapper",
    }


def test_what_this_package_registers_is_listed_and_nothing_else():
    import tf_finetune  # noqa: F401  (registers them)

    registered = keras.saving.get_custom_objects()
    own = {name for name in registered if name.startswith("tf_finetune>")}
    assert {name.removeprefix("tf_finetune>") for name in own} == keras_classes.OWN
    entry = {**layer("main"), "module": "tf_finetune.main", "registered_name": "tf_finetune>main"}
    assert [kind for kind, _ in messages(model(entry))] == ["custom"]


def test_every_operation_is_listed_or_takes_a_function():
    from keras.src.ops import core, einops, image, linalg, math, nn, numpy

    classes = {
        name
        for module in (core, einops, image, linalg, math, nn, numpy)
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, Operation)
        and value is not Operation
        and value.__module__ == module.__name__
    }
    assert classes - keras_operations.OPERATIONS - keras_operations.EXCLUDED == set()
