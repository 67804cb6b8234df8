"""What the phases of a run train and validate on.

One idea: a data set is made once per phase, from the examples or from what is kept of them; the
epoch is a variable that it reads when its iterator is made.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tf_finetune import specs, token_lengths, training_cost, workers
from tf_finetune.data import batch_order, batching, pipeline, preprocessing, resampling
from tf_finetune.data import loading as data_loading
from tf_finetune.feature_cache import caching, feature_pass
from tf_finetune.models import loading as model_loading


@dataclasses.dataclass(frozen=True)
class Task:
    """Everything `fit` needs beside the model: data, heads and options.

    Attributes:
      splits: the data.
      preprocessing: how images become pixels; a TextSpec for texts.
      heads: one spec per head, named as in `splits.heads`.
      train: the options, as `recipe.settle_options` leaves them.
      phases: the phases, from `recipe.plan_phases`.
      batch_norm: "frozen" or "train".
      seed: feeds the order of examples.
      precision: "float32", "bfloat16" or "float16".
      augment: how the images of training vary; none for texts.
    """

    splits: data_loading.Splits
    preprocessing: preprocessing.InputSpec
    heads: tuple[specs.HeadSpec, ...]
    train: specs.TrainSpec
    phases: tuple[specs.PhaseSpec, ...]
    batch_norm: str = "frozen"
    seed: int = 0
    precision: str = "float32"
    augment: specs.AugmentSpec = dataclasses.field(default_factory=specs.AugmentSpec)


class PhaseData:
    """The data sets of the phase that runs.

    Args:
      task: data, heads and options.
      backbone: the model's backbone.
      features: of the run, after `choose`.
      strategy: a tf.distribute strategy; of several workers each reads its own part of every
        batch.

    Attributes:
      train: dataset of one epoch of training, this worker's part.
      validation: dataset of the validation examples, likewise; None: there are none.
      epoch: int64 variable that the order of an epoch follows.
      steps: of the optimizer in an epoch.
      steps_at_once: that run before Python is asked again.
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset | None = None

    def __init__(
        self,
        task: Task,
        backbone: model_loading.Backbone,
        features: caching.FeatureCache,
        *,
        strategy: tf.distribute.Strategy,
    ):
        self._team = workers.Workers(strategy)
        self._share = batching.Share(self._team.index, self._team.number)
        self._task = task
        self._features = features
        self._num_replicas = strategy.num_replicas_in_sync
        self._cached: caching.CachedPhase | None = None
        self._validation_split = task.splits.validation
        if len(self._validation_split):
            self._validation_split = token_lengths.sort_split(
                self._validation_split, backbone.model
            )
        self._train_split = task.splits.train
        self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        sizes = batching.plan_batches(
            len(task.splits.train),
            batch_size=task.train.step_examples,
            num_replicas=self._num_replicas,
        )
        self.steps = len(sizes)
        self.steps_at_once = min(task.train.steps_per_execution, self.steps)

    def start_phase(
        self, phase: specs.PhaseSpec, *, deadline: float, dry_run: bool
    ) -> caching.CachedPhase | None:
        """Makes the phase's data sets, of features where they are computed ahead.

        Args:
          phase: its freeze plan is applied.
          deadline: `time.monotonic()` seconds after which no features are computed.
          dry_run: only as many examples are read as are timed.

        Returns:
          The cut model with its features; None: the phase trains on the inputs themselves.

        Raises:
          RefusedError: a file of the data is gone.
          feature_pass.OutOfTimeError: the deadline was over before the features were computed.
        """
        train, validation = self._task.splits.train, self._validation_split
        if dry_run:
            num_timed = max(training_cost.TIMED_STEPS, self.steps_at_once)
            num_examples = self._task.train.step_examples * num_timed
            train = train.head(max(num_examples, feature_pass.TIMED_EXAMPLES))
            validation = validation.head(self._task.train.batch_examples)
        self._cached = self._features.start_phase(
            train,
            validation,
            is_first=phase is self._task.phases[0],
            num_epochs=phase.epochs,
            dry_run=dry_run,
            deadline=deadline,
            team=self._team,
        )
        if self._cached is not None:
            train, validation = self._cached.train, self._cached.validation
        self._train_split = train
        self.train = self._make_train(train)
        self.validation = self._make_validation(validation) if len(validation) else None
        return self._cached

    def make_rest(self, first_step: int) -> tf.data.Dataset:
        """The end of an epoch of training.

        Args:
          first_step: so many steps are left out.

        Returns:
          Dataset of the others.
        """
        return self._make_train(self._train_split, first_batch=first_step)

    def list_keys(self, epoch: int, first_step: int, last_step: int) -> list[str]:
        """The examples of some steps of training, over all workers.

        Args:
          epoch: 0-based, of the run.
          first_step: 0-based, of the epoch.
          last_step: the step behind the last.

        Returns:
          Their keys, step by step.
        """
        split = self._train_split
        places = batch_order.find_examples(
            split,
            batch_size=self._task.train.step_examples,
            shuffle_seed=self._task.seed,
            epoch=epoch,
            steps=(first_step, last_step),
            num_replicas=self._num_replicas,
            strata=self._find_strata(split),
        )
        return [str(key) for key in split.keys[places]]

    def make_timed(self) -> tf.data.Dataset:
        """Steps enough to tell what one costs: the first ones trace the graph.

        Returns:
          Dataset of some batches of training.
        """
        if self.steps_at_once > 1:
            return self.train.take(self.steps_at_once).repeat(2)
        return self.train.take(training_cost.TIMED_STEPS)

    def make_steps(self, count: int, *, batch_size: int) -> tf.data.Dataset:
        """Some steps of training with another batch size.

        Args:
          count: at most so many steps.
          batch_size: in place of the options'.

        Returns:
          Dataset of them, of the inputs themselves.
        """
        size = batch_size * self._task.train.accumulate_steps
        return self._make_train(self._task.splits.train.head(count * size), batch_size=size)

    def close(self) -> None:
        """Lets other runs make room for their features."""
        self._features.close()

    def _make_train(
        self, split: data_loading.Split, *, first_batch: int = 0, batch_size: int | None = None
    ) -> tf.data.Dataset:
        task = self._task
        dataset = pipeline.make_dataset(
            split,
            task.preprocessing,
            batch_size=batch_size or task.train.step_examples,
            shuffle_seed=task.seed,
            epoch=self.epoch,
            with_weights=True,
            num_replicas=self._num_replicas,
            views=task.augment.steps or None,
            num_views=task.augment.augment_views,
            strata=self._find_strata(split),
            first_batch=first_batch,
            share=self._share,
            service=task.train.data_service,
        )
        return dataset if self._cached is None else self._cached.map_batches(dataset)

    def _make_validation(self, split: data_loading.Split) -> tf.data.Dataset:
        dataset = pipeline.make_dataset(
            split,
            self._task.preprocessing,
            batch_size=self._task.train.batch_examples,
            with_weights=True,
            num_replicas=self._num_replicas,
            share=self._share,
            service=self._task.train.data_service,
        )
        if self._cached is None:
            return dataset
        return self._cached.map_batches(dataset, num_repeated=len(split))

    def _find_strata(self, split: data_loading.Split) -> np.ndarray | None:
        task = self._task
        if task.train.resample == "none":
            return None
        head = resampling.find_head(task.heads, task.splits.heads)
        return resampling.find_strata(head, split.labels)
