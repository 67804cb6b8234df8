"""Images that the workers of a tf.data service read, in the order in which this process asks.

One idea: the order of an epoch is drawn here, as without a service, and given out in pieces. A
piece tells the workers the files, the seeds of views and the epoch; they share its chunks among
them as each is free. What comes back is put in order again, and a chunk that a lost worker had
taken is read here, so the batches are those of a run that reads by itself.

Reference: TensorFlow, "Module: tf.data.experimental.service",
https://www.tensorflow.org/api_docs/python/tf/data/experimental/service.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import re
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_finetune import findings, option_values, tf_config
from tf_finetune.data import augmentation, image_stores, loaders, preprocessing, service_patience

# Images that go from a worker to this process together.
CHUNK = 16
# A dispatcher, or a worker, may be started a little later than this process.
REACH_SECS = 30.0
# What chunks that overtake others may take in memory while those are waited for.
_PIECE_BYTES = 2**30
_MAX_PIECE = 8192
_CHUNKS_AT_ONCE = 2
_NUM_HASHES = 2**62
# Of TensorFlow 2.21: the worker, and behind the place in its graph the reason.
_FAULT = re.compile(r"Failed to get element from worker (\S+): (?:.*Iterator::\S+ )?(.*)")


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """How the images of a split vary.

    Attributes:
      steps: of `AugmentSpec.steps`, one of them no mixing step.
      seeds: int64 [n], of `augmentation.make_seeds`.
      num_views: see `augmentation.make_viewer`.
    """

    steps: augmentation.Steps
    seeds: np.ndarray
    num_views: int | None


def reach(service: str, paths: Sequence[bytes]) -> int:
    """Waits for a service, and looks whether its workers see the same files.

    Args:
      service: grpc://HOST:PORT.
      paths: some of the files.

    Returns:
      How many workers there are.

    Raises:
      tf_config.LostError: there is no dispatcher within 30 seconds, or no worker within as many.
      findings.RefusedError: a worker cannot read a file, or reads something else.
    """
    _wait_for_dispatcher(service)
    expected = collections.Counter(int(_hash_file(path)) for path in paths)
    found = collections.Counter(_ask_workers(service, paths))
    number, rest = divmod(found.total(), expected.total())
    if rest or any(found[value] != number * count for value, count in expected.items()):
        raise _refuse(service, "one of its workers reads something else under the path of", paths)
    return number


@contextlib.contextmanager
def naming_faults(service: str | None) -> Iterator[None]:
    """Turns what a worker could not do into one line.

    Args:
      service: grpc://HOST:PORT; None: nobody's faults are named.

    Yields:
      None.

    Raises:
      findings.RefusedError: a worker could not read an image.
    """
    try:
        yield
    except tf.errors.OpError as error:
        found = _FAULT.search(error.message or "")
        if service is None or found is None:
            raise
        worker, reason = (findings.one_line(text) for text in found.groups())
        message = (
            f"--data_service={service}: its worker {worker} cannot read an image ({reason}). "
            "Expected the same files under the same paths, and the same version of TensorFlow, on "
            "all of them. Put that right and run the same command again."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--data_service")) from error


def _wait_for_dispatcher(service: str) -> None:
    host, port = option_values.read_service(service)
    end = time.monotonic() + REACH_SECS
    while True:
        try:
            socket.create_connection((host, port), timeout=REACH_SECS).close()
            return
        except OSError as error:
            if time.monotonic() >= end:
                reason = findings.one_line(error.strerror or error)
                raise tf_config.LostError(
                    f"--data_service={service}: there is no dispatcher ({reason}). Waited for "
                    f"{REACH_SECS:.0f} s. Start it, or correct the address."
                ) from error
        time.sleep(0.2)


def _ask_workers(service: str, paths: Sequence[bytes]) -> list[int]:
    """What the files hold, of each worker."""
    found: list[int] = []
    failed: list[tf.errors.OpError] = []

    def ask() -> None:
        dataset = tf.data.Dataset.from_tensor_slices(list(paths)).map(_hash_file)
        policy = tf.data.experimental.service.ShardingPolicy.OFF
        try:
            found.extend(map(int, _serve(dataset, service, policy).as_numpy_iterator()))
        except tf.errors.OpError as error:
            failed.append(error)

    # TensorFlow waits for the first worker without end.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECS)
    if failed:
        raise _refuse(service, "one of its workers cannot read", paths, failed[0]) from failed[0]
    if thread.is_alive() or not found:
        raise tf_config.LostError(
            f"--data_service={service}: its dispatcher has no worker. Waited for "
            f"{REACH_SECS:.0f} s. Start one."
        )
    return found


def _hash_file(path: Any) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(tf.io.read_file(path), _NUM_HASHES)


def _refuse(
    service: str, what: str, paths: Sequence[bytes], error: tf.errors.OpError | None = None
) -> findings.RefusedError:
    names = findings.list_first([os.fsdecode(path) for path in paths])
    reason = f" ({findings.one_line(error.message.splitlines()[0])})" if error else ""
    return findings.RefusedError(
        findings.Problem(
            f"--data_service={service}: {what} {names}{reason}. Expected the same files under the "
            "same paths, and the same version of TensorFlow, on all of them.",
            flag="--data_service",
        )
    )


def read_batches(
    turns: tf.data.Dataset,
    images: image_stores.PathImages,
    indices: np.ndarray,
    pre: preprocessing.PreprocessingSpec,
    *,
    views: Views | None,
    seeds: tf.data.Dataset | None,
    batch_size: int,
    service: str,
) -> tf.data.Dataset:
    """The images of an epoch, read by the workers of a service.

    Args:
      turns: dataset of (position, int64 scalar; how often it came before, int64 scalar).
      images: the files.
      indices: int64 [n], the file of each position.
      pre: what the model takes.
      views: how images vary; needs `seeds`. None: they are given as they are.
      seeds: dataset of the one int64 [2] (seed, epoch); None: there are no epochs.
      batch_size: examples of a batch.
      service: grpc://HOST:PORT.

    Returns:
      Dataset of (images of a batch, float32 [b, height, width, channels], values 0 to 255; their
      positions, int64 [b]; how often each came before, int64 [b]), in the order of `turns`.
    """
    paths = tf.constant(images.paths[indices], tf.string, shape=(len(indices),))
    table = None if views is None else tf.constant(views.seeds, tf.int64)
    decode = loaders.choose_decoder(images, indices)

    def read_piece(turn: tuple[tf.Tensor, tf.Tensor], epoch: tf.Tensor) -> tf.data.Dataset:
        positions, repeats = turn
        view = None
        if views is not None:
            own = tf.gather(table, positions)
            view = augmentation.make_viewer(views.steps, own, num_views=views.num_views)
        piece = _Piece(tf.gather(paths, positions), repeats, epoch, decode, view, pre)
        read = functools.partial(_cut_chunk, positions, repeats)
        numbered = tf.data.Dataset.range(piece.num_chunks).map(read)
        chunks = tf.data.Dataset.zip(piece.read(service), numbered)
        return chunks.map(lambda pixels, cut: (tf.cast(pixels, tf.float32), *cut))

    epochs = tf.data.Dataset.from_tensors(tf.constant(0, tf.int64)).repeat()
    if seeds is not None:
        epochs = augmentation.repeat_epoch(seeds)
    pieces = tf.data.Dataset.zip(turns.batch(_size_piece(pre)), epochs)
    # A dispatcher that is gone is waited for when a piece is given out, workers when it is read.
    chunks = service_patience.Patience(service).watch(pieces.flat_map(read_piece))
    return chunks if batch_size == CHUNK else chunks.rebatch(batch_size)


def _size_piece(pre: preprocessing.PreprocessingSpec) -> int:
    num_bytes = pre.height * pre.width * pre.channels * 4
    return min(max(_PIECE_BYTES // num_bytes // CHUNK, 4) * CHUNK, _MAX_PIECE)


def _cut_chunk(*arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
    *values, number = arguments
    return tuple(array[number * CHUNK : (number + 1) * CHUNK] for array in values)


@dataclasses.dataclass(frozen=True, eq=False)
class _Piece:
    """A part of an epoch, as tensors of the graph that gives it out.

    Attributes:
      paths: string [n].
      repeats: int64 [n], how often each example came before.
      epoch: int64 scalar.
      decode: of `loaders.choose_decoder`.
      view: what shows the image of a place in the piece; None: images are as they are.
      pre: what the model takes.
    """

    paths: tf.Tensor
    repeats: tf.Tensor
    epoch: tf.Tensor
    decode: Callable[..., tf.Tensor]
    view: augmentation.Viewer | None
    pre: preprocessing.PreprocessingSpec

    @property
    def num_chunks(self) -> tf.Tensor:
        """int64 scalar."""
        return -(-tf.size(self.paths, tf.int64) // CHUNK)

    def read(self, service: str) -> tf.data.Dataset:
        """Dataset of the chunks in their order, [up to CHUNK, height, width, channels]."""
        jobs = tf.data.Dataset.range(self.num_chunks).interleave(
            lambda number: self._read_chunk(number).map(lambda pixels: (number, pixels)),
            cycle_length=_CHUNKS_AT_ONCE,
            num_parallel_calls=_CHUNKS_AT_ONCE,
        )
        policy = tf.data.experimental.service.ShardingPolicy.DYNAMIC
        return self._put_in_order(_serve(jobs, service, policy).take(self.num_chunks))

    def _read_chunk(self, number: tf.Tensor) -> tf.data.Dataset:
        """Dataset of the one chunk of that number."""
        first = number * CHUNK
        last = tf.minimum(first + CHUNK, tf.size(self.paths, tf.int64))
        places = tf.data.Dataset.range(first, last)
        return places.map(self._load, num_parallel_calls=tf.data.AUTOTUNE).batch(CHUNK)

    def _load(self, place: tf.Tensor) -> tf.Tensor:
        image = self.decode(tf.io.read_file(self.paths[place]), self.pre)
        image = tf.ensure_shape(image, (self.pre.height, self.pre.width, self.pre.channels))
        if self.view is not None:
            return self.view(image, place, self.epoch, self.repeats[place])
        # Whole numbers from 0 to 255 then: a quarter of the bytes to send.
        return tf.cast(image, tf.uint8) if self.pre.pixel_max is None else image

    def _put_in_order(self, served: tf.data.Dataset) -> tf.data.Dataset:
        """Chunks, each with its number, to chunks by their numbers; what is missing is read."""
        num_chunks, spec = self.num_chunks, served.element_spec[1]
        nothing = tf.zeros([0, *spec.shape[1:]], spec.dtype)
        # Behind what comes from the workers: a look at what is left to give for each chunk.
        looks = tf.data.Dataset.from_tensors((num_chunks, nothing)).repeat(num_chunks)
        slots = _Slots(num_chunks + 1, spec)

        def put(state: tuple[tf.Tensor, ...], chunk: tuple[tf.Tensor, tf.Tensor]) -> Any:
            (place, is_here, waiting), (number, pixels) = state, chunk
            is_here = tf.tensor_scatter_nd_update(is_here, [[number]], [True])
            waiting = slots.put(waiting, number, pixels)
            is_lost = (number == num_chunks) & ~is_here[place]
            is_given = is_here[place] | is_lost
            given = tf.cond(
                is_lost,
                lambda: self._read_chunk(place).get_single_element(),
                lambda: tf.cond(
                    is_given, lambda: slots.get(waiting, place), lambda: tf.identity(nothing)
                ),
            )
            waiting = slots.put(waiting, tf.where(is_given, place, num_chunks), nothing)
            return (place + tf.cast(is_given, tf.int64), is_here, waiting), (is_given, given)

        start = (tf.constant(0, tf.int64), tf.zeros([num_chunks + 1], tf.bool), slots.make())
        given = served.concatenate(looks).scan(start, put)
        given = given.filter(lambda is_given, pixels: is_given)
        return given.map(lambda is_given, pixels: pixels).take(num_chunks)


class _Slots:
    """Room for chunks of different sizes: TensorFlow's list of tensors, passed on as a value."""

    def __init__(self, count: tf.Tensor, spec: tf.TensorSpec):
        self._count = tf.cast(count, tf.int32)
        self._dtype = spec.dtype
        self._shape = tf.constant([-1, *spec.shape[1:]], tf.int32)

    def make(self) -> tf.Tensor:
        """A variant scalar: all slots are empty."""
        return tf.raw_ops.TensorListReserve(
            element_shape=self._shape, num_elements=self._count, element_dtype=self._dtype
        )

    def put(self, slots: tf.Tensor, number: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
        """The slots with pixels in one of them."""
        return tf.raw_ops.TensorListSetItem(
            input_handle=slots, index=tf.cast(number, tf.int32), item=pixels
        )

    def get(self, slots: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        """The pixels in a slot."""
        return tf.raw_ops.TensorListGetItem(
            input_handle=slots,
            index=tf.cast(number, tf.int32),
            element_shape=self._shape,
            element_dtype=self._dtype,
        )


def _serve(dataset: tf.data.Dataset, service: str, policy: Any) -> tf.data.Dataset:
    """The elements of a data set that the workers make."""
    options = tf.data.Options()
    # TensorFlow 2.21 takes a function with a check inside, as decoders have, for one with a state.
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    options.experimental_optimization.apply_default_optimizations = False
    # Pixels of photographs do not become smaller by it.
    distribute = tf.data.experimental.service.distribute(policy, service, compression=None)
    with warnings.catch_warnings():
        # That it may not find the options of a data set in a graph; it does find these.
        warnings.filterwarnings("ignore", message="To make it possible to preserve tf.data options")
        return dataset.with_options(options).apply(distribute)
