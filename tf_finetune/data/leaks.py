"""Examples that are there twice: in training and in test, or with two labels.

One idea: the first makes the result a measure of memory, the second of noise, and neither is an
error that anything else would raise. Looked for in what is in memory anyway, so it costs no time.
"""

import hashlib
import os

import numpy as np

from tf_finetune import findings
from tf_finetune.data import columns, image_stores, input_stores, loading, text_store

_DIGEST_BYTES = 16


def find_shared_files(splits: loading.Splits) -> tuple[findings.Problem, ...]:
    """Files that are in two splits, as when --test_data names the folder of --data.

    Args:
      splits: as listed, before images are read.

    Returns:
      An error for each pair of splits that shares files.
    """
    paths = {split.name: _real_paths(split) for split in splits.parts}
    problems = []
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = sorted(paths[first] & paths[second])
        if shared:
            names = [os.fsdecode(path) for path in shared]
            problems.append(
                findings.Problem(
                    f"{len(shared)} files are in the {first} and in the {second} split: "
                    f"{findings.list_first(names)}. Expected each file in one split. Give other "
                    f"--{second}_data.",
                    path=names[0],
                    flag=f"--{second}_data",
                )
            )
    return tuple(problems)


def find_equal_inputs(splits: loading.Splits) -> tuple[findings.Problem, ...]:
    """Images or texts that are there twice, where that matters.

    Args:
      splits: after `read_images`.

    Returns:
      A warning for each of validation and test that holds images (pixel by pixel) or texts (letter
      by letter) of training, and one where equal ones have different labels. Nothing is compared
      where pixels are not in memory (--mode=validate compares files of any number).
    """
    if splits.input_kind == input_stores.COLUMNS:
        return _find_equal_rows(splits)
    parts = splits.parts
    kind = input_stores.PLURALS[splits.input_kind]
    digests = [_read_digests(split) for split in parts]
    known = set(digests[0])
    problems = []
    for split, own in zip(parts[1:], digests[1:], strict=True):
        rows = [row for row, digest in enumerate(own) if digest in known]
        if rows:
            shown = findings.list_first([_show(split, row) for row in rows])
            message = (
                f"{len(rows)} of {len(split)} {split.name} {kind} are equal to a training "
                f"{splits.input_kind}, so {split.name} numbers are too good: {shown}. "
                "--mode=validate lists the pairs; remove one of each."
            )
            problems.append(findings.Problem(message, severity=findings.WARNING))
    return (*problems, *_find_contradictions(parts, digests, kind=kind))


def _find_equal_rows(splits: loading.Splits) -> tuple[findings.Problem, ...]:
    """A warning for each of validation and test that has the features of training rows."""
    problems = []
    known = np.sort(_row_digests(splits.train))
    for split in (splits.validation, splits.test):
        count = _count_known(_row_digests(split), known)
        if count:
            message = (
                f"{count:,} of {len(split):,} {split.name} rows have the features of a training "
                f"row, so {split.name} numbers are too good. Remove one of each."
            )
            problems.append(findings.Problem(message, severity=findings.WARNING))
    return tuple(problems)


def _count_known(digests: np.ndarray, known: np.ndarray) -> int:
    """How many digests are among the known ones, which are sorted."""
    if not len(known):
        return 0
    # np.isin sorts both together, in five times the memory.
    places = np.minimum(np.searchsorted(known, digests), len(known) - 1)
    return int((known[places] == digests).sum())


def _row_digests(split: loading.Split) -> np.ndarray:
    if not isinstance(split.inputs, columns.Columns):
        return np.empty(0, np.uint64)
    return split.inputs.digests[split.indices]


def _read_digests(split: loading.Split) -> list[bytes]:
    """One of each example, equal for equal ones; none where the inputs are not in memory."""
    digests: list[bytes] = []
    if isinstance(split.inputs, text_store.Texts):
        digests = [
            hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()
            for text in split.inputs.texts[split.indices]
        ]
    if isinstance(split.inputs, image_stores.DecodedImages):
        digests = _digests(split, split.inputs)
    if split.features is None or not digests:
        return digests
    # Equal images of other columns are other examples.
    rows = split.features.digests
    return [row.tobytes() + digest for row, digest in zip(rows, digests, strict=True)]


def _show(split: loading.Split, row: int) -> str:
    if isinstance(split.inputs, text_store.Texts):
        return text_store.shorten(split.inputs.texts[split.indices[row]])
    return str(split.keys[row])


def _find_contradictions(
    parts: tuple[loading.Split, ...], digests: list[list[bytes]], *, kind: str
) -> list[findings.Problem]:
    """A warning where equal examples of any splits have different labels."""
    first: dict[bytes, tuple[loading.Split, int]] = {}
    pairs = []
    for split, own in zip(parts, digests, strict=True):
        for row, digest in enumerate(own):
            other, other_row = first.setdefault(digest, (split, row))
            if (other is not split or other_row != row) and any(
                _differ(values[row], other.labels[head][other_row])
                for head, values in split.labels.items()
                if head not in split.positions
            ):
                pairs.append(f"{_show(other, other_row)} = {_show(split, row)}")
    if not pairs:
        return []
    message = (
        f"{len(pairs)} {kind} are equal to one with another label, so one of the labels is wrong: "
        f"{findings.list_first(pairs)}. --mode=validate lists all; correct the labels, or remove "
        "these examples."
    )
    return [findings.Problem(message, severity=findings.WARNING)]


def _differ(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two encoded labels contradict each other; a missing one contradicts none."""
    known = (first == first) & (second == second)  # NaN is missing among floats
    if np.issubdtype(np.asarray(first).dtype, np.integer):
        known = (first >= 0) & (second >= 0)
    return bool(np.any(known & (first != second)))


def count_shared(split: loading.Split, *others: loading.Split) -> int:
    """How many examples of a split are in others too: the same file, or the same text.

    Args:
      split: examples in files, or texts.
      *others: splits to compare with.

    Returns:
      The number; 0 where the examples are neither texts nor in files of their own.
    """
    if isinstance(split.inputs, columns.Columns):
        known_rows = np.concatenate([_row_digests(other) for other in others])
        return _count_known(_row_digests(split), np.sort(known_rows))
    if isinstance(split.inputs, text_store.Texts):
        known_texts = set().union(*(other.texts for other in others))
        return sum(text in known_texts for text in split.texts)
    known = set().union(*(_real_paths(other) for other in others))
    return len(_real_paths(split) & known)


def _real_paths(split: loading.Split) -> set[bytes]:
    images, indices = split.inputs, split.indices
    if isinstance(images, image_stores.SliceImages):
        files = [os.path.realpath(path) for path in images.paths]
        places = zip(images.files[indices], images.numbers[indices], strict=True)
        return {b"%b, record %d" % (files[file], number) for file, number in places}
    if not isinstance(images, image_stores.PathImages):
        return set()
    return {os.path.realpath(path) for path in images.paths[indices]}


def _digests(split: loading.Split, images: image_stores.DecodedImages) -> list[bytes]:
    return [
        hashlib.blake2b(images.pixels[index].tobytes(), digest_size=_DIGEST_BYTES).digest()
        for index in split.indices
    ]
