"""What was measured, as Markdown."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.comparison import contenders, prefix_speed


def format_header(header: dict[str, Any]) -> str:
    """The first lines of a report."""
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    flags = ", ".join(header["bfloat16"]) or "neither amx_bf16 nor avx512_bf16"
    return (
        f"`{header['command']}`, {header['date']}\n\n"
        f"{header['processor']} ({flags}), {header['cores']} cores; {versions}\n"
    )


def _format_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def summarize(results: Sequence[contenders.Result]) -> dict[str, Any]:
    """Medians over repeats, and each one's values."""
    seconds = [result.seconds for result in results]
    peaks = [result.peak_mb for result in results if result.peak_mb is not None]
    names = list(dict.fromkeys(name for result in results for name in result.parts))
    return {
        "seconds": round(statistics.median(seconds), 2),
        "all_seconds": [round(value, 2) for value in seconds],
        "images_per_second": round(statistics.median(r.images_per_second for r in results), 2),
        "training_images_per_second": round(
            statistics.median(result.training_rate for result in results), 2
        ),
        "peak_mb": max(peaks) if peaks else None,
        "accuracy": statistics.median(result.accuracy for result in results),
        "all_accuracies": [result.accuracy for result in results],
        "parts": {
            name: round(statistics.median(result.parts.get(name, 0.0) for result in results), 2)
            for name in names
        },
    }


def format_contenders(found: dict[str, dict[str, Any]], reasons: dict[str, str]) -> str:
    """A row per contender, then where the time of each went.

    Args:
      found: {name: of `summarize`}.
      reasons: {name: why it did not run}.
    """
    ours = found.get(contenders.OURS)
    rows = []
    for name, values in found.items():
        low, high = min(values["all_seconds"]), max(values["all_seconds"])
        ratio = f"{values['seconds'] / ours['seconds']:.2f}" if ours else "-"
        rows.append(
            [
                contenders.LABELS[name],
                f"{values['seconds']:.1f}",
                f"{low:.1f} to {high:.1f}",
                f"{values['images_per_second']:.1f}",
                f"{values['training_images_per_second']:.1f}",
                "-" if values["peak_mb"] is None else f"{values['peak_mb']:,}",
                f"{values['accuracy']:.3f}",
                ratio,
            ]
        )
    rows += [[contenders.LABELS[name], reason, *["-"] * 6] for name, reason in reasons.items()]
    names = (
        "",
        "seconds",
        "range",
        "images/s",
        "in training",
        "peak MB",
        "test accuracy",
        "times tf_finetune's",
    )
    text = _format_table(names, rows) + "\n"
    for name, values in found.items():
        parts = ", ".join(f"{part} {secs:.1f} s" for part, secs in values["parts"].items())
        text += f"- {contenders.LABELS[name]}: {parts}\n"
    return text


def format_scale(rows: Sequence[dict[str, Any]]) -> str:
    """A row per number of images."""
    lines = []
    for place, row in enumerate(rows):
        before = rows[place - 1] if place else None
        lines.append(
            [
                f"{row['images']:,}",
                f"{row['seconds']:.1f}",
                "-" if before is None else f"{row['images'] / before['images']:.2f}",
                "-" if before is None else f"{row['seconds'] / before['seconds']:.2f}",
                f"{row['images_per_second']:.1f}",
                "-" if row["peak_mb"] is None else f"{row['peak_mb']:,}",
            ]
        )
    names = ("images", "seconds", "times the images", "times the seconds", "images/s", "peak MB")
    return _format_table(names, lines)


def format_prefix(facts: dict[str, Any]) -> str:
    """A row per way of running the frozen network."""
    labels = {
        prefix_speed.KERAS: "Keras's predict",
        prefix_speed.FLOAT32: "compiled prefix, float32",
        prefix_speed.AUTO: f"compiled prefix, auto ({facts['auto']})",
    }
    rows = []
    for name, rates in facts["images_per_second"].items():
        where, what = name.split("/")
        rows.append(
            [
                f"{labels[what]}, from {where}",
                f"{statistics.median(rates):.1f}",
                f"{min(rates):.1f} to {max(rates):.1f}",
                f"{facts['ratios'].get(name, 1.0):.2f}",
            ]
        )
    text = _format_table(("", "images/s", "range", "times Keras's"), sorted(rows))
    return f"{text}\n{facts['images']:,} images; auto: {facts['reason']}\n"


def format_memory(rows: Sequence[dict[str, Any]]) -> str:
    """A row per number of images."""
    lines = [
        [
            f"{row['images']:,}",
            f"{row['seconds']:.1f}",
            "-" if row["peak_mb"] is None else f"{row['peak_mb']:,}",
        ]
        for row in rows
    ]
    told = "".join(f"- {line}\n" for row in rows for line in row["features"])
    return _format_table(("images", "seconds", "peak MB"), lines) + "\n" + told
