"""Everything that can be known to be wrong before anything expensive starts, all at once.

Reads the disk (folders, tables, the head of a model file) and imports no TensorFlow.
"""

import os
from collections.abc import Mapping
from typing import Any

from tf_finetune import (
    evaluation,
    findings,
    option_values,
    remote_paths,
    spec_paths,
    specs,
    version_folders,
)
from tf_finetune.data import leaks, resampling, service_sources
from tf_finetune.data import loading as data_loading
from tf_finetune.models import formats
from tf_finetune.models.encoders import vocabulary_files

# TensorFlow matches variable files against the path, as a pattern.
_PATTERN_CHARACTERS = "[]*?"
_NEEDS = {
    "train": ("model", "data"),
    "inspect": ("model",),
    "validate": ("data",),
    "evaluate": ("workdir",),
    "export": ("workdir",),
    "predict": ("input", "output"),
}


def find_problems(spec: specs.RunSpec) -> tuple[findings.Problem, ...]:
    """What is wrong with a run, as far as its flags and the disk tell.

    Args:
      spec: the run.

    Returns:
      Errors and warnings.
    """
    _, problems = examine(spec)
    return problems


def examine(
    spec: specs.RunSpec, given: Mapping[str, Any] | None = None
) -> tuple[data_loading.Splits | None, tuple[findings.Problem, ...]]:
    """`find_problems`, and the listed data so that nobody has to list them again.

    Args:
      spec: the run, in mode train.
      given: examples in memory, see `data.memory_source.collect_all`.

    Returns:
      (splits, problems); splits is None where the data have an error, or lie in an object store:
        what is left there is told once it is copied.
    """
    problems = [*find_missing_flags(spec), *_find_mixing_problems(spec)]
    splits = None
    if spec.model.model:
        problems += formats.find_problems(spec.model.model)
    if spec.model.weights:
        problems += formats.find_weights_problems(spec.model.weights)
    if spec.model.preprocessor:
        problems += formats.find_preprocessor_problems(
            spec.model.preprocessor, model=spec.model.model
        )
    if spec.data.vocabulary is not None:
        try:
            vocabulary_files.read_vocabulary(spec.data.vocabulary)
        except findings.RefusedError as error:
            problems += error.problems
    if spec.data.data and not remote_paths.is_data_remote(spec.data):
        try:
            splits = data_loading.load_data(
                spec.data, heads=spec.heads, seed=spec.seed, **(given or {})
            )
            problems += splits.problems
        except findings.RefusedError as error:
            problems += error.problems
        except specs.SpecError as error:
            problems += [findings.Problem(text) for text in error.problems]
    if spec.export.export_dir is not None and not remote_paths.is_remote(spec.export.export_dir):
        problems += version_folders.check_export_dir(spec.export.export_dir)
    problems += _find_folder_problems(spec)
    named = spec.model.model.startswith(formats.APPLICATION_PREFIX) and not spec.model.weights
    if named and "weights=none" in spec.model.model.split(","):
        problems.append(
            findings.Problem(
                "--model has weights=none: its layers are random, and frozen ones stay so. Train "
                "them with --freeze=none, or give weights=imagenet or a PATH.",
                severity=findings.WARNING,
                flag="--model",
            )
        )
    if splits is not None:
        if spec.data.validation_data or spec.data.test_data:  # one source lists a file once
            problems += leaks.find_shared_files(splits)
        problems += _find_split_problems(spec, splits)
        if spec.train.data_service is not None:
            problems += service_sources.find_problems(spec.data, splits)
    return splits, tuple(problems)


def check_existence(spec: specs.RunSpec) -> None:
    """Refuses a missing model, data or vocabulary before TensorFlow's import takes its seconds.

    Args:
      spec: the run.

    Raises:
      RefusedError: one of them is missing; all problems of the run are told.
    """
    paths = [spec.model.model, spec.data.data, spec.data.vocabulary or spec.data.data]
    local = [path for path in paths if not path.startswith(spec_paths.SOURCE_SCHEMES)]
    if all(os.path.exists(path) for path in local):
        return
    problems = find_problems(spec)
    errors = [problem for problem in problems if problem.severity == findings.ERROR]
    if errors:
        raise findings.RefusedError(*errors)


def find_missing_flags(spec: specs.RunSpec) -> tuple[findings.Problem, ...]:
    """Flags that the mode cannot do without.

    Args:
      spec: the run.

    Returns:
      An error per missing flag.
    """
    given = {
        "model": spec.model.model,
        "data": spec.data.data,
        "workdir": spec.workdir,
        "input": spec.predict.input,
        "output": spec.predict.output,
    }
    problems = [
        findings.Problem(f"--mode={spec.mode} needs --{name}.", flag=f"--{name}")
        for name in _NEEDS[spec.mode]
        if not given[name]
    ]
    if spec.mode == "predict" and not (spec.workdir or spec.model.model):
        problems.append(
            findings.Problem("--mode=predict needs --workdir, or --model=EXPORT_DIR/VERSION.")
        )
    return tuple(problems)


def _find_folder_problems(spec: specs.RunSpec) -> list[findings.Problem]:
    """Output folders where they would spoil the data, or that TensorFlow cannot read."""
    problems = []
    outputs = {"workdir": spec.workdir, "export_dir": spec.export.export_dir}
    for flag, folder in outputs.items():
        if folder is None:
            continue
        shown = findings.one_line(folder)
        for source in (spec.data.data, spec.data.validation_data, spec.data.test_data):
            if source and os.path.isdir(source) and _is_inside(folder, source):
                problems.append(
                    findings.Problem(
                        f"--{flag}={shown} lies inside the data folder "
                        f"{findings.one_line(source)}, and would be read as a class. Choose a "
                        "folder elsewhere.",
                        flag=f"--{flag}",
                    )
                )
    exports = os.path.abspath(spec.export.export_dir or spec.workdir or ".")
    is_here = not remote_paths.is_remote(spec.export.export_dir or spec.workdir)
    if is_here and any(character in exports for character in _PATTERN_CHARACTERS):
        problems.append(
            findings.Problem(
                f"The export's folder {findings.one_line(exports)} has one of "
                f"{' '.join(_PATTERN_CHARACTERS)} in its path, which TensorFlow takes for a "
                "pattern when it loads a SavedModel. Give an --export_dir without.",
                flag="--export_dir",
            )
        )
    return problems


def _is_inside(folder: str, other: str) -> bool:
    outer = os.path.realpath(other)
    return os.path.commonpath([outer, os.path.realpath(folder)]) == outer


def _find_split_problems(
    spec: specs.RunSpec, splits: data_loading.Splits
) -> list[findings.Problem]:
    problems = list(
        evaluation.find_requirement_problems(
            splits.heads,
            require_min=spec.export.require_min,
            require_max=spec.export.require_max,
        )
    )
    for flag in ("require_min", "require_max"):
        for text in getattr(spec.export, flag):
            split = option_values.read_requirement(text, flag=flag).split
            if not len(getattr(splits, split)):
                problems.append(
                    findings.Problem(
                        f"--{flag}={text}: the {split} split has no example. Give --{split}_data, "
                        "or a larger part in --split."
                    )
                )
    if spec.train.resample != "none":
        try:
            resampling.find_head(spec.heads, splits.heads)
        except specs.SpecError as error:
            problems += [findings.Problem(text, flag="--resample") for text in error.problems]
    if spec.train.batch_size != "auto" and spec.train.step_examples > len(splits.train):
        flags = f"--batch_size={spec.train.batch_size}"
        if spec.train.accumulate_steps > 1:
            flags += f" times --accumulate_steps={spec.train.accumulate_steps}"
        problems.append(
            findings.Problem(
                f"{flags} is larger than the training split of {len(splits.train)} examples: each "
                "epoch is one step.",
                severity=findings.WARNING,
                flag="--batch_size",
            )
        )
    return problems


def _find_mixing_problems(spec: specs.RunSpec) -> list[findings.Problem]:
    mixes = [step.name for step in spec.augment.steps if step.name in option_values.MIXING_STEPS]
    if not mixes:
        return []
    texts = []
    if spec.train.batch_size == spec.train.accumulate_steps == 1:
        texts.append(
            f"--augment: {', '.join(mixes)} mix the images of a batch, and --batch_size=1 leaves "
            "them alone. Expected --batch_size of at least 2."
        )
    if spec.data.image_column and spec.data.feature_columns:
        texts.append(
            f"--augment: {', '.join(mixes)} mix images, and the columns of --feature_columns would "
            "belong to one of them only. Leave one of the two flags out."
        )
    return [findings.Problem(text, flag="--augment") for text in texts]
