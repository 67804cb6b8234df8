"""TensorFlow's strategy of several workers, for data sets of which each worker reads its own part.

One idea: every worker has as many parts as the others, so nothing is left for tf.distribute to
divide among them or to ask them about at each step.

Imported by `distribution` alone, as TensorFlow is there.
"""

from typing import Any

import tensorflow as tf


class MultiWorkerMirroredStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """The strategy; `fit` and `evaluate` of Keras get a worker's batches as they are."""

    def __init__(self) -> None:
        super().__init__()
        # Else every worker asks the others before each step whether they have an example.
        self.extended.experimental_enable_get_next_as_optional = False

    def experimental_distribute_dataset(
        self, dataset: tf.data.Dataset, options: tf.distribute.InputOptions | None = None
    ) -> Any:
        """A worker's batches as its devices take them.

        Args:
          dataset: this worker's part of each batch; finite, as many batches on each worker, of at
            least as many examples as it has devices.
          options: none.

        Returns:
          On one device the data set: what tf.distribute makes of it is the same, by an iterator for
          several devices that takes a tenth of a second to make in each epoch.
        """
        num_devices = len(self.extended.worker_devices)
        if num_devices == 1:
            return dataset
        return self.distribute_datasets_from_function(
            lambda context: divide(dataset, num_parts=num_devices)
        )


def divide(dataset: tf.data.Dataset, *, num_parts: int) -> tf.data.Dataset:
    """Divides each batch.

    Args:
      dataset: batches of at least `num_parts` examples.
      num_parts: at least 1.

    Returns:
      Dataset of the parts of each batch, one after another; they differ by at most an example.
    """

    def cut(*batch: Any) -> tf.data.Dataset:
        size = tf.cast(tf.shape(tf.nest.flatten(batch)[0])[0], tf.int64)

        def take(number: tf.Tensor) -> Any:
            first, last = (place * size // num_parts for place in (number, number + 1))
            return tf.nest.map_structure(lambda values: values[first:last], batch)

        return tf.data.Dataset.range(num_parts).map(take)

    count = dataset.cardinality() * num_parts
    return dataset.flat_map(cut).apply(tf.data.experimental.assert_cardinality(count))
