"""The options about data: sources, columns, splits, and what is done to inputs.

`specs` has them under the same names; see there. Standard library only.
"""

import dataclasses

from tf_finetune import option_values, options
from tf_finetune.options import option

SpecError = options.SpecError

RESIZES = ("squash", "crop", "pad")


@dataclasses.dataclass(frozen=True)
class DataSpec(options.CheckedSpec):
    """Where the examples come from and how they are split and resized."""

    data: str = option(
        "",
        "Folder of class folders, .csv of path,label or text,label, .tfrecord of tf.train.Example "
        "(or a pattern of several), tfds:NAME[:config][/split] or sklearn:NAME. A folder with "
        "train, validation and test folders inside keeps that split. Files and folders may lie in "
        "gs://BUCKET/PATH.",
    )
    validation_data: str | None = option(None, "Validation examples, in a form of --data.")
    test_data: str | None = option(None, "Test examples, in a form of --data.")
    split: tuple[float, ...] = option(
        (0.8, 0.1, 0.1),
        "Train, validation and test fractions of --data.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    split_file: str | None = option(
        None, "split.csv of an earlier run, reused; only new examples are assigned."
    )
    split_by: str | None = option(
        None,
        "Column of a table or feature of records, such as patient_id: examples with the same cell "
        "are in one split.",
    )
    split_column: str | None = option(
        None,
        "Column or feature that names each example's split: train, validation (valid, val, dev) or "
        "test; empty leaves it out. --split cuts a part that it lacks from train.",
    )
    classes: str | None = option(
        None, "Class names in order, a,b,c (quoted as in CSV), or @FILE with one on each line."
    )
    examples_per_class: int | None = option(
        None,
        "Few-shot: at most this many of each class for training and for validation; the rest goes "
        "to the test split.",
        lower_bound=1,
    )
    image_column: str | None = option(
        None,
        "CSV column of image paths, default: the first; or TFRecord feature of encoded images, "
        "default: image.",
    )
    text_column: str | None = option(
        None,
        "Column or feature of texts, for models that take text; default: one named text, sentence "
        "or review.",
    )
    feature_columns: str | None = option(
        None,
        "Columns of a table or features of TFRecords that a model of vectors or of named inputs "
        "takes: a,b,c, also x0..x99, pixel_* and * with -id to leave some out; INPUT:a+b,OTHER:c "
        "where names alone do not tell which input takes which; zip=string reads numbers as "
        "strings. Of a table, beside --image_column or --text_column each row gives both.",
    )
    label_column: str | None = option(
        None, "Label column; default: the second of a CSV, label in a TFRecord."
    )
    record_schema: str | None = option(
        None,
        "What each TFRecord holds, default: as they come; name=int64, name=float32[N], bytes[] "
        "(any number), uint8[28x28x1] (raw pixels), ? behind it where some lack it; or @FILE.",
    )
    label_delimiter: str = option(
        "|", "What joins the names in a cell that lists several labels, in a table."
    )
    header: str = option(
        "auto",
        "Whether the first row of a CSV or TSV names the columns. none: it is an example, and "
        "columns are named 1, 2, 3 and so on.",
        choices=("auto", "none"),
    )
    encoding: str = option(
        "utf-8", "Encoding of tables, such as latin-1 or utf-16. A byte order mark is recognised."
    )
    vocabulary: str | None = option(
        None,
        "For models that take token ids: the words they were trained with. A word, or a piece of "
        "one ([CLS], ##), on each line; or a .json, {word: id} or to_json() of a Keras Tokenizer.",
    )
    sequence_length: int | None = option(
        None,
        "Longest text in tokens; default: the model's. Shorter ones train faster.",
        lower_bound=1,
    )
    token_padding: str = option(
        "auto",
        "The side on which --vocabulary pads short texts and cuts long ones; auto: pre (the "
        "beginning) for a .json, as Keras's pad_sequences, else post.",
        choices=("auto", "pre", "post"),
    )
    image_size: str | None = option(None, "N or HEIGHTxWIDTH, pixels; default: the model's.")
    resize: str = option(
        "squash",
        "How another shape meets --image_size: squash, crop the centre, or pad with black.",
        choices=RESIZES,
    )
    pixel_max: float | None = option(
        None,
        "16-bit images: the value that becomes white. Default: the training data's 99.9th "
        "percentile.",
        lower_bound=1.0,
        upper_bound=65535.0,
    )
    on_bad_example: str = option(
        "error", "What an unreadable image or an empty text does.", choices=("error", "skip")
    )
    max_image_pixels: int = option(
        2**30 // 4 // 3,
        "An image whose header promises more pixels (all frames together) is refused before a "
        "decoder makes room for them.",
        lower_bound=1,
    )
    follow_links: bool = option(
        False,
        "Reads images also through symbolic links that lead out of the data folder. Only where you "
        "made the links yourself.",
    )
    tfds_data_dir: str | None = option(
        None, "Where prepared tfds: data sets are; others are put there."
    )

    def find_more_problems(self) -> list[str]:
        """See `options.CheckedSpec`."""
        problems = []
        if len(self.split) != 3 or abs(sum(self.split) - 1) > 1e-6 or self.split[0] == 0:
            received = ",".join(f"{part:g}" for part in self.split)
            problems.append(
                "--split expects three fractions that sum to 1, the first above 0, for example "
                f"0.8,0.1,0.1. Received {received}."
            )
        problems += self._find_column_problems()
        if not self.label_delimiter.strip() or "\n" in self.label_delimiter:
            problems.append(
                "--label_delimiter expects a character or more that no name holds, such as ; or |. "
                f"Received {self.label_delimiter!r}."
            )
        if not option_values.is_text_encoding(self.encoding):
            problems.append(
                "--encoding expects an encoding of text, for example utf-8, latin-1, cp1252 or "
                f"utf-16. Received {self.encoding}."
            )
        if self.token_padding != "auto" and self.vocabulary is None:
            problems.append("--token_padding is about the token ids of a --vocabulary. Give one.")
        if self.image_size is not None:
            try:
                option_values.read_image_size(self.image_size)
            except SpecError as error:
                problems.extend(error.problems)
        return problems

    def _find_column_problems(self) -> list[str]:
        """Columns of splits that are named for something else too."""
        others = ("split_column", "image_column", "text_column", "label_column")
        pairs = [("split_by", flag) for flag in others]
        pairs += [("split_column", flag) for flag in others[1:]]
        return [
            f"--{first} and --{second} both name the column {getattr(self, first)!r}. Expected "
            "different columns."
            for first, second in pairs
            if getattr(self, first) is not None and getattr(self, first) == getattr(self, second)
        ]


@dataclasses.dataclass(frozen=True)
class AugmentSpec(options.CheckedSpec):
    """How the images of training vary from epoch to epoch; never those of validation or test."""

    augment: str = option(
        "none",
        "Random views of training images, steps joined by commas: flip[:vertical|both], "
        "crop[:MIN_AREA,MAX_AREA], rotate[:DEGREES], translate[:PART], zoom[:PART], "
        "color[:STRENGTH] or brightness, contrast, saturation, hue, cutout[:SIDE], "
        "erase[:MIN_AREA,MAX_AREA], randaugment[:NUM,MAGNITUDE]; and pairs of training images in "
        "one: mixup[:ALPHA], cutmix[:ALPHA].",
    )
    augment_views: int | None = option(
        None,
        "Random views that each training image has; the epochs take turns with them, so that what "
        "frozen layers make of them is computed once. Default: a new view in each epoch.",
        lower_bound=1,
        upper_bound=1000,
    )

    @property
    def steps(self) -> tuple[option_values.AugmentStep, ...]:
        """The steps, every value settled; none without augmentation."""
        return option_values.read_augment(self.augment)

    def find_more_problems(self) -> list[str]:
        """See `options.CheckedSpec`."""
        try:
            steps = option_values.read_augment(self.augment)
        except SpecError as error:
            return list(error.problems)
        if self.augment_views is None:
            return []
        if not steps:
            return [
                f"--augment_views={self.augment_views} is how many views of --augment an image "
                "has. Give --augment=flip,crop or other steps, or leave it out."
            ]
        mixing = [step.name for step in steps if step.name in option_values.MIXING_STEPS]
        if mixing:
            return [
                f"--augment_views={self.augment_views} keeps views of single images, and "
                f"{', '.join(mixing)} of --augment mix those of a batch. Leave one of them out."
            ]
        return []
