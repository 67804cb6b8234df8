"""The verbs that start from a finished run, through the door."""

import csv
import json
import shutil

import numpy as np
import pytest

from tests import tiny
from tf_finetune import main


@pytest.fixture
def own_run(run, tmp_path):
    """A copy of the finished run that a test may change."""
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    return folder


def test_evaluate_gives_the_reports_of_the_run(run, own_run):
    path = own_run / "evaluation" / "test" / "report.json"
    expected = path.read_text()
    path.unlink()
    assert main.main(["--mode=evaluate", f"--workdir={own_run}"]) == 0
    assert path.read_text() == expected


def test_evaluate_measures_other_examples_and_leaves_the_runs_report(own_run, tmp_path, capsys):
    tiny.write_color_folder(tmp_path / "more", per_class=4)
    shutil.rmtree(tmp_path / "more" / "red")  # a class without an example is no mistake here
    before = (own_run / "evaluation" / "test" / "report.json").read_text()
    for flag in ("--test_data", "--data"):
        assert (
            main.main(["--mode=evaluate", f"--workdir={own_run}", f"{flag}={tmp_path}/more"]) == 0
        )
        assert "test: 8 examples" in capsys.readouterr().out
    report = json.loads(
        (own_run / "other_data" / "evaluation" / "test" / "report.json").read_text()
    )
    assert report["num_examples"] == 8
    assert (own_run / "evaluation" / "test" / "report.json").read_text() == before


def test_evaluate_refuses_a_class_that_the_model_does_not_know(own_run, tmp_path, capsys):
    tiny.write_color_folder(tmp_path / "more", per_class=2)
    (tmp_path / "more" / "red").rename(tmp_path / "more" / "pink")
    assert main.main(["--mode=evaluate", f"--workdir={own_run}", f"--data={tmp_path}/more"]) == 2
    assert (
        f"error: {tmp_path}/more/pink/000.png: label 'pink' is not a class that head 'label' was "
        "trained on: 'blue', 'green', 'red'." in capsys.readouterr().err
    )


def test_evaluate_holds_the_run_against_a_requirement(own_run, capsys):
    flags = ["--mode=evaluate", f"--workdir={own_run}", "--require_max=test/log_loss:0.000001"]
    assert main.main(flags) == 3
    assert "--require_max=test/log_loss:0.000001 is not met" in capsys.readouterr().err


def test_a_flag_that_differs_from_the_run_is_refused(run, own_run, capsys):
    flags = ["--mode=evaluate", f"--workdir={own_run}", "--epochs=3", f"--model={run.model}"]
    assert main.main(flags) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: --epochs=3 differs from the run in --workdir={own_run}, and --mode=evaluate "
        "starts from that run. Leave it out, or train a new run."
    ]


def test_evaluate_counts_examples_that_were_trained_on(run, own_run, tmp_path, capsys):
    folder = tmp_path / "again"
    folder.symlink_to(run.data)
    assert main.main(["--mode=evaluate", f"--workdir={own_run}", f"--test_data={folder}"]) == 0
    assert (
        "Warning: 81 of 90 examples were used in training or validation, so the numbers are too "
        "good." in capsys.readouterr().out
    )


def test_evaluate_notices_that_the_data_have_changed(run, own_run, tmp_path, capsys):
    path = own_run / "dataset_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "fingerprint": "0", "num_examples": 95}))
    assert main.main(["--mode=evaluate", f"--workdir={own_run}"]) == 0
    assert "has changed since the run: it had 95 examples, it has 90" in capsys.readouterr().out


def test_a_run_that_was_not_good_enough_is_not_exported(own_run, capsys):
    path = own_run / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, "status": "requirement_not_met"}))
    assert main.main(["--mode=export", f"--workdir={own_run}"]) == 3
    assert "did not meet its requirements. Give a --require_min" in capsys.readouterr().err
    assert not (own_run / "export" / "2").exists()
    assert (
        main.main(["--mode=export", f"--workdir={own_run}", "--require_min=test/accuracy:0"]) == 0
    )


def test_flags_of_another_verb_are_refused(own_run, capsys):
    flags = ["--mode=evaluate", f"--workdir={own_run}", "--top_k=3", "--data=a", "--test_data=b"]
    assert main.main(flags) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --top_k has no effect with --mode=evaluate. Leave it out.",
        "error: --data has no effect with --mode=evaluate. Leave it out.",
    ]


def test_export_writes_the_next_version(own_run, tmp_path, capsys):
    assert main.main(["--mode=export", f"--workdir={own_run}"]) == 0
    # run.flags has no export_dir: the default is this folder's own.
    assert (own_run / "export" / "2" / "saved_model.pb").is_file()
    elsewhere = ["--mode=export", f"--workdir={own_run}", f"--export_dir={tmp_path / 'served'}"]
    assert main.main([*elsewhere, "--warmup_examples=3"]) == 0
    assert (tmp_path / "served" / "1" / "saved_model.pb").is_file()
    assert main.main([*elsewhere, "--require_min=test/accuracy:2"]) == 3
    assert not (tmp_path / "served" / "2").exists()


def read_rows(path):
    return list(csv.DictReader(path.open()))


def test_predict_from_a_workdir_and_from_an_export_agree(run, tmp_path):
    version = run.summary["export"]["path"]
    common = ["--mode=predict", f"--input={run.data / 'red'}", f"--input={run.data / 'blue'}"]
    assert main.main([*common, f"--workdir={run.folder}", f"--output={tmp_path / 'a.csv'}"]) == 0
    assert main.main([*common, f"--model={version}", f"--output={tmp_path / 'b.csv'}"]) == 0
    first, second = read_rows(tmp_path / "a.csv"), read_rows(tmp_path / "b.csv")
    assert [row["class"] for row in first] == ["red"] * 30 + ["blue"] * 30
    assert [row["class"] for row in second] == [row["class"] for row in first]
    np.testing.assert_allclose(
        [float(row["probability"]) for row in second],
        [float(row["probability"]) for row in first],
        rtol=1e-5,
    )


def test_predict_writes_top_k_as_json_lines(run, tmp_path):
    (tmp_path / "list.csv").write_text(f"path\n{run.data / 'green' / '003.png'}\n")
    flags = [
        "--mode=predict", f"--workdir={run.folder}", f"--input={tmp_path / 'list.csv'}",
        f"--output={tmp_path / 'p.jsonl'}", "--top_k=2",
    ]  # fmt: skip
    assert main.main(flags) == 0
    (line,) = (tmp_path / "p.jsonl").read_text().splitlines()
    assert "green" in line
    assert json.loads(line)["path"].endswith("003.png")


def test_predict_names_an_image_that_cannot_be_read(run, tmp_path, capsys):
    (tmp_path / "bad.png").write_text("no image")
    flags = [
        "--mode=predict", f"--workdir={run.folder}", f"--input={tmp_path / 'bad.png'}",
        f"--input={run.data / 'green' / '003.png'}", f"--output={tmp_path / 'p.csv'}",
    ]  # fmt: skip
    assert main.main(flags) == 0
    assert "1 predictions, 1 errors" in capsys.readouterr().out
    rows = read_rows(tmp_path / "p.csv")
    assert sorted(bool(row["error"]) for row in rows) == [False, True]


def test_inspect_numbers_the_layers(run, capsys):
    assert main.main(["--mode=inspect", f"--model={run.model}", "--freeze=2"]) == 0
    out = capsys.readouterr().out
    assert "conv_a" in out
    assert "--freeze=2: 2 of 6 layers frozen" in out
    assert "classifier" in out


def test_validate_lists_problems_and_writes_them(run, tmp_path, capsys):
    assert main.main(["--mode=validate", f"--data={run.data}"]) == 0
    capsys.readouterr()
    folder = tmp_path / "photos"
    shutil.copytree(run.data, folder)
    shutil.copy(folder / "red" / "000.png", folder / "blue" / "copy.png")
    (folder / "green" / "000.png").write_text("no image")
    output = tmp_path / "problems.csv"
    assert main.main(["--mode=validate", f"--data={folder}", f"--output={output}"]) == 2
    out = capsys.readouterr().out
    assert f"error: {folder}/green/000.png" in out
    assert out.splitlines()[-1].startswith("1 errors, ")
    rows = read_rows(output)
    assert [row["severity"] for row in rows].count("error") == 1
    assert any("copy.png" in row["message"] for row in rows if row["severity"] == "warning")


def test_problems_are_safe_in_a_spreadsheet():
    from tf_finetune import diagnosis_page, findings

    text = diagnosis_page.format_problems(
        [findings.Problem("=1+1\nx", path="@a", line=3, flag="--classes")]
    )
    assert text.splitlines() == [
        "severity,path,line,message,flag",
        "error,'@a,3,'=1+1\\nx,--classes",
    ]
