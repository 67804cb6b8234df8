"""Whether the frozen part is worth computing ahead, and in which arithmetic.

One idea: whether it is worth it is counted, so that two runs of the same flags do the same; which
arithmetic is faster depends on the processor and the model, so a batch or two is timed on the
device at hand, once. The answer is written to run.flags before the first step and obeyed from then
on.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tf_finetune import graph_precision, specs
from tf_finetune.feature_cache import costs, prefix
from tf_finetune.models import splitting

Batch = Mapping[str, tf.Tensor]

OFF, AUTO, MEMORY, DISK = "off", "auto", "memory", "disk"
# Nothing is kept: each epoch has images of its own, and the compiled prefix runs in each.
COMPILED = "compiled"
FLOAT32, BFLOAT16 = "float32", "bfloat16"
# Compiling the prefix, reading and writing take as long as some processors need for so many; less
# saved is nothing saved.
_MIN_SAVED_PRODUCTS = 10**11
# A compiled prefix saves a part only (`benchmarks/training_steps.py`), and its trial costs as much
# as it saves on about 2 * 10**13.
_MIN_COMPILED_PRODUCTS = 4 * 10**13
NEW_VIEWS = "--augment gives each epoch its own images"
# So much faster than the uncompiled prefix that compiling a second one would cost more than it
# could gain.
_CLEARLY_FASTER = 2.2
_TIMED_CALLS = 2
# How far bfloat16 may move features, as a part of what tells examples apart: the root mean square
# of the change by the mean standard deviation over examples.
_MAX_CHANGE = 0.1


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a run does about its frozen part.

    Attributes:
      mode: "off", "memory", "disk" or "compiled".
      precision: of the features, "float32" or "bfloat16".
      reason: why, as a sentence without its full stop.
      compiled: the prefix, where the trial has made it.
      is_tried: whether the precision comes from a trial, this run's or an earlier one's.
    """

    mode: str
    precision: str
    reason: str
    compiled: prefix.Prefix | None = None
    is_tried: bool = False


def choose(
    split: splitting.ModelSplit | None,
    train: specs.TrainSpec,
    *,
    num_saved: int,
    may_round: bool,
    read_batch: Callable[[], Batch],
    find_tried: Callable[[], str | None],
    has_new_views: bool = False,
) -> Choice:
    """Decides what --feature_cache and --feature_precision leave to be decided.

    Args:
      split: the model of the first phase, cut; None: nothing in front is frozen.
      train: the options; --feature_cache is not off.
      num_saved: how many examples all epochs of the run have, less those that are computed once.
      may_round: whether "auto" may compute in bfloat16.
      read_batch: gives the inputs of some examples; called for a trial.
      find_tried: gives what an earlier run's trial on this prefix chose, whose features are kept,
        or None; called before a trial.
      has_new_views: whether each epoch has inputs of its own, which are not worth keeping.

    Returns:
      The choice.
    """
    wanted = train.feature_precision
    precision = FLOAT32 if wanted == AUTO else wanted
    if split is None:
        return Choice(OFF, precision, "no layer in front of all that trains is frozen")
    billions = costs.count_products(split) * max(num_saved, 0) / 1e9
    mode, reason = train.feature_cache, f"the frozen part is {billions:,.1f} billion products"
    if has_new_views:
        if mode == AUTO and billions * 1e9 < _MIN_COMPILED_PRODUCTS:
            return Choice(OFF, precision, NEW_VIEWS)
        mode, reason = COMPILED, f"{NEW_VIEWS}, and {reason}"
    elif mode != COMPILED:
        reason += " in the later epochs"
        if mode == AUTO and billions * 1e9 < _MIN_SAVED_PRODUCTS:
            return Choice(OFF, precision, f"{reason}, which are soon done")
        mode = DISK if mode == AUTO else mode
    if wanted != AUTO or not may_round or not graph_precision.has_bfloat16():
        return Choice(mode, precision, reason)
    tried = find_tried()
    if tried is not None:
        reason += f", {tried} was chosen by an earlier run's trial"
        return Choice(mode, tried, reason, is_tried=True)
    found = _try_precisions(split, read_batch())
    return dataclasses.replace(found, mode=mode, reason=f"{reason}, {found.reason}")


def describe(choice: Choice, split: splitting.ModelSplit | None, *, num_views: int | None) -> str:
    """The line that says what was decided.

    Args:
      choice: from `choose`.
      split: the cut model; None: nothing in front is frozen.
      num_views: kept views of a training image; None: it is taken as it is.

    Returns:
      One line.
    """
    if choice.mode == OFF or split is None:
        return f"Feature cache: off, {choice.reason}."
    if choice.mode == COMPILED:
        return (
            f"Feature cache: none; {split.num_prefix_weights:,} frozen weights run as a compiled "
            f"graph ({choice.precision}) in each epoch: {choice.reason}."
        )
    shapes = ", ".join(
        "x".join(str(side) for side in tensor.shape[1:]) for tensor in split.features.values()
    )
    where = "kept on the disk" if choice.mode == DISK else "in memory"
    shown = f", and for each of {num_views} views of a training image" if num_views else ""
    return (
        f"Feature cache: {split.num_prefix_weights:,} frozen weights are run once per example"
        f"{shown}, the features ({shapes}, {choice.precision}) are {where}: {choice.reason}."
    )


def _try_precisions(split: splitting.ModelSplit, batch: Batch) -> Choice:
    secs, exact = _time(split.run_prefix, batch)
    half = prefix.compile_prefix(split, precision=BFLOAT16)
    half_secs, rounded = _time(half, batch)
    change = _measure_change(exact, rounded)
    if change > _MAX_CHANGE:
        reason = (
            f"in float32 because bfloat16 would change the features by {change:.0%} of their "
            "deviation over examples"
        )
        return Choice(DISK, FLOAT32, reason, is_tried=True)
    if half_secs * _CLEARLY_FASTER < secs:
        reason = f"bfloat16 is {secs / half_secs:.1f} times as fast as the layers one by one"
        return Choice(DISK, BFLOAT16, reason, half, is_tried=True)
    full = prefix.compile_prefix(split, precision=FLOAT32)
    full_secs, _ = _time(full, batch)
    if half_secs < full_secs:
        reason = f"bfloat16 is {full_secs / half_secs:.1f} times as fast"
        return Choice(DISK, BFLOAT16, reason, half, is_tried=True)
    return Choice(DISK, FLOAT32, "bfloat16 is no faster", full, is_tried=True)


def _measure_change(exact: Batch, rounded: Batch) -> float:
    """The largest change of any feature tensor, relative to its variation over examples."""
    changes = [0.0]
    for name, tensor in exact.items():
        if not tensor.dtype.is_floating:
            continue
        values = np.asarray(tensor, np.float32)
        differences = np.asarray(rounded[name], np.float32) - values
        variation = float(values.std(axis=0).mean())
        moved = float(np.sqrt(np.square(differences).mean()))
        # Of one example, or of equal ones, nothing is known: no bfloat16 then.
        changes.append(moved / variation if variation else float("inf"))
    return max(changes)


def _time(function: Callable[[Batch], Batch], batch: Batch) -> tuple[float, Batch]:
    """(seconds of a call, the first one aside; what it gives)."""
    _wait(function(batch))
    best = float("inf")
    for _ in range(_TIMED_CALLS):
        start = time.perf_counter()
        outputs = function(batch)
        _wait(outputs)
        best = min(best, time.perf_counter() - start)
    return best, outputs


def _wait(outputs: Batch) -> None:
    # A GPU answers before it has computed.
    for value in keras.tree.flatten(outputs):
        keras.ops.convert_to_numpy(value)
