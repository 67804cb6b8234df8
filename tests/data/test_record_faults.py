import os

from tests.data import record_files
from tf_finetune import findings, specs
from tf_finetune.data import record_faults

ADVICE = "Repair the file; --on_bad_example=skip leaves the record out."


def write(path, *contents):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(map(record_files.frame, contents)))
    return str(path)


def read(paths, *, bad=(), **options):
    """(the pass, [(name, number, record of all files)]); records of `bad` are reported."""
    found = record_faults.RecordPass(specs.DataSpec(**options), paths)
    seen = []
    for file, record in found.read():
        if bytes(record.data) in bad:
            found.report(file, record.number, "is bad")
        else:
            seen.append((file.name, record.number, found.num_records))
    return found, seen


def test_each_record_has_its_place(tmp_path):
    paths = [
        write(tmp_path / "a", b"1", b"2"),
        write(tmp_path / "b"),
        write(tmp_path / "c"),
        write(tmp_path / "d" / "e\u0301", b"3", b"bad", b"4"),
    ]
    found, seen = read(paths, bad=[b"bad"])
    assert seen == [("a", 1, 1), ("a", 2, 2), ("d/e\u0301", 1, 3), ("d/e\u0301", 3, 5)]
    for name, record, number in [*seen, ("d/e\u0301", 2, 4)]:
        file, place = found.find(number)
        assert (file.name, place) == (name, record)
    assert found.find(5)[0].make_key(3) == "d/\u00e9/00000003"
    assert found.find(2)[0].locate(2) == f"{paths[0]}, record 2"
    assert [os.fspath(file.path) for file in found.files] == paths
    assert found.problems == [
        findings.Problem(
            f"{paths[3]}, record 2 is bad. {ADVICE}",
            path=paths[3],
            line=2,
            flag="--on_bad_example=skip",
        )
    ]


def test_skipped_records_are_warnings(tmp_path):
    paths = [write(tmp_path / "a", b"bad", b"1")]
    found, seen = read(paths, bad=[b"bad"], on_bad_example="skip")
    assert seen == [("a", 2, 2)]
    (problem,) = found.problems
    assert problem.severity == findings.WARNING
    assert problem.message == f"{paths[0]}, record 1 is bad. Skipped."


def test_each_file_is_read_to_its_hundredth_bad_record(tmp_path):
    paths = [write(tmp_path / name, *[b"bad"] * 99, b"1", b"bad", b"2") for name in "ab"]
    found, seen = read(paths, bad=[b"bad"])
    assert seen == [("a", 100, 100), ("b", 100, 201)]
    assert len(found.problems) == 202
    assert found.problems[100].message == f"{paths[0]}: after 100 bad records the rest is not read."


def test_files_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    paths = [str(tmp_path / "pipe"), str(tmp_path / "none"), write(tmp_path / "a", b"1")]
    found, seen = read(paths)
    assert seen == [("a", 1, 1)] and found.find(1)[0].name == "a"
    assert [problem.message for problem in found.problems] == [
        f"{tmp_path}/pipe is a pipe, not a file.",
        f"{tmp_path}/none cannot be read: No such file or directory.",
    ]
    assert {problem.severity for problem in found.problems} == {findings.ERROR}


def test_one_file_in_the_folder_where_it_is_called(tmp_path, monkeypatch):
    write(tmp_path / "a", b"1")
    monkeypatch.chdir(tmp_path)
    status = os.stat("a")
    found, _ = read(["a"])
    assert found.identity == f"a {status.st_size} {status.st_mtime_ns}"
    assert found.identity == read([str(tmp_path / "a")])[0].identity
