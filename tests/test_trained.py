import json

import keras
import numpy as np
import pytest

from tf_finetune import findings, head_kinds, trained
from tf_finetune.data import preprocessing


@pytest.fixture
def outcome():
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 1), name="image")
    logits = keras.layers.Dense(2, name="label_logits")(keras.layers.Flatten()(image))
    return trained.TrainedModel(
        model=keras.Model({"image": image}, {"label": logits}),
        heads=(head_kinds.HeadInfo("label", "multiclass", ("猫", "dog")),),
        preprocessing=preprocessing.PreprocessingSpec(4, 4, 1, "squash", None),
        facts={"loss_weights": {"label": 1.0}},
    )


def test_it_reads_back_what_was_written(outcome, tmp_path):
    trained.write_trained(str(tmp_path), outcome)
    again = trained.load_run(str(tmp_path))
    assert (again.heads, again.preprocessing, again.facts) == (
        outcome.heads, outcome.preprocessing, outcome.facts,
    )  # fmt: skip
    for old, new in zip(outcome.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.keras"]


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(findings.RefusedError) as caught:
        trained.load_run(str(tmp_path))
    assert str(caught.value) == (
        f"--workdir={tmp_path} holds no trained model: expected model.keras and model.json. Run "
        "--mode=train with this workdir first."
    )


def test_a_newer_format_is_told(outcome, tmp_path):
    trained.write_trained(str(tmp_path), outcome)
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(findings.RefusedError) as caught:
        trained.load_run(str(tmp_path))
    assert str(caught.value) == (
        f"{path}: expected format 1. Received 2. Use the version of tf_finetune that wrote it."
    )


@pytest.mark.parametrize("content", ["[]", "{", '{"format": 1}', '{"format": 1, "heads": [7]}'])
def test_a_damaged_model_json_is_one_line(outcome, tmp_path, content):
    trained.write_trained(str(tmp_path), outcome)
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(findings.RefusedError) as caught:
        trained.load_run(str(tmp_path))
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path}/model.json: is damaged, or was not written by this package ("
    )
    assert message.endswith("). Copy the run's folder again.")


def test_a_model_with_code_is_not_opened_unasked(outcome, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    monkeypatch.setenv("TRACE", str(ran))
    trained.write_trained(str(tmp_path), outcome)
    image = keras.Input((4, 4, 1), name="image")
    layer = keras.layers.Lambda(
        lambda x: (open(__import__("os").environ["TRACE"], "w").close(), x)[1]
    )
    logits = keras.layers.Dense(2)(layer(keras.layers.Flatten()(image)))
    keras.Model({"image": image}, {"label": logits}).save(tmp_path / "model.keras")
    ran.unlink()
    with pytest.raises(findings.RefusedError, match="is a Lambda: it is stored Python code"):
        trained.load_run(str(tmp_path))
    assert not ran.exists()
    trained.load_run(str(tmp_path), trust_model=True)
    assert ran.exists()


def test_trust_that_was_given_is_told_of_whatever_the_file_says():
    assert trained.list_trust_notes({}) == ()
    assert trained.list_trust_notes({"trust": {"trust_model": False, "findings": ["a"]}}) == ()
    assert trained.list_trust_notes({"trust": 3}) == ()
    notes = trained.list_trust_notes({"trust": {"trust_model": True, "findings": ["a", 3]}})
    assert notes == (
        "The pretrained model was opened with --trust_model, which runs code that it carries.",
        "a",
        "3",
    )
