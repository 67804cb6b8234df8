import json

import keras
import pytest

from tf_finetune import findings
from tf_finetune.models import loading
from tf_finetune.models.stored import stored_config

CONFIG = {
    "class_name": "Functional",
    "config": {
        "name": "outer",
        "layers": [
            {"class_name": "InputLayer", "config": {"name": "pixels"}},
            {
                "class_name": "Sequential",
                "config": {
                    "name": "block",
                    "layers": [
                        {
                            "class_name": "Bidirectional",
                            "config": {
                                "name": "both",
                                "layer": {
                                    "class_name": "LSTM",
                                    "config": {
                                        "name": "memory",
                                        "recurrent_activation": "hard_sigmoid",
                                    },
                                },
                            },
                        }
                    ],
                },
            },
            {"class_name": "Conv2D", "config": {"name": "conv"}},
        ],
    },
}


def _refusal(function, *arguments, **keywords) -> str:
    with pytest.raises(findings.RefusedError) as caught:
        function(*arguments, **keywords)
    (problem,) = caught.value.problems
    assert problem.path == "old.h5"
    return problem.message


def test_layers_are_found_with_their_paths():
    found = [(layer.path, layer.class_name) for layer in stored_config.find_layers(CONFIG)]
    assert found == [
        ("", "Functional"),
        ("pixels", "InputLayer"),
        ("block", "Sequential"),
        ("block/both", "Bidirectional"),
        ("block/both/memory", "LSTM"),
        ("conv", "Conv2D"),
    ]


def test_list_configuration_of_old_sequential_models_is_walked():
    config = {
        "class_name": "Sequential",
        "config": [{"class_name": "Dense", "config": {"name": "d"}}],
    }
    assert [layer.path for layer in stored_config.find_layers(config)] == ["", "d"]


def test_bottomless_nesting_ends():
    config = {"class_name": "Sequential", "config": {}}
    for _ in range(1000):
        config = {"class_name": "Sequential", "config": {"layers": [config]}}
    assert 10 < len(list(stored_config.find_layers(config))) < 1000


def test_lambda_is_refused_with_its_path():
    config = {
        "class_name": "Sequential",
        "config": {
            "name": "model",
            "layers": [
                {
                    "class_name": "Sequential",
                    "config": {
                        "name": "block",
                        "layers": [{"class_name": "Lambda", "config": {"name": "scale"}}],
                    },
                }
            ],
        },
    }
    message = _refusal(stored_config.check_code, config, where="old.h5")
    assert message == (
        "old.h5: layer 'block/scale' is a Lambda, which is stored Python code and is never run. "
        "Build the model from plain layers (Rescaling, for example) and save it again, or, only if "
        "you trust its author, give --trust_model."
    )
    stored_config.check_code(CONFIG, where="old.h5")


@pytest.mark.parametrize(
    ("version", "hint"),
    [
        ("3.1.0", "Build the same model in Keras 3, load its weights and save it again."),
        (
            "3.99.0",
            "Run pip install --upgrade keras, or save it again with the older version.",
        ),
    ],
)
def test_refusal_of_keras_says_which_of_the_two_is_old(version, hint):
    error = stored_config.explain(
        ValueError("no such thing"), CONFIG, where="m.h5", version=version
    )
    assert str(error).startswith(f"m.h5: written by Keras {version}, ")
    assert str(error).endswith(f" no such thing. {hint}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Could not locate class 'LSTM'. Make sure",
            "layer 'block/both/memory' is of the custom class 'LSTM'",
        ),
        (
            "Could not locate function 'hard_sigmoid'.",
            "layer 'block/both/memory' uses the custom function 'hard_sigmoid'",
        ),
        ("Could not locate class 'Swirl'.", "it needs the custom class 'Swirl'"),
    ],
)
def test_missing_objects_are_named_with_their_layer(text, expected):
    error = stored_config.explain(TypeError(text), CONFIG, where="m.h5", version="2.4.0")
    assert str(error).startswith(f"m.h5: {expected}, which Keras ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "its stored configuration is not JSON. The file is damaged."),
        ("[" * 100_000, "its stored configuration is not JSON. The file is damaged."),
        ("[]", "its stored configuration names no model class. The file is damaged."),
        ("{}", "its stored configuration names no model class. The file is damaged."),
    ],
)
def test_damaged_configuration_is_refused(text, reason):
    assert _refusal(stored_config.read_config, text, where="old.h5") == f"old.h5: {reason}"


def test_configuration_is_read():
    assert stored_config.read_config(json.dumps(CONFIG), where="m") == CONFIG


def test_reason_is_one_short_line():
    error = ValueError(
        "Error when deserializing\n\nException encountered: bad \x1b[31m thing\nmore"
    )
    assert stored_config.one_reason(error) == "bad \\x1b[31m thing."
    assert len(stored_config.one_reason(ValueError("x" * 5000))) < 310
    assert stored_config.one_reason(KeyError()) == "KeyError."


def test_a_vocabulary_that_only_keras_files_hold(tmp_path):
    tokens = keras.layers.TextVectorization(output_sequence_length=4, name="tokens")
    tokens.adapt(["good film", "bad film"])
    model = keras.Sequential(
        [keras.Input((1,), dtype="string"), tokens, keras.layers.Embedding(9, 2)]
    )
    path = tmp_path / "model.h5"
    model.save(path)
    with pytest.raises(findings.RefusedError) as error:
        loading.load_pretrained(str(path))
    assert str(error.value) == (
        f"{path}: layer 'tokens' (TextVectorization) has a vocabulary that the file does not hold: "
        "only .keras files do. Save the model again as .keras."
    )
