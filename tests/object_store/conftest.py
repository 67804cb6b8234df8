"""A store on this machine, and caches of its users."""

import pytest

from tests import gcs_server


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A stand-in for Google Cloud Storage that gs:// of this process leads to."""
    folder = tmp_path / "store"
    folder.mkdir()
    with gcs_server.serve(folder) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Makes this process one of a machine by name, with a cache of its own; starts on "one"."""

    def move(name):
        monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "machines" / name))

    move("one")
    return move
