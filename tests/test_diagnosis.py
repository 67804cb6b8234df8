import json

import pytest

from tests import tiny
from tf_finetune import diagnosis, diagnosis_page, findings, specs
from tf_finetune.data import doctor


@pytest.fixture
def photos(tmp_path):
    tiny.write_color_folder(tmp_path / "photos", per_class=10)
    return tmp_path / "photos"


def make_report(problems, *, num_classes=2):
    classes = {f"c{number}": {"train": 40 - number} for number in range(num_classes)}
    sections = (doctor.Section("Images", tuple(problems)),)
    counts = (doctor.Histogram("Format", {"PNG": 3}),)
    columns = (doctor.Column("a", None, 0, -1.0, 2.5), doctor.Column("b", 3, 1, None, None))
    return doctor.DoctorReport(
        "[photos]", "image", {"train": 3}, {"label": classes}, counts, columns, sections
    )


def test_the_page():
    error = findings.Problem("`x` is bad. --classes helps.", flag="--classes")
    warning = findings.Problem("<b>", severity=findings.WARNING, flag="--head=name=a")
    assert (
        diagnosis_page.format_page(make_report([warning, error]))
        == """\
# Data: \\[photos\\]

3 images: train 3.

**1 errors, 1 warnings.**

## Images

- **error** \\`x\\` is bad. --classes helps.
- **warning** \\<b\\> (`--head=name=a`)

## Classes of head label

| class | train | all |
| --- | ---: | ---: |
| c0 | 40 | 40 |
| c1 | 39 | 39 |

## Facts

| Format | examples |
| --- | ---: |
| PNG | 3 |

## Columns

| column | different values | empty cells | least | largest |
| --- | ---: | ---: | ---: | ---: |
| a |  | 0 | -1 | 2.5 |
| b | 3 | 1 |  |  |
"""
    )


def test_a_long_page_is_cut():
    problems = [findings.Problem(f"bad {number}") for number in range(25)]
    text = diagnosis_page.format_page(make_report(problems, num_classes=35))
    assert "bad 19\n- and 5 more; --output=problems.csv lists all.\n" in text
    assert "| c14 | 26 | 26 |\n| ... 5 more |  |  |\n| c20 | 20 | 20 |\n" in text


def test_without_output_the_page_is_all_that_is_printed(photos, capsys):
    (photos / "red" / "000.png").write_bytes(b"")
    report = diagnosis.validate(specs.RunSpec(data=specs.DataSpec(data=str(photos))))
    printed = capsys.readouterr().out
    assert printed == diagnosis_page.format_page(report)
    assert printed.startswith(f"# Data: {photos}\n\n30 images: train 24, ")


def test_the_ending_chooses_the_form(photos, tmp_path):
    (photos / "red" / "000.png").write_bytes(b"")
    lines = []
    texts = {}
    for ending in ("md", "json", "csv"):
        output = tmp_path / f"report.{ending}"
        predict = specs.PredictSpec(output=str(output))
        spec = specs.RunSpec(data=specs.DataSpec(data=str(photos)), predict=predict)
        report = diagnosis.validate(spec, announce=lines.append)
        texts[ending] = output.read_text()
    (problem,) = report.problems
    assert lines == [f"error: {problem.message}", "1 errors, 0 warnings."] * 3
    assert texts["md"] == diagnosis_page.format_page(report)
    assert texts["csv"] == diagnosis_page.format_problems([problem])
    assert json.loads(texts["json"]) == {
        "source": str(photos),
        "input_kind": "image",
        "num_errors": 1,
        "num_warnings": 0,
        "num_examples": report.num_examples,
        "classes": report.classes,
        "histograms": {found.title: found.counts for found in report.histograms},
        "columns": [
            {"name": "label", "num_values": 3, "num_missing": 0, "low": None, "high": None}
        ],
        "problems": [
            {
                "section": "Images",
                "message": problem.message,
                "severity": "error",
                "path": f"{photos}/red/000.png",
                "line": None,
                "flag": "--on_bad_example=skip",
            }
        ],
    }


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            "report.txt",
            "--output=report.txt: expected a page.md, a report.json or a problems.csv. Give one of "
            "these endings.",
        ),
        (
            "nowhere/report.md",
            "--output=nowhere/report.md: the folder nowhere does not exist. Make it first.",
        ),
    ],
)
def test_an_output_that_cannot_be_written(output, message):
    spec = specs.RunSpec(
        data=specs.DataSpec(data="no data"), predict=specs.PredictSpec(output=output)
    )
    with pytest.raises(findings.RefusedError) as caught:
        diagnosis.validate(spec)
    assert [problem.message for problem in caught.value.problems] == [message]
