"""An evaluation as files and text: report.json for scripts, report.md and a few lines for people.

One idea: a metric has one name everywhere, the one that --require_min takes. A report of few
examples leads with the interval, because its accuracy alone would be read as more than it is.
Nothing here depends on the clock: equal results give equal bytes.
"""

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tf_finetune import disk_room, evaluation, findings, head_kinds, head_metrics, workdir

_FEW_EXAMPLES = 30
# Wider matrices have numbers for column heads: names would not fit a page.
_MAX_NAMED_COLUMNS = 12
# In a small matrix the confusions are seen at once.
_MIN_LISTED_CLASSES = 11
# What a report about positions leads with: the first that the split defines, and how it is shown.
_LEADS = {
    "mean_iou": "mean IoU",
    "entity_f1": "entity F1",
    "f1_micro": "micro F1",
    "token_accuracy": "token accuracy",
}
_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~&#!$])")


def write_report(report: evaluation.EvalReport, folder: str, *, notes: Sequence[str] = ()) -> None:
    """Writes report.json and report.md.

    Args:
      report: what was measured.
      notes: what its readers should know of the model, sentences.
      folder: where they go; it is made if missing, and former reports are replaced.

    Raises:
      OSError: the folder cannot be written or the disk is full; former reports are untouched.
    """
    texts = (
        workdir.format_json(to_json_dict(report, notes=notes)),
        format_markdown(report, notes=notes),
    )
    paths = [os.path.join(folder, name) for name in (workdir.REPORT_JSON, workdir.REPORT_MARKDOWN)]
    with workdir.replace_pair(*paths) as temporaries:
        for path, temporary, text in zip(paths, temporaries, texts, strict=True):
            with disk_room.naming(path), open(temporary, "wb") as file:
                file.write(text.encode())


def to_json_dict(report: evaluation.EvalReport, *, notes: Sequence[str] = ()) -> dict[str, Any]:
    """A report as plain values.

    Args:
      report: what was measured.
      notes: of the model; the key is absent where there are none.

    Returns:
      Dictionaries, lists, strings and finite numbers. A metric that the split does not define is
      absent from `metrics`; a class without an example has null for precision, recall and f1, and
      a head of numbers or positions for num_correct and accuracy_interval_95.
    """
    return {
        "split": report.split,
        "num_examples": report.num_examples,
        "loss": report.loss,
        "heads": {name: _to_head_dict(head) for name, head in report.heads.items()},
        **({"notes": [findings.one_line(note) for note in notes]} if notes else {}),
    }


def summarize(report: evaluation.EvalReport) -> dict[str, Any]:
    """The numbers of a report, for summary.json.

    Args:
      report: what was measured.

    Returns:
      {HEAD: {metric: value}, ..., "loss": value}.
    """
    return {name: dict(head.metrics) for name, head in report.heads.items()} | {"loss": report.loss}


def format_report(report: evaluation.EvalReport) -> str:
    """A report as a few lines for the terminal.

    Args:
      report: what was measured.

    Returns:
      A line for the split, one for each head and one for each note; no line end at the end.
    """
    lines = [f"{report.split}: {_count(report.num_examples)}, loss {report.loss:.4f}"]
    for name, head in report.heads.items():
        lead = _find_lead(head)
        others = [
            f"{key} {_show(key, value)}" for key, value in head.metrics.items() if key != lead
        ]
        lines.append(f"  {name}: {', '.join([_lead(head), *others])}")
        lines += [f"    {note}" for note in _list_notes(head)]
    return "\n".join(lines)


def format_markdown(report: evaluation.EvalReport, *, notes: Sequence[str] = ()) -> str:
    """A report as a Markdown page.

    Args:
      report: what was measured.
      notes: of the model, shown first.

    Returns:
      The page, with a line end at its end.
    """
    blocks = [f"# Evaluation on the {_escape(report.split)} split"]
    blocks += [f"**Note:** {_escape(note)}" for note in notes]
    for name, head in report.heads.items():
        if len(report.heads) > 1:
            blocks.append(f"## Head {_escape(name)}")
        blocks += _format_head(head)
    if len(report.heads) > 1:
        blocks.append(f"Loss, summed over the heads with their weights: {report.loss:.4f}.")
    return "\n\n".join(blocks) + "\n"


def _to_head_dict(head: head_metrics.HeadReport) -> dict[str, Any]:
    # Names that are not UTF-8 hold lone surrogates, which no UTF-8 file can.
    rows = [
        {
            "name": findings.one_line(row.name),
            "precision": row.precision,
            "recall": row.recall,
            "f1": row.f1,
            "support": row.support,
            "num_predicted": row.num_predicted,
            **({"iou": row.iou} if head_kinds.HEAD_KINDS[head.kind].positions == "pixels" else {}),
        }
        for row in head.per_class
    ]
    result: dict[str, Any] = {
        "kind": head.kind,
        "num_examples": head.num_examples,
        "num_missing": head.num_missing,
        "thresholds": list(head.thresholds),
        "num_correct": head.num_correct,
        "metrics": dict(head.metrics),
        "undefined": dict(head.undefined),
        "accuracy_interval_95": None if head.interval is None else list(head.interval),
        "num_classes_without_examples": head.num_classes_without_examples,
        "per_class": rows,
        "confused_pairs": [
            {
                "true": findings.one_line(pair.true),
                "predicted": findings.one_line(pair.predicted),
                "count": pair.count,
            }
            for pair in head.confused_pairs
        ],
    }
    if head.confusion is not None:
        result["confusion"] = head.confusion.tolist()
    return result


def _count(number: int) -> str:
    return f"{number} example" + ("s" if number != 1 else "")


def _show(metric: str, value: float) -> str:
    # An error is in the labels' unit, which may be thousands or thousandths.
    return f"{value:.4g}" if metric.endswith("_error") else f"{value:.4f}"


def _find_lead(head: head_metrics.HeadReport) -> str:
    """The metric that a report leads with."""
    if head_kinds.HEAD_KINDS[head.kind].positions:
        return next((name for name in _LEADS if name in head.metrics), "")
    return "mean_absolute_error" if head.interval is None else "accuracy"


def _lead(head: head_metrics.HeadReport) -> str:
    if not head.num_examples:
        return "nothing is measured, no example has a label"
    if head_kinds.HEAD_KINDS[head.kind].positions:
        name = _find_lead(head)
        return f"{_LEADS[name]} {head.metrics[name]:.4f} ({_count(head.num_examples)})"
    if head.interval is None:
        error = head.metrics["mean_absolute_error"]
        return f"mean absolute error {error:.4g} ({_count(head.num_examples)})"
    low, high = head.interval
    right = f"{head.num_correct} of {_count(head.num_examples)} right"
    accuracy = head.metrics["accuracy"]
    if head.num_examples < _FEW_EXAMPLES:
        return f"accuracy between {low:.4f} and {high:.4f} (95 % interval; {right}: {accuracy:.4f})"
    return f"accuracy {accuracy:.4f} (95 % interval {low:.4f} to {high:.4f}; {right})"


def _list_notes(head: head_metrics.HeadReport) -> list[str]:
    notes = []
    if head.num_missing:
        notes.append(f"{_count(head.num_missing)} without a label of this head left out.")
    if head.interval is None and 0 < head.num_examples < _FEW_EXAMPLES:
        notes.append(
            f"With fewer than {_FEW_EXAMPLES} examples these numbers are rough: do not choose "
            "between models by them."
        )
    elif 0 < head.num_examples < _FEW_EXAMPLES:
        notes.append(
            f"With fewer than {_FEW_EXAMPLES} examples only the interval is meaningful: do not "
            "choose between models by these numbers."
        )
    if head.num_classes_without_examples:
        names = [row.name for row in head.per_class if not row.support]
        notes.append(
            f"{len(names)} of {len(head.classes)} classes without an example here, left out of the "
            f"macro averages: {findings.list_first(names)}."
        )
    unseen = [row.name for row in head.per_class if row.iou is None]
    if head_kinds.HEAD_KINDS[head.kind].positions == "pixels" and unseen:
        notes.append(
            f"{len(unseen)} of {len(head.classes)} classes neither labelled nor predicted here, "
            f"left out of mean_iou: {findings.list_first(unseen)}."
        )
    if head.num_examples:
        notes += [f"{name} is not defined here: {why}." for name, why in head.undefined.items()]
    return notes


def _format_head(head: head_metrics.HeadReport) -> list[str]:
    lead = _lead(head)
    blocks = [f"**{lead[0].upper()}{lead[1:]}.**"]
    if not head_kinds.HEAD_KINDS[head.kind].exclusive:
        blocks.append("An example is right when it is right in every class.")
    notes = _list_notes(head)
    if notes:
        blocks.append("\n".join(f"- {_escape(note)}" for note in notes))
    values = [(f"`{name}`", _show(name, value)) for name, value in head.metrics.items()]
    if values:
        blocks.append(_format_table(("metric", "value"), values, num_left=1))
    if head.per_class:
        blocks += ["### Classes", _format_classes(head)]
    if head.confusion is not None:
        positions = head_kinds.HEAD_KINDS[head.kind].positions
        counted = f" Counts of {positions}." if positions else ""
        blocks += ["### Confusion matrix", f"Rows: true class. Columns: predicted class.{counted}"]
        blocks.append(_format_matrix(head))
    if head.confused_pairs and len(head.classes) >= _MIN_LISTED_CLASSES:
        pairs = [
            (_escape(pair.true), _escape(pair.predicted), str(pair.count))
            for pair in head.confused_pairs
        ]
        blocks.append("### Most confused classes")
        counted = head_kinds.HEAD_KINDS[head.kind].positions or "examples"
        blocks.append(_format_table(("true", "predicted", counted), pairs, num_left=2))
    return blocks


def _format_classes(head: head_metrics.HeadReport) -> str:
    counted = head_kinds.HEAD_KINDS[head.kind].positions
    names = (*(("iou",) if counted == "pixels" else ()), "precision", "recall", "f1")
    rows = [
        (
            _escape(row.name),
            *(
                "-" if value is None else f"{value:.4f}"
                for value in (getattr(row, name) for name in names)
            ),
            str(row.support),
            str(row.num_predicted),
        )
        for row in head.per_class
    ]
    titles = ("class", *names, counted or "examples", "predicted")
    return _format_table(titles, rows, num_left=1)


def _format_matrix(head: head_metrics.HeadReport) -> str:
    names = [_escape(name) for name in head.classes]
    numbers = [str(number) for number in range(1, len(names) + 1)]
    columns = names
    if len(names) > _MAX_NAMED_COLUMNS:
        columns = numbers
        names = [f"{number}: {name}" for number, name in zip(numbers, names, strict=True)]
    matrix = head.confusion.tolist() if head.confusion is not None else []
    rows = [(name, *map(str, counts)) for name, counts in zip(names, matrix, strict=True)]
    return _format_table(("true / predicted", *columns), rows, num_left=1)


def _format_table(
    titles: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, num_left: int
) -> str:
    """A Markdown table; the first `num_left` columns are text, the others numbers."""
    rule = ["---"] * num_left + ["---:"] * (len(titles) - num_left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *rows))


def _escape(text: str) -> str:
    """A name as Markdown shows it literally, on one line; spaces at its ends stay visible."""
    line = _MARKDOWN_SPECIAL.sub(r"\\\1", findings.one_line(text))
    inner = line.strip(" ")
    left, right = len(line) - len(line.lstrip(" ")), len(line) - len(line.rstrip(" "))
    return "&nbsp;" * left + inner + "&nbsp;" * right if inner else "&nbsp;" * len(line)
