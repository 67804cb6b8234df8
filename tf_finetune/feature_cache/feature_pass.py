"""The feature pass of a phase: every example that is not known once through the compiled prefix.

One idea: what is computed goes to the store batch by batch, so that a pass that ends early, for
whatever reason, has not been in vain.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from tf_finetune import findings, progress, workers
from tf_finetune.data import (
    augmentation,
    feature_inputs,
    loading,
    memory,
    pipeline,
    preprocessing,
    text_store,
)
from tf_finetune.feature_cache import prefix, shared_pass, store
from tf_finetune.models import splitting

# Features in memory while a phase trains; more are read from the disk.
MEMORY_BYTES = 256 * 2**20
_PASS_BATCH = 32
# Of fewer, beginning to read is most of the time.
TIMED_EXAMPLES = 3 * _PASS_BATCH
# Enough to tell times apart, and features.
_TRIAL_BATCH = 16


class OutOfTimeError(Exception):
    """The run's time was over before every feature was computed; says how many were."""


class NoRoomError(Exception):
    """Features fit neither on the disk nor in memory."""


def read_batch(split: loading.Split, pre: preprocessing.InputSpec) -> dict[str, tf.Tensor]:
    """The inputs of the first few examples, for a trial.

    Args:
      split: the examples, at least one.
      pre: how inputs are prepared.

    Returns:
      {input: [b, ...]}.
    """
    ((inputs, _),) = _make_dataset(split.head(_TRIAL_BATCH), pre).take(1)
    return inputs


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Examples whose features are wanted.

    Attributes:
      split: the examples.
      digests: uint8 [n, 16], or of views [n * number, 16], see `keys.digest_views`.
      views: how each example is viewed; None: it is taken as it is.
    """

    split: loading.Split
    digests: np.ndarray
    views: augmentation.KeptViews | None = None


class FeaturePass:
    """One pass.

    Args:
      split: the cut model.
      features: where features are looked for and put.
      pre: how inputs are prepared.
      precision: of the features, "float32" or "bfloat16".
      compiled: the prefix, if a trial has made it.
      service: address of a tf.data service whose workers read the images; None: this process
        does.

    Attributes:
      num_computed: examples, or views of them, whose features were computed.
      num_found: those whose features were there.
      num_received: those whose features other workers computed.
      compiled: the prefix; None: it was not needed.
    """

    def __init__(
        self,
        split: splitting.ModelSplit,
        features: store.FeatureStore,
        pre: preprocessing.InputSpec,
        *,
        precision: str,
        compiled: prefix.Prefix | None,
        service: str | None = None,
    ):
        self._service = service
        self._split = split
        self._store = features
        self._pre = pre
        self._precision = precision
        self.compiled = compiled
        self.num_computed = self.num_found = self.num_received = 0
        self._num_bytes = self._memory_limit = 0
        self._pass_secs = 0.0

    def warm_up(self, split: loading.Split) -> None:
        """Has TensorFlow optimize the graph, which it does at the first call.

        Args:
          split: the first few of its examples are taken; nothing of them is kept.
        """
        if self.compiled is None:
            self.compiled = prefix.compile_prefix(self._split, precision=self._precision)
        self.compiled(read_batch(split, self._pre))

    def compute(
        self, parts: Sequence[Part], *, deadline: float, team: workers.Workers | None = None
    ) -> None:
        """Puts all that is missing into the store.

        Args:
          parts: of which features are wanted.
          deadline: `time.monotonic()` seconds after which no more is computed; several workers
            have none.
          team: who computes together, all with the same parts; None: this process alone.

        Raises:
          OutOfTimeError: the deadline is over; what was computed is in the store.
          NoRoomError: the store is in memory, or became so, and the features do not fit; on all
            workers.
          findings.RefusedError: they cannot be kept on the disk, on which somebody insists.
        """
        digests = np.concatenate([part.digests for part in parts])
        self._num_bytes = len(digests) * self._store.layout.row_bytes
        self._memory_limit = max(memory.find_available_bytes() // 2, MEMORY_BYTES)
        shared = shared_pass.SharedPass(team or workers.Workers(), self._store, digests)
        # Together: an example of both parts is computed once.
        missing = self._store.find_missing(digests)
        self.num_found = len(digests) - len(missing)
        _check_room(shared.has_room_everywhere(self._has_room()))
        own = shared.deal(missing)
        start = time.monotonic()
        try:
            with progress.ProgressBar("Computing features", len(own)) as bar:
                for rows, features in self._iterate(parts, own, deadline=deadline):
                    self._store.add(digests[rows], features)
                    self.num_computed += len(rows)
                    bar.update(self.num_computed)
                    _check_room(shared.give(rows, features, has_room=self._has_room()))
                _check_room(shared.finish(has_room=self._has_room()))
        except BaseException:  # interrupted too: what is computed need not be computed again
            with contextlib.suppress(findings.RefusedError):  # of a full disk: this one came first
                self._store.flush()
            raise
        finally:
            self._pass_secs = time.monotonic() - start
            self.num_received = shared.num_received
        self._store.flush()
        if self.num_computed < len(own):
            where = "are kept" if self._store.is_kept else "are lost"
            raise OutOfTimeError(
                f"{self.num_computed:,} of {len(own):,} features were computed and {where}"
            )

    def replace(self, parts: Sequence[Part]) -> list[loading.Split]:
        """The splits as features.

        Args:
          parts: whose features are in the store.

        Returns:
          The same examples, with features in the place of inputs.
        """
        in_memory = not self._store.is_kept or self._num_bytes <= MEMORY_BYTES
        return [self._replace(part, in_memory=in_memory) for part in parts]

    def describe(self, secs: float) -> str:
        """The line at the pass's end.

        Args:
          secs: what it took in all.

        Returns:
          One line.
        """
        row = self._store.layout.row_bytes
        rate = ""
        if self.num_computed and self._pass_secs:
            rate = f", {self.num_computed / self._pass_secs:.0f} examples/s"
        found = f", {self.num_found:,} were there already" if self.num_found else ""
        others = f", {self.num_received:,} by the other workers" if self.num_received else ""
        return (
            f"Features: {self.num_computed:,} computed{others}{found}, {row:,} bytes each "
            f"({self._precision}), {secs:.1f} s{rate}{self._describe_graph()}."
        )

    def estimate_secs(self, number: int) -> float:
        """How long it would take to compute more.

        Args:
          number: of examples, or views of them.

        Returns:
          Seconds, by all that was computed: batches by themselves would tell too little, since
          the next ones are read while the first is computed.
        """
        return self._pass_secs / max(self.num_computed, 1) * number

    def describe_estimate(self, number: int) -> str:
        """The line of a dry run.

        Args:
          number: of examples, or views of them.

        Returns:
          One line without its full stop.
        """
        return (
            f"Cost: all {number:,} features would take about {self.estimate_secs(number):.1f} s "
            f"(from {self.num_computed} timed)"
        )

    def _describe_graph(self) -> str:
        if self.compiled is None or self.compiled.is_constant:
            return ""
        return "; the graph has tables or is too large, so its weights are no constants"

    def _iterate(
        self, parts: Sequence[Part], wanted: np.ndarray, *, deadline: float
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Batches of (rows of all parts' digests, their features), until the deadline."""
        first = 0
        for part in parts:
            last = first + len(part.digests)
            rows = wanted[(wanted >= first) & (wanted < last)] - first
            number = part.views.number if part.views else 1
            for view in range(number):
                examples = rows[rows % number == view] // number
                for own, features in self._compute_view(part, examples, view, deadline=deadline):
                    yield first + own * number + view, features
            first = last

    def _compute_view(
        self, part: Part, examples: np.ndarray, view: int, *, deadline: float
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Batches of (examples, features) of one view of some, or of these as they are."""
        if not len(examples) or time.monotonic() >= deadline:
            return
        if self.compiled is None:
            self.compiled = prefix.compile_prefix(self._split, precision=self._precision)
        chosen = part.split.take(examples)
        batches = _make_dataset(
            chosen, self._pre, views=part.views, view=view, service=self._service
        )
        for inputs, labels in batches:
            if time.monotonic() >= deadline:
                return
            features = self.compiled(inputs)
            yield (
                examples[labels["row"].numpy()],
                prefix.as_numbers(features, precision=self._precision),
            )

    def _has_room(self) -> bool:
        """Whether features fit; the disk may turn out to be full or read-only at any time."""
        return self._store.is_kept or self._num_bytes <= self._memory_limit

    def _replace(self, part: Part, *, in_memory: bool) -> loading.Split:
        layout, split, old = self._store.layout, part.split, part.split.inputs
        lengths = None
        if isinstance(old, text_store.Texts) and old.lengths is not None:
            lengths = old.lengths[split.indices]
        inputs = feature_inputs.Features(
            names=tuple(layout.shapes),
            shapes=tuple(layout.shapes.values()),
            dtypes=tuple(layout.dtypes.values()),
            size=len(split),
            arrays=self._store.read(part.digests) if in_memory else None,
            read=None if in_memory else self._store.make_reader(part.digests),
            lengths=lengths,
            num_views=part.views.number if part.views else None,
        )
        # What stands beside images or texts went into the prefix with them.
        rows = np.arange(len(split))
        return dataclasses.replace(split, inputs=inputs, indices=rows, features=None)


def _check_room(has_room: bool) -> None:
    if not has_room:
        raise NoRoomError


def _make_dataset(
    split: loading.Split,
    pre: preprocessing.InputSpec,
    *,
    views: augmentation.KeptViews | None = None,
    view: int = 0,
    service: str | None = None,
) -> tf.data.Dataset:
    """Batches of inputs with each example's row in the split as its label."""
    rows = np.arange(len(split), dtype=np.int64)
    numbered = dataclasses.replace(split, labels={"row": rows}, positions={})
    if views is None:
        return pipeline.make_dataset(numbered, pre, batch_size=_PASS_BATCH, service=service)
    # As the epoch of that number reads them, whose order does not matter here.
    return pipeline.make_dataset(
        numbered,
        pre,
        batch_size=_PASS_BATCH,
        shuffle_seed=views.seed,
        epoch=tf.Variable(view, dtype=tf.int64, trainable=False),
        views=views.steps,
        num_views=views.number,
        service=service,
    )
