"""Every option of a run, as frozen dataclasses.

One idea: a field *is* its command-line flag. Name, type, default, bounds and help stand
in the field, `spec_flags` derives the flag from it, and `__post_init__` checks the range,
so that a notebook which builds a spec by hand gets the same checks as the command line.
Checks that need two specs or the disk live in `validation`.

Standard library only: `--help` and a misspelt flag must answer without TensorFlow.
"""

import dataclasses
import typing

from tf_finetune import data_specs, model_specs, option_values, options
from tf_finetune.options import option

SpecError = options.SpecError

AUTO = "auto"
MODES = ("train", "evaluate", "predict", "export", "inspect", "validate")
POOLINGS, PIXEL_RANGES = model_specs.POOLINGS, model_specs.PIXEL_RANGES
NAME_PATTERN = model_specs.NAME_PATTERN
RESIZES = data_specs.RESIZES

ModelSpec = model_specs.ModelSpec
FreezeSpec = model_specs.FreezeSpec
HeadSpec = model_specs.HeadSpec
DataSpec = data_specs.DataSpec
AugmentSpec = data_specs.AugmentSpec

_RATE_HELP = (
    "Adam's peak rate. auto: by a test of some dozen steps at rising rates, before each phase that "
    "names none."
)
_TRAINING_PRECISIONS = ("auto", "float32", "bfloat16")
# Examples in a step: TensorFlow's integers end, and no data set is as large.
_LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class PhaseSpec(options.CheckedSpec):
    """One stretch of training with its own freeze line and learning rate.

    A field that is None takes the value of TrainSpec or FreezeSpec.
    """

    name: str = option("", "Name of the phase.")
    epochs: int | None = option(None, "Passes over the training data.", lower_bound=1)
    learning_rate: float | typing.Literal["auto"] | None = option(
        None, _RATE_HELP, lower_bound=1e-12, upper_bound=100.0, words=(AUTO,)
    )
    freeze: str | None = option(None, model_specs.FREEZE_HELP)
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
    training_precision: str | None = option(
        None, "Arithmetic of steps of training.", choices=_TRAINING_PRECISIONS
    )

    @property
    def peak_rate(self) -> float:
        """The learning rate, once it is a number."""
        if not isinstance(self.learning_rate, int | float):
            raise SpecError(
                f"The learning rate of phase {self.name!r} is chosen when it starts. Expected a "
                "number here, such as 0.001."
            )
        return self.learning_rate

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
        return problems + model_specs.find_freeze_problems(self.freeze)


@dataclasses.dataclass(frozen=True)
class TrainSpec(options.CheckedSpec):
    """How the model is fitted. None: the recipe's value (README, "The recipe")."""

    batch_size: int | typing.Literal["auto"] = option(
        32,
        "Examples in a step, over all devices. auto: the largest power of two from 8 to 256 that "
        "fits into memory, by a short trial.",
        lower_bound=1,
        words=("auto",),
    )
    accumulate_steps: int = option(
        1,
        "A step adds up the gradients of so many batches: that of one batch of all their examples, "
        "in the memory of one of them.",
        lower_bound=1,
    )
    steps_per_execution: int = option(
        1,
        "Steps that run without coming back to Python: saves time where a step is short. On one "
        "device only.",
        lower_bound=1,
    )
    epochs: int | None = option(
        None, "Passes over the training data; replaces the recipe's phases.", lower_bound=1
    )
    learning_rate: float | typing.Literal["auto"] | None = option(
        None, _RATE_HELP, lower_bound=1e-12, upper_bound=100.0, words=(AUTO,)
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
    resample: str = option(
        "none",
        "balanced: an epoch of as many examples draws every class equally often (of the first head "
        "with one class per example; else the rarest of each example's classes).",
        choices=("none", "balanced"),
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
        "tf.distribute strategy; auto: mirrored on several GPUs, else one device. multi_worker: "
        "with the processes that the environment variable TF_CONFIG names, each started with the "
        "same flags. tpu: the TPU of this machine, or that of the environment variable TPU_NAME; "
        "not tried on one.",
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
    )
    precision: str = option(
        "auto",
        "Arithmetic of the backbone; weights and heads stay float32. auto: float32.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    training_precision: str = option(
        "auto",
        "Arithmetic of convolutions and products in steps that train more than heads; weights and "
        "validation stay float32. auto: bfloat16 where a trial finds it faster and as good, in "
        "long phases and only with --precision=auto; else float32.",
        choices=_TRAINING_PRECISIONS,
    )
    feature_cache: str = option(
        "auto",
        "What the frozen layers in front make of each example is computed once: disk keeps it for "
        "later runs, memory for this one; compiled: it is computed in each epoch, by a graph made "
        "for that. auto: disk, or with new views in each epoch compiled, where it saves enough.",
        choices=("auto", "off", "memory", "disk", "compiled"),
    )
    feature_precision: str = option(
        "auto",
        "Arithmetic of cached features. auto: bfloat16 where that is faster, for images and only "
        "with --precision=auto; else float32.",
        choices=("auto", "float32", "bfloat16"),
    )
    cache_dir: str | None = option(
        None, "Folder of kept features; default: ~/.cache/tf_finetune/features."
    )
    resume: str = option(
        "auto",
        "Whether a workdir's unfinished run goes on. auto: if there is one; must: starting anew is "
        "refused; never: going on is refused.",
        choices=("auto", "never", "must"),
    )
    checkpoint_secs: float = option(
        600.0,
        "Longest time in seconds without a checkpoint; one is also written after each epoch that "
        "took long enough. 0: none.",
        lower_bound=0.0,
    )
    keep_checkpoints: int = option(
        2, "How many checkpoints of an unfinished run are kept.", lower_bound=1
    )
    cache_max_gb: float = option(
        10.0,
        "What kept features may take on the disk; the longest unused go first.",
        lower_bound=0.0,
    )
    data_service: str | None = option(
        None,
        "grpc://HOST:PORT of the dispatcher of a tf.data service, whose workers read, decode and "
        "vary the images of files that they see under the same paths; the batches are the same.",
    )

    @property
    def batch_examples(self) -> int:
        """The batch size, once it is a number."""
        if self.batch_size == "auto":
            raise SpecError(
                "--batch_size=auto is chosen by --mode=train. Expected a number here, such as 32."
            )
        return self.batch_size

    @property
    def step_examples(self) -> int:
        """Training examples in a step of the optimizer, over all devices."""
        return min(self.batch_examples * self.accumulate_steps, _LARGEST)

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
        if self.data_service is not None:
            try:
                option_values.read_service(self.data_service)
            except SpecError as error:
                problems.extend(error.problems)
        return problems


@dataclasses.dataclass(frozen=True)
class ExportSpec(options.CheckedSpec):
    """Where the model for TF Serving goes and what it must reach first."""

    export_dir: str | None = option(
        None,
        "Folder of versions for TF Serving, local or gs://BUCKET/PATH; default: WORKDIR/export.",
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
        None,
        "Where predictions (.csv or .jsonl) go; with --mode=validate, the report (.md, .json) or "
        "its problems (.csv).",
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
        None,
        "Folder of everything the run leaves, local or gs://BUCKET/PATH; default: "
        "runs/DATA-MODEL-HASH.",
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
    augment: AugmentSpec = dataclasses.field(default_factory=AugmentSpec)
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
        for flag in ("split_by", "split_column"):
            column = getattr(self.data, flag)
            problems += [
                f"--{flag} and --head=name={head.name} both name the column {column!r}. Expected "
                "different columns."
                for head in self.heads
                if column is not None and head.label and column in head.label.split("+")
            ]
        problems += self._find_worker_problems() + self._find_tpu_problems()
        phases = self.train.phases
        if self.freeze.freeze is not None and phases and all(phase.freeze for phase in phases):
            problems.append(
                f"--freeze={self.freeze.freeze} has no effect: every --phase names its own freeze. "
                "Leave one of them out."
            )
        return problems

    def _find_worker_problems(self) -> list[str]:
        """What several workers cannot do together."""
        if self.train.strategy != "multi_worker":
            return []
        problems = []
        if self.train.data_service is not None:
            problems.append(
                "--strategy=multi_worker: --data_service is for one process. Leave one of them out."
            )
        refused = {
            "--batch_size=auto": self.train.batch_size == "auto",
            "--dry_run": self.dry_run,
            "--learning_rate=auto": AUTO
            in (self.train.learning_rate, *(phase.learning_rate for phase in self.train.phases)),
            "--max_minutes": self.max_minutes is not None,
            "--steps_per_execution": self.train.steps_per_execution > 1,
        }
        return problems + [
            f"--strategy=multi_worker: {flag} is for one process: each worker would measure "
            "something else. Leave it out."
            for flag, is_given in refused.items()
            if is_given
        ]

    def _find_tpu_problems(self) -> list[str]:
        """What a TPU cannot do, or this program only does on processors."""
        train = self.train
        if train.strategy != "tpu":
            return []
        reasons = {
            "--batch_size=auto": (train.batch_size == "auto", "measures the memory of others"),
            f"--feature_cache={train.feature_cache}": (
                train.feature_cache not in ("auto", "off"),
                "compiles the frozen layers for a processor",
            ),
            "--precision=float16": (
                train.precision == "float16",
                "is no arithmetic of a TPU, which has bfloat16",
            ),
            "--steps_per_execution": (
                train.steps_per_execution > 1,
                "fails with several devices in Keras 3.15",
            ),
            "--training_precision=bfloat16": (
                "bfloat16"
                in (
                    train.training_precision,
                    *(phase.training_precision for phase in train.phases),
                ),
                "is for processors; --precision=bfloat16 is for a TPU",
            ),
        }
        return [
            f"--strategy=tpu: {flag} {reason}. Leave it out."
            for flag, (is_given, reason) in reasons.items()
            if is_given
        ]
