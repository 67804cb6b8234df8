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
        "(or a pattern of several), tfds:NAME[:config] or sklearn:NAME. A folder with train, "
        "validation and test folders inside keeps that split.",
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
        "CSV column of texts, for models that take text; default: one named text, sentence or "
        "review.",
    )
    label_column: str | None = option(
        None, "Label column; default: the second of a CSV, label in a TFRecord."
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
    tfds_data_dir: str | None = option(None, "Where prepared tfds: data sets are.")

    def find_more_problems(self) -> list[str]:
        """See `options.CheckedSpec`."""
        problems = []
        if len(self.split) != 3 or abs(sum(self.split) - 1) > 1e-6 or self.split[0] == 0:
            received = ",".join(f"{part:g}" for part in self.split)
            problems.append(
                "--split expects three fractions that sum to 1, the first above 0, for example "
                f"0.8,0.1,0.1. Received {received}."
            )
        if self.image_size is not None:
            try:
                option_values.read_image_size(self.image_size)
            except SpecError as error:
                problems.extend(error.problems)
        return problems
