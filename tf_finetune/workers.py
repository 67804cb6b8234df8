"""What several processes that train one model agree on.

One idea: all of them do the same in the same order, because each waits in a collective operation
for the others. So whatever depends on a clock, a disk, a signal or a measurement is decided once,
by the chief or by a vote, and told to all. A process that trains alone is its own chief.

Reference: TensorFlow, "Multi-worker training with Keras",
https://www.tensorflow.org/tutorials/distribute/multi_worker_with_keras.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tf_finetune import findings, options, tf_config

_PROBLEMS, _LEFT, _VALUE = "problems", "left", "value"


LostError = tf_config.LostError


class Workers:
    """The processes that train together.

    Args:
      strategy: a tf.distribute strategy; None: this process is alone.

    Attributes:
      number: how many there are.
      index: which of them this is, from 0.
      is_joined: whether there may be others: the strategy is a MultiWorkerMirroredStrategy.
    """

    def __init__(self, strategy: Any = None):
        self._strategy = strategy
        self._sums: dict[str, Callable[[np.ndarray], Any]] = {}
        self.is_joined = strategy is not None and is_of_workers(strategy)
        self.number = strategy.extended._num_workers if self.is_joined else 1
        self.index = strategy.extended._id_in_cluster if self.is_joined else 0

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that writes."""
        return self.index == 0

    def add_up(self, values: Sequence[float] | np.ndarray, *, dtype: str = "int64") -> np.ndarray:
        """Sums over all workers, who call this at the same place with as many values.

        Args:
          values: [n] numbers.
          dtype: "int64" or "float64".

        Returns:
          [n] of that dtype, the same bits on all workers.
        """
        array = np.asarray(values, dtype)
        if not self.is_joined:
            return array
        if dtype not in self._sums:
            self._sums[dtype] = self._make_sum(dtype)
        return self._sums[dtype](array).numpy()

    def _make_sum(self, dtype: str) -> Callable[[np.ndarray], Any]:
        import tensorflow as tf

        # As a graph it takes half the time, and between any two steps there is one.
        @tf.function(input_signature=[tf.TensorSpec([None], dtype)], autograph=False)
        def add_up(values: Any) -> Any:
            return self._strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)

        return add_up

    def vote(self, *questions: bool) -> tuple[bool, ...]:
        """Asks whether something holds on any worker.

        Args:
          *questions: what holds on this one.

        Returns:
          For each question whether a worker said yes; the same on all.
        """
        return tuple(bool(count) for count in self.add_up(questions))

    def share(self, value: Any) -> Any:
        """Gives all workers the chief's value.

        Args:
          value: what JSON can hold, NaN and infinities too; the other workers' does not count.

        Returns:
          The chief's, as JSON gives it back; without other workers the value itself.
        """
        if not self.is_joined:
            return value
        content = json.dumps(value).encode() if self.is_chief else b""
        length = int(self.add_up([len(content)])[0])
        characters = np.zeros(length, np.int64)
        if self.is_chief:
            characters[:] = np.frombuffer(content, np.uint8)
        return json.loads(self.add_up(characters).astype(np.uint8).tobytes())

    def gather(self, content: bytes) -> list[bytes]:
        """Gives all workers what each of them has.

        Args:
          content: of this worker; may be empty, and of another length than the others'.

        Returns:
          The content of each worker, in their order.
        """
        if not self.is_joined:
            return [content]
        lengths = np.zeros(self.number, np.int64)
        lengths[self.index] = len(content)
        lengths = self.add_up(lengths)
        # A sum in which all but one are zero: whole numbers of eight bytes, so nothing is rounded.
        sizes = -(-lengths // 8)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        joined = np.zeros(starts[-1], np.int64)
        own = np.frombuffer(content.ljust(8 * int(sizes[self.index]), b"\0"), np.int64)
        joined[starts[self.index] : starts[self.index + 1]] = own
        if len(joined):
            joined = self.add_up(joined)
        return [
            joined[start : start + size].tobytes()[:length]
            for start, size, length in zip(starts, sizes, lengths, strict=False)
        ]

    def ask_chief(
        self, function: Callable[[], Any], *, refusals: tuple[type[Exception], ...] = ()
    ) -> Any:
        """Lets the chief alone do something, while the others wait for what comes of it.

        Args:
          function: without collective operations; called on the chief only. What it returns, JSON
            can hold.
          refusals: classes beside RefusedError and SpecError that all workers raise when the chief
            does; each is made of a tuple of problems.

        Returns:
          What the function returned, on all workers.

        Raises:
          RefusedError, SpecError: the function raised it, on all workers.
          LostError: the function raised something else on the chief.
        """
        if not self.is_joined:
            return function()
        kinds: tuple[type[Exception], ...] = (findings.RefusedError, options.SpecError, *refusals)
        told: dict[str, Any] = {_LEFT: True}
        try:
            if self.is_chief:
                told = {_VALUE: function()}
        except kinds as error:
            number = next(n for n, kind in enumerate(kinds) if isinstance(error, kind))
            problems = getattr(error, "problems", ())
            told = {_PROBLEMS: [number, *(_message(problem) for problem in problems)]}
            raise
        finally:
            told = self.share(told)
        if _LEFT in told:
            raise LostError("The chief ended: its log says why.")
        if _PROBLEMS in told:
            number, *messages = told[_PROBLEMS]
            raise _make_error(kinds[number], messages)
        return told[_VALUE]

    def check_same(self, values: Mapping[str, str | None], *, hint: str) -> None:
        """Refuses workers that were given different things.

        Args:
          values: {what it is: its text or hash}.
          hint: what to do, a sentence.

        Raises:
          RefusedError: a worker's differs from the chief's; all workers raise it.
        """
        if not self.is_joined:
            return
        chiefs = self.share(dict(values))
        own = [values.get(name) != value for name, value in chiefs.items()]
        differs = self.vote(*own, bool(values.keys() - chiefs.keys()))
        names = (*chiefs, "other options")
        changed = [name for name, differ in zip(names, differs, strict=True) if differ]
        if changed:
            message = (
                f"--strategy=multi_worker: {' and '.join(changed)} differ between the "
                f"{self.number} workers. {hint}"
            )
            raise findings.RefusedError(findings.Problem(message, flag="--strategy"))

    def average(self, variables: Sequence[Any]) -> None:
        """Gives variables their mean over all workers.

        Args:
          variables: of floats; of several devices of a worker the first counts.
        """
        if not self.is_joined or not variables:
            return
        arrays = [np.array(variable) for variable in variables]
        flat = np.concatenate([array.ravel().astype(np.float64) for array in arrays])
        # In float64 the mean of equal float32 numbers is that number.
        mean = self.add_up(flat, dtype="float64") / self.number
        first = 0
        for variable, array in zip(variables, arrays, strict=True):
            own = mean[first : first + array.size].reshape(array.shape)
            variable.assign(own.astype(array.dtype))
            first += array.size

    @contextlib.contextmanager
    def silenced(self) -> Iterator[None]:
        """Leaves it to the chief to tell what happens.

        Yields:
          None; on the other workers nothing is printed meanwhile, errors apart.
        """
        if self.is_chief:
            yield
            return
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            yield

    @contextlib.contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Turns what TensorFlow says of a worker that is gone into one line.

        Yields:
          None.

        Raises:
          LostError: a collective operation failed.
        """
        if not self.is_joined:
            yield
            return
        import tensorflow as tf

        gone = (
            tf.errors.UnavailableError,
            tf.errors.AbortedError,
            tf.errors.CancelledError,
            tf.errors.DeadlineExceededError,
            tf.errors.FailedPreconditionError,
        )
        try:
            yield
        except gone as error:
            raise LostError(
                f"Worker {self.index} of {self.number} has lost another one, whose log says why. "
                "Start the same command on all workers to go on from the newest checkpoint."
            ) from error


def is_of_workers(strategy: Any) -> bool:
    """Whether a strategy may have several workers.

    Args:
      strategy: a tf.distribute strategy.

    Returns:
      True for a MultiWorkerMirroredStrategy over TF_CONFIG.
    """
    import tensorflow as tf

    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _message(problem: findings.Problem | str) -> str:
    return problem if isinstance(problem, str) else problem.message


def _make_error(kind: type[Exception], messages: Sequence[str]) -> Exception:
    if kind is options.SpecError:
        return kind(*messages)
    problems = tuple(findings.Problem(message) for message in messages)
    return kind(*problems) if kind is findings.RefusedError else kind(problems)
