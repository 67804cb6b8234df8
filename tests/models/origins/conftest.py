"""A server on this machine, and a cache and a home of the test's own."""

import os

import pytest

from tests import hub_server
from tests.models.origins.hub_material import ARCHIVE, HANDLE


@pytest.fixture
def hub():
    with hub_server.serve() as server:
        server.answers[HANDLE] = hub_server.Answer(ARCHIVE, compressed_only=True)
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and a home without credentials."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in list(os.environ):
        if name.startswith("KAGGLE") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tf_finetune"
