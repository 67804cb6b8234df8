"""What the tests of addresses serve and how they ask for it."""

import functools
import hashlib
import pathlib
import tempfile

import pytest

from tests import hub_server, tiny
from tf_finetune import findings
from tf_finetune.models.origins import hub_handles

HANDLE = "/google/imagenet/mobilenet_v1/1"
# A SavedModel without any operation.
GRAPH = b'\x08\x01\x12\x11\n\x0f"\x05serve*\x062.20.0'
WORDS = "assets/words.txt"
ARCHIVE = hub_server.make_archive(("saved_model.pb", GRAPH), (WORDS, b"1" * 5000))
DIGEST = hashlib.sha256(ARCHIVE).hexdigest()


@functools.cache
def saved(name: str) -> bytes:
    """The content of a good file with that ending."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model").with_suffix(pathlib.Path(name).suffix)
        tiny.make_classifier().save(path)
        return path.read_bytes()


def refusal(handle: str, **arguments) -> str:
    with pytest.raises(findings.RefusedError) as caught:
        hub_handles.fetch(handle, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def local_path(handle: str, **arguments) -> str:
    return hub_handles.fetch(handle, **arguments).path


def files_in(folder: pathlib.Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "locks"
    )
