import os

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


def test_only_regular_files_of_a_limited_size(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**40)
    reasons = {
        "fifo": "is a pipe, not a file",
        "zero": "is a device, not a file",
        "huge": "has more than 1,048,576 bytes",
        ".": "is a folder, not a file",
    }
    for name, reason in reasons.items():
        path = os.path.normpath(tmp_path / name)
        outer = write(tmp_path, "a.flags", f"--flagfile={path}")
        assert problem_of(path) == f"--flagfile={path} cannot be read: {reason}."
        assert problem_of(outer) == (
            f"--flagfile={path} (named by {outer}) cannot be read: {reason}."
        )


def test_files_that_name_others_twice_are_read_up_to_a_limit_together(tmp_path):
    for number in range(18):
        write(tmp_path, f"{number}.flags", *[f"--flagfile={number + 1}.flags"] * 2)
    write(tmp_path, "18.flags", "--seed=1")
    assert problem_of(tmp_path / "0.flags").endswith(
        ".flags: expected at most 1,048,576 bytes in all flagfiles together."
    )
    assert expand(tmp_path / "12.flags") == ["--seed=1"] * 2**6


def test_nesting_has_an_end(tmp_path):
    for number in range(30):
        write(tmp_path, f"{number}.flags", f"--flagfile={number + 1}.flags")
    write(tmp_path, "30.flags", "--seed=1")
    assert expand(tmp_path / "11.flags") == ["--seed=1"]
    assert problem_of(tmp_path / "0.flags") == (
        f"--flagfile={tmp_path}/20.flags: flagfiles are nested more than 20 levels deep. Write "
        "their flags into one."
    )


def test_control_characters_are_refused_and_escaped(tmp_path):
    path = write(tmp_path, "a.flags", "--data=\x1b[31m")
    assert problem_of(path) == (
        f"{path}, line 1: expected --flag=value. Received '--data=\\x1b[31m'."
    )
    path = write(tmp_path, "b\x1b.flags", "--flagfile=\u202e.flags")
    assert problem_of(path) == (
        f"--flagfile={tmp_path}/\\u202e.flags (named by {tmp_path}/b\\x1b.flags) cannot be read: "
        "No such file or directory."
    )
    assert expand(write(tmp_path, "c.flags", "--classes=a,\tb")) == ["--classes=a,\tb"]
