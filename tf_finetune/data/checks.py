"""What is wrong with a data set, all of it, for --mode=validate.

One idea: what stops a run and what only makes its result worth less are found in the same pass
and told apart by severity. An image that is in training and in test makes the test's number a lie
without any error; only a look at the bytes of all files finds it.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np

from tf_finetune import distribution, findings, head_kinds, specs
from tf_finetune.data import (
    examples,
    image_heads,
    image_stores,
    input_stores,
    label_encoding,
    loading,
    text_store,
)

_SMALL_CLASS = 10
_MAX_ROWS = 1000


def find_data_problems(
    spec: specs.DataSpec, heads: tuple[specs.HeadSpec, ...] = (), *, seed: int = 0
) -> tuple[findings.Problem, ...]:
    """Lists, splits and decodes a data set, and says everything that is wrong with it.

    Args:
      spec: the data options.
      heads: the tasks; none: one named "label".
      seed: of the split.

    Returns:
      Errors and warnings: all of `loading.load_data`, each bad line of a table; images that cannot
      be read (errors, or warnings with --on_bad_example=skip); identical images or texts in two
      splits or with different labels, and classes with few examples (warnings).
    """
    parts, problems = loading.load_parts(spec)
    splits, more = loading.examine_parts(
        parts, spec, heads=heads, seed=seed, odd_names=findings.WARNING
    )
    problems += more + _find_unreadable(parts, spec)
    if splits is not None:
        problems += find_repeated(splits) + _find_small_classes(splits)
    return tuple(problems)


def find_repeated(splits: loading.Splits) -> list[findings.Problem]:
    """Images or texts that are equal byte by byte, where that matters.

    Args:
      splits: the data set.

    Returns:
      A warning for each group of equal ones that lie in different splits (the test would measure
      memory) or have different labels (one of them is wrong); after 1,000, how many more.
    """
    kind = f"{splits.input_kind}s"
    groups: dict[bytes, list[tuple[loading.Split, int]]] = {}
    for split in (splits.train, splits.validation, splits.test):
        for row, digest in _read_digests(split):
            groups.setdefault(digest, []).append((split, row))
    texts = [
        text for group in groups.values() if len(group) > 1 for text in _describe_group(group, kind)
    ]
    if len(texts) > _MAX_ROWS:
        texts[_MAX_ROWS:] = [f"and {len(texts) - _MAX_ROWS} more groups of identical {kind}."]
    return [_warn(splits, text) for text in texts]


def _warn(splits: loading.Splits, text: str) -> findings.Problem:
    source = splits.info.source
    message = f"{findings.one_line(source)}: {text}"
    return findings.Problem(message, severity=findings.WARNING, path=source)


def _describe_group(group: list[tuple[loading.Split, int]], kind: str) -> list[str]:
    names = findings.list_first([split.keys[row] for split, row in group])
    store = group[0][0].inputs
    if isinstance(store, text_store.Texts):
        # A key of a text says nothing to its reader.
        text = text_store.shorten(store.texts[group[0][0].indices[group[0][1]]])
        names = f"'{findings.one_line(text)}' ({len(group)} times)"
    labels = {
        tuple(encoded[row].tobytes() for encoded in split.labels.values()) for split, row in group
    }
    texts = []
    if len(labels) > 1:
        texts.append(f"identical {kind} have different labels: {names}.")
    where = {split.name for split, _ in group}
    if len(where) > 1:
        shown = " and ".join(name for name in examples.SPLIT_NAMES if name in where)
        texts.append(f"identical {kind} are in {shown}: {names}.")
    return texts


def _read_digests(split: loading.Split) -> Iterator[tuple[int, bytes]]:
    """(row, hash of the stored image or text) of each example that can be read."""
    store, indices = split.inputs, split.indices
    if isinstance(store, image_stores.EncodedImages):
        for row, index in enumerate(indices):
            with contextlib.suppress(OSError), image_heads.read_image(store, index) as file:
                yield row, hashlib.file_digest(file, hashlib.sha256).digest()
    elif isinstance(store, image_stores.StreamImages):
        rows = {int(index): row for row, index in enumerate(indices)}
        for index, image in enumerate(store.make_dataset().as_numpy_iterator()):
            if index in rows:
                content = image if isinstance(image, bytes) else image.tobytes()
                yield rows[index], hashlib.sha256(content).digest()
    elif isinstance(store, text_store.Texts):
        for row, index in enumerate(indices):
            yield row, hashlib.sha256(store.texts[index].encode()).digest()
    else:
        for row, index in enumerate(indices):
            yield row, hashlib.sha256(store.pixels[index].tobytes()).digest()


def _find_unreadable(
    parts: dict[str, examples.Examples], spec: specs.DataSpec
) -> list[findings.Problem]:
    """Decodes every image of every source, also where labels or splits have errors."""
    parts = {
        flag: part
        for flag, part in parts.items()
        if input_stores.find_kind(part.inputs) == input_stores.IMAGE
    }
    if not parts:
        return []
    splits = tuple(
        loading.Split(flag, part.keys, part.inputs, np.arange(len(part)), {})
        for flag, part in parts.items()
    )
    groups = image_heads.group_by_store(splits)
    heads = image_heads.check_heads(groups, max_pixels=spec.max_image_pixels)
    problems = list(_decode_rest(splits, spec, heads))
    if spec.on_bad_example == "skip":
        return [dataclasses.replace(found, severity=findings.WARNING) for found in problems]
    return problems


def _decode_rest(
    splits: tuple[loading.Split, ...], spec: specs.DataSpec, heads: image_heads.Heads
) -> tuple[findings.Problem, ...]:
    if len(heads.rule_out()) == sum(map(len, splits)):
        return image_heads.describe(splits, heads)
    # Here, because everything before needs no TensorFlow.
    distribution.import_quietly()
    from tf_finetune.data import preprocessing, reading

    pre = preprocessing.make_preprocessing(spec, input_shape=(None, None, 3))
    return reading.find_bad_images(splits, pre, heads=heads)


def _find_small_classes(splits: loading.Splits) -> list[findings.Problem]:
    """Classes with enough examples for a split, and too few to learn from or to measure."""
    problems = []
    for head in splits.heads:
        parts = (splits.train, splits.validation, splits.test)
        counts = _count_classes(np.concatenate([part.labels[head.name] for part in parts]), head)
        small = [
            f"{name} ({count})"
            for name, count in zip(head.classes, counts, strict=True)
            # Fewer are said by label_encoding, for every run.
            if label_encoding.MIN_EXAMPLES <= count < _SMALL_CLASS
        ]
        if small:
            text = (
                f"{len(small)} of {len(head.classes)} classes of head '{head.name}' have fewer "
                f"than {_SMALL_CLASS} examples: {findings.list_first(small)}."
            )
            problems.append(_warn(splits, text))
    return problems


def _count_classes(encoded: np.ndarray, head: head_kinds.HeadInfo) -> list[int]:
    if head.kind == "multiclass":
        return np.bincount(encoded, minlength=len(head.classes)).tolist()
    positive = encoded.sum(axis=0).astype(int).tolist()
    return positive if head.kind == "multilabel" else [len(encoded) - positive[0], *positive]
