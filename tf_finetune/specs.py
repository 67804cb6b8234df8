"""Every option of a run, as frozen dataclasses.

One idea: a field *is* its command-line flag. Name, type, default, bounds and help stand
in the field, `spec_flags` derives the flag from it, and `__post_init__` checks the range,
so that a notebook which builds a spec by hand gets the same checks as the command line.
Checks that need two specs or the disk live in `validation`.

Standard library only: `--help` and a misspelt flag must answer without TensorFlow.
"""

import dataclasses
import re

from tf_finetune import option_values, options
from tf_finetune.options import option

SpecError = options.SpecError

MODES = ("train", "evaluate", "predict", "export", "inspect", "validate")
POOLINGS = ("auto", "avg", "max", "flatten", "none")
PIXEL_RANGES = ("auto", "0..1", "-1..1", "0..255", "caffe", "torch")
RESIZES = ("squash", "crop", "pad")
NAME_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")

_FREEZE_HELP = (
    "Which backbone layers stay as they are: N (the first N layers), -N (all but the last N), "
    "P% (that part, counted from the input), all, none, until:LAYER (inclusive) or match:REGEX. "
    "Default: the recipe's phases."
)


@dataclasses.dataclass(frozen=True)
class ModelSpec(options.CheckedSpec):
    """Where the pretrained model comes from and how much of it is kept."""

    model: str = option(
        "",
        "The pretrained model: path of a .h5, .hdf5, .keras or architecture .json file, of a "
        "SavedModel or TF-Hub folder or .tar.gz; a handle (https://tfhub.dev/..., "
        "https://www.kaggle.com/models/..., gs://..., hf://...); hf:DIR, kerashub:PRESET, or a "
        "Keras application such as keras:MobileNet,alpha=0.25,input_shape=128x128x3,"
        "weights=imagenet (or none, or a PATH).",
    )
    cut_layer: str | None = option(
        None,
        "Layer whose output becomes the features. Default: the input of the old classifier.",
    )
    pooling: str = option(
        "auto",
        "How a feature map becomes a vector; auto averages over positions.",
        choices=POOLINGS,
    )
    pixel_range: str = option(
        "auto",
        "The pixel values the model was trained on; auto decides and says why.",
        choices=PIXEL_RANGES,
    )
    weights: str | None = option(
        None,
        "Weights-only .h5 for the architecture that --model names (keras:NAME or a .json).",
    )
    preprocessor: str | None = option(
        None,
        "SavedModel or hub module that turns strings into the inputs of --model, a text encoder.",
    )
    custom_objects: str | None = option(
        None,
        "Python module (dotted name or .py path) that registers the custom layers of --model with "
        "keras.saving.register_keras_serializable. It is imported, so it runs.",
    )
    trust_model: bool = option(
        False, "Runs the Python code that --model carries (Lambda layers). Only for your own files."
    )
    model_sha256: str | None = option(
        None, "Expected SHA-256 of the model file or download; anything else is refused."
    )


@dataclasses.dataclass(frozen=True)
class FreezeSpec(options.CheckedSpec):
    """Which layers of the backbone do not train."""

    freeze: str | None = option(None, _FREEZE_HELP)
    batch_norm: str = option(
        "frozen",
        "frozen keeps every BatchNormalization of the backbone in inference mode; train updates "
        "those above the freeze line.",
        choices=("frozen", "train"),
    )

    def find_more_problems(self) -> list[str]:
        """See `options.CheckedSpec`."""
        return _find_freeze_problems(self.freeze)


def _find_freeze_problems(freeze: str | None) -> list[str]:
    try:
        if freeze is not None:
            option_values.read_freeze(freeze)
    except SpecError as error:
        return list(error.problems)
    return []


@dataclasses.dataclass(frozen=True)
class HeadSpec(options.CheckedSpec):
    """One task: a label column and the Dense layers that predict it."""

    name: str = option("label", "Name of the head, of its output and of its files.")
    kind: str | None = option(
        None,
        "The task; default: multilabel if a label cell lists several, else multiclass.",
        choices=("multiclass", "binary", "multilabel"),
    )
    label: str | None = option(None, "Label column; default: the data's only one.")
    num_classes: int | None = option(None, "Expected number of classes.", lower_bound=2)
    hidden_units: tuple[int, ...] = option(
        (), "Units of Dense relu layers before the logits, joined by x.", lower_bound=1
    )
    dropout: float = option(
        0.2, "Part of the features dropped in training.", lower_bound=0.0, upper_bound=0.99
    )
    loss_weight: float = option(1.0, "Weight of this head's loss in the sum.", lower_bound=0.0)
    label_smoothing: float = option(
        0.0, "Cross-entropy label smoothing.", lower_bound=0.0, upper_bound=0.99
    )
    class_weight: str = option(
        "none",
        "balanced weighs each class by the inverse of its frequency.",
        choices=("none", "balanced"),
    )

    def find_more_problems(self) -> list[str]:
        """See `options.CheckedSpec`."""
        problems = []
        if not NAME_PATTERN.fullmatch(self.name):
            problems.append(
                "--head: name expects a letter, then letters, digits, '_', '.' or '-'. "
                f"Received {self.name!r}."
            )
        if self.name == "loss":
            problems.append(
                "--head: the name 'loss' is taken by the sum over heads. Choose another."
            )
        if self.kind == "binary" and self.num_classes not in (None, 2):
            problems.append(
                f"--head: kind=binary has num_classes=2. Received num_classes={self.num_classes}."
            )
        return problems


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


@dataclasses.dataclass(frozen=True)
class PhaseSpec(options.CheckedSpec):
    """One stretch of training with its own freeze line and learning rate.

    A field that is None takes the value of TrainSpec or FreezeSpec.
    """

    name: str = option("", "Name of the phase.")
    epochs: int | None = option(None, "Passes over the training data.", lower_bound=1)
    learning_rate: float | None = option(
        None, "Adam's peak rate.", lower_bound=1e-12, upper_bound=100.0
    )
    freeze: str | None = option(None, _FREEZE_HELP)
    schedule: str | None = option(
        None, "Learning rate over the phase.", choices=("constant", "cosine")
    )
    warmup_fraction: float | None = option(
        None,
        "Part of the steps in which the rate rises from 0.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    gradient_clip_norm: float | None = option(
        None, "Longest gradient, over all variables; 0 clips nothing.", lower_bound=0.0
    )

    def find_more_problems(self) -> list[str]:
        """See `options.CheckedSpec`."""
        problems = []
        if not self.name:
            problems.append("--phase needs name=NAME. Received none.")
        elif not NAME_PATTERN.fullmatch(self.name):
            problems.append(
                "--phase: name expects a letter, then letters, digits, '_', '.' or '-'. "
                f"Received {self.name!r}."
            )
        return problems + _find_freeze_problems(self.freeze)


@dataclasses.dataclass(frozen=True)
class TrainSpec(options.CheckedSpec):
    """How the model is fitted. None: the recipe's value (README, "The recipe")."""

    batch_size: int = option(32, "Examples in a step, over all devices.", lower_bound=1)
    epochs: int | None = option(
        None, "Passes over the training data; replaces the recipe's phases.", lower_bound=1
    )
    learning_rate: float | None = option(
        None, "Adam's peak rate.", lower_bound=1e-12, upper_bound=100.0
    )
    weight_decay: float | None = option(
        None,
        "Decoupled weight decay of kernels (never of bias, gamma, beta); default: 0.01 for a text "
        "encoder that trains, else 0.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    schedule: str = option(
        "cosine",
        "Learning rate over a phase: constant, or cosine down to 0.",
        choices=("constant", "cosine"),
    )
    warmup_fraction: float | None = option(
        None,
        "Part of a phase's steps in which the rate rises from 0.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    gradient_clip_norm: float | None = option(
        None, "Longest gradient, over all variables; 0 clips nothing.", lower_bound=0.0
    )
    patience_epochs: int | None = option(
        None, "A phase ends after this many epochs without a better monitor.", lower_bound=1
    )
    monitor: str | None = option(
        None,
        "METRIC or HEAD/METRIC on validation that picks the best weights; default: cross_entropy "
        "summed over heads.",
    )
    phases: tuple[PhaseSpec, ...] = ()
    strategy: str = option(
        "auto",
        "tf.distribute strategy; auto: mirrored on several GPUs, else one device.",
        choices=("auto", "one_device", "mirrored"),
    )
    precision: str = option(
        "auto",
        "Arithmetic of the backbone; weights and heads stay float32. auto: float32.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )

    def find_more_problems(self) -> list[str]:
        """See `options.CheckedSpec`."""
        names = [phase.name for phase in self.phases]
        problems = [
            f"--phase: the name {name!r} is used twice. Give each phase its own."
            for name in sorted({name for name in names if names.count(name) > 1})
        ]
        if self.phases and self.epochs is not None:
            problems.append(
                "--epochs and --phase exclude each other. Give epochs inside each --phase."
            )
        return problems


@dataclasses.dataclass(frozen=True)
class ExportSpec(options.CheckedSpec):
    """Where the model for TF Serving goes and what it must reach first."""

    export_dir: str | None = option(
        None, "Folder of versions for TF Serving; default: WORKDIR/export."
    )
    require_min: tuple[str, ...] = option(
        (), "SPLIT/METRIC:VALUE; below it nothing is exported, exit code 3.", repeated=True
    )
    require_max: tuple[str, ...] = option(
        (), "SPLIT/METRIC:VALUE; above it nothing is exported, exit code 3.", repeated=True
    )
    warmup_examples: int = option(
        1, "Requests TF Serving replays when it loads.", lower_bound=1, upper_bound=1000
    )

    def find_more_problems(self) -> list[str]:
        """See `options.CheckedSpec`."""
        problems: list[str] = []
        for flag in ("require_min", "require_max"):
            for text in getattr(self, flag):
                try:
                    option_values.read_requirement(text, flag=flag)
                except SpecError as error:
                    problems.extend(error.problems)
        return problems


@dataclasses.dataclass(frozen=True)
class PredictSpec(options.CheckedSpec):
    """What --mode=predict reads and writes."""

    input: tuple[str, ...] = option(
        (),
        "Image, folder or .csv to predict, .csv or .txt of texts; may be given again.",
        repeated=True,
    )
    output: str | None = option(
        None, "Where predictions (.csv or .jsonl) or, with --mode=validate, problems (.csv) go."
    )
    top_k: int = option(1, "Classes to write for each example.", lower_bound=1)
    inspect_format: str = option(
        "text", "What --mode=inspect prints: text, or json for scripts.", choices=("text", "json")
    )


@dataclasses.dataclass(frozen=True)
class RunSpec(options.CheckedSpec):
    """A whole run: what `python -m tf_finetune.main` was asked to do."""

    mode: str = option("train", "What to do.", choices=MODES)
    workdir: str | None = option(
        None, "Folder of everything the run leaves; default: runs/DATA-MODEL-HASH."
    )
    seed: int = option(0, "Feeds every random choice.", lower_bound=0, upper_bound=2**31 - 1)
    dry_run: bool = option(False, "Stop after saying what the run will cost in seconds and memory.")
    max_minutes: float | None = option(
        None, "End training after this long, with the best weights so far.", lower_bound=0.0
    )
    model: ModelSpec = dataclasses.field(default_factory=ModelSpec)
    freeze: FreezeSpec = dataclasses.field(default_factory=FreezeSpec)
    heads: tuple[HeadSpec, ...] = ()
    data: DataSpec = dataclasses.field(default_factory=DataSpec)
    train: TrainSpec = dataclasses.field(default_factory=TrainSpec)
    export: ExportSpec = dataclasses.field(default_factory=ExportSpec)
    predict: PredictSpec = dataclasses.field(default_factory=PredictSpec)

    def find_more_problems(self) -> list[str]:
        """See `options.CheckedSpec`."""
        names = [head.name for head in self.heads]
        problems = [
            f"--head: the name {name!r} is used twice. Give each head its own."
            for name in sorted({name for name in names if names.count(name) > 1})
        ]
        phases = self.train.phases
        if self.freeze.freeze is not None and phases and all(phase.freeze for phase in phases):
            problems.append(
                f"--freeze={self.freeze.freeze} has no effect: every --phase names its own freeze. "
                "Leave one of them out."
            )
        return problems
