"""The largest batch of which a step of training fits into memory: --batch_size=auto.

One idea: what a step needs grows by the same amount with each example. On a CPU two small steps are
run, the process's memory is watched, and larger ones are told from that: trying them would have the
system kill the run. A GPU says when it is full, so there steps are tried.
"""

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_finetune import (
    findings,
    freezing,
    phase_data,
    phase_fitting,
    resuming,
    specs,
    token_lengths,
)
from tf_finetune.data import memory
from tf_finetune.feature_cache import caching, choosing
from tf_finetune.models import loading as model_loading

SIZES = (8, 16, 32, 64, 128, 256)
# Phases are planned with it until the size is known.
PROVISIONAL = 32
# Noise in the gradient is worth having, and so are steps: an epoch keeps this many.
_MIN_STEPS = 16
_MEASURED = SIZES[:2]
# The other half is for what one step does not show: the pipeline, evaluation, fragments.
_PART_OF_MEMORY = 0.5
_STATM = "/proc/self/statm"
_SAMPLE_SECS = 0.001


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """What steps of training took.

    Attributes:
      sizes: of the two batches that were measured, examples.
      grown_bytes: by how much the process grew at its peak, up to the end of each.
      available_bytes: what was free before.
    """

    sizes: tuple[int, int]
    grown_bytes: tuple[int, int]
    available_bytes: int

    @property
    def limit_bytes(self) -> int:
        """What a step may take."""
        return int(self.available_bytes * _PART_OF_MEMORY)

    def predict(self, size: int) -> int:
        """What a step would take.

        Args:
          size: examples of a batch.

        Returns:
          Bytes, on the line through both measurements.
        """
        small, large = self.sizes
        slope = max(0, self.grown_bytes[1] - self.grown_bytes[0]) / (large - small)
        return int(self.grown_bytes[1] + slope * (size - large))


def choose(
    model: keras.Model,
    backbone: model_loading.Backbone,
    task: phase_data.Task,
    *,
    strategy: Any,
    announce: Callable[[str], None],
) -> int:
    """Finds the batch size of a run, on the phase that trains most.

    Args:
      model: from `heads.attach_heads`; afterwards as it was.
      backbone: the model's backbone.
      task: data, heads and options; its batch size counts for nothing.
      strategy: a tf.distribute strategy.
      announce: takes the line that says what was chosen and why.

    Returns:
      A power of two from 8 to 256, over all devices.

    Raises:
      RefusedError: the memory of this process cannot be watched here.
      SpecError: a device would get no example.
    """
    num_examples, num_parts = len(task.splits.train), task.train.accumulate_steps
    sizes = find_sizes(num_examples, accumulate_steps=num_parts)
    if len(sizes) == 1:
        size = sizes[0]
        reason = (
            f"more of the {num_examples:,} training examples would leave fewer than {_MIN_STEPS} "
            "steps to an epoch"
        )
    elif tf.config.list_logical_devices("GPU"):
        with _trying(model, backbone, task, strategy=strategy) as run_steps:
            size, reason = find_by_trying(sizes, run_steps)
    else:
        with _trying(model, backbone, task, strategy=strategy) as run_steps:
            measured = _measure(run_steps)
        size, reason = find_by_memory(sizes, measured)
    announce(
        f"Batch size {size} (--batch_size=auto): {reason}. The learning rate stays as it is, "
        "whatever the size."
    )
    return size


def find_sizes(num_examples: int, *, accumulate_steps: int) -> tuple[int, ...]:
    """The sizes that come into question.

    Args:
      num_examples: of training.
      accumulate_steps: batches in a step.

    Returns:
      Powers of two from 8 on, at most 256, with at least 16 steps in an epoch; 8 in any case.
    """
    most = num_examples // (_MIN_STEPS * accumulate_steps)
    return tuple(size for size in SIZES if size <= most) or SIZES[:1]


def find_by_memory(sizes: tuple[int, ...], measured: StepMemory) -> tuple[int, str]:
    """The largest size of which a step should fit.

    Args:
      sizes: rising.
      measured: what small steps took.

    Returns:
      (size, the reason as a sentence without its full stop); the smallest where none fits.
    """
    fitting = [size for size in sizes if measured.predict(size) <= measured.limit_bytes]
    size = fitting[-1] if fitting else sizes[0]
    taken = _format_bytes(measured.predict(size))
    limit = (
        f"{_format_bytes(measured.limit_bytes)}, half of the memory that was free (measured at "
        f"{measured.sizes[0]} and {measured.sizes[1]} examples)"
    )
    if not fitting:
        return size, f"even a step of it takes about {taken} and may not fit into {limit}"
    if size == sizes[-1]:
        return size, f"a step takes about {taken} of {limit}, and {_describe_end(size)}"
    larger = sizes[sizes.index(size) + 1]
    return size, (
        f"a step takes about {taken}, and of {larger} it would take "
        f"{_format_bytes(measured.predict(larger))}, more than {limit}"
    )


def find_by_trying(sizes: tuple[int, ...], run_steps: Callable[[int], None]) -> tuple[int, str]:
    """The largest size of which steps run.

    Args:
      sizes: rising.
      run_steps: runs some steps of a size; raises tf.errors.ResourceExhaustedError where the
        device has too little memory.

    Returns:
      (size, the reason as a sentence without its full stop); the smallest is not tried.
    """
    for size, larger in zip(sizes[:0:-1], (None, *sizes[:0:-1]), strict=False):
        try:
            run_steps(size)
        except tf.errors.ResourceExhaustedError:
            continue
        if larger is None:
            return size, f"its steps fit into the device's memory, and {_describe_end(size)}"
        return size, f"its steps fit into the device's memory, those of {larger} do not"
    return sizes[0], f"steps of {sizes[1]} do not fit into the device's memory"


def _describe_end(size: int) -> str:
    if size == SIZES[-1]:
        return "no more is tried"
    return f"more would leave fewer than {_MIN_STEPS} steps to an epoch"


def _format_bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


@contextlib.contextmanager
def _trying(
    model: keras.Model,
    backbone: model_loading.Backbone,
    task: phase_data.Task,
    *,
    strategy: Any,
) -> Iterator[Callable[[int], None]]:
    """Function that runs two steps of a batch size; afterwards the model is as it was."""

    def be_silent(text: str) -> None:
        del text

    # On the inputs themselves, the longest texts first: what later phases or batches need at most.
    train = dataclasses.replace(
        task.train,
        batch_size=SIZES[0],
        steps_per_execution=1,
        feature_cache=choosing.OFF,
    )
    splits = dataclasses.replace(
        task.splits, train=token_lengths.sort_split(task.splits.train, backbone.model)
    )
    phase = _find_deepest(task, backbone)
    task = dataclasses.replace(task, train=train, splits=splits, phases=(phase,))
    features = caching.FeatureCache(
        model,
        backbone,
        task.preprocessing,
        train,
        fingerprint=splits.info.fingerprint,
        announce=be_silent,
    )
    fitter = phase_fitting.Fitter(
        model,
        backbone,
        task,
        strategy=strategy,
        workdir_path=None,
        features=features,
        recorder=resuming.Recorder(None),
    )
    try:
        trainer = fitter.prepare(phase, be_silent, dry_run=True)
        yield lambda size: fitter.try_steps(trainer, batch_size=size)
    finally:
        fitter.finish()


def _find_deepest(task: phase_data.Task, backbone: model_loading.Backbone) -> specs.PhaseSpec:
    """The phase with the fewest frozen layers."""

    def count_frozen(phase: specs.PhaseSpec) -> int:
        rule = phase.freeze or "all"
        return freezing.plan_freeze(rule, backbone.table, batch_norm=task.batch_norm).num_frozen

    return min(task.phases, key=count_frozen)


def _measure(run_steps: Callable[[int], None]) -> StepMemory:
    if not os.path.exists(_STATM):
        message = (
            f"--batch_size=auto watches the memory of its process in {_STATM}, which this system "
            "does not have. Expected a number: --batch_size=32."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--batch_size"))
    available = memory.find_available_bytes()
    watch = _MemoryWatch()
    with watch:
        grown = []
        for size in _MEASURED:
            run_steps(size)
            grown.append(watch.grown_bytes)
    return StepMemory(_MEASURED, (grown[0], grown[1]), available)


class _MemoryWatch:
    """Looks at the resident memory of this process a thousand times a second.

    The system's own record of the peak is of no use: loading the model may have been higher.
    """

    def __init__(self) -> None:
        self._start = self._peak = _read_resident_bytes()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._is_over.wait(_SAMPLE_SECS):
            self._peak = max(self._peak, _read_resident_bytes())

    def __enter__(self) -> "_MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._is_over.set()
        self._thread.join()

    @property
    def grown_bytes(self) -> int:
        """How much more than at the start it was at most so far."""
        return self._peak - self._start


def _read_resident_bytes() -> int:
    with open(_STATM, encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
