"""Kaggle's credentials and Hugging Face's files."""

import io
import json
import os
import re
import subprocess
import sys
import zipfile

import pytest

from tests import hub_server
from tests.models.origins.hub_material import (
    ARCHIVE,
    DIGEST,
    refusal,
    saved,
)
from tf_finetune.models.origins import hub_handles

KAGGLE = "https://www.kaggle.com/models/google/m/frameworks/TensorFlow2/variations/v/versions/2"


@pytest.mark.parametrize(
    ("files", "variables", "authorization"),
    [
        ({}, {"KAGGLE_API_TOKEN": "abc"}, "Bearer abc"),
        ({"token.txt": "def\n"}, {"KAGGLE_API_TOKEN": "token.txt"}, "Bearer def"),
        ({"home/.kaggle/access_token": "ghi\n"}, {"KAGGLE_KEY": "1"}, "Bearer ghi"),
        ({}, {"KAGGLE_USERNAME": "ada", "KAGGLE_KEY": "x"}, "Basic YWRhOng="),
        ({"home/.kaggle/kaggle.json": '{"username": "ada", "key": "x"}'}, {}, "Basic YWRhOng="),
        (
            {"c/kaggle.json": '{"username": "ada", "key": "x"}'},
            {"KAGGLE_CONFIG_DIR": "c"},
            "Basic YWRhOng=",
        ),
    ],
)
def test_credentials_as_kagglehub_documents(
    hub, tmp_path, monkeypatch, files, variables, authorization
):
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    for name, value in {"KAGGLE_API_ENDPOINT": hub.url, **variables}.items():
        monkeypatch.setenv(name, value)
    url = "/api/v1/models/google/m/TensorFlow2/v/2/download"
    hub.answers[url] = hub_server.Answer(ARCHIVE)
    assert hub_handles.fetch(KAGGLE).sha256 == DIGEST
    ((path, headers),) = hub.requests
    assert (path, headers["Authorization"]) == (url, authorization)


def test_kaggle_without_credentials_speaks_the_hubs_protocol(hub, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_ENDPOINT", hub.url)
    hub.answers[KAGGLE.removeprefix("https://www.kaggle.com")] = hub_server.Answer(
        ARCHIVE, compressed_only=True
    )
    assert hub_handles.fetch(KAGGLE).sha256 == DIGEST
    ((_, headers),) = hub.requests
    assert "Authorization" not in headers


def test_a_kaggle_key_file_that_is_none(tmp_path):
    path = tmp_path / "home/.kaggle/kaggle.json"
    path.parent.mkdir()
    path.write_text("{}")
    assert refusal(KAGGLE) == (
        f"{path}: holds no username and key. Expected Kaggle's API key file."
    )


def test_hugging_face_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert refusal("hf://user/model") == (
        "hf://user/model: needs the package huggingface_hub: pip install huggingface_hub."
    )
    assert refusal("hf://user/model", sha256=DIGEST) == (
        "hf://user/model: is no single file: --model_sha256 expects one, an archive, or the "
        "address of one."
    )


def test_hugging_face_as_keras_uploads_it(hub, tmp_path):
    pytest.importorskip("huggingface_hub")
    commit = "a" * 40
    with zipfile.ZipFile(io.BytesIO(saved("model.keras"))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["pytorch_model.bin"] = b"pickle"
    named = [{"rfilename": name} for name in files]
    listed = [
        {"type": "file", "path": name, "size": len(content), "oid": name}
        for name, content in files.items()
    ]
    info = {"id": "user/model", "sha": commit, "siblings": named}
    api = "/api/models/user/model"
    hub.answers[f"{api}/revision/main"] = hub_server.Answer(json.dumps(info).encode())
    hub.answers[f"{api}/tree/{commit}"] = hub_server.Answer(json.dumps(listed).encode())
    for name, content in files.items():
        hub.answers[f"/user/model/resolve/{commit}/{name}"] = hub_server.Answer(
            content, headers={"X-Repo-Commit": commit, "ETag": f'"{name}"'}
        )
    # The package reads its endpoint when it is imported.
    code = "from tf_finetune.models.origins import hub_handles; print(hub_handles.fetch('hf://user/model'))"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    (path,) = re.findall("path='(.*)', sha256=None", done.stdout)
    assert os.listdir(os.path.dirname(path)) == ["model.keras"]
    with zipfile.ZipFile(path) as archive:
        assert archive.read("model.weights.h5") == files["model.weights.h5"]
    assert not any("pytorch" in asked for asked, _ in hub.requests)
