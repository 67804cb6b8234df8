import os
import pickle

import pytest

from tests.data import data_files
from tf_finetune import specs
from tf_finetune.data import json_rows, table_rows


def exhaust(*arguments, **options):
    """Reads a table row after row, and refuses what is no row as a whole."""
    _, rows = table_rows.open_rows(*arguments, **options)
    table_rows.check_rows(arguments[0], rows)


def test_cells_and_their_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"a": 1.50, "b": ["x", "y", "x"], "c": null}\r\n\r\n'
        b'{"b": [], "a": "\xc3\xa9\\n", "d": true, "e": [1, 2]}'
    )
    columns, rows, lines = json_rows.read_rows(str(path), expected="")
    assert columns == ["a", "b", "c", "d", "e"]
    assert rows == [["1.50", ("x", "y"), "", "", ""], ["é\n", (), "", "true", ("1", "2")]]
    assert lines == [1, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": the file is empty. Expected on each line an object."),
        (b"{}\n[1]\n", ", line 2: expected an object such as {...}. Received another value."),
        (b'{"a": 1\n', ", line 1: no valid JSON: Expecting ',' delimiter at character 9. Expected "
         "an object on one line."),
        (b'{"a": {"b": 1}}\n', ", line 1: the value of 'a' is an object. Expected text, a number "
         "or a list of names."),
        (b'{"a": [["b"]]}\n', ", line 1: the value of 'a' is a list with more than text and "
         "numbers in it."),
        (b'{"a": [null]}\n', ", line 1: the value of 'a' is a list with more than text and "
         "numbers in it."),
        (b'{"a": 1, "a": 2}\n', ", line 1: the key 'a' is there twice."),
        (b'{"a": NaN}\n', ", line 1: no valid JSON: NaN. Write null where there is no number."),
        (b'{"a\\u001b": {}}\n', ", line 1: the value of 'a\\x1b' is an object. Expected text, a "
         "number or a list of names."),
        (b'{"a": "\\ud800"}\n', ", line 1: the value of 'a' holds a lone surrogate, which is no "
         "character."),
        (b'{"a": ' + b"[" * 200_000 + b"\n", ", line 1: values are nested too deeply. Expected a "
         "flat object."),
        (b'{"a": 1}\n{"a": "' + b"x" * 5_000_000, ", line 2: a line is longer than 4,194,304 "
         "characters"),
        (b'{"a": "\xe9"}\n', ", line 1: byte 0xe9 is not UTF-8. Save the file as UTF-8, or name "
         "its encoding with --encoding."),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    for read in (table_rows.read_table, exhaust):
        (line,) = data_files.refusal(read, str(path), specs.DataSpec(), expected="an object")
        assert line == f"{path}{message}"


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    path = str(tmp_path / "a.jsonl")
    (line,) = data_files.refusal(json_rows.read_rows, path, expected="")
    assert line == f"{path}: it cannot be read: is a pipe, not a file."


@pytest.mark.parametrize(("elements", "others"), [("001", "011"), ("aba", "abb")])
@pytest.mark.parametrize("kind", [json_rows.ListCell, json_rows.Numbers])
def test_a_list_is_all_that_stands_in_it(kind, elements, others):
    cell, other = kind.make(elements), kind.make(others)
    assert type(cell) is kind
    assert tuple(cell) == tuple(other) == tuple(dict.fromkeys(elements))
    assert cell.elements == tuple(elements)
    assert cell != other and (cell == other) is False and cell == kind.make(elements)
    assert len({cell, other, kind.make(elements)}) == 2
    assert str(cell) == str(tuple(elements)) != str(other)
    # Without repeats it is the plain tuple of its names.
    plain = kind.make("ab")
    assert plain == ("a", "b") and (plain != ("a", "b")) is False and str(plain) == "('a', 'b')"
    copied = pickle.loads(pickle.dumps(cell))
    assert copied == cell and copied.elements == cell.elements


def test_a_bad_line_hides_no_other(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1\n{"a": 2}\n[]\n{"a": {}}\n{"b": 5}\n')
    columns, rows, lines = json_rows.read_rows(str(path), expected="")
    assert columns == ["a", "b"] and lines == [1, 2, 3, 4, 5]
    assert rows[1] == ["2", ""] and rows[4] == ["", "5"]
    for place in (0, 2, 3):
        assert isinstance(rows[place], json_rows.BadRow) and rows[place] == []
    assert rows[2].fault == "expected an object such as {...}. Received another value."


def test_a_file_without_an_object_is_refused_at_once(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("no JSON\n" * 2000)
    for read in (table_rows.read_table, table_rows.open_rows):
        lines = data_files.refusal(read, str(path), specs.DataSpec(), expected="")
        assert len(lines) == 6 and lines[4].startswith(f"{path}, line 5: no valid JSON: ")
