"""From a DataSpec to three splits of encoded labels; no image is read and no TensorFlow needed.

One idea: sources list, label_encoding settles the classes, splits assigns; this module only joins
the three, and collects what each has to say, so that all mistakes are reported at once.
"""

import dataclasses

import numpy as np

from tf_finetune import findings, head_kinds, specs
from tf_finetune.data import examples, input_stores, label_encoding, sources, text_store
from tf_finetune.data import splits as splitting

_GIVEN = {"validation_data": splitting.VALIDATION, "test_data": splitting.TEST}


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
      labels: {head name: encoded labels, see `head_kinds.encode_labels`}.
    """

    name: str
    keys: np.ndarray
    inputs: input_stores.InputStore
    indices: np.ndarray
    labels: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.keys)

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
    def input_kind(self) -> str:
        """ "image" or "text": what the examples are."""
        return input_stores.find_kind(self.train.inputs)


def load_data(
    spec: specs.DataSpec, *, heads: tuple[specs.HeadSpec, ...] = (), seed: int = 0
) -> Splits:
    """Lists the examples, encodes their labels and splits them.

    Args:
      spec: the data options.
      heads: the tasks; none: one named "label", its kind told by the labels.
      seed: of the split.

    Returns:
      The splits. The same files, spec and seed give the same splits, in any order on the disk.

    Raises:
      findings.RefusedError: every mistake found, of each table the first five lines: a source that
        does not exist or lists nothing, a bad row, an empty class folder, fewer than two classes, a
        label that is not among the classes, a class name with a comma or control character, a
        column that does not exist, a number of classes that --head contradicts, a bad
        --classes or --split_file, a class without training example.
    """
    parts, problems = load_parts(spec)
    splits, more = examine_parts(parts, spec, heads=heads, seed=seed)
    errors = [problem for problem in problems + more if problem.severity == findings.ERROR]
    if splits is None or errors:
        raise findings.RefusedError(*examples.cut_problems(errors))
    return dataclasses.replace(splits, problems=tuple(problems + more))


def load_parts(
    spec: specs.DataSpec,
) -> tuple[dict[str, examples.Examples], list[findings.Problem]]:
    """Lists every source that is given.

    Args:
      spec: the data options.

    Returns:
      (the examples by the name of their flag, "data" first; all errors and warnings). A source
      that lists nothing is missing from the first.
    """
    parts: dict[str, examples.Examples] = {}
    problems: list[findings.Problem] = []
    for flag in ("data", *_GIVEN):
        text = getattr(spec, flag)
        if text is None:
            continue
        try:
            part = sources.load_source(spec, text, flag=flag)
        except findings.RefusedError as error:
            problems += error.problems
            continue
        problems += part.problems
        parts[flag] = part
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
    columns, problems = label_encoding.read_heads(
        list(parts.values()), spec, heads=heads, odd_names=odd_names
    )
    problems += _find_conflicts(parts)
    try:
        assignments = splitting.read_split_file(spec.split_file) if spec.split_file else {}
    except findings.RefusedError as error:
        problems += error.problems
    if _has_error(problems):
        return None, problems
    codes, split_problems = _assign(parts, spec, columns[0], assignments=assignments, seed=seed)
    problems += split_problems
    if _has_error(problems):
        return None, problems
    splits, class_problems = _join(parts, columns, codes, source=spec.data)
    problems += class_problems
    return (None if _has_error(problems) else splits), problems


def split_rows(splits: Splits) -> str:
    """The text of split.csv.

    Args:
      splits: any.

    Returns:
      CSV with the header key,split and a row for each example, sorted by key.
    """
    rows = [(key, split.name) for split in _all_splits(splits) for key in split.keys]
    return splitting.format_split_file(sorted(rows))


def _all_splits(splits: Splits) -> tuple[Split, Split, Split]:
    return splits.train, splits.validation, splits.test


def _has_error(problems: list[findings.Problem]) -> bool:
    return any(problem.severity == findings.ERROR for problem in problems)


def _find_conflicts(parts: dict[str, examples.Examples]) -> list[findings.Problem]:
    """Splits that come from two sides, or from a side that does not have them."""
    problems = []
    own = _own_splits(parts["data"])
    for flag, part in parts.items():
        if flag == "data":
            continue
        split = _GIVEN[flag]
        name = examples.SPLIT_NAMES[split]
        kinds = [input_stores.find_kind(source.inputs) for source in (parts["data"], part)]
        if kinds[0] != kinds[1]:
            message = (
                f"--data={findings.one_line(parts['data'].source)} holds {kinds[0]}s and --{flag}="
                f"{findings.one_line(part.source)} holds {kinds[1]}s. Expected the same of both."
            )
            problems.append(findings.Problem(message, flag=f"--{flag}"))
        if split in own:
            message = (
                f"--{flag} and --data={findings.one_line(parts['data'].source)} both have {name} "
                "examples. Give one of them."
            )
            problems.append(findings.Problem(message, flag=f"--{flag}"))
        if part.splits is not None and split not in _own_splits(part):
            message = (
                f"--{flag}={findings.one_line(part.source)} is split itself, and has no {name} "
                "split. Expected examples that are not split, or a source with that split."
            )
            problems.append(findings.Problem(message, flag=f"--{flag}"))
    return problems


def _own_splits(part: examples.Examples) -> frozenset[int]:
    return frozenset() if part.splits is None else frozenset(np.unique(part.splits).tolist())


def _prefixed_keys(parts: dict[str, examples.Examples], flag: str) -> np.ndarray:
    # Two sources may hold a file of the same name; split.csv must tell them apart.
    keys = parts[flag].keys
    return keys if flag == "data" else examples.object_array([f"{flag}/{key}" for key in keys])


def _assign(
    parts: dict[str, examples.Examples],
    spec: specs.DataSpec,
    labels: label_encoding.HeadLabels,
    *,
    assignments: dict[str, int],
    seed: int,
) -> tuple[dict[str, np.ndarray], list[findings.Problem]]:
    """Split codes of each source's examples, and what there is to say about them."""
    base = parts["data"]
    own, given = _own_splits(base), frozenset(_GIVEN[flag] for flag in parts if flag != "data")
    fixed = np.full(len(base), splitting.LEFT_OUT, np.int8)
    if base.splits is not None:
        fixed = np.where(base.splits == splitting.TRAIN, splitting.LEFT_OUT, base.splits)
    known = np.array([assignments.get(key, splitting.LEFT_OUT) for key in base.keys], np.int8)
    problems = _check_split_file(parts, spec, known=known, fixed=fixed, assignments=assignments)
    known = np.where(fixed == splitting.LEFT_OUT, known, fixed)
    is_first = np.full(len(base), True)
    if base.repeats is not None:
        known = splitting.follow(known, base.repeats)
        is_first = base.repeats == np.arange(len(base))
    strata = splitting.find_strata(labels.labels[0])
    pool = np.flatnonzero((fixed == splitting.LEFT_OUT) & is_first)
    codes = {"data": known.copy()}
    codes["data"][pool] = splitting.assign(
        base.keys[pool],
        strata[pool],
        fractions=splitting.plan_fractions(spec.split, own=own, given=given),
        seed=seed,
        known=known[pool],
    )
    if base.repeats is not None:
        codes["data"] = splitting.follow(codes["data"], base.repeats)
    for flag, part in parts.items():
        if flag != "data":
            wanted = np.full(len(part), _GIVEN[flag], np.int8)
            others = part.splits is not None and part.splits != wanted
            codes[flag] = np.where(others, splitting.LEFT_OUT, wanted).astype(np.int8)
    if spec.examples_per_class is not None:
        problems += _limit(parts, codes, spec, labels=labels, known=known, seed=seed)
    return codes, problems


def _check_split_file(
    parts: dict[str, examples.Examples],
    spec: specs.DataSpec,
    *,
    known: np.ndarray,
    fixed: np.ndarray,
    assignments: dict[str, int],
) -> list[findings.Problem]:
    """Whether --split_file is of this data and agrees with the splits that are given."""
    if spec.split_file is None:
        return []
    base = parts["data"]
    shown, source = findings.one_line(spec.split_file), findings.one_line(base.source)
    mentioned = known != splitting.LEFT_OUT
    if not mentioned.any():
        message = f"--split_file={shown} names no example of {source}. Is it of other data?"
        return [findings.Problem(message, path=spec.split_file, flag="--split_file")]
    closed = _own_splits(base) | {_GIVEN[flag] for flag in parts if flag != "data"}
    closed -= {splitting.TRAIN}
    is_fixed = fixed != splitting.LEFT_OUT
    wrong = mentioned & np.where(is_fixed, known != fixed, np.isin(known, list(closed)))
    if wrong.any():
        message = (
            f"--split_file={shown} contradicts the splits of the data for "
            f"{findings.list_first(list(base.keys[wrong]))}. Leave the file out, or put the "
            "examples back."
        )
        return [findings.Problem(message, path=spec.split_file, flag="--split_file")]
    present = {key for flag in parts for key in _prefixed_keys(parts, flag)}
    gone = [key for key in assignments if key not in present]
    if not gone:
        return []
    message = (
        f"--split_file={shown} names {len(gone)} examples that are not in the data: "
        f"{findings.list_first(gone)}."
    )
    return [findings.Problem(message, severity=findings.WARNING, path=spec.split_file)]


def _limit(
    parts: dict[str, examples.Examples],
    codes: dict[str, np.ndarray],
    spec: specs.DataSpec,
    *,
    labels: label_encoding.HeadLabels,
    known: np.ndarray,
    seed: int,
) -> list[findings.Problem]:
    """Applies --examples_per_class in place; says how many examples no split takes."""
    has_test = "test_data" in parts or splitting.TEST in _own_splits(parts["data"])
    num_left_out = 0
    for (flag, part), cells in zip(parts.items(), labels.labels, strict=True):
        before = codes[flag]
        codes[flag] = splitting.limit_per_class(
            before,
            part.keys,
            splitting.find_strata(cells),
            limit=spec.examples_per_class or 1,
            seed=seed,
            rest=splitting.TEST if flag == "data" and not has_test else splitting.LEFT_OUT,
            known=known if flag == "data" else None,
        )
        dropped = (codes[flag] == splitting.LEFT_OUT) & (before != splitting.LEFT_OUT)
        num_left_out += int(dropped.sum())
    texts = []
    if num_left_out:
        texts.append(f"{num_left_out} examples, because the test split is given.")
    num_repeats = _leave_out_repeats(parts["data"], codes["data"])
    if num_repeats:
        texts.append(f"{num_repeats} examples that repeat one of training or validation.")
    shown = f"--examples_per_class={spec.examples_per_class}"
    return [
        findings.Problem(
            f"{shown} leaves out {text}", severity=findings.WARNING, flag="--examples_per_class"
        )
        for text in texts
    ]


def _leave_out_repeats(part: examples.Examples, codes: np.ndarray) -> int:
    """Takes from the test split, in place, what training or validation holds too; how many."""
    if part.repeats is None:
        return 0
    is_used = np.isin(codes, (splitting.TRAIN, splitting.VALIDATION))
    repeated = (codes == splitting.TEST) & np.isin(part.repeats, part.repeats[is_used])
    codes[repeated] = splitting.LEFT_OUT
    return int(repeated.sum())


def _join(
    parts: dict[str, examples.Examples],
    columns: list[label_encoding.HeadLabels],
    codes: dict[str, np.ndarray],
    *,
    source: str,
) -> tuple[Splits, list[findings.Problem]]:
    """Encodes the labels and puts each split's rows together."""
    made, problems = [], []
    flags = {split: flag for flag, split in _GIVEN.items() if flag in parts}
    for split, name in enumerate(examples.SPLIT_NAMES):
        flag = flags.get(split, "data")
        number = list(parts).index(flag)
        rows = np.flatnonzero(codes[flag] == split)
        labels = {
            head.info.name: head_kinds.encode_labels(
                head.labels[number][rows], kind=head.info.kind, classes=head.info.classes
            )
            for head in columns
        }
        keys = _prefixed_keys(parts, flag)[rows]
        made.append(Split(name, keys, parts[flag].inputs, rows, labels))
        is_given = flag != "data" or split in _own_splits(parts["data"])
        for head in columns:
            problems += _find_absent_classes(
                head,
                head.labels[number][rows],
                split=name,
                is_given=is_given,
                is_first=head is columns[0],
            )
    info = DatasetInfo(
        source=source,
        num_examples=sum(len(split) for split in made),
        label_columns=tuple(head.column for head in columns),
        fingerprint=examples.fingerprint(list(parts.values())),
    )
    return Splits(made[0], made[1], made[2], tuple(head.info for head in columns), info), problems


def _find_absent_classes(
    head: label_encoding.HeadLabels,
    labels: np.ndarray,
    *,
    split: str,
    is_given: bool,
    is_first: bool,
) -> list[findings.Problem]:
    """Classes that a split lacks: an error for training, a warning for a split that is given."""
    counts = label_encoding.count_classes(labels)
    absent = [name for name in head.info.classes if name not in counts]
    if not absent or (split != "train" and not is_given):
        return []
    # The split is stratified by the first head; a rare class of another may miss training.
    is_error = split == "train" and is_first and head_kinds.HEAD_KINDS[head.info.kind].exclusive
    message = (
        f"the {split} split has no example of {len(absent)} of {len(head.info.classes)} classes of "
        f"head '{head.info.name}': {findings.list_first(absent)}."
    )
    if is_error:
        message += " Add some, or remove these classes."
    severity = findings.ERROR if is_error else findings.WARNING
    return [findings.Problem(message, severity=severity)]
