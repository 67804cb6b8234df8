"""Folders that cannot be written: refused in one line that names them."""

import contextlib
import os
import shutil
import stat

import pytest

from tests import small_disk
from tests.e2e import test_full_disk
from tf_finetune import main, workdir


class _Folder:
    """A folder whose rights are taken away, for users whom rights bind."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def set_read_only(self, *, is_on):
        for root, _, _ in os.walk(self.folder):
            os.chmod(root, stat.S_IRUSR | stat.S_IXUSR | (0 if is_on else stat.S_IWUSR))


@pytest.fixture
def place(tmp_path):
    with contextlib.ExitStack() as stack:
        if os.geteuid():
            found = _Folder(tmp_path / "disk")
        else:
            found = stack.enter_context(small_disk.mounted(tmp_path / "disk"))
        yield found
        found.set_read_only(is_on=False)


def test_each_folder_is_named(classifier, colors, run, place, tmp_path, capsys):
    folder = place.folder
    shutil.copytree(run.folder, folder / "former")
    (folder / "cache").mkdir()
    place.set_read_only(is_on=True)

    def refuse(*more):
        flags = test_full_disk.make_flags(classifier, colors, tmp_path / "run", *more)
        line = test_full_disk.refusal(capsys, flags)
        assert not (tmp_path / "run").exists()
        return line.replace("Read-only file system", "Permission denied")

    assert refuse(f"--workdir={folder}/run") == (
        f"error: --workdir={folder}/run cannot be written: Permission denied. Choose a folder that "
        "you may write."
    )
    assert refuse("--feature_cache=disk", f"--cache_dir={folder}/cache") == (
        f"error: --cache_dir={folder}/cache: {folder}/cache cannot be written. Expected a folder "
        "for features: choose another, or --feature_cache=memory."
    )
    assert refuse(f"--export_dir={folder}/export") == (
        f"error: --export_dir expects a folder that can be written. Received '{folder}/export': "
        "Permission denied. Choose another folder or change its permissions."
    )
    own = (f"--workdir={folder}/former",)
    line = test_full_disk.refusal(capsys, ["--mode=evaluate", *own])
    assert line == (
        f"error: --workdir={folder}/former cannot be written, and reports would go there. Change "
        "its permissions, or copy it to a folder that you may write."
    )
    line = test_full_disk.refusal(capsys, ["--mode=export", *own])
    assert f"'{folder}/former/export'" in line
    output = f"--output={folder}/p.csv"
    line = test_full_disk.refusal(capsys, ["--mode=predict", *own, f"--input={colors}", output])
    assert line == f"error: {output} cannot be written: no permission in {folder}."
    # What only reads works.
    predict = ["--mode=predict", *own, f"--input={colors}", f"--output={tmp_path}/p.csv"]
    assert main.main(predict) == 0


def test_a_disk_that_becomes_read_only_under_a_run(classifier, colors, place, capsys, monkeypatch):
    """As a faulty one does: what is there stays whole, and the run goes on when it is repaired."""
    flags = test_full_disk.make_flags(classifier, colors, place.folder / "run")

    @contextlib.contextmanager
    def read_only():
        place.set_read_only(is_on=True)
        yield

    for module, name, call in (("checkpoints", "write", 3), ("freezing", "format_plan", 1)):
        with monkeypatch.context() as patch:
            used = getattr(test_full_disk, module)
            small_disk.before(patch, used, name, read_only, call=call)
            line = test_full_disk.refusal(capsys, flags)
        assert str(place.folder / "run") in line
        assert "Read-only file system" in line or "Permission denied" in line
        place.set_read_only(is_on=False)
        assert small_disk.list_left(place.folder) == []
    assert main.main(flags) == 0
    assert (place.folder / "run" / workdir.SUMMARY).exists()
