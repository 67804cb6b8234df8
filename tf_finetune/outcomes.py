"""What is done with a trained model: measured on a split, exported, held against requirements.

Shared by the verb train, right after training, and by the verbs that start from a finished run.
"""

import dataclasses
import os

import tensorflow as tf

from tf_finetune import evaluation, exporting, findings, report, specs, trained, workdir
from tf_finetune.data import known_classes, loading, pipeline


class RequirementError(ValueError):
    """The model does not reach --require_min or --require_max; nothing was exported.

    Attributes:
      problems: a problem per requirement.
    """

    def __init__(self, problems: tuple[findings.Problem, ...]):
        super().__init__("\n".join(problem.message for problem in problems))
        self.problems = problems


def load_run_splits(
    spec: specs.RunSpec, outcome: trained.TrainedModel, *, folder: str
) -> loading.Splits:
    """The splits of a finished run, as they were when it trained.

    Args:
      spec: the run's own, from its run.flags.
      outcome: its model.
      folder: its workdir, for split.csv.

    Returns:
      Splits whose unreadable images, if the run skipped them, are left out again.

    Raises:
      RefusedError: the data are gone or have changed so that they cannot be used.
    """
    splits = loading.load_data(
        _with_split_file(spec.data, folder), heads=spec.heads, seed=spec.seed
    )
    splits, _, _ = pipeline.read_images(
        splits, outcome.preprocessing, on_bad_example=spec.data.on_bad_example
    )
    return splits


def load_other_split(
    source: str, spec: specs.RunSpec, outcome: trained.TrainedModel, *, name: str
) -> tuple[loading.Split, tuple[findings.Problem, ...]]:
    """All examples of another source, under the classes of a finished run.

    Args:
      source: in a form of --data.
      spec: the run's own, for its columns and options.
      outcome: its model.
      name: the split's name.

    Returns:
      (split, warnings).

    Raises:
      RefusedError: the source cannot be used, or has a class that the model does not know.
    """
    split, warnings = known_classes.load_split(
        source, spec.data, heads=spec.heads, infos=outcome.heads, name=name
    )
    nothing = dataclasses.replace(
        split,
        keys=split.keys[:0],
        indices=split.indices[:0],
        labels={head: values[:0] for head, values in split.labels.items()},
    )
    info = loading.DatasetInfo(source, len(split), (), "")
    splits, _, problems = pipeline.read_images(
        loading.Splits(split, nothing, nothing, outcome.heads, info),
        outcome.preprocessing,
        on_bad_example=spec.data.on_bad_example,
    )
    return splits.train, (*warnings, *problems)


def evaluate_split(
    outcome: trained.TrainedModel,
    split: loading.Split,
    *,
    folder: str,
    batch_size: int,
) -> evaluation.EvalReport:
    """Measures a trained model on a split and writes evaluation/SPLIT/.

    Args:
      outcome: the model.
      split: at least one example.
      folder: the workdir.
      batch_size: examples at a time.

    Returns:
      The report.
    """
    dataset = pipeline.make_dataset(split, outcome.preprocessing, batch_size=batch_size)
    with pipeline.naming_bad_images(split, pre=outcome.preprocessing):
        measured = evaluation.evaluate_model(
            outcome.model,
            dataset,
            heads=outcome.heads,
            split=split.name,
            loss_weights=outcome.facts["loss_weights"],
        )
    report.write_report(measured, os.path.join(folder, workdir.EVALUATION_DIR, split.name))
    return measured


def export_trained(
    outcome: trained.TrainedModel,
    spec: specs.RunSpec,
    *,
    folder: str,
    split: loading.Split | None = None,
) -> exporting.ExportedModel:
    """Writes the next version for TF Serving.

    Args:
      outcome: the model.
      spec: export_dir and warmup_examples.
      folder: the workdir; its export/ is the default export_dir.
      split: where warm-up images come from; None: a gray image.

    Returns:
      The version.

    Raises:
      RefusedError: export_dir cannot be written.
    """
    images = []
    if split is not None:
        pixels = pipeline.sample_pixels(
            split, outcome.preprocessing, count=spec.export.warmup_examples, seed=0
        )
        images = [tf.io.encode_png(tf.cast(image, tf.uint8)).numpy() for image in pixels]
    return exporting.write_export(
        outcome.model,
        heads=outcome.heads,
        preprocessing=outcome.preprocessing,
        export_dir=spec.export.export_dir or os.path.join(folder, workdir.EXPORT_DIR),
        warmup_images=images,
    )


def _with_split_file(spec: specs.DataSpec, folder: str) -> specs.DataSpec:
    return dataclasses.replace(spec, split_file=os.path.join(folder, workdir.SPLIT))
