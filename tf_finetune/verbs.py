"""What can be asked beside training: evaluate, export, predict, inspect; validate is `diagnosis`'s.

One idea: a finished run's folder holds everything, so these verbs take a workdir and little else.
`run_verb` is the command line's side: it maps a mode and its flags to these functions.
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tf_finetune import (
    diagnosis,
    diagnosis_page,
    distribution,
    findings,
    remote_paths,
    run_folder,
    same_run,
    spec_paths,
    specs,
    tf_config,
    validation,
    workdir,
)
from tf_finetune.object_store import sessions

if TYPE_CHECKING:
    from tf_finetune import evaluation, exporting, prediction, prediction_files

# An .h5 or .keras file is inspected without: an answer in under a second. So is data that holds
# texts, or nothing that may be decoded.
_MAY_NOT_NEED_TENSORFLOW = ("inspect", "validate")
# What starts from a finished run.
_OF_A_RUN = ("evaluate", "export", "predict")


@sessions.on_local_copy
def evaluate(
    workdir_path: str,
    *,
    test_data: Any = None,
    batch_size: int | None = None,
    max_image_pixels: int | None = None,
    require_min: Sequence[str] = (),
    require_max: Sequence[str] = (),
    custom_objects: str | None = None,
    trust_model: bool = False,
    announce: Callable[[str], None] = print,
) -> dict[str, "evaluation.EvalReport"]:
    """Measures a finished run again, on its own splits or on other examples.

    Args:
      workdir_path: folder of a finished run.
      test_data: examples to measure instead, all of them: in a form of --data, or in memory, see
        `data.memory_source.collect`.
      batch_size: examples at a time; default: the run's.
      max_image_pixels: see `run_folder.read_spec`.
      require_min: SPLIT/METRIC:VALUE that must be reached.
      require_max: SPLIT/METRIC:VALUE that must not be passed.
      custom_objects: module of the run's custom layers, see `trained.load_run`.
      trust_model: see `trained.load_run`.
      announce: takes the report's text, before it which data are read.

    Returns:
      {split: report}; written to evaluation/SPLIT/. Other examples are the split "test" of
      other_data/evaluation/, so that the run's own report stays.

    Raises:
      RefusedError: the folder holds no finished run, or the data cannot be used.
      RequirementError: a requirement is not met.
    """
    from tf_finetune import evaluation, outcomes, report, run_messages, trained
    from tf_finetune.data import memory_source

    spec = run_folder.read_spec(workdir_path, max_image_pixels=max_image_pixels)
    outcomes.check_report_places(workdir_path)
    outcome = trained.load_run(workdir_path, custom_objects=custom_objects, trust_model=trust_model)
    announce(run_messages.describe_sources(spec.data))
    test_data = sessions.localize_source(test_data, spec, flag="test_data")
    spec = sessions.localize(spec)
    if test_data is None:
        run_splits, warnings = outcomes.load_run_splits(spec, outcome, folder=workdir_path)
        splits = [split for split in (run_splits.validation, run_splits.test) if len(split)]
    else:
        # Under "test", so that --require_min=test/... means these examples.
        if not isinstance(test_data, str):
            test_data = memory_source.collect(test_data, flag="test_data")
        split, warnings = outcomes.load_other_split(
            test_data, spec, outcome, folder=workdir_path, name="test"
        )
        splits = [split]
    for problem in warnings:
        announce(f"Warning: {problem.message}")
    folder = (
        workdir_path if test_data is None else os.path.join(workdir_path, workdir.OTHER_DATA_DIR)
    )
    reports = {}
    for split in splits:
        reports[split.name] = outcomes.evaluate_split(
            outcome, split, folder=folder, batch_size=batch_size or spec.train.batch_examples
        )
        announce(report.format_report(reports[split.name]))
    announce(f"Reports: {os.path.join(folder, workdir.EVALUATION_DIR)}")
    unmet = evaluation.check_requirements(
        reports, require_min=tuple(require_min), require_max=tuple(require_max)
    )
    if unmet:
        raise outcomes.RequirementError(unmet)
    return reports


@sessions.on_local_copy
def export(
    workdir_path: str,
    *,
    export_dir: str | None = None,
    require_min: Sequence[str] = (),
    require_max: Sequence[str] = (),
    warmup_examples: int | None = None,
    max_image_pixels: int | None = None,
    custom_objects: str | None = None,
    trust_model: bool = False,
    announce: Callable[[str], None] = print,
) -> "exporting.ExportedModel":
    """Writes another version of a finished run's model for TF Serving.

    Args:
      workdir_path: folder of a finished run.
      export_dir: folder of versions; default: the run's, if it lies in `workdir_path`.
      require_min: SPLIT/METRIC:VALUE that must be reached; the run is measured again for it.
      require_max: SPLIT/METRIC:VALUE that must not be passed.
      warmup_examples: requests that TF Serving replays, taken from the run's data; default: one,
        of a gray image, which needs no data.
      max_image_pixels: see `run_folder.read_spec`.
      custom_objects: module of the run's custom layers, see `trained.load_run`.
      trust_model: see `trained.load_run`.
      announce: takes the lines that tell what happens.

    Returns:
      The version.

    Raises:
      RefusedError: the folder holds no finished run; export_dir cannot be written, or must be given
        because the run's lies elsewhere.
      RequirementError: a requirement is not met; nothing was written.
    """
    from tf_finetune import outcomes, run_messages, trained

    spec = run_folder.read_spec(workdir_path, max_image_pixels=max_image_pixels)
    export_dir = run_folder.choose_export_dir(spec, folder=workdir_path, given=export_dir)
    outcome = trained.load_run(workdir_path, custom_objects=custom_objects, trust_model=trust_model)
    if require_min or require_max:
        evaluate(
            workdir_path,
            max_image_pixels=max_image_pixels,
            require_min=require_min,
            require_max=require_max,
            custom_objects=custom_objects,
            trust_model=trust_model,
            announce=announce,
        )
    else:
        outcomes.check_status(workdir_path)
    changes: dict[str, Any] = {"export_dir": export_dir, "warmup_examples": warmup_examples}
    changes = {name: value for name, value in changes.items() if value is not None}
    spec = dataclasses.replace(spec, export=dataclasses.replace(spec.export, **changes))
    split = None
    if warmup_examples is not None:
        announce(run_messages.describe_sources(spec.data))
        spec = sessions.localize(spec)
        run_splits, _ = outcomes.load_run_splits(spec, outcome, folder=workdir_path)
        split = run_splits.test if len(run_splits.test) else run_splits.train
    exported = outcomes.export_trained(outcome, spec, folder=workdir_path, split=split)
    announce(f"Exported for TF Serving: {exported.path}")
    return exported


@sessions.on_local_copy
def predict(
    inputs: Sequence[str],
    output: str,
    *,
    workdir_path: str | None = None,
    model: str | None = None,
    top_k: int = 1,
    batch_size: int = 32,
    text_column: str | None = None,
    encoding: str | None = None,
    header: str | None = None,
    max_image_pixels: int = specs.DataSpec.max_image_pixels,
    custom_objects: str | None = None,
    trust_model: bool = False,
    announce: Callable[[str], None] = print,
) -> "prediction_files.WrittenPredictions":
    """Classifies images or texts and writes a table.

    Args:
      inputs: images, folders of images, or tables (.csv, .tsv, .jsonl) with a column of paths; for
        a model of texts, tables with a column of texts, or .txt files with a text on each line;
        for a model of columns, tables with its columns, beside those of images or texts where it
        takes both.
      output: .csv or .jsonl to write; masks of a segmentation head go to a folder beside it, see
        `prediction_masks`.
      workdir_path: folder of a finished run, or
      model: a version that a run exported, EXPORT_DIR/VERSION.
      top_k: classes to write for each example.
      batch_size: examples at a time.
      text_column: column of texts in a .csv; default: the run's own.
      encoding: of tables; default: the run's own.
      header: of tables of columns, see --header; default: the run's own.
      max_image_pixels: an image whose header promises more gives a row with an error.
      custom_objects: module of the run's custom layers, see `trained.load_run`.
      trust_model: see `trained.load_run`.
      announce: takes the line that tells what was written.

    Returns:
      How many rows were written and how many examples could not be read.

    Raises:
      RefusedError: an input does not exist, the output cannot be written, or there is no model.
    """
    from tf_finetune import out_of_memory, prediction_files, prediction_masks
    from tf_finetune.data import input_stores

    prediction_files.check_output(output, inputs=tuple(inputs))
    predictor, column = _open_predictor(
        workdir_path, model, custom_objects=custom_objects, trust_model=trust_model
    )
    prediction_masks.check_folder(output, predictor.heads, inputs=inputs)
    rows = _predict_rows(
        tuple(inputs),
        predictor,
        table=_table_options(workdir_path, encoding=encoding, header=header),
        trained_column=column,
        text_column=text_column,
        max_image_pixels=max_image_pixels,
        options={"predictor": predictor, "batch_size": batch_size, "top_k": top_k},
    )
    with out_of_memory.naming_batch_size(batch_size, what="Predicting"):
        written = prediction_files.write_predictions(
            rows,
            output,
            heads=predictor.heads,
            top_k=top_k,
            of_texts=predictor.input_kind == input_stores.TEXT,
            of_rows=predictor.input_kind in (input_stores.COLUMNS, input_stores.MIXED),
        )
    announce(f"{written.num_predicted} predictions, {written.num_errors} errors: {output}")
    return written


def _predict_rows(
    inputs: tuple[str, ...],
    predictor: "prediction.Predictor",
    *,
    table: specs.DataSpec,
    trained_column: str | None,
    text_column: str | None,
    max_image_pixels: int,
    options: dict[str, Any],
) -> "Iterator[prediction_files.Prediction]":
    """A row for each image, text or row of a table that --input names."""
    from tf_finetune import prediction, prediction_files, prediction_mixed, prediction_texts
    from tf_finetune.data import input_stores

    if predictor.input_kind in (input_stores.COLUMNS, input_stores.MIXED):
        found = prediction_mixed.open_rows(
            inputs,
            predictor.columns,
            data=table,
            text_column=text_column,
            max_pixels=max_image_pixels,
        )
        return prediction.predict_rows(found, **options)
    if predictor.input_kind == input_stores.TEXT:
        texts = prediction_texts.iterate_texts(
            inputs, trained_column=trained_column, text_column=text_column, data=table
        )
        return prediction.predict_texts(texts, **options)
    paths = prediction_files.iterate_inputs(inputs, data=table)
    return prediction.predict_files(paths, max_image_pixels=max_image_pixels, **options)


def _table_options(
    workdir_path: str | None, *, encoding: str | None, header: str | None
) -> specs.DataSpec:
    """How the tables of --input are read."""
    own = run_folder.read_spec(workdir_path).data if workdir_path else specs.DataSpec()
    return specs.DataSpec(encoding=encoding or own.encoding, header=header or own.header)


def _open_predictor(
    workdir_path: str | None, model: str | None, *, custom_objects: str | None, trust_model: bool
) -> tuple["prediction.Predictor", str | None]:
    """(the run or the export, the column of texts that it was trained on if it tells)."""
    from tf_finetune import prediction, trained
    from tf_finetune.data import text_store

    if model:
        return prediction.export_predictor(model, trust_model=trust_model), None
    outcome = trained.load_run(
        workdir_path or "", custom_objects=custom_objects, trust_model=trust_model
    )
    column = None
    if isinstance(outcome.preprocessing, text_store.TextSpec):
        column = outcome.preprocessing.column
    return prediction.run_predictor(outcome.model, outcome.heads, outcome.preprocessing), column


def inspect(
    model: specs.ModelSpec,
    *,
    freeze: specs.FreezeSpec | None = None,
    style: str = "text",
    announce: Callable[[str], None] = print,
) -> str:
    """Tells what a model file holds and what --freeze would do to it.

    Args:
      model: the model and how it would be cut.
      freeze: the freeze line; default: all.
      style: "text", or "json" for scripts, see `descriptions.format_json`.
      announce: takes the text.

    Returns:
      The text.

    Raises:
      RefusedError, SpecError: the model or the rule cannot be used; a file of weights alone is
        described before.
    """
    from tf_finetune import descriptions, inspection

    freeze = freeze or specs.FreezeSpec()
    found = inspection.describe(model, freeze=freeze.freeze, batch_norm=freeze.batch_norm)
    text = descriptions.STYLES[style](found)
    announce(text)
    if found.weights:
        shown = findings.one_line(model.model)
        raise findings.RefusedError(findings.Problem(f"{shown}: {found.refusal}", path=model.model))
    return text


def run_verb(spec: specs.RunSpec, *, given: frozenset[str]) -> int:
    """Does what --mode says.

    Args:
      spec: the parsed flags.
      given: names of the flags that were given.

    Returns:
      The exit code: 0, 2 (validate found errors), 3 (requirement not met), 4 (diverged) or 138
      (another process was lost).

    Raises:
      SpecError, RefusedError: what main turns into exit code 2.
    """
    missing = validation.find_missing_flags(spec)
    if missing:
        raise findings.RefusedError(*missing)
    remote_paths.check_paths(spec)
    if spec.mode not in _OF_A_RUN or not remote_paths.is_remote(spec.workdir):
        return _run_local(spec, given)
    distribution.import_quietly()
    with sessions.lent(spec.workdir or "") as folder:
        return _run_local(dataclasses.replace(spec, workdir=folder), given)


def _run_local(spec: specs.RunSpec, given: frozenset[str]) -> int:
    """`run_verb` on a local workdir, which may be the copy of one; train finds its own."""
    same_run.check_flags(spec, given)
    if spec.mode == "train":
        validation.check_existence(spec)
    if spec.mode in _MAY_NOT_NEED_TENSORFLOW:
        return _VERBS[spec.mode](spec, given)
    distribution.import_quietly()
    from tf_finetune import callbacks, outcomes

    try:
        return _VERBS[spec.mode](spec, given)
    except outcomes.RequirementError as error:
        for problem in error.problems:
            print(f"error: {problem.message}", file=sys.stderr)
        if spec.mode != "evaluate":
            print("Nothing was exported.", file=sys.stderr)
        return 3
    except callbacks.DivergedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    except tf_config.LostError as error:
        print(f"error: {error}", file=sys.stderr)
        return tf_config.LOST_EXIT_CODE


def _run_train(spec: specs.RunSpec, given: frozenset[str]) -> int:
    from tf_finetune import runs

    runs.train(spec)
    return 0


def _run_evaluate(spec: specs.RunSpec, given: frozenset[str]) -> int:
    other = spec.data.test_data if "test_data" in given else None
    if other is None and "data" in given:
        run = run_folder.read_spec(spec.workdir or "")
        same = spec_paths.absolute_paths(spec).data.data == run.data.data
        other = None if same else spec.data.data
    evaluate(
        spec.workdir or "",
        test_data=other,
        batch_size=spec.train.batch_examples if "batch_size" in given else None,
        max_image_pixels=_given_pixels(spec, given),
        require_min=spec.export.require_min,
        require_max=spec.export.require_max,
        custom_objects=spec.model.custom_objects,
        trust_model=spec.model.trust_model,
    )
    return 0


def _run_export(spec: specs.RunSpec, given: frozenset[str]) -> int:
    export(
        spec.workdir or "",
        export_dir=spec.export.export_dir,
        require_min=spec.export.require_min,
        require_max=spec.export.require_max,
        warmup_examples=spec.export.warmup_examples if "warmup_examples" in given else None,
        max_image_pixels=_given_pixels(spec, given),
        custom_objects=spec.model.custom_objects,
        trust_model=spec.model.trust_model,
    )
    return 0


def _given_pixels(spec: specs.RunSpec, given: frozenset[str]) -> int | None:
    return spec.data.max_image_pixels if "max_image_pixels" in given else None


def _run_predict(spec: specs.RunSpec, given: frozenset[str]) -> int:
    predict(
        spec.predict.input,
        spec.predict.output or "",
        workdir_path=spec.workdir,
        model=None if spec.workdir else spec.model.model,
        top_k=spec.predict.top_k,
        batch_size=spec.train.batch_examples,
        text_column=spec.data.text_column if "text_column" in given else None,
        encoding=spec.data.encoding if "encoding" in given else None,
        header=spec.data.header if "header" in given else None,
        max_image_pixels=spec.data.max_image_pixels,
        custom_objects=spec.model.custom_objects,
        trust_model=spec.model.trust_model,
    )
    return 0


def _run_inspect(spec: specs.RunSpec, given: frozenset[str]) -> int:
    inspect(spec.model, freeze=spec.freeze, style=spec.predict.inspect_format)
    return 0


def _run_validate(spec: specs.RunSpec, given: frozenset[str]) -> int:
    report = diagnosis.validate(spec)
    return 2 if diagnosis_page.count_errors(report.problems) else 0


_VERBS: dict[str, Callable[[specs.RunSpec, frozenset[str]], int]] = {
    "train": _run_train,
    "evaluate": _run_evaluate,
    "export": _run_export,
    "predict": _run_predict,
    "inspect": _run_inspect,
    "validate": _run_validate,
}
