import inspect

import keras
import pytest

from tf_finetune import findings
from tf_finetune.models import formats, path_hints


def refusal(path):
    with pytest.raises(findings.RefusedError) as caught:
        formats.detect_format(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("MobileNetV2", " Did you mean 'keras:MobileNetV2'?"),
        ("mobilenet,alpha=0.25", " Did you mean 'keras:MobileNet,alpha=0.25'?"),
        (
            "sentence-transformers/all-MiniLM-L6-v2",
            " If it is a repository of Hugging Face: a Keras model is "
            "'hf://sentence-transformers/all-MiniLM-L6-v2'; a text encoder is downloaded into a "
            "folder first, for hf:FOLDER.",
        ),
        ("models/cat.h5", ""),
        ("nothing", ""),
    ],
)
def test_what_is_not_there(path, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(path) == (
        f"--model: '{path}' does not exist.{hint} Expected a .h5, .hdf5, .keras or .json file, a "
        "SavedModel folder or a .tar or .tar.gz of one, an address (https://, http://, gs://, "
        "hf://), keras:NAME, hf:FOLDER or kerashub:NAME."
    )


def test_a_local_folder_is_no_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert path_hints.explain_missing("models/cat") == ""
    (tmp_path / "models" / "cats").mkdir()
    assert path_hints.explain_missing("models/cat") == " Did you mean 'models/cats'?"


def test_addresses_of_another_kind():
    assert refusal("ftp://x/y.h5") == (
        "--model: 'ftp://x/y.h5' is an address of a kind that cannot be fetched. Expected "
        "https://, http://, gs:// or hf://."
    )


def test_the_folder_of_a_run(tmp_path):
    assert path_hints.explain_folder(str(tmp_path)) == ""
    (tmp_path / "model.keras").touch()
    expected = f" Did you mean '{tmp_path / 'model.keras'}'?"
    assert path_hints.explain_folder(str(tmp_path)) == expected


def test_all_applications_are_known():
    for name, value in vars(keras.applications).items():
        if inspect.isfunction(value):
            assert path_hints.explain_missing(name) == f" Did you mean 'keras:{name}'?"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", ": 'nothing' does not exist. Expected a SavedModel folder, an archive or "
                    "address."),
        ("words.txt", "=words.txt: is no SavedModel. Expected a SavedModel folder, an archive or "
                      "address of one."),
    ],
)  # fmt: skip
def test_preprocessors_that_are_none(path, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "module").mkdir()
    (tmp_path / "module" / "saved_model.pb").touch()
    (tmp_path / "words.txt").write_text("a\n")
    (problem,) = formats.find_preprocessor_problems(path, model="module")
    assert (problem.flag, problem.message) == ("--preprocessor", f"--preprocessor{message}")
    assert formats.find_preprocessor_problems("module", model="module") == ()
    assert formats.find_preprocessor_problems("https://x/y", model="module") == ()
