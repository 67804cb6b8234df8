import contextlib
import fcntl
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from tf_finetune import findings
from tf_finetune.feature_cache import spaces

NAMES = tuple(letter * 64 for letter in "abc")


def fill(root, name, *, num_bytes, used):
    """A space of a size that was last used so many seconds ago."""
    with spaces.open_space(str(root), name, about={"model": "m"}) as folder:
        pathlib.Path(folder, f"{'0' * 16}.shard").write_bytes(bytes(num_bytes))
    moment = time.time() - used
    os.utime(os.path.join(folder, "lock"), (moment, moment))


def names(root):
    return sorted(name for name in os.listdir(root))


def test_a_space_says_what_it_is(tmp_path):
    with spaces.open_space(str(tmp_path), NAMES[0], about={"model": "m.h5"}) as folder:
        assert folder == str(tmp_path / NAMES[0])
        assert (tmp_path / NAMES[0] / "about.json").read_text() == '{\n  "model": "m.h5"\n}\n'
        assert os.stat(folder).st_mode & 0o777 == 0o700


def test_the_longest_unused_goes_first(tmp_path):
    for name, used in zip(NAMES, (50, 5000, 500), strict=True):
        fill(tmp_path, name, num_bytes=1_000_000, used=used)
    assert spaces.make_room(str(tmp_path), max_bytes=3_100_000) > 3_000_000
    assert names(tmp_path) == list(NAMES)
    left = spaces.make_room(str(tmp_path), max_bytes=2_500_000)
    assert names(tmp_path) == [NAMES[0], NAMES[2]]
    assert 2_000_000 < left < 2_010_000
    spaces.make_room(str(tmp_path), max_bytes=1_500_000)
    assert names(tmp_path) == [NAMES[0]]
    assert spaces.make_room(str(tmp_path), max_bytes=0) == 0
    assert names(tmp_path) == []


def test_use_makes_a_space_young_again(tmp_path):
    for name, used in zip(NAMES[:2], (5000, 500), strict=True):
        fill(tmp_path, name, num_bytes=1_000_000, used=used)
    with spaces.open_space(str(tmp_path), NAMES[0], about={}):
        pass
    spaces.make_room(str(tmp_path), max_bytes=1_500_000)
    assert names(tmp_path) == [NAMES[0]]


def test_a_space_in_use_is_never_removed(tmp_path):
    fill(tmp_path, NAMES[0], num_bytes=1_000_000, used=0)
    fill(tmp_path, NAMES[1], num_bytes=1_000_000, used=5000)
    code = (
        "import sys\nfrom tf_finetune.feature_cache import spaces\n"
        "with spaces.open_space(sys.argv[1], sys.argv[2], about={}):\n"
        "    print('open', flush=True); sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), NAMES[1]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "open\n"
    old = time.time() - 5000
    os.utime(tmp_path / NAMES[1] / "lock", (old, old))
    assert spaces.make_room(str(tmp_path), max_bytes=10) > 1_000_000
    assert names(tmp_path) == [NAMES[1]]
    other.kill()  # a killed run leaves no lock
    other.communicate()
    assert spaces.make_room(str(tmp_path), max_bytes=10) == 0


def test_only_spaces_are_removed_and_what_a_killed_removal_left(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(bytes(1000))
    (tmp_path / ("f" * 64)).write_bytes(bytes(1000))
    (tmp_path / f"{NAMES[0]}.01234567.removed").mkdir()
    (tmp_path / f"{NAMES[0]}.01234567.removed" / "x.shard").write_bytes(bytes(1000))
    (tmp_path / NAMES[1]).mkdir()  # no lock: nobody's
    assert spaces.make_room(str(tmp_path), max_bytes=0) == 0
    assert names(tmp_path) == [NAMES[1], "f" * 64, "photos"]


def test_opening_while_others_make_room_gives_a_folder_that_stays(tmp_path):
    """Whoever has opened a space keeps it, however often others try to remove it meanwhile."""
    root, done, lost = str(tmp_path), threading.Event(), []

    def remove():
        while not done.is_set():
            spaces.make_room(root, max_bytes=0)

    threads = [threading.Thread(target=remove) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(150):
            with spaces.open_space(root, NAMES[0], about={"n": number}) as folder:
                path = os.path.join(folder, "x.shard")
                with open(path, "wb") as file:
                    file.write(b"x")
                time.sleep(0.001)
                if not os.path.exists(path):
                    lost.append(number)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert lost == []


def test_a_lock_of_a_folder_that_is_gone_removes_no_other(tmp_path, monkeypatch):
    """Between opening the lock and getting it, others have removed the folder and made it anew."""
    root, flock, opened = str(tmp_path), fcntl.flock, contextlib.ExitStack()
    with spaces.open_space(root, NAMES[0], about={}):
        pass

    def flock_late(file, operation):
        if operation & fcntl.LOCK_EX:
            monkeypatch.setattr(fcntl, "flock", flock)
            assert spaces.make_room(root, max_bytes=0) == 0
            opened.enter_context(spaces.open_space(root, NAMES[0], about={}))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    with opened:
        spaces.make_room(root, max_bytes=0)
        assert names(tmp_path) == [NAMES[0]]


def test_a_cache_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(findings.RefusedError) as caught:
            spaces.check_root(str(path))
        assert str(caught.value.problems[0].message) == (
            f"--cache_dir={path}: {tmp_path}/file is no folder. Expected a folder for features: "
            "choose another, or --feature_cache=memory."
        )
    spaces.check_root(str(tmp_path / "new" / "deep"))
    spaces.check_root(None)
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_dir_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(findings.RefusedError, match="cannot be written"):
        spaces.check_root(str(tmp_path / "new"))


def test_where_features_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    assert spaces.find_root(None) == str(tmp_path / "tf_finetune" / "features")
    assert spaces.find_root(str(tmp_path / "own")) == str(tmp_path / "own")
    assert os.stat(tmp_path / "own").st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(OSError, match="cannot be used"):
        spaces.find_root(None)
