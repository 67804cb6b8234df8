"""What a run does about its frozen part: decides once, and gives each phase its features.

One idea: a phase that trains on features is a phase on other data with a smaller model. What the
optimizer, the metrics and early stopping see is the same, and so is the order of the examples.
"""

import dataclasses
import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_finetune import findings, freezing, specs, workers
from tf_finetune.data import (
    augmentation,
    loading,
    mixed_spec,
    preprocessing,
)
from tf_finetune.feature_cache import (
    choosing,
    epoch_features,
    feature_pass,
    keys,
    places,
    prefix,
    shards,
    spaces,
    store,
)
from tf_finetune.models import loading as model_loading
from tf_finetune.models import splitting


@dataclasses.dataclass(frozen=True)
class CachedPhase:
    """A phase on features.

    Attributes:
      split: the cut model.
      train: the training examples as features; as they are where nothing is kept.
      validation: those of validation.
      compiled: what makes features of a batch; None: they are made.
    """

    split: splitting.ModelSplit
    train: loading.Split
    validation: loading.Split
    compiled: prefix.Prefix | None = None

    @property
    def is_kept(self) -> bool:
        """Whether features need not be computed in each epoch."""
        return self.compiled is None

    def map_batches(
        self, batches: tf.data.Dataset, *, num_repeated: int | None = None
    ) -> tf.data.Dataset:
        """Batches as what is behind the cut takes them.

        Args:
          batches: dataset of (inputs or features, ...).
          num_repeated: examples in it that are the same in every epoch; None: they are not.

        Returns:
          Dataset of (features, ...), in the same order.
        """
        if self.compiled is None:
            return batches
        mapped = epoch_features.map_batches(batches, self.compiled, self.split)
        layout = _make_layout(self.split, precision=choosing.FLOAT32)
        if num_repeated is None or layout.row_bytes * num_repeated > feature_pass.MEMORY_BYTES:
            return mapped
        return mapped.cache()


class FeatureCache:
    """The features of a run.

    Args:
      model: with heads.
      backbone: the model's backbone.
      pre: how inputs are prepared.
      train: the options.
      fingerprint: of the data set.
      announce: takes the lines that tell the user what happens.
      views: of the training examples, where they have a few; None: they are as they are.

    Attributes:
      choice: what was decided; None before that.
      secs: that making the features of phases took so far.
      estimated_secs: what those of all examples would take, of a dry run that makes a few.
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
        views: augmentation.KeptViews | None = None,
    ):
        self._model = model
        self._backbone = backbone
        self._pre = pre
        self._train = train
        self._fingerprint = fingerprint
        self._announce = announce
        self._views = views
        self._places = places.Places(train, announce=announce)
        self._digests: dict[int, tuple[loading.Split, np.ndarray]] = {}
        self._last_plan: freezing.FreezePlan | None = None
        # The newest in float32, by the name of its space: what it compiles serves the next.
        self._exact: dict[str, feature_pass.FeaturePass] = {}
        self._num_features = 0
        self.choice: choosing.Choice | None = None
        self.secs = 0.0
        self.estimated_secs: float | None = None

    def choose(
        self,
        phases: tuple[specs.PhaseSpec, ...],
        splits: loading.Splits,
        *,
        batch_norm: str,
        has_new_views: bool,
        settled: str | None = None,
    ) -> choosing.Choice:
        """Decides, by a trial on the first phase's model where the options leave it open.

        Args:
          phases: of the run.
          splits: the data.
          batch_norm: "frozen" or "train".
          has_new_views: whether each epoch has inputs of its own.
          settled: the precision that this very run chose before it was interrupted.

        Returns:
          The choice; the model is as it was.

        Raises:
          findings.RefusedError: the features do not fit where the options want them, or
            --cache_dir cannot be written.
        """
        reason = self._find_reason_against(splits, phases, has_new_views=has_new_views)
        self._num_features = self._num_views * len(splits.train) + len(splits.validation)
        num_saved = self._count_saved_epochs(phases, has_new_views=has_new_views)
        if self._train.feature_cache == choosing.OFF:
            self.choice = choosing.Choice(choosing.OFF, choosing.FLOAT32, "--feature_cache=off")
            return self.choice
        if reason:
            self.choice = choosing.Choice(choosing.OFF, choosing.FLOAT32, reason)
            self._announce(f"Feature cache: off, {reason}.")
            return self.choice
        train = splits.train
        plan, self._last_plan = (
            freezing.plan_freeze(phase.freeze or "all", self._backbone.table, batch_norm=batch_norm)
            for phase in (phases[0], phases[-1])
        )
        freezing.apply_plan(plan, self._backbone.model)
        try:
            split = self._split()
            self.choice = choosing.choose(
                split,
                self._train,
                num_saved=num_saved * len(train),
                # Columns beside an image are not rounded: a number may count by its last digits.
                may_round=self._backbone.input_kind == "image"
                and self._train.precision == "auto"
                and mixed_spec.find_mixed(self._pre) is None,
                read_batch=lambda: feature_pass.read_batch(train, self._pre),
                find_tried=lambda: settled or self._find_tried(split),
                has_new_views=has_new_views,
            )
        finally:
            freezing.release_plan(self._backbone.model)
        if self.choice.mode == choosing.DISK:
            spaces.check_root(self._train.cache_dir)
        if split is not None and self._train.feature_cache in (choosing.DISK, choosing.MEMORY):
            layout = _make_layout(split, precision=self.choice.precision)
            self._places.check_fits(layout, self._num_features)
        num_views = self._views.number if self._views else None
        self._announce(choosing.describe(self.choice, split, num_views=num_views))
        return self.choice

    def start_phase(
        self,
        train: loading.Split,
        validation: loading.Split,
        *,
        is_first: bool,
        num_epochs: int | None = None,
        dry_run: bool = False,
        deadline: float = math.inf,
        team: workers.Workers | None = None,
    ) -> CachedPhase | None:
        """Makes the features of a phase whose freeze plan is applied.

        Args:
          train: the training examples.
          validation: those of validation, may be empty.
          is_first: whether it is the phase that the choice was made on.
          num_epochs: of the phase; None: enough for every view.
          dry_run: nothing is read from the disk or kept on it, and it is said how long the
            features of all examples would take, from those of these.
          deadline: `time.monotonic()` seconds after which no more is computed.
          team: who trains together, each of whom computes a part; None: this process alone.

        Returns:
          The phase; None where it trains on the inputs themselves, which is said.

        Raises:
          feature_pass.OutOfTimeError: the deadline is over; what was computed is kept.
          findings.RefusedError: a file is gone.
        """
        choice = self.choice
        if choice is None or choice.mode == choosing.OFF:
            return None
        if (split := self._split()) is None:
            return None
        compiled = choice.compiled if is_first else None
        # Its constants take memory that the next graph needs.
        self.choice = dataclasses.replace(choice, compiled=None)
        if choice.mode == choosing.COMPILED:
            compiled = compiled or prefix.compile_prefix(split, precision=choice.precision)
            return CachedPhase(split, train, validation, compiled)
        layout = _make_layout(split, precision=choice.precision)
        needed = layout.row_bytes * (self._num_views * len(train) + len(validation))
        is_worth = self._places.is_worth_keeping(layout, needed, mode=choice.mode)
        if not (is_worth if team is None else not team.vote(not is_worth)[0]):
            self._announce_without(layout, needed)
            return None
        if not self._has_use_of_views(num_epochs):
            return None
        start = time.monotonic()
        parts = self._list_parts(train, validation)
        is_kept = choice.mode == choosing.DISK and not dry_run
        own = self._open_pass(
            split, parts, precision=choice.precision, is_kept=is_kept, compiled=compiled
        )
        try:
            if dry_run:
                own.warm_up(train)
            found = self._run_pass(own, parts, deadline=deadline, team=team)
        finally:  # with what was read to tell examples apart
            self.secs += (secs := time.monotonic() - start)
        if found is None:
            self._announce_without(layout, needed)
            return None
        self._announce(own.describe(secs))
        if dry_run:
            self._tell_estimate(own, is_kept=choice.mode == choosing.DISK)
        own_train, own_validation = found
        return CachedPhase(split, own_train, own_validation)

    def find_behind(
        self, part: loading.Split
    ) -> tuple[splitting.SuffixModel, loading.Split] | None:
        """What is behind the cut of the last phase, and examples as its features.

        The features are in float32, whatever training took: what is measured then is the model
        that is exported. Kept as they are, another run on the same data computes none.

        Args:
          part: the examples, at least one.

        Returns:
          (the model from features to the outputs, the examples); None where no features are kept
          on the disk, or these are not worth it.

        Raises:
          findings.RefusedError: a file is gone.
        """
        choice, plan = self.choice, self._last_plan
        if choice is None or choice.mode != choosing.DISK or plan is None:
            return None
        freezing.apply_plan(plan, self._backbone.model)
        try:
            split = self._split()
        finally:
            freezing.release_plan(self._backbone.model)
        if split is None:
            return None
        layout = _make_layout(split, precision=choosing.FLOAT32)
        if not self._places.is_worth_keeping(
            layout, layout.row_bytes * len(part), mode=choice.mode
        ):
            return None
        parts = [feature_pass.Part(part, self._digest(part))]
        own = self._open_pass(split, parts, precision=choosing.FLOAT32, is_kept=True)
        found = self._run_pass(own, parts)
        if found is None:
            return None
        return split.make_suffix(splitting.SuffixModel), found[0]

    def _tell_estimate(self, own: feature_pass.FeaturePass, *, is_kept: bool) -> None:
        self.estimated_secs = own.estimate_secs(self._num_features)
        kept = ", less where they are kept already" if is_kept else ""
        self._announce(f"{own.describe_estimate(self._num_features)}{kept}.")

    def _open_pass(
        self,
        split: splitting.ModelSplit,
        parts: list[feature_pass.Part],
        *,
        precision: str,
        is_kept: bool,
        compiled: prefix.Prefix | None = None,
    ) -> feature_pass.FeaturePass:
        name = keys.name_space(split, self._pre, precision=precision)
        layout = _make_layout(split, precision=precision)
        features = self._open_store(name, layout, parts, precision=precision, is_kept=is_kept)
        if compiled is None and name in self._exact:
            compiled = self._exact[name].compiled
        own = feature_pass.FeaturePass(
            split,
            features,
            self._pre,
            precision=precision,
            compiled=compiled,
            service=self._train.data_service,
        )
        if is_kept and precision == choosing.FLOAT32:
            self._exact = {name: own}
        return own

    def _run_pass(
        self,
        own: feature_pass.FeaturePass,
        parts: list[feature_pass.Part],
        *,
        deadline: float = math.inf,
        team: workers.Workers | None = None,
    ) -> list[loading.Split] | None:
        """Examples as features; None where there is no room for them."""
        try:
            own.compute(parts, deadline=deadline, team=team)
            return own.replace(parts)
        except feature_pass.NoRoomError:
            return None

    def close(self) -> None:
        """Lets other runs make room."""
        self._places.close()

    @property
    def _num_views(self) -> int:
        return self._views.number if self._views else 1

    def _find_reason_against(
        self,
        splits: loading.Splits,
        phases: tuple[specs.PhaseSpec, ...],
        *,
        has_new_views: bool,
    ) -> str:
        if any(info.kind == "token_classification" for info in splits.heads):
            return "a head of words counts their pieces in the texts themselves"
        mode = self._train.feature_cache
        longest = max((phase.epochs or 1 for phase in phases), default=0)
        if has_new_views and mode in (choosing.MEMORY, choosing.DISK):
            return choosing.NEW_VIEWS
        if self._views is None or mode == choosing.COMPILED:
            return ""
        if self._views.number > longest - (mode == choosing.AUTO):
            return f"the longest phase has epochs={longest} and --augment_views={self._num_views}"
        return ""

    def _count_saved_epochs(
        self, phases: tuple[specs.PhaseSpec, ...], *, has_new_views: bool
    ) -> int:
        """How many epochs of the run are not computed by the layers that train."""
        epochs = [phase.epochs or 1 for phase in phases]
        if has_new_views or self._train.feature_cache == choosing.COMPILED:
            return sum(epochs)
        if self._views is None:
            return sum(epochs) - 1
        return sum(max(count - self._views.number, 0) for count in epochs)

    def _has_use_of_views(self, num_epochs: int | None) -> bool:
        """Whether a phase looks at every view; whatever was asked for, as run.flags asks again."""
        if num_epochs is None or self._num_views <= num_epochs:
            return True
        self._announce(
            f"Feature cache: off in this phase, whose epochs={num_epochs} is fewer than "
            f"--augment_views={self._num_views}; it computes its frozen part in each epoch."
        )
        return False

    def _list_parts(
        self, train: loading.Split, validation: loading.Split
    ) -> list[feature_pass.Part]:
        own, views = self._digest(train), self._views
        if views is not None:
            own = keys.digest_views(own, train.keys, views)
        return [
            feature_pass.Part(train, own, views),
            feature_pass.Part(validation, self._digest(validation)),
        ]

    def _digest(self, part: loading.Split) -> np.ndarray:
        """Reads what the examples hold, once for all phases."""
        if id(part) not in self._digests:
            try:
                found = keys.digest_examples(part, self._pre, fingerprint=self._fingerprint)
            except OSError as error:
                path = findings.one_line(os.fsdecode(error.filename or ""))
                message = (
                    f"{path}: was there when the data were listed and cannot be read now: "
                    f"{error.strerror}. Put it back and run the same command again."
                )
                raise findings.RefusedError(findings.Problem(message, path=path)) from error
            # With the split: the number of one that is gone may become another's.
            self._digests[id(part)] = part, found
        return self._digests[id(part)][1]

    def _split(self) -> splitting.ModelSplit | None:
        return splitting.split_model(self._model, freezing.is_fixed, opened=[self._backbone.model])

    def _find_tried(self, split: splitting.ModelSplit | None) -> str | None:
        """The precision that an earlier run's trial on this prefix chose."""
        if split is None or self._train.feature_cache == choosing.MEMORY:
            return None
        for precision in (choosing.BFLOAT16, choosing.FLOAT32):
            name = keys.name_space(split, self._pre, precision=precision)
            if spaces.read_about(self._train.cache_dir, name).get(places.IS_TRIED) is True:
                return precision
        return None

    def _announce_without(self, layout: shards.Layout, needed: int) -> None:
        self._announce(
            "Feature cache: off in this phase, which would have "
            f"{places.describe_size(layout, needed)}; it computes its frozen part in each epoch."
        )

    def _open_store(
        self,
        name: str,
        layout: shards.Layout,
        parts: list[feature_pass.Part],
        *,
        precision: str,
        is_kept: bool,
    ) -> store.FeatureStore:
        choice = self.choice
        if choice is None or not is_kept:
            return store.FeatureStore(layout, folder=None, announce=self._announce)
        about = {
            "model": self._backbone.source,
            "precision": precision,
            places.IS_TRIED: choice.is_tried and precision == choice.precision,
        }
        digests = np.concatenate([part.digests for part in parts])
        return self._places.open_store(name, layout, digests, about=about)


def _make_layout(split: splitting.ModelSplit, *, precision: str) -> shards.Layout:
    shapes, dtypes = {}, {}
    for name, tensor in split.features.items():
        shapes[name] = tuple(tensor.shape[1:])
        is_float = "float" in tensor.dtype
        dtypes[name] = precision if is_float else tensor.dtype
    return shards.Layout(shapes, dtypes)
