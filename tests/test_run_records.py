import pytest

from tf_finetune import findings, run_records


def test_a_record_is_a_bounded_object(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1]}')
    assert run_records.read_record(str(tmp_path), "a.json") == {"a": [1]}
    path.write_text('{"a": "\x1b"')
    with pytest.raises(findings.RefusedError) as caught:
        run_records.read_record(str(tmp_path), "a.json")
    assert str(caught.value) == (
        f"{path}: is damaged, or was not written by this package (no JSON: Invalid control "
        "character at: line 1 column 8 (char 7)). Copy the run's folder again."
    )
    with pytest.raises(findings.RefusedError, match="No such file or directory"):
        run_records.read_record(str(tmp_path), "b.json")


def test_lines():
    assert all(map(run_records.is_line, ("a", "猫", "a b", "\u0646\u0645\u06cc\u200c\u062e")))
    assert not any(map(run_records.is_line, ("", "a\nb", "\x1b", "\u202ea", "\ud800", 3, None)))


def test_numbers():
    assert all(run_records.is_number(value, lower=0, upper=1) for value in (0, 1, 0.5))
    for value in (-0.1, 2, float("nan"), float("inf"), True, "1", None, [1], 10**400):
        assert not run_records.is_number(value, lower=0, upper=1)
