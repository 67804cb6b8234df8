import os

import pytest

from tests.data import data_files
from tf_finetune.data import value_files


def test_lines_of_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffa, b \r\n\n  ü\n".encode())
    assert value_files.read_lines(f"@{path}", flag="--classes") == ["a, b", "ü"]
    assert value_files.read_lines("a,b", flag="--classes") is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none", "No such file or directory"),
        ("latin", "it is not UTF-8"),
        ("fifo", "it is a pipe, not a file"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, monkeypatch, name, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin").write_bytes(b"\xe9")
    os.mkfifo(tmp_path / "fifo")
    assert data_files.refusal(value_files.read_lines, f"@{name}", flag="--classes") == [
        f"--classes=@{name} cannot be read: {reason}."
    ]
