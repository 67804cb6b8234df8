"""Test and validation examples that training sees too: the result would be memory, not skill."""

import hashlib
import os

from tf_finetune import findings
from tf_finetune.data import image_stores, input_stores, loading, text_store


def find_shared_files(splits: loading.Splits) -> tuple[findings.Problem, ...]:
    """Files that are in two splits, as when --test_data names the folder of --data.

    Args:
      splits: as listed, before images are read.

    Returns:
      An error for each pair of splits that shares files.
    """
    paths = {split.name: _real_paths(split) for split in _all(splits)}
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
    """Images or texts of validation and test that training has too.

    Args:
      splits: after `read_images`.

    Returns:
      A warning per split, see `find_equal_images` and `find_equal_texts`.
    """
    if splits.input_kind == input_stores.TEXT:
        return find_equal_texts(splits)
    return find_equal_images(splits)


def find_equal_images(splits: loading.Splits) -> tuple[findings.Problem, ...]:
    """Images of validation and test that look exactly like one of training.

    Args:
      splits: after `read_images`.

    Returns:
      A warning per split; nothing is compared where pixels are not in memory (--mode=validate
      compares files of any number).
    """
    if not isinstance(splits.train.inputs, image_stores.DecodedImages):
        return ()
    known = set(_digests(splits.train, splits.train.inputs))
    problems = []
    for split in (splits.validation, splits.test):
        if not isinstance(split.inputs, image_stores.DecodedImages):
            continue
        keys = [
            key
            for key, digest in zip(split.keys, _digests(split, split.inputs), strict=True)
            if digest in known
        ]
        if keys:
            problems.append(
                findings.Problem(
                    f"{len(keys)} of {len(split)} {split.name} images are equal to a training "
                    f"image, so {split.name} numbers are too good: {findings.list_first(keys)}. "
                    "--mode=validate lists the pairs; remove one of each.",
                    severity=findings.WARNING,
                )
            )
    return tuple(problems)


def find_equal_texts(splits: loading.Splits) -> tuple[findings.Problem, ...]:
    """Texts of validation and test that training has too, letter by letter.

    Args:
      splits: of texts.

    Returns:
      A warning per split.
    """
    known = set(splits.train.texts)
    problems = []
    for split in (splits.validation, splits.test):
        shared = [text for text in split.texts if text in known]
        if shared:
            shown = findings.list_first([text_store.shorten(text) for text in shared])
            problems.append(
                findings.Problem(
                    f"{len(shared)} of {len(split)} {split.name} texts are equal to a training "
                    f"text, so {split.name} numbers are too good: {shown}. Remove them.",
                    severity=findings.WARNING,
                )
            )
    return tuple(problems)


def count_shared(split: loading.Split, *others: loading.Split) -> int:
    """How many examples of a split are in others too: the same file, or the same text.

    Args:
      split: examples in files, or texts.
      *others: splits to compare with.

    Returns:
      The number; 0 where the examples are neither texts nor in files of their own.
    """
    if isinstance(split.inputs, text_store.Texts):
        known_texts = set().union(*(other.texts for other in others))
        return sum(text in known_texts for text in split.texts)
    known = set().union(*(_real_paths(other) for other in others))
    return len(_real_paths(split) & known)


def _all(splits: loading.Splits) -> tuple[loading.Split, ...]:
    return splits.train, splits.validation, splits.test


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
        hashlib.blake2b(images.pixels[index].tobytes(), digest_size=16).digest()
        for index in split.indices
    ]
