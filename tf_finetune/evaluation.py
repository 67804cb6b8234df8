"""How good a model is on a split, and whether that reaches what was asked.

One idea: the model is run once and its logits are kept; `head_metrics` does the arithmetic and
says what each metric's name means. Logits of positions would fill the memory: they are counted
batch by batch, by `position_metrics`.
"""

import dataclasses
import difflib
from typing import Any

import numpy as np

from tf_finetune import (
    findings,
    head_kinds,
    head_metrics,
    model_calls,
    option_values,
    position_metrics,
    progress,
)

METRICS = head_metrics.METRICS


@dataclasses.dataclass(frozen=True)
class EvalReport:
    """How good a model is on a split.

    Attributes:
      split: "validation", "test" or another name.
      num_examples: examples in the split, at least 1.
      loss: the heads' losses (`log_loss`, nats; of regression the squared error in the variance
        of the training labels), summed with their loss weights.
      heads: a report by head name.
    """

    split: str
    num_examples: int
    loss: float
    heads: dict[str, head_metrics.HeadReport]


def evaluate_model(
    model: Any,
    dataset: Any,
    *,
    heads: tuple[head_kinds.HeadInfo, ...],
    split: str,
    loss_weights: dict[str, float] | None = None,
) -> EvalReport:
    """Runs a model over a split, in inference mode, and measures it.

    Every example counts once, also those of a last partial batch. A model built under
    MirroredStrategy is read from its first replica.

    Args:
      model: keras.Model with outputs {HEAD: logits float [batch, num_logits]}, of positions
        [batch, ..., num_logits].
      dataset: finite tf.data.Dataset of (inputs, {HEAD: encoded labels}, ...), batched.
      heads: the heads to measure.
      split: the split's name, for the report and the progress bar.
      loss_weights: weight of each head in `loss`; None: 1 each.

    Returns:
      The report.

    Raises:
      ValueError: the model has no output for a head, or its logits do not fit the labels.
      RefusedError: the data set is empty, or logits are not finite.
    """
    counters = {
        head.name: position_metrics.PositionCounter(head)
        for head in heads
        if head_kinds.HEAD_KINDS[head.kind].positions
    }
    logits, labels = compute_logits(model, dataset, heads=heads, split=split, counters=counters)
    return evaluate_logits(
        logits, labels, heads=heads, split=split, loss_weights=loss_weights, counters=counters
    )


def compute_logits(
    model: Any,
    dataset: Any,
    *,
    heads: tuple[head_kinds.HeadInfo, ...],
    split: str,
    counters: dict[str, position_metrics.PositionCounter] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Runs a model over a split, in inference mode.

    Args:
      model: see `evaluate_model`.
      dataset: see `evaluate_model`.
      heads: the heads to run.
      split: the split's name, for the progress bar.
      counters: by head of positions; they take what such a head gives.

    Returns:
      (logits float32 [n, num_logits], encoded labels [n, ...]), each by head without a counter.

    Raises:
      ValueError: the model has no output for a head.
      RefusedError: the data set is empty.
    """
    import tensorflow as tf

    names, counters = [head.name for head in heads], counters or {}
    kept = [name for name in names if name not in counters]
    logits: dict[str, list[np.ndarray]] = {name: [] for name in kept}
    labels: dict[str, list[np.ndarray]] = {name: [] for name in kept}
    number = 0
    # The last batch is shorter than the others.
    taken = {
        name: tf.TensorSpec([None, *spec.shape[1:]], spec.dtype)
        for name, spec in dataset.element_spec[0].items()
    }
    forward = model_calls.compile_model(model, taken)
    num_batches = max(int(dataset.cardinality()), 0)  # Negative: unknown.
    with progress.ProgressBar(f"Evaluating {split}", num_batches) as bar:
        for number, element in enumerate(dataset, start=1):
            batch_logits = forward(element[0])
            missing = [name for name in names if name not in batch_logits]
            if missing:
                raise ValueError(
                    f"The model has no output for head {findings.list_first(missing)}. "
                    f"It has {findings.list_first(sorted(batch_logits))}."
                )
            for name in kept:
                logits[name].append(batch_logits[name].numpy())
                labels[name].append(element[1][name].numpy())
            for name, counter in counters.items():
                counter.add(batch_logits[name].numpy(), element[1][name].numpy())
            if num_batches:
                bar.update(number)
    if not number:
        raise _make_empty_error(split)
    return (
        {name: np.concatenate(batches) for name, batches in logits.items()},
        {name: np.concatenate(batches) for name, batches in labels.items()},
    )


def evaluate_logits(
    logits: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    *,
    heads: tuple[head_kinds.HeadInfo, ...],
    split: str,
    loss_weights: dict[str, float] | None = None,
    counters: dict[str, position_metrics.PositionCounter] | None = None,
) -> EvalReport:
    """Measures logits against labels.

    Args:
      logits: float32 [n, num_logits] by head.
      labels: by head, as `head_kinds.encode_labels` gives them: multiclass int32 [n], binary
        and regression float32 [n, 1], multilabel float32 [n, num_classes]; some may miss.
      heads: the heads to measure, at least one.
      split: the split's name.
      loss_weights: weight of each head in `loss`; None: 1 each.
      counters: by head of positions, see `compute_logits`.

    Returns:
      The report.

    Raises:
      ValueError: logits or labels have another shape than their head.
      RefusedError: there is no example, or logits are not finite.
    """
    reports = {}
    loss, num_examples = 0.0, 0
    for head in heads:
        if counters and head.name in counters:
            counter = counters[head.name]
            num_examples = counter.num_examples
            _check_finite(counter.num_bad, head, num_examples=num_examples, split=split)
            reports[head.name] = counter.make_report()
        else:
            num_examples = len(labels[head.name])
            reports[head.name] = _evaluate_head(
                logits[head.name], labels[head.name], head=head, split=split
            )
        weight = 1.0 if loss_weights is None else loss_weights[head.name]
        loss += weight * reports[head.name].loss
    return EvalReport(split, num_examples, loss, reports)


def _evaluate_head(
    logits: np.ndarray, labels: np.ndarray, *, head: head_kinds.HeadInfo, split: str
) -> head_metrics.HeadReport:
    _check_shapes(logits, labels, head)
    if len(labels) == 0:
        raise _make_empty_error(split)
    num_bad = int((~np.isfinite(logits).all(axis=1)).sum())
    _check_finite(num_bad, head, num_examples=len(logits), split=split)
    return head_metrics.evaluate_head(logits, labels, head=head)


def find_requirement_problems(
    heads: tuple[head_kinds.HeadInfo, ...],
    *,
    require_min: tuple[str, ...] = (),
    require_max: tuple[str, ...] = (),
) -> tuple[findings.Problem, ...]:
    """Requirements that name what does not exist; to be asked before training.

    Args:
      heads: the heads of the run.
      require_min: SPLIT/METRIC:VALUE or SPLIT/HEAD/METRIC:VALUE.
      require_max: likewise.

    Returns:
      An error for each unknown head or metric, a warning for each bound on the wrong side.

    Raises:
      SpecError: a requirement has neither form.
    """
    problems = []
    for flag, text, requirement in _read_requirements(require_min, require_max):
        message = _find_unknown_name(requirement, heads)
        if message:
            problems.append(findings.Problem(f"--{flag}={text}: {message}", flag=f"--{flag}"))
        elif flag == "require_min" and requirement.value > 1 and METRICS[requirement.metric]:
            problems.append(
                findings.Problem(
                    f"--{flag}={text}: {requirement.metric} is at most 1. Write 0.9 for 90 %.",
                    flag=f"--{flag}",
                )
            )
        elif METRICS[requirement.metric] != (flag == "require_min"):
            better, other = ("higher", "min") if METRICS[requirement.metric] else ("lower", "max")
            problems.append(
                findings.Problem(
                    f"--{flag}={text}: {requirement.metric} is better when {better}. "
                    f"Did you mean --require_{other}={text}?",
                    severity=findings.WARNING,
                    flag=f"--{flag}",
                )
            )
    return tuple(problems)


def check_requirements(
    reports: dict[str, EvalReport],
    *,
    require_min: tuple[str, ...] = (),
    require_max: tuple[str, ...] = (),
) -> tuple[findings.Problem, ...]:
    """Requirements that the model does not meet.

    Args:
      reports: by split.
      require_min: SPLIT/METRIC:VALUE or SPLIT/HEAD/METRIC:VALUE; the metric must be at least
        VALUE. METRIC may be `loss`, the sum over heads.
      require_max: likewise; the metric must be at most VALUE.

    Returns:
      An error for each requirement that is not met or cannot be.

    Raises:
      SpecError: a requirement has neither form.
    """
    problems = []
    for flag, text, requirement in _read_requirements(require_min, require_max):
        message = _find_unmet(requirement, reports, is_min=flag == "require_min")
        if message:
            problems.append(findings.Problem(f"--{flag}={text} {message}", flag=f"--{flag}"))
    return tuple(problems)


def _read_requirements(
    require_min: tuple[str, ...], require_max: tuple[str, ...]
) -> list[tuple[str, str, option_values.Requirement]]:
    texts = [("require_min", text) for text in require_min]
    texts += [("require_max", text) for text in require_max]
    return [(flag, text, option_values.read_requirement(text, flag=flag)) for flag, text in texts]


def _find_unknown_name(
    requirement: option_values.Requirement, heads: tuple[head_kinds.HeadInfo, ...]
) -> str | None:
    if requirement.metric == "loss" and requirement.head is None:
        return None
    names = [head.name for head in heads]
    if requirement.head is None and len(heads) > 1:
        return (
            f"there are several heads. Write {requirement.split}/HEAD/{requirement.metric} with "
            f"HEAD one of {findings.list_first(names, limit=20)}."
        )
    name = requirement.head or names[0]
    if name not in names:
        return (
            f"there is no head '{findings.one_line(name)}'. "
            f"The heads: {findings.list_first(names, limit=20)}."
        )
    known = head_metrics.list_metrics(heads[names.index(name)])
    if requirement.metric in known:
        return None
    close = difflib.get_close_matches(requirement.metric, known, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return (
        f"head '{name}' has no metric '{findings.one_line(requirement.metric)}'.{hint} "
        f"It has {', '.join(known)}."
    )


def _find_unmet(
    requirement: option_values.Requirement, reports: dict[str, EvalReport], *, is_min: bool
) -> str | None:
    split = requirement.split
    if split not in reports:
        evaluated = f"Evaluated: {', '.join(reports)}." if reports else "No split was evaluated."
        return f"cannot be met: the split {split} was not evaluated. {evaluated}"
    report = reports[split]
    heads = tuple(
        head_kinds.HeadInfo(name, head.kind, head.classes) for name, head in report.heads.items()
    )
    unknown = _find_unknown_name(requirement, heads)
    if unknown:
        return f"cannot be met: {unknown}"
    if requirement.metric == "loss":
        value = report.loss
    else:
        head_report = report.heads[requirement.head or heads[0].name]
        if requirement.metric in head_report.undefined:
            reason = head_report.undefined[requirement.metric]
            return f"cannot be met: {requirement.metric} is not defined on {split}: {reason}."
        value = head_report.metrics[requirement.metric]
    if value >= requirement.value if is_min else value <= requirement.value:
        return None
    # Four digits, but never so few that the value looks like the bound.
    shown = f"{value:.4f}" if round(value, 4) != requirement.value else repr(value)
    return f"is not met: {requirement.metric} on {split} is {shown}."


def _make_empty_error(split: str) -> findings.RefusedError:
    return findings.RefusedError(
        findings.Problem(
            f"The split {split} has no example: nothing to evaluate. Expected at least 1. Give "
            f"--{split}_data, or a larger part in --split."
        )
    )


def _check_shapes(logits: np.ndarray, labels: np.ndarray, head: head_kinds.HeadInfo) -> None:
    num_logits = head_kinds.num_logits(head.kind, len(head.classes))
    expected = (len(labels), num_logits)
    if logits.shape != expected:
        raise ValueError(
            f"Logits of head '{head.name}': expected shape {expected}. Received {logits.shape}."
        )
    is_softmax = head_kinds.HEAD_KINDS[head.kind].activation == "softmax"
    label_shape = expected[:1] if is_softmax else expected
    if labels.shape != label_shape:
        raise ValueError(
            f"Labels of head '{head.name}': expected shape {label_shape}. Received {labels.shape}."
        )


def _check_finite(
    num_bad: int, head: head_kinds.HeadInfo, *, num_examples: int, split: str
) -> None:
    if num_bad:
        raise findings.RefusedError(
            findings.Problem(
                f"Head '{head.name}' gives NaN or infinite logits for {num_bad} of {num_examples} "
                f"examples of the split {split}. Expected finite numbers: its weights are damaged "
                "or its training diverged."
            )
        )
