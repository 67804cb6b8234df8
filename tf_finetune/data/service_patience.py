"""Ends a process that waits in vain for the workers of a tf.data service.

One idea: TensorFlow 2.21 waits for workers without end, in a call that neither Python nor a signal
interrupts. So whoever waits says so before, and a thread looks at how long ago that was.
"""

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from tf_finetune import findings, tf_config

# A dispatcher takes a minute to notice that a worker is gone, and its clients wait for that.
PATIENCE_SECS = 180.0
_LOOKS = 20


class Patience:
    """Who waits for a service, and since when.

    Args:
      service: its address, for the message.
      give_up: called with the message once somebody has waited too long.
    """

    def __init__(self, service: str, *, give_up: Callable[[str], None] | None = None):
        self._service = findings.one_line(service)
        self._give_up = give_up or end_process
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, float] = {}
        self._thread: threading.Thread | None = None

    def watch(self, chunks: tf.data.Dataset) -> tf.data.Dataset:
        """Looks after whoever waits for the elements of a data set.

        Args:
          chunks: from a service.

        Returns:
          The same elements.
        """
        # Begun before each element is asked for, and closed with the iterator, wherever it stands.
        asked = tf.data.Dataset.from_generator(
            self._ask, output_signature=tf.TensorSpec([], tf.int64)
        )

        def note(number: tf.Tensor, chunk: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            noted = tf.numpy_function(self._note, [number], tf.bool)
            with tf.control_dependencies([noted]):
                return tf.nest.map_structure(tf.identity, chunk)

        return tf.data.Dataset.zip(asked, chunks).map(note)

    def _ask(self) -> Iterator[int]:
        with self._lock:
            number = next(self._numbers)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, daemon=True)
                self._thread.start()
        try:
            while True:
                with self._lock:
                    self._waiting[number] = time.monotonic()
                yield number
        finally:
            self._note(number)

    def _note(self, number: int | np.ndarray) -> np.bool_:
        with self._lock:
            self._waiting.pop(int(number), None)
        return np.bool_(True)

    def _look(self) -> None:
        patience = PATIENCE_SECS
        while True:
            time.sleep(patience / _LOOKS)
            with self._lock:
                first = min(self._waiting.values(), default=None)
            if first is not None and time.monotonic() - first > patience:
                self._give_up(
                    f"--data_service={self._service}: nothing has come for {patience:.0f} s. Start "
                    "the dispatcher and its workers again, then the same command: it goes on from "
                    "the newest checkpoint."
                )
                return


def end_process(message: str) -> None:
    """Ends this process as one that has lost another.

    Args:
      message: one line.
    """
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr, flush=True)
    # What waits cannot be waked up, and nothing half-written has its final name.
    os._exit(tf_config.LOST_EXIT_CODE)
