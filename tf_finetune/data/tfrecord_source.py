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

import numpy as np

from tf_finetune import findings, regular_files, specs
from tf_finetune.data import (
    array_images,
    examples,
    image_stores,
    known_names,
    memory,
    mixed_tables,
    record_columns,
    record_faults,
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
_MAX_COLUMNS = 256
_MAX_NAMES = 20


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
    files = find_files(text)
    if not files:
        message = f"--{flag}={findings.one_line(text)}: no file has such a name."
        raise findings.RefusedError(findings.Problem(message, path=text, flag=f"--{flag}"))
    _check_alone(spec, text, flag)
    if spec.feature_columns is not None or record_tables.holds_texts(spec, files):
        return record_tables.load(spec, text, files)
    listing = _Listing(spec, findings.one_line(text), schema, record_faults.RecordPass(spec, files))
    listing.read()
    if not listing.keys:
        _refuse(listing, flag)
    return _to_examples(listing, text)


def _check_alone(spec: specs.DataSpec, text: str, flag: str) -> None:
    if not mixed_tables.is_mixed(spec):
        return
    beside = "--image_column" if spec.text_column is None else "--text_column"
    message = (
        f"--feature_columns beside {beside} needs a .csv, .tsv or .jsonl. Received "
        f"--{flag}={findings.one_line(text)}: of TFRecords only one of the two is read. Leave the "
        "other out."
    )
    raise findings.RefusedError(findings.Problem(message, path=text, flag="--feature_columns"))


@dataclasses.dataclass
class _Listing:
    """The pass over files and records; what a usable record leaves here is small."""

    spec: specs.DataSpec
    source: str
    schema: record_schema.Schema
    records: record_faults.RecordPass
    keys: list[str] = dataclasses.field(default_factory=list)
    # File, record, offset, size and bytes behind it of each: five numbers take 40 bytes.
    places: array.array = dataclasses.field(default_factory=lambda: array.array("q"))
    labels: record_columns.RecordColumns = dataclasses.field(
        default_factory=record_columns.RecordColumns
    )
    seen: set[str] = dataclasses.field(default_factory=set)
    num_without_image: int = 0
    columns: set[str] = dataclasses.field(default_factory=set)
    fractions: set[str] = dataclasses.field(default_factory=set)

    def read(self) -> None:
        """Adds the records of all files."""
        for file, record in self.records.read():
            fault = self._add(record, file)
            if fault:
                self.records.report(file, record.number, fault)

    def _add(self, record: record_framing.Record, file: record_faults.RecordFile) -> str:
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
        self.keys.append(file.make_key(record.number))
        number = len(self.records.files) - 1
        behind = file.num_bytes - offset - len(content)
        self.places.extend((number, record.number, offset, len(content), behind))
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


def _refuse(listing: _Listing, flag: str) -> None:
    problems = listing.records.problems
    if listing.num_without_image >= max(min(len(problems), record_faults.MAX_FAULTS), 1):
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
    problems = [dataclasses.replace(problem, severity=findings.ERROR) for problem in problems]
    raise findings.RefusedError(*examples.cut_problems(problems))


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
            findings.Problem(no_default, path=text, flag="--label_column"),
            *listing.records.problems,
        )
    classes = known_names.read_names(listing.spec)
    images = image_stores.SliceImages(
        examples.object_array([os.fsencode(file.path) for file in listing.records.files]),
        *np.ascontiguousarray(places.T),
    )
    pixels = record_schema.find_pixels(listing.schema, listing.spec.image_column)
    return examples.Examples(
        source=text,
        keys=keys[order],
        inputs=_read_pixels(images, pixels, listing.source) if pixels else images,
        labels={name: known_names.name_numbers(cells, classes) for name, cells in columns.items()},
        identity=listing.records.identity,
        no_default=no_default,
        problems=tuple(listing.records.problems),
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
