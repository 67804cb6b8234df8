"""The verb validate: the data doctor's report on the screen, or in a file."""

import os
from collections.abc import Callable

from tf_finetune import diagnosis_page, findings, specs, workdir
from tf_finetune.data import doctor
from tf_finetune.object_store import sessions


def validate(
    spec: specs.RunSpec, *, announce: Callable[[str], None] = print
) -> doctor.DoctorReport:
    """Reads all data once and tells what they hold and what is wrong with them.

    Args:
      spec: its data, heads and seed; predict.output is where the report goes, as a page (.md), for
        scripts (.json), or a row per problem (.csv).
      announce: takes the page; where there is an output, a line per problem and one that counts
        them instead.

    Returns:
      The report. Bad data raise nothing.

    Raises:
      RefusedError: the output has another ending, or its folder does not exist; data in an object
        store cannot be copied.
      OSError: the output cannot be written.
    """
    output = spec.predict.output
    if output is not None:
        _check_output(output)
    session = sessions.Session("", is_chief=False, announce=announce)
    spec = session.localize(spec)
    report = doctor.examine(spec.data, heads=spec.heads, seed=spec.seed)
    if output is None:
        session.announce(diagnosis_page.format_page(report).rstrip("\n"))
        return report
    for problem in report.problems:
        session.announce(f"{problem.severity}: {problem.message}")
    announce(diagnosis_page.count_problems(report.problems))
    text = diagnosis_page.format_report(report, path=output)
    workdir.write_atomic(output, session.name_urls(text))
    return report


def _check_output(output: str) -> None:
    """Before minutes of reading, not behind them."""
    shown = f"--output={findings.one_line(output)}"
    if not output.endswith(diagnosis_page.ENDINGS):
        message = (
            f"{shown}: expected a page.md, a report.json or a problems.csv. Give one of these "
            "endings."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--output"))
    folder = os.path.dirname(output) or "."
    if not os.path.isdir(folder):
        message = f"{shown}: the folder {findings.one_line(folder)} does not exist. Make it first."
        raise findings.RefusedError(findings.Problem(message, flag="--output"))
