"""The options about a model: where it comes from, what of it is frozen, which heads it gets.

`specs` has them under the same names; see there. Standard library only.
"""

import dataclasses
import re

from tf_finetune import option_values, options
from tf_finetune.options import option

SpecError = options.SpecError

POOLINGS = ("auto", "avg", "max", "flatten", "none")
PIXEL_RANGES = ("auto", "0..1", "-1..1", "0..255", "caffe", "torch")
NAME_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")

FREEZE_HELP = (
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

    freeze: str | None = option(None, FREEZE_HELP)
    batch_norm: str = option(
        "frozen",
        "frozen keeps every BatchNormalization of the backbone in inference mode; train updates "
        "those above the freeze line.",
        choices=("frozen", "train"),
    )

    def find_more_problems(self) -> list[str]:
        """See `options.CheckedSpec`."""
        return find_freeze_problems(self.freeze)


def find_freeze_problems(freeze: str | None) -> list[str]:
    """What is wrong with a freeze rule.

    Args:
      freeze: value of --freeze, or None.

    Returns:
      One line per mistake.
    """
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
        "The task; default: multilabel if a label cell lists several, else multiclass. "
        "segmentation: a class for each pixel, from mask images; token_classification: a tag for "
        "each word of a text.",
        choices=(
            *("multiclass", "binary", "multilabel", "regression"),
            *("segmentation", "token_classification"),
        ),
    )
    label: str | None = option(
        None,
        "Label column; default: the data's only one. multilabel: also A+B+C, a column of 0 and 1 "
        "per class.",
    )
    empty: str = option(
        "none",
        "multilabel: what a cell without a name says: no class is present, or the label is "
        "missing.",
        choices=("none", "missing"),
    )
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
    loss: str = option(
        "cross_entropy",
        "focal gives less weight to what is right already, for classes that are rare.",
        choices=("cross_entropy", "focal"),
    )
    focal_gamma: float = option(
        2.0, "How much less, for loss=focal; 0 is cross-entropy.", lower_bound=0.0, upper_bound=10.0
    )
    threshold: str = option(
        "auto",
        "binary and multilabel: the probability from which a class is predicted, above 0 and below "
        "1; auto takes the best F1 on validation, or 0.5 where a class has fewer than 20 positives "
        "there.",
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
        return problems + self._find_threshold_problems() + self._find_regression_problems()

    def _find_threshold_problems(self) -> list[str]:
        if self.threshold == "auto":
            return []
        try:
            inside = 0.0 < float(self.threshold) < 1.0
        except ValueError:
            inside = False
        if not inside:
            return [
                "--head: threshold expects auto or a number above 0 and below 1. "
                f"Received {self.threshold!r}."
            ]
        if self.kind not in (None, "binary", "multilabel"):
            return [
                "--head: threshold is of kind=binary and kind=multilabel. "
                f"Received kind={self.kind}."
            ]
        return []

    def _find_regression_problems(self) -> list[str]:
        if self.kind != "regression":
            return []
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return [
            f"--head: kind=regression has no classes, and {name} is about classes. Leave it out."
            for name in ("num_classes", "label_smoothing", "class_weight", "loss", "empty")
            if getattr(self, name) != defaults[name]
        ]
