import errno
import hashlib
import io
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading

import pytest

from tests import hub_server, tiny
from tests.models.origins.hub_material import (
    ARCHIVE,
    DIGEST,
    GRAPH,
    HANDLE,
    WORDS,
    files_in,
    local_path,
    refusal,
    saved,
)
from tf_finetune import findings, specs
from tf_finetune.models import formats, loading
from tf_finetune.models.origins import hub_handles, model_cache


def test_other_values_are_unchanged(tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(saved("model.h5"))
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(GRAPH)
    for model in (str(path), str(folder)):
        assert hub_handles.fetch(model) == hub_handles.LocalModel(model, found=())
    for model in ("keras:MobileNet", "kerashub:bert_tiny"):
        assert hub_handles.fetch(model) == hub_handles.LocalModel(model)
    assert not (tmp_path / "cache").exists()


def test_validation_says_nothing_of_handles_before_the_download(tmp_path):
    archive = tmp_path / "m.tgz"
    archive.write_bytes(ARCHIVE)
    for model in ("https://tfhub.dev/a/b/1", "gs://a/b", "hf://a/b", str(archive)):
        assert formats.find_problems(model) == ()


def test_compressed_download_then_the_cache(hub, cache, capsys):
    found = hub_handles.fetch(hub.url + HANDLE)
    assert found.sha256 == DIGEST
    assert sorted(os.listdir(found.path)) == ["assets", "saved_model.pb"]
    assert pathlib.Path(found.path, WORDS).read_bytes() == b"1" * 5000
    assert [path for path, _ in hub.requests] == [f"{HANDLE}?tf-hub-format=compressed"]
    captured = capsys.readouterr()
    assert captured.out == ""  # which --inspect_format=json has for itself
    assert captured.err == f"Downloading {hub.url}{HANDLE} (MB) 1/1, 0 s\n"
    assert hub_handles.fetch(hub.url + HANDLE, sha256=DIGEST.upper()) == found
    assert local_path(hub.url + HANDLE) == found.path
    assert len(hub.requests) == 1
    assert capsys.readouterr().err == ""


def test_the_cache_is_private_and_holds_nothing_unfinished(hub, cache):
    hub_handles.fetch(hub.url + HANDLE)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert os.listdir(cache / "unfinished") == []
    cache.chmod(0o755)
    hub_handles.fetch(hub.url + HANDLE)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_the_cache_is_in_the_home_folder_by_default(hub, tmp_path, monkeypatch):
    monkeypatch.delenv("TFHUB_CACHE_DIR")
    found = hub_handles.fetch(hub.url + HANDLE)
    assert found.path.startswith(str(tmp_path / "home/.cache/tf_finetune/"))


def test_a_cache_that_is_no_folder_is_refused(hub, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "file"))
    message = refusal(hub.url + HANDLE)
    assert message.startswith(f"The cache folder {tmp_path}/file/tf_finetune cannot be used: ")
    assert message.endswith(" Set TFHUB_CACHE_DIR to a folder of your own.")


def test_a_redirect_is_followed_without_the_credentials(hub, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_ENDPOINT", hub.url)
    monkeypatch.setenv("KAGGLE_USERNAME", "ada")
    monkeypatch.setenv("KAGGLE_KEY", "secret")
    hub.answers["/api/v1/models/google/m/TensorFlow2/v/2/download"] = hub_server.Answer(
        status=302, location="/storage/m.tar.gz?signed=1"
    )
    hub.answers["/storage/m.tar.gz"] = hub_server.Answer(ARCHIVE)
    found = hub_handles.fetch("https://www.kaggle.com/models/google/m/TensorFlow2/v/2")
    assert found.sha256 == DIGEST
    (_, first), (path, second) = hub.requests
    assert first["Authorization"] == "Basic YWRhOnNlY3JldA=="
    assert path == "/storage/m.tar.gz?signed=1"
    assert "Authorization" not in second


@pytest.mark.parametrize("location", ["http://example.com/m", "ftp://a/b"])
def test_a_redirect_away_from_https_is_refused(hub, location):
    hub.answers["/m"] = hub_server.Answer(status=302, location=location)
    assert refusal(f"{hub.url}/m") == (
        f"{hub.url}/m: is redirected to {location}, which is not https: on the way, others could "
        "replace the model. Expected https://."
    )


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        (
            "http://example.com/model.h5",
            "is not https: on the way, others could replace the model. Expected https://.",
        ),
        (
            "https://ada:secret@example.com/model.h5",
            "has a user name in it, which would be written to run.flags. Leave it out.",
        ),
        ("https:///model.h5", "is no URL: it names no host."),
        ("https://[/model.h5", "is no URL: Invalid IPv6 URL."),
        (
            "https://www.kaggle.com/models/google/bert/tensorFlow2/answer",
            "names no version of a model. Expected "
            "https://www.kaggle.com/models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION.",
        ),
        (
            "https://www.kaggle.com/datasets/a/b",
            "is no Kaggle model. Expected "
            "https://www.kaggle.com/models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION.",
        ),
    ],
)
def test_addresses_that_are_not_asked(handle, reason):
    assert refusal(handle) == f"{handle}: {reason}"


FORBIDDEN = (
    "Some models on Kaggle need credentials (KAGGLE_API_TOKEN, KAGGLE_USERNAME and KAGGLE_KEY, or "
    "~/.kaggle/kaggle.json), or your consent to their licence on the model's page."
)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, f"403 Forbidden. {FORBIDDEN}"),
        (401, f"401 Unauthorized. {FORBIDDEN}"),
        (404, "404 Not Found. Check the handle and its version."),
        (500, "500 Internal Server Error. Try again later."),
    ],
)
def test_what_the_server_refuses_is_one_line_and_leaves_nothing(hub, cache, status, words):
    hub.answers["/m/1"] = hub_server.Answer(b"<html>no</html>", status=status)
    assert refusal(f"{hub.url}/m/1") == f"{hub.url}/m/1: the server answered {words}"
    assert files_in(cache) == []


def test_a_redirect_in_circles_ends(hub):
    hub.answers["/m"] = hub_server.Answer(status=302, location="/m")
    assert refusal(f"{hub.url}/m").startswith(f"{hub.url}/m: the server answered 302 ")


def test_no_network_is_one_line():
    handle = "http://127.0.0.1:9/google/m/1"
    assert refusal(handle) == (
        f"{handle}: cannot be downloaded: [Errno {errno.ECONNREFUSED}] Connection refused. "
        "Check the network, or give --model a local copy."
    )


def test_a_download_that_breaks_off_leaves_nothing_and_the_next_succeeds(hub, cache):
    half = len(ARCHIVE) // 2
    hub.answers[HANDLE] = hub_server.Answer(ARCHIVE[:half], stated_length=len(ARCHIVE))
    assert refusal(hub.url + HANDLE) == (
        f"{hub.url}{HANDLE}: the download broke off after {half} of {len(ARCHIVE)} bytes. Nothing "
        "was kept: run the same command again."
    )
    assert files_in(cache) == []
    hub.answers[HANDLE] = hub_server.Answer(ARCHIVE)
    assert hub_handles.fetch(hub.url + HANDLE).sha256 == DIGEST


def test_a_download_of_unknown_length_that_breaks_off_is_seen_in_the_archive(hub, cache):
    hub.answers[HANDLE] = hub_server.Answer(ARCHIVE[: len(ARCHIVE) // 2], chunked=True)
    message = refusal(hub.url + HANDLE)
    assert message.startswith(f"{hub.url}{HANDLE}: the archive is truncated or damaged: ")
    assert files_in(cache) == []


def test_a_page_instead_of_a_model(hub, cache):
    hub.answers["/m/1"] = hub_server.Answer(b"<!DOCTYPE html><title>Sign in</title>")
    assert refusal(f"{hub.url}/m/1").startswith(
        f"{hub.url}/m/1: is an HTML page, not a model: the download went wrong."
    )
    assert files_in(cache) == []


def test_wrong_sha256_is_refused_before_anything_is_extracted(hub, cache):
    expected = "0" * 64
    assert refusal(hub.url + HANDLE, sha256=expected) == (
        f"{hub.url}{HANDLE}: its SHA-256 is {DIGEST}, but --model_sha256 expects {expected}. It is "
        "another file than the one you mean, or it was changed."
    )
    assert files_in(cache) == []
    assert hub_handles.fetch(hub.url + HANDLE, sha256=DIGEST).sha256 == DIGEST
    assert "but --model_sha256 expects 000" in refusal(hub.url + HANDLE, sha256=expected)


def test_malformed_sha256():
    assert refusal("m.h5", sha256="abc") == (
        "--model_sha256 expects 64 hex digits. Received 'abc'."
    )


def test_sha256_of_local_files_and_folders(tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(saved("model.h5"))
    digest = hashlib.sha256(saved("model.h5")).hexdigest()
    assert local_path(str(path), sha256=digest) == str(path)
    assert refusal(str(path), sha256=DIGEST).startswith(f"{path}: its SHA-256 is {digest}, but ")
    (tmp_path / "saved_model.pb").touch()
    assert refusal(str(tmp_path), sha256=DIGEST) == (
        f"{tmp_path}: is no single file: --model_sha256 expects one, an archive, or the address of "
        "one."
    )
    # Their loaders compare the one file that holds the weights.
    for model in ("hf:missing", "kerashub:bert_tiny"):
        assert local_path(model, sha256=DIGEST) == model


@pytest.mark.parametrize("damage", ["removed", "shortened", "no_list"])
def test_a_half_filled_cache_is_fetched_again(hub, damage):
    path = pathlib.Path(local_path(hub.url + HANDLE))
    if damage == "removed":
        (path / WORDS).unlink()
    elif damage == "shortened":
        (path / WORDS).write_bytes(b"1")
    else:
        (path.parent / "files.json").unlink()
    again = local_path(hub.url + HANDLE)
    assert pathlib.Path(again, WORDS).read_bytes() == b"1" * 5000
    assert len(hub.requests) == 2


def test_what_tensorflow_hub_left_half_done_is_no_obstacle(hub, cache):
    # The lock, the temporary folder and the half-filled folder of a killed run of hub.load.
    name = hashlib.sha1((hub.url + HANDLE).encode()).hexdigest()
    base = cache.parent
    (base / f"{name}.0123.tmp").mkdir(parents=True)
    (base / f"{name}.lock").write_text("host.1.0123")
    (base / name).mkdir()
    (base / name / "saved_model.pb").write_bytes(b"half")
    found = pathlib.Path(local_path(hub.url + HANDLE))
    assert (found / "saved_model.pb").read_bytes() == GRAPH


KILLED = """
import os, sys
from tf_finetune.models.origins import archives, hub_handles
archives.extract = lambda path, folder, where: (open(folder + "/half", "w"), os._exit(9))
hub_handles.fetch(sys.argv[1])
"""


def test_a_killed_run_leaves_no_lock_and_its_files_are_removed(hub, cache):
    code = [sys.executable, "-c", KILLED, hub.url + HANDLE]
    assert subprocess.run(code, check=False, capture_output=True).returncode == 9
    assert any("half" in name for name in files_in(cache))
    hub_handles.fetch(hub.url + HANDLE)
    assert os.listdir(cache / "unfinished") == []


def test_runs_at_once_download_once(hub, capsys):
    results = []

    def run():
        results.append(hub_handles.fetch(hub.url + HANDLE))

    with model_cache.locked(model_cache.key_of(hub.url + HANDLE), what="it"):
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(0.1)
        assert results == []
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(set(results)) == 1
    assert len(hub.requests) == 1
    assert f"Waiting for another run that fetches {hub.url}{HANDLE}\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.h5", "m%20o.hdf5", "model.keras?raw=1"])
def test_a_model_file_is_downloaded_as_it_is(hub, name):
    content = saved(name.partition("?")[0])
    hub.answers[f"/{name.partition('?')[0]}"] = hub_server.Answer(content)
    found = hub_handles.fetch(f"{hub.url}/{name}")
    assert pathlib.Path(found.path).read_bytes() == content
    assert re.fullmatch(r"[A-Za-z0-9_.]+\.(h5|hdf5|keras)", os.path.basename(found.path))
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert [path for path, _ in hub.requests] == [f"/{name}"]


def test_an_archive_by_its_address(hub):
    hub.answers["/m.tar.gz"] = hub_server.Answer(
        hub_server.make_archive(("inner/model.h5", saved("model.h5")), ("inner/labels.txt", b"a"))
    )
    assert local_path(f"{hub.url}/m.tar.gz").endswith("/content/inner/model.h5")
    assert [path for path, _ in hub.requests] == ["/m.tar.gz"]


def test_a_hostile_download_is_named_by_its_handle(hub, cache):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo("variables")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(member)
    hub.answers[HANDLE] = hub_server.Answer(stream.getvalue())
    assert refusal(hub.url + HANDLE) == (
        f"{hub.url}{HANDLE}: member 'variables' is a symbolic link, which could reach outside of "
        "the archive. Only regular files and folders are extracted."
    )
    assert files_in(cache) == []


def test_local_archives_are_extracted_once_by_their_content(tmp_path, cache):
    path = tmp_path / "model.tar.gz"
    path.write_bytes(ARCHIVE)
    found = hub_handles.fetch(str(path))
    assert found.sha256 == DIGEST
    assert found.path == str(cache / "models" / DIGEST / "content")
    before = os.stat(found.path).st_mtime_ns
    shutil.copy(path, tmp_path / "copy.tar.gz")
    assert hub_handles.fetch(str(tmp_path / "copy.tar.gz"), sha256=DIGEST) == found
    assert os.stat(found.path).st_mtime_ns == before
    path.write_bytes(ARCHIVE[:-30])
    assert refusal(str(path)).startswith(f"{path}: the archive is truncated or damaged: ")


def test_a_backbone_by_its_handle_and_its_errors_name_it(hub):
    path = "/tiny.keras"
    with tempfile.TemporaryDirectory() as folder:
        tiny.make_classifier().save(f"{folder}/tiny.keras")
        content = pathlib.Path(folder, "tiny.keras").read_bytes()
    hub.answers[path] = hub_server.Answer(content)
    hub.answers["/tiny.tar.gz"] = hub_server.Answer(
        hub_server.make_archive(("tiny/model.keras", content))
    )
    digest = hashlib.sha256(content).hexdigest()
    backbone = loading.load_backbone(
        specs.ModelSpec(model=hub.url + path, model_sha256=digest, pixel_range="0..1")
    )
    assert backbone.sha256 == digest
    other = loading.load_backbone(specs.ModelSpec(model=f"{hub.url}/tiny.tar.gz"))
    assert other.sha256 == hashlib.sha256(hub.answers["/tiny.tar.gz"].body).hexdigest()
    assert other.table == backbone.table
    assert len(loading.load_pretrained(hub.url + path).layers) == 10
    assert len(hub.requests) == 2
    hub.answers["/bad.keras"] = hub_server.Answer(b"PK\x03\x04rest")
    with pytest.raises(findings.RefusedError) as caught:
        loading.load_backbone(specs.ModelSpec(model=f"{hub.url}/bad.keras"))
    assert str(caught.value).startswith(f"{hub.url}/bad.keras: the .keras archive is truncated or ")
