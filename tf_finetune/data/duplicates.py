"""The same image or text twice: within a split, across splits, with two labels.

One idea: what has the same digest is one group, and a group says what it costs: a copy across
splits makes the test a test of memory, two labels mean that one is wrong, a copy within a split
weighs twice.
"""

from tf_finetune import findings
from tf_finetune.data import doctor_rows, examples

_MAX_GROUPS = 1000
_SHOWN_OTHERS = 3


def find_repeated(
    rows: doctor_rows.Rows,
    digests: dict[int, bytes],
    *,
    inner: dict[int, bytes] | None = None,
    sameness: str = "identical to",
    max_groups: int = _MAX_GROUPS,
) -> list[findings.Problem]:
    """Examples that are equal, and why that matters.

    Args:
      rows: the examples.
      digests: {row: what is equal for equal examples}; rows that could not be read are missing.
      inner: {row: a digest of which equal rows were reported already}: of these one stands for
        all.
      sameness: what a message says between the first example and the others.
      max_groups: how many groups are reported one by one.

    Returns:
      A warning or two for each group, at its first example; then how many groups more.
    """
    problems: list[findings.Problem] = []
    groups = _find_groups(digests, inner or {})
    for group in groups[:max_groups]:
        problems += _describe(rows, group, sameness)
    if len(groups) > max_groups:
        source = findings.one_line(next(iter(rows.parts.values())).source)
        message = f"{source}: and {len(groups) - max_groups} more groups of equal examples."
        problems.append(findings.Problem(message, severity=findings.WARNING, path=source))
    return problems


def _find_groups(digests: dict[int, bytes], inner: dict[int, bytes]) -> list[list[int]]:
    groups: dict[bytes, list[int]] = {}
    seen: set[tuple[bytes, bytes]] = set()
    for row, digest in sorted(digests.items()):
        if row in inner:
            if (digest, inner[row]) in seen:
                continue
            seen.add((digest, inner[row]))
        groups.setdefault(digest, []).append(row)
    return [group for group in groups.values() if len(group) > 1]


def _describe(rows: doctor_rows.Rows, group: list[int], sameness: str) -> list[findings.Problem]:
    group = rows.sort(group)
    first = group[0]
    others = [rows.locate(row).name for row in group[1 : 1 + _SHOWN_OTHERS]]
    more = len(group) - 1 - len(others)
    shown = " and ".join(others) + (f" and {more} more" if more else "")
    begin = f"{rows.name_input(first)} is {sameness} {shown}"
    problems = []
    for cells in rows.labels.values():
        known = [cells[row] for row in group if cells[row] != ""]
        labels = list(dict.fromkeys(map(doctor_rows.show_cell, known)))
        if len(labels) > 1:
            text = f"{begin}, with different labels: {', '.join(labels[:5])}. One is wrong."
            problems.append(rows.warn(first, text))
    where = {rows.names[row] for row in group} - {doctor_rows.LEFT_OUT}
    if len(where) > 1:
        names = ["--data"] if doctor_rows.NOT_SPLIT in where else []
        names += [name for name in examples.SPLIT_NAMES if name in where]
        text = f"{begin}, in {' and '.join(names)}: {names[-1]} measures memory. Keep one."
        problems.append(rows.warn(first, text))
    if not problems:
        problems.append(rows.warn(first, f"{begin}: a copy weighs as one more example. Keep one."))
    return problems
