"""The feature pass of a phase: every example once through the compiled prefix, then only the rest.

One idea: a phase that trains on features is a phase on other data with a smaller model. What the
optimizer, the metrics and early stopping see is the same, and so is the order of the examples.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tf_finetune import findings, freezing, progress, specs
from tf_finetune.data import (
    feature_inputs,
    loading,
    memory,
    mixed_spec,
    pipeline,
    preprocessing,
    text_store,
)
from tf_finetune.feature_cache import choosing, keys, prefix, shards, spaces, store
from tf_finetune.models import loading as model_loading
from tf_finetune.models import splitting

# Features in memory while a phase trains; more are read from the disk.
MEMORY_BYTES = 256 * 2**20
# An example whose features are larger is as fast to compute as to read.
_MAX_ROW_BYTES = 2 * 2**20
_PASS_BATCH = 32
# Enough to tell times apart, and features.
_TRIAL_BATCH = 16
_GB = 10**9
_TRIAL = "trial"


class OutOfTimeError(Exception):
    """The run's time was over before every feature was computed; says how many were."""


class _NoRoomError(Exception):
    """Features fit neither on the disk nor in memory."""


@dataclasses.dataclass(frozen=True)
class CachedPhase:
    """A phase on features.

    Attributes:
      split: the cut model.
      train: the training examples as features.
      validation: those of validation.
    """

    split: splitting.ModelSplit
    train: loading.Split
    validation: loading.Split


class FeatureCache:
    """The features of a run.

    Args:
      model: with heads.
      backbone: the model's backbone.
      pre: how inputs are prepared.
      train: the options.
      fingerprint: of the data set.
      announce: takes the lines that tell the user what happens.
    """

    def __init__(
        self,
        model: Any,
        backbone: model_loading.Backbone,
        pre: preprocessing.InputSpec,
        train: specs.TrainSpec,
        *,
        fingerprint: str,
        announce: Callable[[str], None],
    ):
        self._model = model
        self._backbone = backbone
        self._pre = pre
        self._train = train
        self._fingerprint = fingerprint
        self._announce = announce
        self._open = contextlib.ExitStack()
        self._compiled: prefix.Prefix | None = None
        self.choice: choosing.Choice | None = None
        self.secs = 0.0

    def choose(
        self,
        phases: tuple[specs.PhaseSpec, ...],
        splits: loading.Splits,
        *,
        batch_norm: str,
        has_views: bool,
    ) -> choosing.Choice:
        """Decides, by a trial on the first phase's model where the options leave it open.

        Args:
          phases: of the run.
          splits: the data.
          batch_norm: "frozen" or "train".
          has_views: whether each epoch has inputs of its own.

        Returns:
          The choice; the model is as it was.

        Raises:
          findings.RefusedError: the features do not fit where the options want them, or
            --cache_dir cannot be written.
        """
        reason = _find_reason_against(splits, has_views=has_views)
        if self._train.feature_cache == choosing.OFF:
            self.choice = choosing.Choice(choosing.OFF, choosing.FLOAT32, "--feature_cache=off")
            return self.choice
        if reason:
            self.choice = choosing.Choice(choosing.OFF, choosing.FLOAT32, reason)
            self._announce(_describe(self.choice, None))
            return self.choice
        first, train = phases[0], splits.train
        plan = freezing.plan_freeze(
            first.freeze or "all", self._backbone.table, batch_norm=batch_norm
        )
        freezing.apply_plan(plan, self._backbone.model)
        try:
            split = self._split()
            count = min(_TRIAL_BATCH, len(train))
            inputs = self._first_batch(train, count)
            epochs = sum(phase.epochs or 1 for phase in phases)
            self.choice = choosing.choose(
                split,
                self._train,
                inputs,
                num_saved=(epochs - 1) * len(train),
                # Columns beside an image are not rounded: a number may count by its last digits.
                may_round=self._backbone.input_kind == "image"
                and self._train.precision == "auto"
                and mixed_spec.find_mixed(self._pre) is None,
                tried=self._find_tried(split),
            )
        finally:
            freezing.release_plan(self._backbone.model)
        if self.choice.mode == choosing.DISK:
            spaces.check_root(self._train.cache_dir)
        if split is not None and self._train.feature_cache not in (choosing.AUTO, choosing.OFF):
            layout = _make_layout(split, precision=self.choice.precision)
            self._check_fits(layout, len(train) + len(splits.validation))
        self._announce(_describe(self.choice, split))
        return self.choice

    def start_phase(
        self,
        train: loading.Split,
        validation: loading.Split,
        *,
        is_first: bool,
        dry_run: bool = False,
        deadline: float = math.inf,
    ) -> CachedPhase | None:
        """Makes the features of a phase whose freeze plan is applied.

        Args:
          train: the training examples.
          validation: those of validation, may be empty.
          is_first: whether it is the phase that the choice was made on.
          dry_run: nothing is read from the disk or kept on it.
          deadline: `time.monotonic()` seconds after which no more is computed.

        Returns:
          The phase; None where it trains on the inputs themselves, which is said.

        Raises:
          OutOfTimeError: the deadline is over; what was computed is kept.
        """
        choice = self.choice
        if choice is None or choice.mode == choosing.OFF:
            return None
        split = self._split()
        if split is None:
            return None
        layout = _make_layout(split, precision=choice.precision)
        parts = (train, validation)
        needed = layout.row_bytes * sum(map(len, parts))
        if not self._is_worth_keeping(layout, needed):
            self._announce_without(layout, needed)
            return None
        start = time.monotonic()
        digests = [
            keys.digest_examples(part, self._pre, fingerprint=self._fingerprint) for part in parts
        ]
        features = self._open_store(split, layout, np.concatenate(digests), dry_run=dry_run)
        compiled = choice.compiled if is_first else None
        maker = _Maker(self, split, features, precision=choice.precision, compiled=compiled)
        try:
            maker.compute(parts, digests, deadline=deadline)
        except _NoRoomError:
            self._announce_without(layout, needed)
            return None
        finally:
            secs = time.monotonic() - start
            self.secs += secs
        own_train, own_validation = maker.replace(parts, digests)
        self._announce(maker.describe(time.monotonic() - start))
        return CachedPhase(split, own_train, own_validation)

    def close(self) -> None:
        """Lets other runs make room."""
        self._open.close()

    def make_dataset(self, split: loading.Split) -> Any:
        """Batches of inputs with each example's row in the split as its label."""
        rows = np.arange(len(split), dtype=np.int64)
        numbered = dataclasses.replace(split, labels={"row": rows}, positions={})
        return pipeline.make_dataset(numbered, self._pre, batch_size=_PASS_BATCH)

    def _first_batch(self, train: loading.Split, count: int) -> Any:
        ((inputs, _),) = self.make_dataset(train.head(count)).take(1)
        return inputs

    def _split(self) -> splitting.ModelSplit | None:
        return splitting.split_model(self._model, freezing.is_fixed, opened=[self._backbone.model])

    def _find_tried(self, split: splitting.ModelSplit | None) -> str | None:
        """The precision that an earlier run's trial on this prefix chose."""
        if split is None or self._train.feature_cache == choosing.MEMORY:
            return None
        for precision in (choosing.BFLOAT16, choosing.FLOAT32):
            name = keys.name_space(split, self._pre, precision=precision)
            if spaces.read_about(self._train.cache_dir, name).get("chosen_by") == _TRIAL:
                return precision
        return None

    def _limit(self) -> int:
        """Bytes that features may take where the choice puts them."""
        if self.choice is not None and self.choice.mode == choosing.MEMORY:
            return memory.find_available_bytes() // 2
        return int(self._train.cache_max_gb * _GB)

    def _is_worth_keeping(self, layout: shards.Layout, needed: int) -> bool:
        is_small = layout.row_bytes <= _MAX_ROW_BYTES or self._train.feature_cache != choosing.AUTO
        return is_small and needed <= self._limit()

    def _announce_without(self, layout: shards.Layout, needed: int) -> None:
        self._announce(
            f"Feature cache: off in this phase, which would have {_describe_size(layout, needed)}; "
            "it computes its frozen part in each epoch."
        )

    def _check_fits(self, layout: shards.Layout, num_examples: int) -> None:
        needed, limit = layout.row_bytes * num_examples, self._limit()
        if needed <= limit:
            return
        mode = self._train.feature_cache
        more = "--feature_cache=disk" if mode == choosing.MEMORY else "a larger --cache_max_gb"
        message = (
            f"--feature_cache={mode} would keep {_describe_size(layout, needed)}, and there is "
            f"room for {limit / _GB:.2g} GB. Expected less: freeze more layers, give {more}, or "
            "--feature_cache=off."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--feature_cache"))

    def _open_store(
        self,
        split: splitting.ModelSplit,
        layout: shards.Layout,
        digests: np.ndarray,
        *,
        dry_run: bool,
    ) -> store.FeatureStore:
        in_memory = store.FeatureStore(layout, folder=None, announce=self._announce)
        choice = self.choice
        if choice is None or choice.mode != choosing.DISK or dry_run:
            return in_memory
        name = keys.name_space(split, self._pre, precision=choice.precision)
        chosen_by = _TRIAL if self._train.feature_precision == choosing.AUTO else "flag"
        about = {
            "model": self._backbone.source,
            "precision": choice.precision,
            "chosen_by": chosen_by,
        }
        try:
            root = spaces.find_root(self._train.cache_dir)
            for _ in range(2):
                lease = contextlib.ExitStack()
                folder = lease.enter_context(spaces.open_space(root, name, about=about))
                kept = store.FeatureStore(layout, folder=folder, announce=self._announce)
                new = len(kept.find_missing(digests)) * (layout.row_bytes + keys.DIGEST_BYTES)
                if spaces.make_room(root, max_bytes=self._limit() - new) + new <= self._limit():
                    self._open.push(lease)
                    return kept
                # Then what is in the way are features of former data in this very space.
                lease.close()
                spaces.make_room(root, max_bytes=self._limit() - new)
            reason = "--cache_max_gb is taken up by what other runs are using"
        except OSError as error:
            reason = str(error.strerror)
        self._announce(
            f"Warning: features cannot be kept on the disk ({reason}); they stay in memory."
        )
        return in_memory


class _Maker:
    """One feature pass."""

    def __init__(
        self,
        cache: FeatureCache,
        split: splitting.ModelSplit,
        features: store.FeatureStore,
        *,
        precision: str,
        compiled: prefix.Prefix | None,
    ):
        self._cache = cache
        self._split = split
        self._store = features
        self._precision = precision
        self._compiled = compiled
        self.num_computed = self.num_found = 0
        self._num_bytes = self._memory_limit = 0
        self._pass_secs = 0.0

    def compute(
        self, parts: tuple[loading.Split, ...], digests: list[np.ndarray], *, deadline: float
    ) -> None:
        """Puts all that is missing into the store."""
        num_examples = sum(map(len, parts))
        self._num_bytes = num_examples * self._store.layout.row_bytes
        self._memory_limit = max(memory.find_available_bytes() // 2, MEMORY_BYTES)
        # Together: an example of both parts is computed once.
        missing = self._store.find_missing(np.concatenate(digests))
        self.num_found = num_examples - len(missing)
        self._check_memory()
        if not len(missing):
            return
        start, first = time.monotonic(), 0
        try:
            with progress.ProgressBar("Computing features", len(missing)) as bar:
                for part, own in zip(parts, digests, strict=True):
                    rows = missing[(missing >= first) & (missing < first + len(part))] - first
                    first += len(part)
                    self._compute_part(part, own, rows, bar, deadline=deadline)
                    if time.monotonic() >= deadline and self.num_computed < len(missing):
                        where = "are kept" if self._store.is_kept else "are lost"
                        raise OutOfTimeError(
                            f"{self.num_computed:,} of {len(missing):,} features were computed and "
                            f"{where}"
                        )
        finally:  # interrupted too: what is computed need not be computed again
            self._store.flush()
            self._pass_secs = time.monotonic() - start

    def replace(
        self, parts: tuple[loading.Split, ...], digests: list[np.ndarray]
    ) -> list[loading.Split]:
        """The splits as features."""
        in_memory = not self._store.is_kept or self._num_bytes <= MEMORY_BYTES
        return [
            self._replace(part, own, in_memory=in_memory)
            for part, own in zip(parts, digests, strict=True)
        ]

    def describe(self, secs: float) -> str:
        """The line at the pass's end."""
        row = self._store.layout.row_bytes
        rate = ""
        if self.num_computed and self._pass_secs:
            rate = f", {self.num_computed / self._pass_secs:.0f} examples/s"
        found = f", {self.num_found:,} were there already" if self.num_found else ""
        return (
            f"Features: {self.num_computed:,} computed{found}, {row:,} bytes each "
            f"({self._precision}), {secs:.1f} s{rate}."
        )

    def _compute_part(
        self,
        part: loading.Split,
        digests: np.ndarray,
        rows: np.ndarray,
        bar: progress.ProgressBar,
        *,
        deadline: float,
    ) -> None:
        if not len(rows):
            return
        if self._compiled is None:
            self._compiled = prefix.compile_prefix(self._split, precision=self._precision)
        chosen = part.take(rows)
        for inputs, labels in self._cache.make_dataset(chosen):
            if time.monotonic() >= deadline:
                return
            own = rows[labels["row"].numpy()]
            features = self._compiled(inputs)
            self._store.add(digests[own], prefix.as_numbers(features, precision=self._precision))
            self.num_computed += len(own)
            bar.update(self.num_computed)
            self._check_memory()

    def _check_memory(self) -> None:
        """The disk may turn out to be full or read-only at any time."""
        if not self._store.is_kept and self._num_bytes > self._memory_limit:
            raise _NoRoomError

    def _replace(
        self, part: loading.Split, digests: np.ndarray, *, in_memory: bool
    ) -> loading.Split:
        layout, old = self._store.layout, part.inputs
        lengths = None
        if isinstance(old, text_store.Texts) and old.lengths is not None:
            lengths = old.lengths[part.indices]
        inputs = feature_inputs.Features(
            names=tuple(layout.shapes),
            shapes=tuple(layout.shapes.values()),
            dtypes=tuple(layout.dtypes.values()),
            size=len(part),
            arrays=self._store.read(digests) if in_memory else None,
            read=None if in_memory else self._store.make_reader(digests),
            lengths=lengths,
        )
        # What stands beside images or texts went into the prefix with them.
        return dataclasses.replace(part, inputs=inputs, indices=np.arange(len(part)), features=None)


def _make_layout(split: splitting.ModelSplit, *, precision: str) -> shards.Layout:
    shapes, dtypes = {}, {}
    for name, tensor in split.features.items():
        shapes[name] = tuple(tensor.shape[1:])
        is_float = "float" in tensor.dtype
        dtypes[name] = precision if is_float else tensor.dtype
    return shards.Layout(shapes, dtypes)


def _find_reason_against(splits: loading.Splits, *, has_views: bool) -> str:
    if any(info.kind == "token_classification" for info in splits.heads):
        return "a head of words counts their pieces in the texts themselves"
    return "--augment gives each epoch its own images" if has_views else ""


def _describe_size(layout: shards.Layout, num_bytes: int) -> str:
    return f"{num_bytes / _GB:.2g} GB of features ({layout.row_bytes:,} bytes per example)"


def _describe(choice: choosing.Choice, split: splitting.ModelSplit | None) -> str:
    if choice.mode == choosing.OFF or split is None:
        return f"Feature cache: off, {choice.reason}."
    shapes = ", ".join(
        "x".join(str(side) for side in tensor.shape[1:]) for tensor in split.features.values()
    )
    where = "kept on the disk" if choice.mode == choosing.DISK else "in memory"
    return (
        f"Feature cache: {split.num_prefix_weights:,} frozen weights are run once per example, the "
        f"features ({shapes}, {choice.precision}) are {where}: {choice.reason}."
    )
