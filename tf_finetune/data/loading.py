"""From a DataSpec to three splits of encoded labels; no image is read and no TensorFlow needed.

One idea: sources list, label_encoding settles the classes, assignment splits; this module only
joins the three, and collects what each has to say, so that all mistakes are reported at once.
"""

import dataclasses
import heapq
import itertools
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tf_finetune import findings, head_kinds, specs
from tf_finetune.data import (
    assignment,
    column_tables,
    columns,
    examples,
    input_stores,
    label_encoding,
    memory_source,
    position_labels,
    sources,
    split_columns,
    split_files,
    store_selection,
    text_store,
)

_CHUNK_ROWS = 2**14


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What is known about a data set, for dataset_info.json.

    Attributes:
      source: the text of --data.
      num_examples: examples of all splits.
      label_columns: the label column of each head, in the order of the heads.
      fingerprint: sha256 over keys, labels and (size, mtime_ns) of files, hexadecimal.
    """

    source: str
    num_examples: int
    label_columns: tuple[str, ...]
    fingerprint: str


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The examples of one split; row i of `keys`, `indices` and each label array is one example.

    Attributes:
      name: "train", "validation" or "test".
      keys: object [n] of str, sorted.
      inputs: the store that the split's images or texts are in.
      indices: int64 [n], each example's place in `inputs`.
      labels: {head name: encoded labels, see `head_kinds.encode_labels`}; of a head of positions
        int32 [n], places in its store, -1 where missing.
      features: feature columns beside the images or texts, row i of example i; None: there are
        none, or the inputs themselves are columns.
      positions: {head name: the store of its labels}, of heads of positions.
    """

    name: str
    keys: np.ndarray
    inputs: input_stores.InputStore
    indices: np.ndarray
    labels: dict[str, np.ndarray]
    features: columns.Columns | None = None
    positions: dict[str, position_labels.PositionLabels] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def head(self, count: int) -> "Split":
        """The first examples.

        Args:
          count: how many, at least 0.

        Returns:
          A split of at most as many.
        """
        return self.take(np.arange(min(count, len(self))))

    def count_positions(self) -> dict[str, np.ndarray]:
        """How many pixels or words have which class, see `position_labels.count_classes`.

        Returns:
          {HEAD: int64 [classes]} of the heads of positions.
        """
        return position_labels.count_classes(self.labels, self.positions)

    def take(self, rows: np.ndarray) -> "Split":
        """Some of the examples.

        Args:
          rows: int64 [m] or bool [n], which, in which order.

        Returns:
          A split of them.
        """
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        return dataclasses.replace(
            self,
            keys=self.keys[rows],
            indices=self.indices[rows],
            labels={head: values[rows] for head, values in self.labels.items()},
            features=store_selection.select_columns(self.features, rows),
        )

    @property
    def texts(self) -> list[str]:
        """The texts in the order of the keys; empty where the examples are images."""
        if not isinstance(self.inputs, text_store.Texts):
            return []
        return list(self.inputs.texts[self.indices])


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """A data set that is ready to be read.

    Attributes:
      train: what the model is fitted on.
      validation: what picks the best weights; may be empty.
      test: what the report is about; may be empty.
      heads: the tasks with their classes, in the order of --head.
      info: what the data set is.
      problems: warnings.
    """

    train: Split
    validation: Split
    test: Split
    heads: tuple[head_kinds.HeadInfo, ...]
    info: DatasetInfo
    problems: tuple[findings.Problem, ...] = ()

    @property
    def parts(self) -> tuple[Split, Split, Split]:
        """Training, validation and test."""
        return self.train, self.validation, self.test

    @property
    def input_kind(self) -> str:
        """ "image", "text" or "columns": what the examples are."""
        return input_stores.find_kind(self.train.inputs)


def load_data(
    spec: specs.DataSpec,
    *,
    heads: tuple[specs.HeadSpec, ...] = (),
    seed: int = 0,
    data: Any = None,
    validation_data: Any = None,
    test_data: Any = None,
) -> Splits:
    """Lists the examples, encodes their labels and splits them.

    Args:
      spec: the data options.
      heads: the tasks; none: one named "label", its kind told by the labels.
      seed: of the split.
      data: examples in memory, in place of `spec.data`: (inputs, labels) or a dict of arrays, or a
        tf.data.Dataset, see `memory_source.collect`.
      validation_data: the same in place of `spec.validation_data`.
      test_data: the same in place of `spec.test_data`.

    Returns:
      The splits. The same files, spec and seed give the same splits, in any order on the disk.

    Raises:
      findings.RefusedError: every mistake found, of each table the first five lines: a source that
        does not exist or lists nothing, a bad row, an empty class folder, fewer than two classes, a
        label that is not among the classes, a class name with a comma or control character, a
        column that does not exist, a number of classes that --head contradicts, a bad
        --classes or --split_file, a class without training example.

    Example:
      >>> vectors = np.arange(40, dtype=np.float32).reshape(20, 2)
      >>> labels = ["low"] * 10 + ["high"] * 10
      >>> splits = load_data(specs.DataSpec(), data=(vectors, labels))
      >>> len(splits.train), len(splits.validation), len(splits.test)
      (16, 2, 2)
      >>> splits.heads[0].classes
      ('high', 'low')
    """
    given = memory_source.collect_all(
        data=data, validation_data=validation_data, test_data=test_data
    )
    spec = memory_source.name_sources(spec, given)
    parts, problems = load_parts(spec, given)
    splits, more = examine_parts(parts, spec, heads=heads, seed=seed)
    errors = [problem for problem in problems + more if problem.severity == findings.ERROR]
    if splits is None or errors:
        raise findings.RefusedError(*examples.cut_problems(errors))
    return dataclasses.replace(splits, problems=tuple(problems + more))


def load_parts(
    spec: specs.DataSpec, given: Mapping[str, memory_source.Arrays] | None = None
) -> tuple[dict[str, examples.Examples], list[findings.Problem]]:
    """Lists every source that is given.

    Args:
      spec: the data options.
      given: examples in memory by the name of the flag in whose place they are.

    Returns:
      (the examples by the name of their flag, "data" first; all errors and warnings). A source
      that lists nothing is missing from the first.
    """
    parts: dict[str, examples.Examples] = {}
    problems: list[findings.Problem] = []
    for flag in ("data", *assignment.GIVEN):
        source = (given or {}).get(flag) or getattr(spec, flag)
        if source is None:
            continue
        try:
            part = sources.load_source(spec, source, flag=flag)
        except findings.RefusedError as error:
            problems += error.problems
            continue
        problems += part.problems
        # Which columns hold numbers is settled by --data.
        spec = column_tables.settle_kinds(spec, part)
        parts[flag], split_problems = split_columns.apply(part, spec, flag=flag)
        problems += split_problems
    return parts, problems


def examine_parts(
    parts: dict[str, examples.Examples],
    spec: specs.DataSpec,
    *,
    heads: tuple[specs.HeadSpec, ...] = (),
    seed: int = 0,
    odd_names: str = findings.ERROR,
) -> tuple[Splits | None, list[findings.Problem]]:
    """Encodes the labels of listed examples and splits them.

    Args:
      parts: of `load_parts`.
      spec: the data options.
      heads: the tasks; none: one named "label".
      seed: of the split.
      odd_names: severity of class names that no run can write, such as one with a comma.

    Returns:
      (the splits, further errors and warnings); the splits are None where there is an error.
    """
    if "data" not in parts:
        return None, []
    heads = heads or (specs.HeadSpec(),)
    labels, problems = label_encoding.read_heads(
        list(parts.values()), spec, heads=heads, odd_names=odd_names
    )
    problems += assignment.find_conflicts(parts)
    try:
        assignments = split_files.read_split_file(spec.split_file) if spec.split_file else None
    except findings.RefusedError as error:
        problems += error.problems
    if _has_error(problems):
        return None, problems
    codes, split_problems = assignment.assign(
        parts, spec, labels, assignments=assignments, seed=seed
    )
    problems += split_problems
    if _has_error(problems):
        return None, problems
    splits, class_problems = _join(parts, labels, codes, source=spec.data)
    problems += class_problems
    return (None if _has_error(problems) else splits), problems


def split_rows(splits: Splits) -> str:
    """The text of split.csv.

    Args:
      splits: any.

    Returns:
      CSV with the header key,split and a row for each example, sorted by key.
    """
    return "".join(iterate_split_rows(splits))


def iterate_split_rows(splits: Splits) -> Iterator[str]:
    """The text of split.csv in parts: of a table larger than the memory it is large itself.

    Args:
      splits: any.

    Yields:
      CSV, together what `split_rows` gives.
    """
    header = split_files.format_split_file([])
    yield header
    rows = heapq.merge(*map(_iterate_sorted, splits.parts), key=operator.itemgetter(0))
    while chunk := list(itertools.islice(rows, _CHUNK_ROWS)):
        yield split_files.format_split_file(chunk).removeprefix(header)


def _iterate_sorted(split: Split) -> Iterator[tuple[str, str]]:
    """(key, name of the split) of each example, a few at a time."""
    for start in range(0, len(split), _CHUNK_ROWS):
        for key in split.keys[start : start + _CHUNK_ROWS].tolist():
            yield key, split.name


def _has_error(problems: list[findings.Problem]) -> bool:
    return any(problem.severity == findings.ERROR for problem in problems)


def _join(
    parts: dict[str, examples.Examples],
    heads: list[label_encoding.HeadLabels],
    codes: dict[str, np.ndarray],
    *,
    source: str,
) -> tuple[Splits, list[findings.Problem]]:
    """Encodes the labels and puts each split's rows together."""
    made, problems = [], []
    flags = {split: flag for flag, split in assignment.GIVEN.items() if flag in parts}
    for split, name in enumerate(examples.SPLIT_NAMES):
        flag = flags.get(split, "data")
        number = list(parts).index(flag)
        rows = np.flatnonzero(codes[flag] == split)
        encoded = {
            head.info.name: position_labels.encode(head.labels[number][rows], head.info)
            for head in heads
        }
        labels = {name: values for name, (values, _) in encoded.items()}
        positions = {name: store for name, (_, store) in encoded.items() if store is not None}
        keys = assignment.prefix_keys(parts, flag)[rows]
        features = store_selection.select_columns(parts[flag].features, rows)
        made.append(Split(name, keys, parts[flag].inputs, rows, labels, features, positions))
        is_given = flag != "data" or split in assignment.find_own_splits(parts["data"])
        for head in heads:
            problems += _find_absent_classes(
                head,
                head.labels[number][rows],
                split=name,
                is_given=is_given,
                is_first=head is heads[0],
            )
            problems += label_encoding.find_unlabelled_split(head.info, labels, split=name)
    # Of tags; masks are read later, and looked at then.
    problems += position_labels.find_absent_classes(made[0], [head.info for head in heads])
    info = DatasetInfo(
        source=source,
        num_examples=sum(len(split) for split in made),
        label_columns=tuple(head.column for head in heads),
        fingerprint=examples.fingerprint(list(parts.values())),
    )
    infos = tuple(
        head_kinds.with_statistics(head.info, made[0].labels[head.info.name]) for head in heads
    )
    return Splits(made[0], made[1], made[2], infos, info), problems


def _find_absent_classes(
    head: label_encoding.HeadLabels,
    labels: np.ndarray,
    *,
    split: str,
    is_given: bool,
    is_first: bool,
) -> list[findings.Problem]:
    """Classes that a split lacks: an error for training, a warning for a split that is given."""
    if head_kinds.HEAD_KINDS[head.info.kind].positions:
        return []  # See `position_labels.find_absent_classes`.
    counts = label_encoding.count_classes(labels)
    absent = [name for name in head.info.classes if name not in counts]
    if not absent or (split != "train" and not is_given):
        return []
    # Other heads may lack labels, so that a rare class of theirs may miss training.
    is_error = split == "train" and is_first and head_kinds.HEAD_KINDS[head.info.kind].exclusive
    message = (
        f"the {split} split has no example of {len(absent)} of {len(head.info.classes)} classes of "
        f"head '{head.info.name}': {findings.list_first(absent)}."
    )
    if is_error:
        message += " Add some, or remove these classes."
    severity = findings.ERROR if is_error else findings.WARNING
    return [findings.Problem(message, severity=severity)]
