import os
import socket

import pytest

from tf_finetune import regular_files


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "a").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for name in ("a", "link"):
        with regular_files.open_regular(os.fsencode(tmp_path / name)) as file:
            assert file.read() == b"text"
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "to_fifo").symlink_to(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        kinds = {"fifo": "a pipe", "to_fifo": "a pipe", "zero": "a device", "s": "a socket"}
        for name, kind in (kinds | {".": "a folder"}).items():
            with pytest.raises(regular_files.NotRegularError) as caught:
                regular_files.open_regular(str(tmp_path / name))
            assert caught.value.strerror == f"is {kind}, not a file"
    with pytest.raises(FileNotFoundError):
        regular_files.open_regular(str(tmp_path / "gone"))


def test_what_leads_outside(tmp_path):
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (tmp_path / "root2").mkdir()
    (root / "out").symlink_to(tmp_path / "root2")
    (root / "back").symlink_to(root / "in")

    def leads(name):
        path = os.path.join(os.fsencode(root), name)
        return regular_files.leads_outside(path, os.path.realpath(os.fsencode(root)))

    assert [leads(name) for name in (b"in/x", b"back/x", b".", b"in/../in")] == [False] * 4
    assert [leads(name) for name in (b"out/x", b"..", b"../root2/x", b"in/../../x")] == [True] * 4
    assert not regular_files.leads_outside(os.fsencode(root), b"/")


def test_reading_has_a_limit(tmp_path):
    path = str(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"12345")
    assert regular_files.read_regular(path, limit=5) == b"12345"
    with pytest.raises(regular_files.NotRegularError) as caught:
        regular_files.read_regular(path, limit=4)
    assert caught.value.strerror == "has more than 4 bytes"
    with pytest.raises(regular_files.NotRegularError):
        regular_files.read_regular("/dev/zero", limit=4)
