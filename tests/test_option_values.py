import pytest

from tf_finetune import option_values


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("10", option_values.FreezeRule("count", 10)),
        ("-3", option_values.FreezeRule("count", -3)),
        ("0", option_values.FreezeRule("count", 0)),
        ("67%", option_values.FreezeRule("percent", 67.0)),
        ("12.5%", option_values.FreezeRule("percent", 12.5)),
        ("all", option_values.FreezeRule("all")),
        ("none", option_values.FreezeRule("none")),
        ("until:block:3", option_values.FreezeRule("until", "block:3")),
        ("match:^conv_", option_values.FreezeRule("match", "^conv_")),
    ],
)
def test_read_freeze(text, rule):
    assert option_values.read_freeze(text) == rule


def test_read_requirement():
    assert option_values.read_requirement(
        "test/accuracy:0.9", flag="require_min"
    ) == option_values.Requirement("test", None, "accuracy", 0.9)
    assert option_values.read_requirement(
        "test/a/f1_macro:1", flag="require_min"
    ) == option_values.Requirement("test", "a", "f1_macro", 1.0)


def test_read_image_size():
    assert option_values.read_image_size("224") == (224, 224)
    assert option_values.read_image_size("96x128") == (96, 128)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("grpc://10.0.0.5:5000", ("10.0.0.5", 5000)),
        ("grpc://dispatcher.local:1", ("dispatcher.local", 1)),
        ("grpc://[::1]:65535", ("::1", 65535)),
    ],
)
def test_read_service(text, place):
    assert option_values.read_service(text) == place


@pytest.mark.parametrize(
    "text", ["", "host:5000", "http://host:5000", "grpc://host", "grpc://host:0", "grpc://h:65536"]
)
def test_read_service_refuses_other_forms(text):
    with pytest.raises(option_values.SpecError) as caught:
        option_values.read_service(text)
    assert str(caught.value) == (
        "--data_service expects the address of a dispatcher, grpc://HOST:PORT, for example "
        f"grpc://10.0.0.5:5000. Received {text!r}."
    )
