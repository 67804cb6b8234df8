import pytest

from tf_finetune import flagfiles, specs


def write(folder, name, *lines):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def expand(path):
    return flagfiles.expand_flagfiles([f"--flagfile={path}"])


def problem_of(path):
    with pytest.raises(specs.SpecError) as caught:
        expand(path)
    return str(caught.value)


def test_flags_stand_where_the_file_was_named(tmp_path):
    path = write(tmp_path, "a.flags", "# comment", "", "// too", "--epochs=3", "--dry_run")
    arguments = flagfiles.expand_flagfiles(["--seed=1", "--flagfile", path, "--epochs=4"])
    assert arguments == ["--seed=1", "--epochs=3", "--dry_run", "--epochs=4"]


def test_a_nested_file_is_found_beside_the_one_that_names_it(tmp_path, monkeypatch):
    write(tmp_path, "fragments/model/m.flags", "--model=m.h5", "--flagfile=../data.flags")
    write(tmp_path, "fragments/data.flags", "--data=d")
    path = write(tmp_path, "run.flags", "--flagfile=fragments/model/m.flags")
    monkeypatch.chdir("/")
    assert expand(path) == ["--model=m.h5", "--data=d"]


def test_a_cycle_is_told_with_its_chain(tmp_path):
    first = write(tmp_path, "a.flags", "--flagfile=b.flags")
    second = write(tmp_path, "b.flags", "--flagfile=a.flags")
    assert problem_of(first) == (
        f"Flagfiles name each other in a cycle: {first} -> {second} -> {first}."
    )


@pytest.mark.parametrize("line", ["--epochs=3 # three", "  # indented"])
def test_a_comment_needs_its_own_line(tmp_path, line):
    path = write(tmp_path, "a.flags", "--seed=1", line)
    assert problem_of(path) == (
        f"{path}, line 2: a comment needs a line of its own that begins with '#'. "
        f"Received {line.strip()!r}."
    )


def test_a_line_that_is_no_flag(tmp_path):
    path = write(tmp_path, "a.flags", "epochs=3")
    assert problem_of(path) == f"{path}, line 1: expected --flag=value. Received 'epochs=3'."


def test_a_missing_file_is_told_with_who_named_it(tmp_path):
    path = write(tmp_path, "a.flags", "--flagfile=no.flags")
    assert problem_of(path) == (
        f"--flagfile={tmp_path / 'no.flags'} (named by {path}) cannot be read: "
        "No such file or directory."
    )


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "a.flags"
    path.write_bytes(b"\xff\xfe\x00")
    assert problem_of(path) == f"--flagfile={path} cannot be read: not UTF-8 text."


def test_flagfile_without_a_value():
    with pytest.raises(specs.SpecError, match="--flagfile needs a file"):
        flagfiles.expand_flagfiles(["--flagfile"])
