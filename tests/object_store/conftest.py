"""A store on this machine, and caches of its users."""

import functools

import pytest

from tests import gcs_server


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A stand-in for Google Cloud Storage that gs:// of this process leads to."""
    with gcs_server.used(tmp_path / "store", monkeypatch) as found:
        yield found


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Makes this process one of a machine by name, with a cache of its own; starts on "one"."""
    move = functools.partial(gcs_server.move_to, folder=tmp_path, patch=monkeypatch)
    move("one")
    return move
