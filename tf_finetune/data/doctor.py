"""Reads a data set once and says what it holds and everything that is wrong with it.

One idea: what stops a run and what only makes its result worth less are found in the same pass
and told apart by severity. An image that is in training and in test makes the test's number a lie
without any error; only a look at the bytes of all files finds it.
"""

import collections
import dataclasses
import hashlib
import sys
from collections.abc import Iterable

import numpy as np

from tf_finetune import findings, head_kinds, specs
from tf_finetune.data import (
    class_findings,
    column_findings,
    columns,
    doctor_images,
    doctor_rows,
    duplicates,
    examples,
    image_findings,
    input_stores,
    leaks,
    loading,
    position_labels,
    text_findings,
    text_store,
)

_SIZE_STEPS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_LENGTH_STEPS = (8, 16, 32, 64, 128, 256, 512, 1024, 4096)
_MAX_EQUAL_ROWS = 20


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How many examples have which property.

    Attributes:
      title: for example "Longer side, pixels".
      counts: {what: number of examples}, in the order to be shown.
      unit: what is counted where that is not examples.
    """

    title: str
    counts: dict[str, int]
    unit: str = "examples"


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of features, of labels, or of what could be labels.

    Attributes:
      name: as the source has it.
      num_values: different values in it; None where they are numbers that were not counted.
      num_missing: empty cells.
      low: the least value where all are numbers, else None.
      high: the largest.
    """

    name: str
    num_values: int | None
    num_missing: int
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Section:
    """Problems of one subject.

    Attributes:
      title: for example "Duplicates".
      problems: errors and warnings.
    """

    title: str
    problems: tuple[findings.Problem, ...]


@dataclasses.dataclass(frozen=True)
class DoctorReport:
    """What a data set holds and what is wrong with it.

    Attributes:
      source: the text of --data.
      input_kind: "image", "text" ..., "" where nothing could be listed.
      num_examples: {split: number}, splits of `doctor_rows.NAMES`.
      classes: {head: {class: {split: number}}}.
      histograms: of formats, modes and sizes of images, of lengths of texts.
      columns: of the first source, those of features first.
      sections: what is wrong, by subject.
    """

    source: str
    input_kind: str
    num_examples: dict[str, int]
    classes: dict[str, dict[str, dict[str, int]]]
    histograms: tuple[Histogram, ...]
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]

    @property
    def problems(self) -> tuple[findings.Problem, ...]:
        """Everything that is wrong, in the order of the sections."""
        return tuple(problem for section in self.sections for problem in section.problems)


def examine(
    spec: specs.DataSpec, heads: tuple[specs.HeadSpec, ...] = (), *, seed: int = 0
) -> DoctorReport:
    """Lists, splits, reads and decodes a data set.

    Args:
      spec: the data options.
      heads: the tasks; none: one named "label".
      seed: of the split.

    Returns:
      The report; bad data raise nothing. Its problems are all of `loading.load_data`, each bad line
      of a table; images that cannot be read (errors, or warnings with --on_bad_example=skip); and
      as warnings odd images and texts, duplicates, and odd classes and columns.
    """
    parts, listed = loading.load_parts(spec)
    splits, labelled = loading.examine_parts(
        parts, spec, heads=heads, seed=seed, odd_names=findings.WARNING
    )
    if splits is not None and len(parts) > 1:
        labelled += leaks.find_shared_files(splits)
    kind = _find_kind(parts)
    # Another kind of input beside --data is an error of its own, and is compared with nothing.
    parts = {
        flag: part for flag, part in parts.items() if input_stores.find_kind(part.inputs) == kind
    }
    rows = doctor_rows.collect_rows(parts, heads, spec, splits=splits)
    histograms: tuple[Histogram, ...] = ()
    features: tuple[Column, ...] = ()
    found: list[tuple[str, list[findings.Problem]]] = []
    if kind == input_stores.IMAGE:
        histograms, found = _examine_images(rows, spec)
    elif kind == input_stores.TEXT:
        histograms, found = _examine_texts(rows, spec)
    elif kind == input_stores.COLUMNS:
        features, found = _examine_columns(rows)
    if kind != input_stores.COLUMNS and any(part.features for part in parts.values()):
        features, odd_columns = _describe_features(rows)
        found.insert(1, ("Features", odd_columns))
    if splits is not None and splits.train.positions:
        counted, problems = _examine_positions(splits, spec, kind=kind)
        histograms += counted
        found.append(("Masks", problems))
    counts = class_findings.count_classes(rows)
    odd = class_findings.find_odd_classes(rows, counts)
    odd += class_findings.find_missing_cells(rows)
    found = [
        ("Files and rows", listed),
        ("Labels and splits", labelled),
        *((title, _sort(problems)) for title, problems in found),
        ("Classes and columns", odd),
    ]
    num_examples = collections.Counter(rows.names)
    return DoctorReport(
        source=spec.data,
        input_kind=kind,
        num_examples={name: num_examples[name] for name in doctor_rows.NAMES if num_examples[name]},
        classes=counts,
        histograms=histograms,
        columns=(*features, *_describe_labels(parts)),
        sections=tuple(Section(title, tuple(problems)) for title, problems in found if problems),
    )


def _sort(problems: list[findings.Problem]) -> list[findings.Problem]:
    # What a table has as a whole stands behind its lines.
    return sorted(problems, key=lambda found: (found.path, found.line is None, found.line or 0))


def _find_kind(parts: dict[str, examples.Examples]) -> str:
    return next((input_stores.find_kind(part.inputs) for part in parts.values()), "")


def _examine_images(
    rows: doctor_rows.Rows, spec: specs.DataSpec
) -> tuple[tuple[Histogram, ...], list[tuple[str, list[findings.Problem]]]]:
    reading = doctor_images.read_images(rows.parts, max_pixels=spec.max_image_pixels)
    looks = dict(sorted(reading.looks.items()))
    problems = image_findings.describe_bad(rows, reading, skip=spec.on_bad_example == "skip")
    problems += image_findings.find_odd_images(rows, looks, image_size=spec.image_size)
    contents = _with_features(rows, {row: look.content for row, look in looks.items()})
    repeated = duplicates.find_repeated(rows, contents)
    pixels = _with_features(rows, {row: look.pixels for row, look in looks.items()})
    repeated += duplicates.find_repeated(
        rows, pixels, inner=contents, sameness="pixel by pixel equal to"
    )
    return _count_images(looks.values()), [("Images", problems), ("Duplicates", repeated)]


def _count_images(looks: Iterable[doctor_images.Look]) -> tuple[Histogram, ...]:
    looks = list(looks)
    if not looks:
        return ()
    sizes = collections.Counter(f"{look.width} x {look.height}" for look in looks)
    return (
        _count("Format", [look.form or "array" for look in looks]),
        _count("Mode", [look.mode for look in looks]),
        _bin("Longer side, pixels", [max(look.width, look.height) for look in looks], _SIZE_STEPS),
        Histogram("Most frequent width x height", dict(sizes.most_common(5))),
    )


def _examine_positions(
    splits: loading.Splits, spec: specs.DataSpec, *, kind: str
) -> tuple[tuple[Histogram, ...], list[findings.Problem]]:
    """Counts of the classes of pixels or words, and masks that cannot be used."""
    problems: list[findings.Problem] = []
    if kind == input_stores.IMAGE:
        # Here, because tables of texts are examined without TensorFlow.
        from tf_finetune.data import mask_reading

        problems, counts = mask_reading.find_bad_masks(
            splits, max_pixels=spec.max_image_pixels, stream=sys.stderr
        )
    else:
        counts = position_labels.count_all(splits.parts)
    if spec.on_bad_example == "skip":
        problems = [dataclasses.replace(problem, severity=findings.WARNING) for problem in problems]
    heads = {info.name: info for info in splits.heads}
    histograms = tuple(
        Histogram(
            f"Class of head {name}",
            dict(zip(heads[name].classes, numbers.tolist(), strict=True)),
            unit=head_kinds.HEAD_KINDS[heads[name].kind].positions,
        )
        for name, numbers in counts.items()
    )
    return histograms, problems


def _count(title: str, values: list[str]) -> Histogram:
    return Histogram(title, dict(collections.Counter(values).most_common()))


def _bin(title: str, values: list[int], steps: tuple[int, ...]) -> Histogram:
    places = np.searchsorted(steps, values, side="left")
    counts = np.bincount(places, minlength=len(steps) + 1).tolist()
    names = [f"{low + 1} to {high}" for low, high in zip((0, *steps[:-1]), steps, strict=True)] + [
        f"more than {steps[-1]}"
    ]
    used = [place for place, count in enumerate(counts) if count]
    chosen = range(used[0], used[-1] + 1) if used else ()
    return Histogram(title, {names[place]: counts[place] for place in chosen})


def _examine_texts(
    rows: doctor_rows.Rows, spec: specs.DataSpec
) -> tuple[tuple[Histogram, ...], list[tuple[str, list[findings.Problem]]]]:
    texts = [
        text
        for part in rows.parts.values()
        if isinstance(part.inputs, text_store.Texts)
        for text in part.inputs.texts
    ]
    odd = text_findings.find_odd_texts(rows, texts, sequence_length=spec.sequence_length)
    exact = _with_features(rows, {row: _digest(text) for row, text in enumerate(texts)})
    folded = {row: _digest(" ".join(text.casefold().split())) for row, text in enumerate(texts)}
    folded = _with_features(rows, folded)
    repeated = duplicates.find_repeated(rows, exact)
    repeated += duplicates.find_repeated(
        rows, folded, inner=exact, sameness="but for case and spaces identical to"
    )
    lengths = [text_findings.count_words(text) for text in texts]
    histograms = (_bin("Length, words and marks", lengths, _LENGTH_STEPS),) if texts else ()
    return histograms, [("Texts", odd), ("Duplicates", repeated)]


def _with_features(rows: doctor_rows.Rows, digests: dict[int, bytes]) -> dict[int, bytes]:
    """Equal images or texts beside other columns are other examples."""
    stores = [part.features for part in rows.parts.values()]
    beside = [store.digests for store in stores if store is not None]
    if len(beside) < len(stores) or not beside:
        return digests
    together = np.concatenate(beside)
    return {row: digest + together[row].tobytes() for row, digest in digests.items()}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _examine_columns(
    rows: doctor_rows.Rows,
) -> tuple[tuple[Column, ...], list[tuple[str, list[findings.Problem]]]]:
    described, odd = _describe_features(rows)
    # Rows of few coarse features are often equal by chance: some, as examples.
    repeated = duplicates.find_repeated(
        rows,
        column_findings.find_repeated_digests(rows),
        sameness="equal in all features to",
        max_groups=_MAX_EQUAL_ROWS,
    )
    return described, [("Features", odd), ("Duplicates", repeated)]


def _describe_features(
    rows: doctor_rows.Rows,
) -> tuple[tuple[Column, ...], list[findings.Problem]]:
    """The feature columns of the first source, and what is odd about them."""
    part = next(iter(rows.parts.values()))
    store = part.inputs if part.features is None else part.features
    if not isinstance(store, columns.Columns):
        return (), []
    found = column_findings.read_columns(store, lines=part.lines)
    odd = column_findings.find_odd_columns(rows, store, found)
    described = []
    for name in store.found.names:
        if name in found:
            described.append(Column(name, None, 0, float(found[name].low), float(found[name].high)))
        else:
            cells = store.strings[name]
            missing = int(np.count_nonzero(cells == ""))
            described.append(Column(name, len(np.unique(cells)), missing, None, None))
    return tuple(described), odd


def _describe_labels(parts: dict[str, examples.Examples]) -> tuple[Column, ...]:
    first = next(iter(parts.values()), None)
    if first is None:
        return ()
    found = []
    for name, cells in first.labels.items():
        values = {value for cell in cells for value in doctor_rows.read_cell(cell)}
        low, high = _find_range(values)
        missing = sum(not doctor_rows.read_cell(cell) for cell in cells)
        found.append(Column(name, len(values), missing, low, high))
    return tuple(found)


def _find_range(values: set[str]) -> tuple[float | None, float | None]:
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None, None
    finite = [number for number in numbers if np.isfinite(number)]
    return (min(finite), max(finite)) if finite else (None, None)
