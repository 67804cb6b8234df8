"""The feature pass of a phase: every example once through the compiled prefix, then only the rest.

One idea: a phase that trains on features is a phase on other data with a smaller model. What the
optimizer, the metrics and early stopping see is the same, and so is the order of the examples.
"""

import contextlib
import dataclasses
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
        self, phases: tuple[specs.PhaseSpec, ...], train: loading.Split, *, batch_norm: str
    ) -> choosing.Choice:
        """Decides, by a trial on the first phase's model where the options leave it open.

        Args:
          phases: of the run.
          train: the training examples.
          batch_norm: "frozen" or "train".

        Returns:
          The choice; the model is as it was.
        """
        first = phases[0]
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
                passes=(epochs - 1) * len(train) / count,
                # Columns beside an image are not rounded: a number may count by its last digits.
                may_round=self._backbone.input_kind == "image"
                and self._train.precision == "auto"
                and mixed_spec.find_mixed(self._pre) is None,
            )
        finally:
            freezing.release_plan(self._backbone.model)
        self._announce(_describe(self.choice, split))
        return self.choice

    def start_phase(
        self, train: loading.Split, validation: loading.Split, *, is_first: bool
    ) -> CachedPhase | None:
        """Makes the features of a phase whose freeze plan is applied.

        Args:
          train: the training examples.
          validation: those of validation, may be empty.
          is_first: whether it is the phase that the choice was made on.

        Returns:
          The phase; None where it trains on the inputs themselves, which is said.

        Raises:
          findings.RefusedError: the features do not fit where the options want them.
        """
        choice = self.choice
        if choice is None or choice.mode == choosing.OFF:
            return None
        split = self._split()
        if split is None:
            return None
        layout = _make_layout(split, precision=choice.precision)
        if not self._fits(layout, len(train) + len(validation), is_first=is_first):
            return None
        start = time.monotonic()
        features = self._open_store(split, layout, choice)
        maker = _Maker(
            self, split, features, choice, compiled=choice.compiled if is_first else None
        )
        own_train, own_validation = maker.run((train, validation), fingerprint=self._fingerprint)
        secs = time.monotonic() - start
        self.secs += secs
        self._announce(maker.describe(secs))
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

    def _fits(self, layout: shards.Layout, num_examples: int, *, is_first: bool) -> bool:
        choice, needed = self.choice, layout.row_bytes * num_examples
        if choice is None:
            return False
        if choice.mode == choosing.MEMORY:
            limit, flag = memory.find_available_bytes() // 2, "--feature_cache=memory"
        else:
            limit, flag = int(self._train.cache_max_gb * _GB), "--cache_max_gb"
        is_small = layout.row_bytes <= _MAX_ROW_BYTES or self._train.feature_cache != choosing.AUTO
        if needed <= limit and is_small:
            return True
        size = f"{needed / _GB:.1f} GB of features ({layout.row_bytes:,} bytes per example)"
        if self._train.feature_cache == choosing.AUTO or not is_first:
            self._announce(
                f"Feature cache: off in this phase, which would have {size}; it computes its "
                "frozen part in each epoch."
            )
            return False
        message = (
            f"--feature_cache={choice.mode} would keep {size}, and {limit / _GB:.1f} GB are there. "
            f"Expected less: freeze more layers, give a larger {flag}, or --feature_cache=off."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--feature_cache"))

    def _open_store(
        self, split: splitting.ModelSplit, layout: shards.Layout, choice: choosing.Choice
    ) -> store.FeatureStore:
        folder = None
        if choice.mode == choosing.DISK:
            name = keys.name_space(
                split,
                self._pre,
                precision=choice.precision,
                identity=f"{self._backbone.source} {self._backbone.sha256}",
            )
            about = {"model": self._backbone.source, "precision": choice.precision}
            try:
                root = spaces.find_root(self._train.cache_dir)
                folder = self._open.enter_context(spaces.open_space(root, name, about=about))
                spaces.make_room(root, max_bytes=int(self._train.cache_max_gb * _GB))
            except OSError as error:
                self._announce(
                    f"Warning: features cannot be kept on the disk ({error.strerror}); they stay "
                    "in memory."
                )
        return store.FeatureStore(layout, folder=folder, announce=self._announce)


class _Maker:
    """One feature pass."""

    def __init__(
        self,
        cache: FeatureCache,
        split: splitting.ModelSplit,
        features: store.FeatureStore,
        choice: choosing.Choice,
        *,
        compiled: prefix.Prefix | None,
    ):
        self._cache = cache
        self._split = split
        self._store = features
        self._choice = choice
        self._compiled = compiled
        self.num_computed = self.num_found = 0
        self._pass_secs = 0.0

    def run(self, parts: tuple[loading.Split, ...], *, fingerprint: str) -> list[loading.Split]:
        """The splits as features."""
        digests = [
            keys.digest_examples(part, self._cache._pre, fingerprint=fingerprint) for part in parts
        ]
        missing = [self._store.find_missing(part) for part in digests]
        total = sum(map(len, missing))
        if total:
            start = time.monotonic()
            with progress.ProgressBar("Computing features", total) as bar:
                for part, own, rows in zip(parts, digests, missing, strict=True):
                    self._compute(part, own, rows, bar)
                self._store.flush()
            self._pass_secs = time.monotonic() - start
        self.num_computed = total
        self.num_found = sum(map(len, parts)) - total
        size = sum(map(len, parts)) * self._store.layout.row_bytes
        in_memory = not self._store.is_kept or size <= MEMORY_BYTES
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
            f"({self._choice.precision}), {secs:.1f} s{rate}."
        )

    def _compute(
        self, part: loading.Split, digests: np.ndarray, rows: np.ndarray, bar: progress.ProgressBar
    ) -> None:
        if not len(rows):
            return
        if self._compiled is None:
            self._compiled = prefix.compile_prefix(self._split, precision=self._choice.precision)
        chosen = part.take(rows)
        for inputs, labels in self._cache.make_dataset(chosen):
            own = rows[labels["row"].numpy()]
            features = self._compiled(inputs)
            self._store.add(
                digests[own], prefix.as_numbers(features, precision=self._choice.precision)
            )
            self.num_computed += len(own)
            bar.update(self.num_computed)

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
