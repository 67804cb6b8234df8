"""The command of each contender, and what a run of it measures.

Each reads the same files, trains for the same epochs at the same batch size and constant learning
rate with Adam, and looks at the validation split after each epoch and at the test split at the end.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence

from benchmarks.comparison import backbones, images, processes

KERAS, TORCH, TORCH_HALF, OURS = "keras", "torch", "torch_bfloat16", "tf_finetune"
SECOND, DOUBLE = "tf_finetune_second", "tf_finetune_double"
CONTENDERS = (KERAS, TORCH, TORCH_HALF, OURS)
LABELS = {
    KERAS: "plain Keras",
    TORCH: "PyTorch, float32",
    TORCH_HALF: "PyTorch, bfloat16",
    OURS: "tf_finetune",
    SECOND: "tf_finetune, again with half the learning rate",
    DOUBLE: "tf_finetune, twice the epochs",
}
_FREEZE = {"frozen": "all", "unfrozen": "none"}
# Nobody reaches it, so nothing is exported, which the others do not do either.
NO_EXPORT = "--require_max=test/log_loss:0"
# What tf_finetune ends with then.
REQUIREMENT_NOT_MET = 3


class FailedError(RuntimeError):
    """A contender ended with an error."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A run of a contender.

    Attributes:
      seconds: of the process, start and compilation included.
      images_per_second: training images times epochs by these seconds.
      peak_mb: largest resident memory in MiB, without child processes; None where not known.
      accuracy: on the test split.
      parts: {part: seconds}.
      training_rate: training images times epochs by the seconds of training alone, those of the
        feature pass and of validation after each epoch included.
    """

    seconds: float
    images_per_second: float
    peak_mb: int | None
    accuracy: float
    parts: dict[str, float]
    training_rate: float


@dataclasses.dataclass(frozen=True)
class Job:
    """What a contender is to do.

    Attributes:
      options: of the command line.
      model: path of the random weights.
      data: folder with the three splits.
      num_train: images of the training split.
      folder: temporary, for logs and results.
    """

    options: argparse.Namespace
    model: pathlib.Path
    data: pathlib.Path
    num_train: int
    folder: pathlib.Path


def find_reason_against(name: str, options: argparse.Namespace, *, has_torch: bool) -> str | None:
    """Why a contender cannot run here; None: it can."""
    if name not in (TORCH, TORCH_HALF):
        return None
    if not has_torch:
        return "not installed (python -m pip install torch torchvision)"
    if backbones.NETWORKS[options.backbone].torch_name is None:
        return f"torchvision has no {backbones.NETWORKS[options.backbone].keras_name}"
    return None


def run_flags(flags: Sequence[str], folder: pathlib.Path) -> processes.Finished:
    """One run of tf_finetune's command line in new folders.

    Args:
      flags: all but those of folders; NO_EXPORT among them.
      folder: temporary.

    Returns:
      How it went.

    Raises:
      FailedError: it ended with an error.
    """
    own = pathlib.Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "tf_finetune.main", *flags]
    command += [f"--workdir={own / 'run'}", f"--cache_dir={own / 'cache'}"]
    done = processes.run(command, log=own / "log.txt")
    if done.code != REQUIREMENT_NOT_MET:
        raise FailedError(f"a run ended with code {done.code}:\n{done.tail}")
    return done


def run_loop(name: str, job: Job) -> Result:
    """Plain Keras or PyTorch.

    Raises:
      FailedError: it ended with an error.
    """
    options = job.options
    module = "plain_keras" if name == KERAS else "torch_loop"
    facts_path = _new_folder(job) / "facts.json"
    command = [
        sys.executable if name == KERAS else options.torch_python,
        *("-m", f"benchmarks.comparison.{module}"),
        f"--backbone={options.backbone}",
        f"--model={job.model}",
        f"--data={job.data}",
        f"--facts={facts_path}",
        f"--what={options.what}",
        f"--batch_norm={find_batch_norm(options)}",
        f"--precision={'bfloat16' if name == TORCH_HALF else 'float32'}",
        f"--epochs={options.epochs}",
        f"--size={options.size}",
        f"--batch_size={options.batch_size}",
        f"--learning_rate={options.learning_rate}",
    ]
    done = processes.run(command, log=facts_path.with_name("log.txt"))
    if done.code:
        raise FailedError(f"{name} ended with code {done.code}:\n{done.tail}")
    facts = json.loads(facts_path.read_text())
    return Result(
        seconds=done.seconds,
        images_per_second=job.num_train * options.epochs / done.seconds,
        peak_mb=done.peak_mb,
        accuracy=facts["accuracy"],
        parts=facts["parts"],
        training_rate=job.num_train * options.epochs / facts["parts"]["train"],
    )


def find_batch_norm(options: argparse.Namespace) -> str:
    """How the contenders other than tf_finetune treat the BatchNormalization of what trains."""
    if options.plain_batch_norm != "auto":
        return options.plain_batch_norm
    return "train" if options.what == "unfrozen" else "held"


def run_ours(
    job: Job, *, cache: pathlib.Path, epochs: int | None = None, rate_factor: float = 1.0
) -> Result:
    """tf_finetune through its command line, in a new --workdir.

    Args:
      job: what to do.
      cache: of --cache_dir; empty: nothing is known yet.
      epochs: default: those of the options.
      rate_factor: of the learning rate.

    Raises:
      FailedError: it ended with an error.
    """
    epochs = epochs or job.options.epochs
    workdir = _new_folder(job) / "run"
    command = [
        *(sys.executable, "-m", "tf_finetune.main"),
        *make_flags(job, epochs=epochs, rate_factor=rate_factor),
        f"--workdir={workdir}",
        f"--cache_dir={cache}",
    ]
    done = processes.run(command, log=workdir.with_name("log.txt"))
    if done.code != REQUIREMENT_NOT_MET:
        raise FailedError(f"tf_finetune ended with code {done.code}:\n{done.tail}")
    summary = json.loads((workdir / "summary.json").read_text())
    parts = {key: secs for key, secs in summary["seconds"].items() if key != "total"}
    return Result(
        seconds=done.seconds,
        images_per_second=job.num_train * epochs / done.seconds,
        peak_mb=done.peak_mb,
        accuracy=summary["test"]["label"]["accuracy"],
        parts=parts,
        training_rate=job.num_train * epochs / (parts["train"] + parts.get("features", 0.0)),
    )


def make_flags(job: Job, *, epochs: int, rate_factor: float = 1.0) -> list[str]:
    """tf_finetune's flags but --workdir and --cache_dir: the training of the other contenders."""
    options = job.options
    network = backbones.NETWORKS[options.backbone]
    return [
        f"--model={job.model}",
        f"--pixel_range={network.pixel_range}",
        f"--data={job.data / images.TRAIN}",
        f"--validation_data={job.data / images.VALIDATION}",
        f"--test_data={job.data / images.TEST}",
        f"--freeze={_FREEZE.get(options.what, f'until:{network.frozen_until}')}",
        f"--epochs={epochs}",
        f"--batch_size={options.batch_size}",
        f"--learning_rate={options.learning_rate * rate_factor}",
        "--schedule=constant",
        "--warmup_fraction=0",
        "--gradient_clip_norm=0",
        "--head=name=label,dropout=0",
        # Every epoch is run, as by the others.
        f"--patience_epochs={epochs}",
        NO_EXPORT,
        *options.flag,
    ]


def _new_folder(job: Job) -> pathlib.Path:
    return pathlib.Path(tempfile.mkdtemp(dir=job.folder))
