"""The data doctor's report as a Markdown page, as JSON, and its problems as CSV."""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterable, Sequence

from tf_finetune import findings
from tf_finetune.data import doctor, doctor_rows

ENDINGS = (".csv", ".json", ".md")
# Where a cell may begin, and what begins a formula there; also in the width of Asian scripts.
_FORMULA = re.compile(r"""((?:^|[,;|])["'\s]*)([=+\-@＝＋－＠])""")
_PROBLEM_COLUMNS = ("severity", "path", "line", "message", "flag")
# What a name could turn into a link, an image or a table; the rest reads well without escapes.
_MARKDOWN = re.compile(r"([\[\]<>`|*])")
_KINDS = {"image": "images", "text": "texts", "columns": "rows"}
_MAX_SHOWN = 20
_MAX_CLASSES = 30


def format_report(report: doctor.DoctorReport, *, path: str) -> str:
    """The report in the form that a file's ending asks for.

    Args:
      report: of `doctor.examine`.
      path: a file name with one of ENDINGS.

    Returns:
      Text of the file.
    """
    if path.endswith(".csv"):
        return format_problems(report.problems)
    return format_json(report) if path.endswith(".json") else format_page(report)


def format_json(report: doctor.DoctorReport) -> str:
    """Everything, for scripts.

    Args:
      report: of `doctor.examine`.

    Returns:
      JSON: the fields of DoctorReport by name, histograms as {title: {what: number}}, and
      `problems` with their `section` in place of sections; `num_errors`, `num_warnings`.
    """
    num_errors = count_errors(report.problems)
    value = {
        "source": findings.one_line(report.source),
        "input_kind": report.input_kind,
        "num_errors": num_errors,
        "num_warnings": len(report.problems) - num_errors,
        "num_examples": report.num_examples,
        "classes": report.classes,
        "histograms": {found.title: found.counts for found in report.histograms},
        "columns": [dataclasses.asdict(column) for column in report.columns],
        "problems": [
            {"section": section.title, **dataclasses.asdict(problem)}
            for section in report.sections
            for problem in section.problems
        ],
    }
    return json.dumps(value, indent=2) + "\n"


def count_errors(problems: Sequence[findings.Problem]) -> int:
    """How many problems stop a run.

    Args:
      problems: any number.

    Returns:
      The number of errors.
    """
    return sum(problem.severity == findings.ERROR for problem in problems)


def count_problems(problems: Sequence[findings.Problem]) -> str:
    """The last line of --mode=validate.

    Args:
      problems: any number.

    Returns:
      For example "3 errors, 0 warnings."
    """
    num_errors = count_errors(problems)
    return f"{num_errors} errors, {len(problems) - num_errors} warnings."


def format_page(report: doctor.DoctorReport) -> str:
    """One page for people.

    Args:
      report: of `doctor.examine`.

    Returns:
      Markdown that also reads well in a terminal: of each section the first 20 problems, errors
      first, of each head the 30 largest and smallest classes.
    """
    total = sum(report.num_examples.values())
    parts = ", ".join(f"{name} {count}" for name, count in report.num_examples.items())
    kind = _KINDS.get(report.input_kind, "examples")
    blocks = [f"# Data: {_escape(report.source)}"]
    blocks.append(f"{total} {kind}{f': {parts}' if parts else ''}.")
    blocks.append(f"**{count_problems(report.problems)}**")
    for section in report.sections:
        blocks.append(f"## {section.title}")
        blocks.append(_list_problems(section.problems))
    for head, classes in report.classes.items():
        if classes:
            blocks.append(f"## Classes of head {_escape(head)}")
            blocks.append(_tabulate_classes(classes))
    if report.histograms:
        blocks.append("## Facts")
    for found in report.histograms:
        rows = [(_escape(name), str(count)) for name, count in found.counts.items()]
        blocks.append(_tabulate((found.title, found.unit), rows))
    if len(report.columns) > 1:
        blocks.append("## Columns")
        blocks.append(_tabulate_columns(report.columns))
    return "\n\n".join(blocks) + "\n"


def _list_problems(problems: Sequence[findings.Problem]) -> str:
    ordered = sorted(problems, key=lambda problem: problem.severity != findings.ERROR)
    lines = [
        f"- **{problem.severity}** {_escape(problem.message)}"
        + (f" (`{problem.flag}`)" if problem.flag and problem.flag not in problem.message else "")
        for problem in ordered[:_MAX_SHOWN]
    ]
    if len(ordered) > _MAX_SHOWN:
        lines.append(f"- and {len(ordered) - _MAX_SHOWN} more; --output=problems.csv lists all.")
    return "\n".join(lines)


def _tabulate_classes(classes: dict[str, dict[str, int]]) -> str:
    splits = [
        name for name in doctor_rows.NAMES if any(name in counts for counts in classes.values())
    ]
    totals = {name: sum(counts.values()) for name, counts in classes.items()}
    ordered = sorted(classes, key=lambda name: -totals[name])
    shown = ordered
    if len(ordered) > _MAX_CLASSES:
        half = _MAX_CLASSES // 2
        shown = [*ordered[:half], *ordered[-half:]]
    rows = [
        (
            _escape(name),
            *(str(classes[name].get(split, 0)) for split in splits),
            str(totals[name]),
        )
        for name in shown
    ]
    if len(shown) < len(ordered):
        left_out = f"... {len(ordered) - len(shown)} more"
        rows.insert(len(shown) // 2, (left_out, *("" for _ in splits), ""))
    return _tabulate(("class", *splits, "all"), rows)


def _tabulate_columns(columns: Sequence[doctor.Column]) -> str:
    rows = [
        (
            _escape(column.name),
            "" if column.num_values is None else str(column.num_values),
            str(column.num_missing),
            "" if column.low is None else f"{column.low:g}",
            "" if column.high is None else f"{column.high:g}",
        )
        for column in columns
    ]
    return _tabulate(("column", "different values", "empty cells", "least", "largest"), rows)


def _tabulate(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    rule = ("---", *["---:"] * (len(titles) - 1))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *rows))


def _escape(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", findings.one_line(text))


def format_problems(problems: Sequence[findings.Problem]) -> str:
    """Problems as CSV, a row each.

    Args:
      problems: any number.

    Returns:
      Text with the header severity,path,line,message,flag. What a spreadsheet would run as a
      formula stands behind an apostrophe, also behind a comma or semicolon inside of a cell, where
      a program that reads the file with other separators begins a new one.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_PROBLEM_COLUMNS)
    for problem in problems:
        values = dataclasses.asdict(problem)
        cells = ["" if values[name] is None else str(values[name]) for name in _PROBLEM_COLUMNS]
        # A flag's own "--" is no formula that a file name could have put there.
        writer.writerow([_safe_cell(cell) for cell in cells[:-1]] + cells[-1:])
    return text.getvalue()


def _safe_cell(text: str) -> str:
    return _FORMULA.sub(r"\1'\2", findings.one_line(text))
