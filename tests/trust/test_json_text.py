"""JSON with one meaning."""

import pytest

from tf_finetune.trust import json_text, refusals


def test_plain_text():
    assert json_text.parse(b'{"a": [1, {"b": NaN}]}', what="x")["a"][0] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"a": 1, "b": {"c": 1, "c": 2}}',
            "config.json has the key 'c' twice in one object, which readers understand "
            "differently. Save the model again.",
        ),
        ('{"a": ', "config.json is not JSON. Copy or download it again."),
        (b"\xff\xfe", "config.json is not JSON. Copy or download it again."),
        (
            "[" * 90 + "]" * 90,
            "config.json is nested more than 80 levels deep, which no model needs and which "
            "exhausts its readers. Save the model with fewer models inside models.",
        ),
        (
            "[" * 100_000,
            "config.json is nested more than 80 levels deep, which no model needs and which "
            "exhausts its readers. Save the model with fewer models inside models.",
        ),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(refusals.BrokenFileError) as error:
        json_text.parse(text, what="config.json")
    assert str(error.value) == message
