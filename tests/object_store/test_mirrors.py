"""Where local copies are, and whose they are."""

import os

import pytest

from tf_finetune import findings, workdir
from tf_finetune.object_store import mirrors


def test_a_copy_has_its_place_by_its_url(tmp_path):
    first, again = mirrors.Mirror("gs://b/x"), mirrors.Mirror("gs://b/x/")
    other = mirrors.Mirror("gs://b/y")
    assert first.folder == again.folder != other.folder
    assert workdir.read_json(os.path.join(first.home, "about.json")) == {"url": "gs://b/x"}
    kept = mirrors.Mirror("gs://b/x", cache_dir=str(tmp_path / "features"))
    assert kept.home.startswith(str(tmp_path / "features" / "stores"))


def test_a_copy_knows_its_url_and_no_other_folder_has_one(tmp_path):
    mirror = mirrors.Mirror("gs://b/x")
    assert mirrors.find_url(mirror.folder) == "gs://b/x"
    assert mirrors.find_url(mirror.home) is None
    assert mirrors.find_url(str(tmp_path)) is None
    # A stranger's folder that says so is none: it does not lie where that copy does.
    (tmp_path / "run" / "files").mkdir(parents=True)
    workdir.write_json(str(tmp_path / "run" / "about.json"), {"url": "gs://b/x"})
    assert mirrors.find_url(str(tmp_path / "run" / "files")) is None
    workdir.write_json(os.path.join(mirror.home, "about.json"), {"url": "gs://b/z"})
    assert mirrors.find_url(mirror.folder) is None


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(findings.RefusedError) as caught:
        mirrors.Mirror("gs://b/x", cache_dir=str(tmp_path / "file"))
    (problem,) = caught.value.problems
    assert problem.message.startswith("The local copy of gs://b/x cannot be made: ")
    assert problem.message.endswith(
        ": Not a directory. Set TFHUB_CACHE_DIR to a folder that you may write, with room."
    )


def test_what_a_killed_run_was_fetching_is_removed():
    mirror = mirrors.Mirror("gs://b/x")
    with mirror.locked(), mirror.incoming() as folder:
        path = os.path.join(folder, "half")
    os.makedirs(folder)
    with open(path, "w") as file:
        file.write("h")
    with mirror.locked(), mirror.incoming() as folder:
        assert os.listdir(folder) == []
    assert not os.path.exists(folder)


def test_files_and_empty_folders(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "c").write_text("x")
    assert list(mirrors.list_files(str(tmp_path))) == ["a/c"]
    mirrors.remove_empty(str(tmp_path))
    assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "c").exists()
    assert mirrors.list_files(str(tmp_path / "nothing")) == {}
