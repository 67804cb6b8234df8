import json

import pytest

from tf_finetune import findings
from tf_finetune.models import stored_config

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
    message = _refusal(
        stored_config.check_config, config, where="old.h5", version="3.15.1", backend="tensorflow"
    )
    assert message == (
        "old.h5: layer 'block/scale' is a Lambda, which is stored Python code and is never run. "
        "Build the model from plain layers (Rescaling, for example) and save it again."
    )


def test_hard_sigmoid_of_old_keras_is_refused_and_of_keras_3_is_not():
    check = stored_config.check_config
    message = _refusal(check, CONFIG, where="old.h5", version="2.0.8", backend="tensorflow")
    assert message == (
        "old.h5: layer 'block/both/memory' uses hard_sigmoid, which is another function in Keras 3 "
        "than in Keras 2.0.8: its outputs would be wrong. This version cannot translate it."
    )
    check(CONFIG, where="new.h5", version="3.10.0", backend="tensorflow")


def test_theano_convolutions_are_refused():
    config = {"class_name": "Conv2D", "config": {"name": "conv"}}
    config = {"class_name": "Sequential", "config": {"layers": [config]}}
    message = _refusal(
        stored_config.check_config, config, where="old.h5", version="2.1.3", backend="theano"
    )
    assert message == (
        "old.h5: layer 'conv' was saved under Theano, whose convolution kernels are rotated by 180 "
        "degrees: its outputs would be wrong. This version cannot translate it."
    )
    stored_config.check_config(config, where="old.h5", version="2.1.3", backend="tensorflow")


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
