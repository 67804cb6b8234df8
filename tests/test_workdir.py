import contextlib
import os

import pytest

from tf_finetune import findings, workdir


def test_write_atomic_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.txt"
    workdir.write_atomic(str(path), "één")
    workdir.write_atomic(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["b.txt"]


def test_a_failed_write_leaves_the_former_file(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("good")
    with pytest.raises(OSError, match="disk full"), workdir.replace_file(str(path)) as temporary:
        assert temporary.endswith("model.keras")
        with open(temporary, "w") as file:
            file.write("half")
        raise OSError("disk full")
    assert path.read_text() == "good"
    assert os.listdir(tmp_path) == ["model.keras"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        workdir.write_atomic(str(tmp_path / "file" / "x"), "text")


def test_json_is_the_same_bytes_for_the_same_value(tmp_path):
    path = tmp_path / "a.json"
    workdir.write_json(str(path), {"b": [1, 2.5], "a": "ü"})
    first = path.read_bytes()
    workdir.write_json(str(path), {"b": [1, 2.5], "a": "ü"})
    assert path.read_bytes() == first
    assert workdir.read_json(str(path)) == {"b": [1, 2.5], "a": "ü"}


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        workdir.write_json(str(tmp_path / "a.json"), {"a": float("nan")})
    assert os.listdir(tmp_path) == []


def test_json_that_was_edited(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not JSON: .* Was it edited by hand\?"):
        workdir.read_json(str(path))


def test_json_without_an_end_to_its_nesting(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json is not JSON: "):
        workdir.read_json(str(path))


def test_links_that_lead_out_of_the_folder(tmp_path):
    folder, outside = tmp_path / "run", tmp_path / "run2"
    (folder / "logs").mkdir(parents=True)
    outside.mkdir()
    (tmp_path / "link").symlink_to(folder)
    (folder / "inside").symlink_to("logs")
    (folder / "out").symlink_to(outside)
    (folder / "dangling").symlink_to(tmp_path / "nothing")
    (folder / "file").symlink_to(tmp_path / "file")
    for name in (folder, tmp_path / "link"):
        workdir.check_inside(str(name), "new/a", "logs/b", "inside/c", "")
    for name in ("out/x", "dangling", "file", "../run2/x", "logs/../../x"):
        with pytest.raises(findings.RefusedError, match=" leads out of the run's folder, to "):
            workdir.check_inside(str(tmp_path / "link"), "logs", name)


def test_of_two_files_that_belong_together_both_stay(tmp_path):
    paths = [tmp_path / name for name in ("a.json", "b.md")]
    for path in paths:
        path.write_text("former")
    with (
        pytest.raises(OSError, match="no room"),
        workdir.replace_pair(*map(str, paths)) as temporaries,
    ):
        for temporary in temporaries:
            with open(temporary, "w") as file:
                file.write("new")
        raise OSError("no room")
    assert [path.read_text() for path in paths] == ["former", "former"]
    with workdir.replace_pair(*map(str, paths)) as temporaries:
        for temporary in temporaries:
            with open(temporary, "w") as file:
                file.write("new")
    assert [path.read_text() for path in paths] == ["new", "new"]
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b.md"]


def test_a_process_that_ends_at_once_clears_up_what_it_had_begun(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "other").write_text("")
    with contextlib.ExitStack() as stack:
        for name in ("folder", "missing", "file"):
            stack.enter_context(workdir.begun(str(tmp_path / name)))
        (tmp_path / "file").write_text("half")
        workdir.remove_begun()
    (tmp_path / "file").write_text("whole")
    workdir.remove_begun()
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]


def test_what_a_killed_run_was_writing_is_removed_and_nothing_else(tmp_path):
    names = [
        ".0123abcd.run.flags", "logs/.0123abcd.history.csv", "state/.0123abcd.request.flags",
        "evaluation/test/.0123abcd.report.json", ".0123abcd.model.keras",
    ]  # fmt: skip
    kept = [".0123abcd.notes", "logs/history.csv", "own/.0123abcd.run.flags", ".run.flags"]
    for name in (*names, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    outside = tmp_path.parent / "outside"
    outside.mkdir()
    (outside / ".0123abcd.report.md").write_text("")
    (tmp_path / "evaluation" / "validation").symlink_to(outside)
    workdir.remove_unfinished(str(tmp_path))
    workdir.remove_unfinished(str(tmp_path / "none"))
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == sorted(kept)
    assert os.listdir(outside) == [".0123abcd.report.md"]
