"""Devices, arithmetic and seeds of a run.

Reference: TensorFlow, "Distributed training", https://www.tensorflow.org/guide/distributed_training
"""

import contextlib
import functools
import importlib
import importlib.metadata
import os
import platform
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tf_finetune import findings, options, tf_config

MULTI_WORKER, TPU = "multi_worker", "tpu"
_TPU_NAME, _LOCAL_TPU = "TPU_NAME", "local"
PACKAGES = ("tf_finetune", "tensorflow", "keras", "numpy", "tensorflow-datasets", "tensorflow-hub")


def import_quietly() -> None:
    """Imports TensorFlow and Keras without the greetings that no log level silences.

    What was written is shown after all where the import fails, or where TF_CPP_MIN_LOG_LEVEL asks
    for TensorFlow's log.

    Raises:
      ImportError: TensorFlow or Keras cannot be imported.
    """
    if "tensorflow" in sys.modules or os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3") != "3":
        return
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as greetings:
        try:
            os.dup2(greetings.fileno(), 2)
            importlib.import_module("tensorflow")
            importlib.import_module("keras")
        except BaseException:
            greetings.seek(0)
            os.write(standard_error, greetings.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)


def make_strategy(name: str, *, announce: Callable[[str], None] = print) -> Any:
    """The tf.distribute strategy that a flag names.

    Args:
      name: "auto", "one_device", "mirrored", "multi_worker" or "tpu". auto is mirrored on several
        GPUs.
      announce: takes the line that says for whom this process waits.

    Returns:
      A tf.distribute.Strategy. mirrored uses all GPUs, without a GPU all logical CPU devices;
      multi_worker all GPUs of each worker, or its CPU, and returns once all workers are there;
      tpu all cores of the TPU of this machine, or of the one that the environment variable TPU_NAME
      names.

    Raises:
      SpecError: TF_CONFIG does not say who the workers are, its address cannot be used, or this
        process has used TensorFlow before; there is no TPU.
      tf_config.LostError: another worker did not come.
    """
    import tensorflow as tf

    if name == MULTI_WORKER:
        place = tf_config.read_place(os.environ.get(tf_config.VARIABLE))
        announce(
            f"Worker {place.index} of {len(place.addresses)}"
            f"{', the chief' if place.is_chief else ''}: waiting for all of "
            f"{', '.join(place.addresses)}."
        )
        return _join_workers(place)
    if name == TPU:
        return _connect_tpu(os.environ.get(_TPU_NAME) or _LOCAL_TPU)
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        return _make_mirrored(tuple(device.name for device in devices))
    return tf.distribute.get_strategy()


@functools.cache
def _make_mirrored(devices: tuple[str, ...]) -> Any:
    # One per process: a second strategy would number its collective operations from the start again
    # and TensorFlow 2.21 would take them for those of the first ("Shape mismatch in the collective
    # instance"), in a notebook's second run for example.
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(devices)


@functools.cache
def _connect_tpu(name: str) -> Any:
    import tensorflow as tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu=name)
        return tf.distribute.TPUStrategy(resolver)
    # Each way to look for a TPU has errors of its own: no device, no such name, no network.
    except (tf.errors.OpError, ImportError, OSError, RuntimeError, ValueError) as error:
        reason = findings.one_line(str(error).splitlines()[0] if str(error) else error)
        raise options.SpecError(
            f"--strategy={TPU}: TensorFlow {tf.__version__} finds no TPU where {_TPU_NAME}={name} "
            f"says ({reason[:120].rstrip('.')}). Expected a machine with a TPU and a TensorFlow "
            "that is built for it (the package tensorflow-tpu instead of tensorflow, in version "
            "2.21 or later), or --strategy=auto."
        ) from error


@functools.cache
def _join_workers(place: tf_config.Place) -> Any:
    import tensorflow as tf

    from tf_finetune import worker_strategy

    try:
        with _ending_by_signals():
            return worker_strategy.MultiWorkerMirroredStrategy()
    except tf.errors.UnknownError as error:
        if "start gRPC server" not in str(error):
            raise
        raise options.SpecError(
            f"--strategy={MULTI_WORKER}: {tf_config.VARIABLE} gives this worker the address "
            f"{place.addresses[place.index]}, at which it cannot be reached: the port is taken, or "
            "may not be used. Expected a free one on this machine."
        ) from error
    except tf.errors.OpError as error:
        raise tf_config.LostError(
            f"Worker {place.index} of {len(place.addresses)} did not find all others "
            f"({findings.one_line(error.message)[:200].rstrip('.')}). Start the same command on "
            "all of them again."
        ) from error
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        raise options.SpecError(
            f"--strategy={MULTI_WORKER} joins the other workers before anything else of "
            "TensorFlow, which this process has used already. Start the run in a new process."
        ) from error


@contextlib.contextmanager
def _ending_by_signals() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM end the process: Python's handlers wait for TensorFlow to return."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    former = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)


def check_steps(strategy: Any, *, steps_per_execution: int) -> None:
    """Refuses several steps at once on several devices, at which Keras 3.15 fails.

    Args:
      strategy: the run's strategy.
      steps_per_execution: value of --steps_per_execution.

    Raises:
      options.SpecError: both are several.
    """
    num_replicas = strategy.num_replicas_in_sync
    if steps_per_execution > 1 and num_replicas > 1:
        raise options.SpecError(
            f"--steps_per_execution={steps_per_execution} runs on one device only, and this run "
            f"has {num_replicas}. Leave it out, or give --strategy=one_device."
        )


def resolve_precision(name: str) -> str:
    """The arithmetic of the backbone.

    Args:
      name: value of --precision.

    Returns:
      "float32", "bfloat16" or "float16"; auto is float32.
    """
    return "float32" if name == "auto" else name


def describe_environment(*, strategy: Any, precision: str, seed: int) -> dict[str, Any]:
    """What a result depends on beside its flags.

    Args:
      strategy: the run's strategy.
      precision: "float32", "bfloat16" or "float16".
      seed: the run's seed.

    Returns:
      A dict for environment.json: versions, devices, strategy, precision, seed.
    """
    import tensorflow as tf

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "versions": versions,
        "machine": platform.machine(),
        "system": platform.system(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "threads": {
            "inter_op": tf.config.threading.get_inter_op_parallelism_threads(),
            "intra_op": tf.config.threading.get_intra_op_parallelism_threads(),
        },
        "strategy": type(strategy).__name__,
        "replicas": strategy.num_replicas_in_sync,
        "precision": precision,
        "seed": seed,
    }
