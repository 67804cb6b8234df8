"""TFRecord files of tf.train.Example: an image and its labels in each record.

Records of texts or of feature columns go on to `record_tables`.

One idea: a record's image is a stretch of its file. The framing and the Examples are read here,
once, in Python; what decodes the images later reads that stretch as it would read a file of its
own, so that TensorFlow never sees a length that a stranger wrote.

Reference: TensorFlow, "TFRecord and tf.train.Example",
https://www.tensorflow.org/tutorials/load_data/tfrecord.
"""

import array
import dataclasses
import glob
import os
import re
import unicodedata

import numpy as np

from tf_finetune import findings, regular_files, specs
from tf_finetune.data import (
    array_images,
    examples,
    image_stores,
    known_names,
    memory,
    record_columns,
    record_features,
    record_framing,
    record_schema,
    record_tables,
)
from tf_finetune.trust import refusals

# "train.tfrecord", "train.tfrecord-00000-of-00008", "train-00000-of-00008.tfrecords".
_NAME = re.compile(r"\.tfrecords?(-\d+-of-\d+)?$|\.tfrec$", re.IGNORECASE)
_PATTERN = re.compile(r"[*?\[]")
_IMAGE_FEATURES = ("image", "image/encoded")
_LABEL_FEATURES = (examples.LABEL_COLUMN, "image/class/label")
_MAX_FAULTS = 100
_MAX_COLUMNS = 256
_MAX_NAMES = 20
_SKIP = "on_bad_example=skip"


def is_record_path(text: str) -> bool:
    """Whether a value of --data names TFRecord files.

    Args:
      text: a path, or a pattern with *, ? or [...].

    Returns:
      True where the name ends like that of a TFRecord file, or the pattern does or finds one.
    """
    if _NAME.search(text):
        return True
    if not _PATTERN.search(text) or os.path.lexists(text):
        return False
    return any(map(_NAME.search, glob.iglob(text)))


def find_files(text: str) -> list[str]:
    """The files that a path or a pattern names.

    Args:
      text: see `is_record_path`.

    Returns:
      Their paths, sorted; none where nothing is there.
    """
    if os.path.lexists(text):
        return [text]
    return sorted(glob.glob(text)) if _PATTERN.search(text) else []


def load(spec: specs.DataSpec, text: str, *, flag: str) -> examples.Examples:
    """Lists the records of TFRecord files.

    Args:
      spec: the data options: `image_column` (default: image), `label_column` (default: label),
        `record_schema`, `classes`, `on_bad_example`; `text_column` or `feature_columns` of records
        without images.
      text: path of a file, or a pattern.
      flag: name of the flag that `text` stands in, for messages.

    Returns:
      The examples; keys are the file and the record's number. Every feature that can be one is a
      label column; numbers are class names, or with --classes places in it. Their problems are the
      records that cannot be used.

    Raises:
      findings.RefusedError: a file cannot be opened, no record can be used, or no record has the
        image's feature; see also `record_schema.read_schema` and `record_tables.load`.
    """
    schema = record_schema.read_schema(spec.record_schema)
    listing = _Listing(spec, findings.one_line(text), schema)
    files = find_files(text)
    if not files:
        message = f"--{flag}={listing.source}: no file has such a name."
        raise findings.RefusedError(findings.Problem(message, path=text, flag=f"--{flag}"))
    if spec.feature_columns is not None or record_tables.holds_texts(spec, files):
        return record_tables.load(spec, text, files, flag=flag)
    folder = os.path.commonpath([os.path.dirname(path) for path in files])
    for path in files:
        listing.read_file(os.fsencode(path), os.path.relpath(path, folder or "."))
    if not listing.keys:
        _refuse(listing, flag)
    return _to_examples(listing, text)


@dataclasses.dataclass
class _Listing:
    """The pass over files and records; what a usable record leaves here is small."""

    spec: specs.DataSpec
    source: str
    schema: record_schema.Schema
    paths: list[bytes] = dataclasses.field(default_factory=list)
    stamps: list[str] = dataclasses.field(default_factory=list)
    keys: list[str] = dataclasses.field(default_factory=list)
    # File, record, offset, size and bytes behind it of each: five numbers take 40 bytes.
    places: array.array = dataclasses.field(default_factory=lambda: array.array("q"))
    labels: record_columns.RecordColumns = dataclasses.field(
        default_factory=record_columns.RecordColumns
    )
    problems: list[findings.Problem] = dataclasses.field(default_factory=list)
    seen: set[str] = dataclasses.field(default_factory=set)
    num_without_image: int = 0
    columns: set[str] = dataclasses.field(default_factory=set)
    fractions: set[str] = dataclasses.field(default_factory=set)

    def read_file(self, path: bytes, name: str) -> None:
        """Adds the records of one file."""
        shown = findings.one_line(os.fsdecode(path))
        try:
            status = os.stat(path)
            self.paths.append(path)
            self.stamps.append(f"{name} {status.st_size} {status.st_mtime_ns}")
            num_before = len(self.problems)
            for record in record_framing.read_records(path):
                fault = record.fault or self._add(record, name, status.st_size)
                if fault:
                    self._report(f"{shown}, record {record.number} {fault}", shown)
                if len(self.problems) - num_before >= _MAX_FAULTS:
                    text = f"{shown}: after {_MAX_FAULTS} bad records the rest is not read."
                    self.problems.append(findings.Problem(text, path=shown))
                    break
        except regular_files.NotRegularError as error:
            self._refuse_file(shown, str(error.strerror))
        except OSError as error:
            self._refuse_file(shown, f"cannot be read: {error.strerror}")

    def _refuse_file(self, shown: str, reason: str) -> None:
        self.problems.append(findings.Problem(f"{shown} {reason}.", path=shown))

    def _report(self, message: str, path: str) -> None:
        skip = self.spec.on_bad_example == "skip"
        advice = "Skipped." if skip else f"Repair the file; --{_SKIP} leaves the record out."
        severity = findings.WARNING if skip else findings.ERROR
        self.problems.append(
            findings.Problem(f"{message}. {advice}", severity, path, flag=f"--{_SKIP}")
        )

    def _add(self, record: record_framing.Record, name: str, size: int) -> str:
        """Adds a record; returns what is wrong with it, or ""."""
        reader = record_features.ExampleReader()
        try:
            features = reader.read_features(record.data)
            image = self.find_image(features)
            fault = record_schema.find_fault(self.schema, features, reader)
            if fault:
                return fault
            if image not in features:
                self.num_without_image += 1
                self.seen.update(list(features)[:_MAX_NAMES])
                found = record_features.describe(sorted(features))
                return f"has no feature '{findings.one_line(image)}'. It has {found}"
            content, fault = reader.read_image(features.pop(image))
            if fault:
                return f"is not usable: its feature '{findings.one_line(image)}' {fault}"
            labels = {
                other: label
                for other, feature in features.items()
                if self._is_column(other) and (label := reader.read_label(feature)) is not None
            }
        except refusals.BrokenFileError:
            return "is not a valid tf.train.Example"
        self.fractions.update(
            other for other in labels if record_features.is_float(features[other])
        )
        offset = record.start + record_features.find_offset(content, record.data)
        self.keys.append(_make_key(name, record.number))
        number = len(self.paths) - 1
        end = offset + len(content)
        self.places.extend((number, record.number, offset, len(content), size - end))
        self.labels.add(labels)
        return ""

    def _is_column(self, name: str) -> bool:
        if self.schema:
            return name in self.schema
        # Each column has a cell for each record, so their number must not grow with the records.
        if name not in self.columns and len(self.columns) < _MAX_COLUMNS:
            self.columns.add(name)
        return name in self.columns or name in (self.spec.label_column, *_LABEL_FEATURES)

    def find_image(self, features: dict[str, record_features.Feature]) -> str:
        """The name of the feature that holds the image."""
        if self.spec.image_column is not None:
            return self.spec.image_column
        pixels = record_schema.find_pixels(self.schema, None)
        if pixels is not None:
            return pixels.name
        known = [name for name in _IMAGE_FEATURES if name in features]
        return known[0] if known else _IMAGE_FEATURES[0]


def _make_key(name: str, number: int) -> str:
    name = os.fsencode(name).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", f"{name}/{number:08d}")


def _refuse(listing: _Listing, flag: str) -> None:
    problems = listing.problems[:_MAX_FAULTS]
    if listing.num_without_image >= max(len(problems), 1):
        column = listing.spec.image_column
        hint = "" if column is None else examples.nearest_name(column, sorted(listing.seen))
        others = "; --text_column reads texts, --feature_columns numbers and vectors"
        others = others if column is None else ""
        message = (
            f"{listing.source}: no record has the feature "
            f"'{findings.one_line(column or _IMAGE_FEATURES[0])}'.{hint} They have "
            f"{record_features.describe(sorted(listing.seen))}. --image_column names another"
            f"{others}."
        )
        problems = [findings.Problem(message, path=listing.source, flag="--image_column")]
    if not problems:
        message = f"--{flag}={listing.source} holds no record. Expected tf.train.Example records."
        problems = [findings.Problem(message, path=listing.source, flag=f"--{flag}")]
    raise findings.RefusedError(
        *(dataclasses.replace(problem, severity=findings.ERROR) for problem in problems)
    )


def _to_examples(listing: _Listing, text: str) -> examples.Examples:
    keys = examples.object_array(listing.keys)
    order = np.argsort(keys, kind="stable")
    places = np.frombuffer(listing.places, np.int64).reshape(len(keys), -1)[order]
    columns = listing.labels.finish(order)
    wanted = listing.spec.label_column
    known = [name for name in _LABEL_FEATURES if name in columns]
    if wanted is None and known:
        # The usual label comes first, which makes it the default.
        columns = {known[0]: columns.pop(known[0]), **columns}
    # Numbers to predict are asked for: beside them, the only class is the label.
    columns = dict(sorted(columns.items(), key=lambda column: column[0] in listing.fractions))
    named = [name for name in columns if name not in listing.fractions] or list(columns)
    no_default = "" if known else record_features.describe_labels(listing.source, named)
    if not columns:
        raise findings.RefusedError(
            findings.Problem(no_default, path=text, flag="--label_column"), *listing.problems
        )
    classes = known_names.read_names(listing.spec)
    images = image_stores.SliceImages(
        examples.object_array(listing.paths), *np.ascontiguousarray(places.T)
    )
    pixels = record_schema.find_pixels(listing.schema, listing.spec.image_column)
    return examples.Examples(
        source=text,
        keys=keys[order],
        inputs=_read_pixels(images, pixels, listing.source) if pixels else images,
        labels={name: known_names.name_numbers(cells, classes) for name, cells in columns.items()},
        identity="\n".join(listing.stamps),
        no_default=no_default,
        problems=tuple(listing.problems),
    )


def _read_pixels(
    images: image_stores.SliceImages, field: record_schema.Field, source: str
) -> image_stores.ImageStore:
    """Raw pixels, which no decoder reads, in memory."""
    num_bytes = len(images) * field.num_bytes
    if num_bytes > memory.find_available_bytes() // 2:
        message = (
            f"{source}: its raw pixels take {num_bytes / 2**30:.1f} GiB, more than half of the "
            "free memory. Store encoded images (PNG or JPEG), which are read as they are needed."
        )
        raise findings.RefusedError(findings.Problem(message, path=source))
    pixels = np.empty((len(images), *field.shape), np.dtype(field.dtype).newbyteorder("<"))
    rows = pixels.reshape(len(images), -1).view(np.uint8)
    for file, path in enumerate(images.paths):
        with regular_files.open_regular(path) as opened:
            for row in np.flatnonzero(images.files == file):
                opened.seek(int(images.offsets[row]))
                rows[row] = np.frombuffer(opened.read(field.num_bytes), np.uint8)
    store, _, _ = array_images.make_store(pixels)
    return store
