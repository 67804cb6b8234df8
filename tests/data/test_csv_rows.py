import os

import pytest

from tests.data import data_files
from tf_finetune.data import csv_rows


def refused(path):
    (line,) = data_files.refusal(csv_rows.read_rows, str(path), expected="path,label")
    return line.removeprefix(str(path))


def test_rows_and_their_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n\r\n"x\ny",1\r\n"",\xc3\xa9\n')
    rows, lines = csv_rows.read_rows(str(path), expected="path,label")
    assert rows == [["a", "b"], ["x\ny", "1"], ["", "é"]]
    assert lines == [1, 3, 5]
    path.write_bytes(b"a,b\rc,d\r")
    assert csv_rows.read_rows(str(path), expected="")[0] == [["a", "b"], ["c", "d"]]


def test_gigantic_cells_and_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "x" * 200_000 + ",1\n")
    assert refused(path) == (
        ", line 2: no valid CSV: field larger than field limit (131072). Is a quotation mark "
        "missing?"
    )
    row = "no valid CSV: a row is longer than 4,194,304 characters. Is a quotation mark missing?"
    path.write_text("a,b\n" + "," * 5_000_000)
    assert refused(path) == f", line 2: {row}"
    # Many short lines make a long row where each ends inside of a cell.
    path.write_text("a,b\n" + '"\n' + '","\n' * 1_500_000)
    assert refused(path) == f", line 2: {row}"
    path.write_text("a,b\n" + "x,1\n" * 1_500_000)
    assert len(csv_rows.read_rows(str(path), expected="")[0]) == 1_500_001


def test_a_sparse_file_of_a_terabyte(tmp_path):
    path = tmp_path / "a.csv"
    path.touch()
    os.truncate(path, 2**40)
    assert "no valid CSV" in refused(path)


def test_a_bad_byte_far_inside(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n" + "é,1\n".encode() * 400_000 + b"x,\xe9\n")
    assert refused(path) == (
        ", line 400002: byte 0xe9 is not UTF-8. Save the file as UTF-8, or name its encoding with "
        "--encoding."
    )


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    assert refused(tmp_path / "a.csv") == ": it cannot be read: is a pipe, not a file."


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n\n"])
def test_empty_files(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert refused(path) == ": the file is empty. Expected rows path,label."


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_quoted_line_end_on_the_edge_of_a_read_buffer(tmp_path, line_end):
    """8,192 bytes are read at a time; each byte of the cell is once the last of them."""
    path = tmp_path / "a.csv"
    cell = f'é"{line_end}é'
    quoted = '"é""' + line_end + 'é"'
    for shift in range(-8, 3):
        filler = "x" * (8192 + shift - len(f"a,b{line_end},{line_end}"))
        text = f"a,b{line_end}{filler},1{line_end}{quoted},2{line_end}" + f"c,3{line_end}" * 9000
        path.write_bytes(text.encode())
        rows = list(csv_rows.iterate_rows(str(path)))
        assert rows[:4] == [(1, ["a", "b"]), (2, [filler, "1"]), (3, [cell, "2"]), (5, ["c", "3"])]
        assert len(rows) == 9003 and rows[-1] == (9004, ["c", "3"])
