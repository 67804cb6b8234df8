import contextlib
import os
import pathlib
import stat
import tempfile
import threading

import pytest

from tf_finetune import findings, version_folders


def publish_one(export_dir, content="model") -> int:
    with version_folders.temporary_folder(str(export_dir)) as folder:
        os.mkdir(os.path.join(folder, "variables"))
        path = pathlib.Path(folder, "variables", "data")
        path.write_text(content)
        path.chmod(0o600)
        return version_folders.publish(folder, str(export_dir))


def messages(path) -> list[str]:
    return [problem.message for problem in version_folders.check_export_dir(str(path))]


@contextlib.contextmanager
def as_nobody():
    """Root may write everywhere; another user may not."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def open_path():
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder)


def test_versions_count_up_from_one(tmp_path):
    assert [publish_one(tmp_path / "models" / "pets") for _ in range(3)] == [1, 2, 3]
    assert sorted(os.listdir(tmp_path / "models" / "pets")) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (["7"], 8),
        (["9", "10"], 11),
        (["007"], 8),  # TF Serving reads it as 7
        (["0"], 1),
        (["incomplete-99", "x5", "5x", "-5", "٣", ".6"], 1),
        (["20240131120000"], 20240131120001),
        ([str(2**63)], 1),  # not an int64: TF Serving does not see it
    ],
)
def test_next_version_is_one_above_the_largest(tmp_path, present, expected):
    for name in present:
        (tmp_path / name).mkdir()
        (tmp_path / name / "keep").touch()

    assert publish_one(tmp_path) == expected
    assert all((tmp_path / name / "keep").exists() for name in present)


def test_a_file_with_a_number_for_a_name_is_passed_over(tmp_path):
    (tmp_path / "1").write_text("a file")

    assert publish_one(tmp_path) == 2
    assert (tmp_path / "1").read_text() == "a file"


def test_racing_writers_get_versions_of_their_own(tmp_path):
    versions = []
    start = threading.Barrier(8)

    def write(number):
        start.wait()
        versions.extend((publish_one(tmp_path, f"{number}"), number) for _ in range(5))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(version for version, _ in versions) == list(range(1, 41))
    for version, number in versions:
        assert (tmp_path / str(version) / "variables" / "data").read_text() == f"{number}"
    assert len(os.listdir(tmp_path)) == 40


@pytest.mark.parametrize(
    ("umask", "folder_mode", "file_mode"),
    [(0o022, 0o755, 0o644), (0o002, 0o755, 0o644), (0o027, 0o750, 0o640), (0o077, 0o700, 0o600)],
)
def test_modes_let_another_user_read_under_the_umask(tmp_path, umask, folder_mode, file_mode):
    former = os.umask(umask)
    try:
        publish_one(tmp_path / "models")
    finally:
        os.umask(former)

    version = tmp_path / "models" / "1"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (version, version / "variables")]
    assert modes == [folder_mode, folder_mode]
    assert stat.S_IMODE((version / "variables" / "data").stat().st_mode) == file_mode


def test_unfinished_folder_is_removed_and_older_versions_stay(tmp_path):
    publish_one(tmp_path)

    with (
        pytest.raises(KeyboardInterrupt),
        version_folders.temporary_folder(str(tmp_path)) as folder,
    ):
        pathlib.Path(folder, "half").write_text("half")
        assert not os.path.basename(folder).isdigit()
        raise KeyboardInterrupt

    assert os.listdir(tmp_path) == ["1"]


def test_a_folder_left_by_a_dead_run_does_no_harm(tmp_path):
    (tmp_path / "incomplete-0123456789abcdef").mkdir()

    assert messages(tmp_path) == []
    assert publish_one(tmp_path) == 1


def test_check_leaves_nothing_behind(tmp_path):
    before = os.listdir(tmp_path)

    assert messages(tmp_path / "a" / "b") == []
    assert messages(tmp_path) == []

    assert os.listdir(tmp_path) == before == []


def test_check_of_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert messages("models") == []
    assert os.listdir(tmp_path) == []


def test_check_names_a_file_in_the_way(tmp_path):
    (tmp_path / "model.h5").write_text("")

    for path in (tmp_path / "model.h5", tmp_path / "model.h5" / "export"):
        assert messages(path) == [
            f"--export_dir expects a folder. Received '{path}', where a file is in the way. "
            "Choose another folder."
        ]


def test_check_names_a_broken_link(tmp_path):
    (tmp_path / "models").symlink_to(tmp_path / "gone")

    (message,) = messages(tmp_path / "models")
    assert message.startswith("--export_dir expects a folder. Received ")


def test_check_names_a_folder_that_cannot_be_written(open_path):
    (open_path / "closed").mkdir(mode=0o555)

    with as_nobody():
        for path in (open_path / "closed", open_path / "closed" / "a" / "b"):
            assert messages(path) == [
                f"--export_dir expects a folder that can be written. Received '{path}': "
                "Permission denied. Choose another folder or change its permissions."
            ]


@pytest.mark.parametrize("path", ["gs://bucket/models", ""])
def test_check_refuses_what_is_no_local_folder(path):
    assert version_folders.check_export_dir(path) == (
        findings.Problem(
            f"--export_dir expects a folder on this machine. Received '{path}'. Export to a local "
            "folder and copy it.",
            path=path,
            flag="--export_dir",
        ),
    )


def test_check_refuses_a_name_too_long_for_the_file_system(tmp_path):
    (message,) = messages(tmp_path / "made" / ("x" * 300))

    assert "File name too long" in message
    assert os.listdir(tmp_path) == []


def test_numbers_rise_when_the_clock_goes_back(tmp_path, monkeypatch):
    """Neither the time of day nor that of a folder decides which version is the newest."""
    for now in (2e9, 1e9, 0.0):
        monkeypatch.setattr("time.time", lambda now=now: now)
        with version_folders.temporary_folder(str(tmp_path)) as folder:
            version = version_folders.publish(folder, str(tmp_path))
        os.utime(tmp_path / str(version), (now, now))
    assert sorted(os.listdir(tmp_path)) == ["1", "2", "3"]


def test_what_a_killed_export_left_is_removed_and_that_of_a_living_one_stays(tmp_path):
    left = tmp_path / "incomplete-0123456789abcdef"
    (left / "variables").mkdir(parents=True)
    (left / "variables" / "half").write_text("half")
    mine = tmp_path / "incomplete-notes"
    mine.mkdir()
    with version_folders.temporary_folder(str(tmp_path)) as living:
        assert not left.exists()
        assert version_folders.check_export_dir(str(tmp_path)) == ()
        with version_folders.temporary_folder(str(tmp_path)) as other:
            assert version_folders.publish(other, str(tmp_path)) == 1
        assert os.path.isdir(living)
    assert sorted(os.listdir(tmp_path)) == ["1", "incomplete-notes"]
