"""Which split each example of each source is in.

One idea: what is given stays (splits of the data's own, --validation_data and --test_data, then
--split_file), and the rest of --data is shared out by rank. What must stay together does: examples
of the same content, and of one group of --split_by, which is checked at the end over all sources.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import (
    examples,
    group_splits,
    input_stores,
    iterative_splits,
    label_encoding,
    split_files,
    splits,
    strata,
)

GIVEN = {"validation_data": splits.VALIDATION, "test_data": splits.TEST}


def find_conflicts(parts: dict[str, examples.Examples]) -> list[findings.Problem]:
    """Splits that come from two sides, or from a side that does not have them.

    Args:
      parts: the sources by the name of their flag, "data" first.

    Returns:
      An error for each.
    """
    return [
        findings.Problem(message, flag=f"--{flag}")
        for flag, part in parts.items()
        if flag != "data"
        for message in _describe_conflicts(parts["data"], part, flag=flag)
    ]


def _describe_conflicts(
    base: examples.Examples, part: examples.Examples, *, flag: str
) -> Iterator[str]:
    """What --data and a source of another flag say against each other."""
    ours, theirs = base.name_source("data"), part.name_source(flag)
    held = [input_stores.PLURALS[input_stores.find_kind(source.inputs)] for source in (base, part)]
    if held[0] != held[1]:
        yield f"{ours} holds {held[0]} and {theirs} holds {held[1]}. Expected the same of both."
    split = GIVEN[flag]
    name = examples.SPLIT_NAMES[split]
    if split in find_own_splits(base):
        yield f"{theirs} and {ours} both have {name} examples. Give one of them."
    if part.splits is not None and split not in find_own_splits(part):
        yield (
            f"{theirs} is split itself, and has no {name} split. Expected examples that are not "
            "split, or a source with that split."
        )


def find_own_splits(part: examples.Examples) -> frozenset[int]:
    """The splits that a source brings.

    Args:
      part: the source.

    Returns:
      Indices into SPLIT_NAMES; empty where the source is not split itself.
    """
    return frozenset() if part.splits is None else frozenset(np.unique(part.splits).tolist())


def prefix_keys(parts: dict[str, examples.Examples], flag: str) -> np.ndarray:
    """The keys of a source as split.csv has them.

    Args:
      parts: the sources by the name of their flag.
      flag: of the source.

    Returns:
      object [n] of str. Two sources may hold a file of the same name; split.csv tells them apart.
    """
    keys = parts[flag].keys
    return keys if flag == "data" else examples.object_array([f"{flag}/{key}" for key in keys])


def assign(
    parts: dict[str, examples.Examples],
    spec: specs.DataSpec,
    heads: Sequence[label_encoding.HeadLabels],
    *,
    assignments: split_files.Assignments | None,
    seed: int,
) -> tuple[dict[str, np.ndarray], list[findings.Problem]]:
    """Assigns the examples of all sources.

    Args:
      parts: the sources by the name of their flag, "data" first.
      spec: the data options.
      heads: the heads with their labels.
      assignments: of --split_file; None without.
      seed: of the ranking.

    Returns:
      ({flag: int8 [n], TRAIN, VALIDATION, TEST or LEFT_OUT}, what there is to say about them).
    """
    base = parts["data"]
    own, given = find_own_splits(base), frozenset(GIVEN[flag] for flag in parts if flag != "data")
    fixed = np.full(len(base), splits.LEFT_OUT, np.int8)
    if base.splits is not None:
        fixed = np.where(base.splits == splits.TRAIN, splits.LEFT_OUT, base.splits)
    known = np.full(len(base), splits.LEFT_OUT, np.int8)
    if assignments is not None:
        known = assignments.find(base.keys)
    problems = _check_split_file(parts, spec, known=known, fixed=fixed, assignments=assignments)
    fractions = splits.plan_fractions(spec.split, own=own, given=given)
    pool = np.flatnonzero(fixed == splits.LEFT_OUT)
    base_codes, known = fixed.copy(), np.where(fixed == splits.LEFT_OUT, known, fixed)
    base_codes[pool] = _share_out(
        base, heads, pool, fractions=fractions, seed=seed, known=known[pool]
    )
    codes = {"data": base_codes}
    for flag, part in parts.items():
        if flag != "data":
            wanted = np.full(len(part), GIVEN[flag], np.int8)
            others = part.splits is not None and part.splits != wanted
            codes[flag] = np.where(others, splits.LEFT_OUT, wanted).astype(np.int8)
    problems += _describe_groups(base, base_codes, pool, spec=spec, fractions=fractions)
    if spec.examples_per_class is not None:
        problems += _limit(parts, codes, spec, heads=heads, known=known, seed=seed)
    return codes, problems + _find_shared_groups(parts, codes, spec)


def _share_out(
    base: examples.Examples,
    heads: Sequence[label_encoding.HeadLabels],
    pool: np.ndarray,
    *,
    fractions: tuple[float, float, float],
    seed: int,
    known: np.ndarray,
) -> np.ndarray:
    """The splits of the examples of `pool`, each with a code in `known`."""
    tags = _take(strata.find_tags(heads, 0), pool)
    repeats = None
    if base.repeats is not None:
        _, first, place = np.unique(base.repeats[pool], return_index=True, return_inverse=True)
        repeats = first[place]
    if base.groups is not None:
        return group_splits.assign(
            group_splits.join_groups(base.groups[pool], repeats),
            tags,
            fractions=fractions,
            seed=seed,
            required=strata.find_required_tags(heads),
            known=known,
        )
    keys = _take(base.keys, pool)
    if repeats is None:
        return _share_out_single(keys, tags, fractions=fractions, seed=seed, known=known)
    codes = splits.follow(known, repeats)
    rows = np.flatnonzero(repeats == np.arange(len(pool)))
    codes[rows] = _share_out_single(
        keys[rows], tags[rows], fractions=fractions, seed=seed, known=codes[rows]
    )
    return splits.follow(codes, repeats)


def _share_out_single(
    keys: np.ndarray,
    tags: np.ndarray,
    *,
    fractions: tuple[float, float, float],
    seed: int,
    known: np.ndarray,
) -> np.ndarray:
    """The splits of examples that each go where they go."""
    has_one = all(len(found) == 1 for found in tags)
    assign_each = splits.assign if has_one else iterative_splits.assign
    return assign_each(keys, tags, fractions=fractions, seed=seed, known=known)


def _take(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The values of some rows in order; no copy of the values of all."""
    return values if len(rows) == len(values) else values[rows]


def _check_split_file(
    parts: dict[str, examples.Examples],
    spec: specs.DataSpec,
    *,
    known: np.ndarray,
    fixed: np.ndarray,
    assignments: split_files.Assignments | None,
) -> list[findings.Problem]:
    """Whether --split_file is of this data and agrees with the splits that are given."""
    if spec.split_file is None or assignments is None:
        return []
    base = parts["data"]
    shown, source = findings.one_line(spec.split_file), findings.one_line(base.source)
    mentioned = known != splits.LEFT_OUT
    if not mentioned.any():
        message = f"--split_file={shown} names no example of {source}. Is it of other data?"
        return [findings.Problem(message, path=spec.split_file, flag="--split_file")]
    closed = find_own_splits(base) | {GIVEN[flag] for flag in parts if flag != "data"}
    closed -= {splits.TRAIN}
    is_fixed = fixed != splits.LEFT_OUT
    wrong = mentioned & np.where(is_fixed, known != fixed, np.isin(known, list(closed)))
    if wrong.any():
        message = (
            f"--split_file={shown} contradicts the splits of the data for "
            f"{findings.list_first(list(base.keys[wrong]))}. Leave the file out, or put the "
            "examples back."
        )
        return [findings.Problem(message, path=spec.split_file, flag="--split_file")]
    gone = assignments.find_others(prefix_keys(parts, flag) for flag in parts)
    if not len(gone):
        return []
    message = (
        f"--split_file={shown} names {len(gone)} examples that are not in the data: "
        f"{findings.list_first(list(gone))}."
    )
    return [findings.Problem(message, severity=findings.WARNING, path=spec.split_file)]


def _limit(
    parts: dict[str, examples.Examples],
    codes: dict[str, np.ndarray],
    spec: specs.DataSpec,
    *,
    heads: Sequence[label_encoding.HeadLabels],
    known: np.ndarray,
    seed: int,
) -> list[findings.Problem]:
    """Applies --examples_per_class in place; says how many examples no split takes."""
    has_test = "test_data" in parts or splits.TEST in find_own_splits(parts["data"])
    num_left_out = 0
    for number, (flag, part) in enumerate(parts.items()):
        before = codes[flag]
        codes[flag] = splits.limit_per_class(
            before,
            part.keys,
            strata.find_class_tags(heads, number),
            limit=spec.examples_per_class or 1,
            seed=seed,
            rest=splits.TEST if flag == "data" and not has_test else splits.LEFT_OUT,
            known=known if flag == "data" else None,
        )
        dropped = (codes[flag] == splits.LEFT_OUT) & (before != splits.LEFT_OUT)
        num_left_out += int(dropped.sum())
    texts = []
    if num_left_out:
        texts.append(f"{num_left_out} examples, because the test split is given.")
    base = parts["data"]
    for values, what in (
        (base.repeats, "examples that repeat one of training or validation."),
        (base.groups, "examples of groups that are in training or validation."),
    ):
        num_held = 0 if values is None else _leave_out_held(values, codes["data"])
        texts += [f"{num_held} {what}"] if num_held else []
    shown = f"--examples_per_class={spec.examples_per_class}"
    return [
        findings.Problem(
            f"{shown} leaves out {text}", severity=findings.WARNING, flag="--examples_per_class"
        )
        for text in texts
    ]


def _leave_out_held(values: np.ndarray, codes: np.ndarray) -> int:
    """Takes from the test split, in place, what training or validation holds too; how many."""
    is_used = np.isin(codes, (splits.TRAIN, splits.VALIDATION))
    used = set(values[is_used].tolist())
    is_held = np.array([value in used for value in values.tolist()], bool)
    held = (codes == splits.TEST) & is_held
    codes[held] = splits.LEFT_OUT
    return int(held.sum())


def _describe_groups(
    base: examples.Examples,
    codes: np.ndarray,
    pool: np.ndarray,
    *,
    spec: specs.DataSpec,
    fractions: tuple[float, float, float],
) -> list[findings.Problem]:
    """Groups that are too large or too few for --split."""
    if base.groups is None or not len(pool):
        return []
    names, sizes = np.unique(base.groups[pool], return_counts=True)
    wanted = [split for split in range(3) if fractions[split] > 0]
    counts = np.bincount(codes[pool], minlength=3)
    messages = []
    smallest = min(wanted, key=lambda split: (fractions[split], split))
    part = fractions[smallest] * len(pool)
    shown = f"--split_by={findings.one_line(spec.split_by)}"
    if len(wanted) > 1 and sizes.max() > part:
        shared = ", ".join(f"{examples.SPLIT_NAMES[s]} has {counts[s]}" for s in wanted)
        messages.append(
            f"{shown}: group '{findings.one_line(names[sizes.argmax()])}' has {sizes.max()} of "
            f"{len(pool)} examples, more than the {part:g} that {examples.SPLIT_NAMES[smallest]} "
            f"should have: {shared}."
        )
    empty = [examples.SPLIT_NAMES[split] for split in wanted if not counts[split]]
    if empty:
        messages.append(
            f"{shown} has {len(names)} groups, and none is left for {' and '.join(empty)}."
        )
    return [
        findings.Problem(message, severity=findings.WARNING, flag="--split_by")
        for message in messages
    ]


def _find_shared_groups(
    parts: dict[str, examples.Examples], codes: dict[str, np.ndarray], spec: specs.DataSpec
) -> list[findings.Problem]:
    """Groups of which two splits have examples: the result would be memory, not skill."""
    flags: dict[tuple[int, str], str] = {}
    for flag, part in parts.items():
        if part.groups is not None:
            for code, group in zip(codes[flag].tolist(), part.groups, strict=True):
                flags.setdefault((code, group), flag)
    problems = []
    for first, second in ((0, 1), (0, 2), (1, 2)):
        shared = sorted(name for code, name in flags if code == first and (second, name) in flags)
        if not shared:
            continue
        sides = sorted({flags[code, name] for code in (first, second) for name in shared})
        message = (
            f"{len(shared)} groups of --split_by={findings.one_line(spec.split_by)} are in the "
            f"{examples.SPLIT_NAMES[first]} and in the {examples.SPLIT_NAMES[second]} split: "
            f"{findings.list_first(shared)}. {_blame(spec, sides)}"
        )
        problems.append(findings.Problem(message, flag="--split_by"))
    return problems


def _blame(spec: specs.DataSpec, sides: list[str]) -> str:
    """What puts a group into two splits, and what to do."""
    if len(sides) > 1:
        both = " and ".join(f"--{flag}" for flag in sides)
        return f"They are in {both}. Take them out of one."
    if spec.split_column is not None:
        return f"--split_column={findings.one_line(spec.split_column)} says so. Correct the column."
    if spec.split_file is not None:
        return f"--split_file={findings.one_line(spec.split_file)} says so. Leave it out."
    return "The data are split so themselves. Leave --split_by out, or join the splits."
