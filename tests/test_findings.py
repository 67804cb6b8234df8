from tf_finetune import findings


def test_one_line_escapes_what_a_terminal_would_obey():
    assert findings.one_line("a\nb\x1b[31m\tc") == "a\\nb\\x1b[31m\\tc"
    assert findings.one_line("ünï 猫") == "ünï 猫"
    assert findings.one_line("\udcff") == "\\udcff"


def test_list_first_names_five():
    assert findings.list_first(["a", "b"]) == "'a', 'b'"
    assert findings.list_first([str(n) for n in range(36)]) == "'0', '1', '2', '3', '4' and 31 more"


def test_refused_error_holds_all_problems():
    error = findings.RefusedError(findings.Problem("one"), findings.Problem("two", path="x"))
    assert str(error) == "one\ntwo"
    assert error.problems[1].path == "x"


def test_values_are_listed():
    assert findings.list_values([3]) == "3"
    assert findings.list_values([0, 1, 2, 3, 4, 5, 6]) == "0, 1, 2, 3, 4 and 2 more"
    assert findings.list_values([3, 8], total=1400) == "3, 8 and 1,398 more"
    assert findings.list_values([3, 8, 9], limit=2) == "3, 8 and 1 more"
