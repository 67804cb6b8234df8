import pytest

from tests.data import data_files
from tf_finetune import options, specs
from tf_finetune.data import csv_rows, encodings

TEXT = 'a,b\n"größe\n",1\n'


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "UTF8"),
        ("utf-16", "utf-8"),
        ("utf-32", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16-be", "utf-16-be"),
        ("latin-1", "latin-1"),
        ("cp1252", "windows-1252"),
    ],
)
def test_tables_in_other_encodings(tmp_path, written, named):
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT.encode(written))
    rows, _ = csv_rows.read_rows(str(path), expected="", encoding=named)
    assert rows == [["a", "b"], ["größe\n", "1"]]


def test_a_wrong_encoding_has_a_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n" + b"x,1\n" * 300_000 + b"y\x81,2\n")
    (line,) = data_files.refusal(csv_rows.read_rows, str(path), expected="", encoding="cp1252")
    assert line == (
        f"{path}, line 300002: byte 0x81 is not cp1252, as --encoding says. Name the file's own "
        "encoding."
    )
    path.write_bytes("a,b\n".encode("utf-16") + b"x")
    (line,) = data_files.refusal(csv_rows.read_rows, str(path), expected="")
    assert line.startswith(f"{path}, line 2: byte 0x78 is not UTF-8.")


@pytest.mark.parametrize("name", ["utf8x", "base64", "rot13", "", "a\0b"])
def test_unknown_encodings_are_flag_errors(name):
    with pytest.raises(options.SpecError) as caught:
        specs.DataSpec(encoding=name)
    assert str(caught.value) == (
        "--encoding expects an encoding of text, for example utf-8, latin-1, cp1252 or utf-16. "
        f"Received {name}."
    )


def test_bounded_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x" * (encodings.MAX_ROW_CHARACTERS + 1))
    with encodings.open_text(str(path)) as file, pytest.raises(ValueError, match="longer than"):
        list(encodings.BoundedLines(file, "a line", error=ValueError))
