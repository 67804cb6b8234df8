"""Fixtures and the process-wide set-up of the tests."""

import os
import pathlib
import signal

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Of gs://, read when TensorFlow is loaded: tests change objects behind its back and see it give up.
os.environ.setdefault("GCS_STAT_CACHE_MAX_AGE", "0")
os.environ.setdefault("GCS_RETRY_CONFIG_MAX_RETRIES", "2")
os.environ.setdefault("GCS_RETRY_CONFIG_INIT_DELAY_TIME_US", "1000")
os.environ.setdefault("GCS_READAHEAD_BUFFER_SIZE_BYTES", str(2**20))

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
_SHARED = pathlib.Path(os.environ.get("TF_FINETUNE_SHARED", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session", autouse=True)
def two_logical_devices():
    """Splits the CPU in two, so that MirroredStrategy is exercised without a GPU."""
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, logical)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keeps models and features that tests fetch or compute out of the user's cache."""
    before = os.environ.get("TFHUB_CACHE_DIR")
    os.environ["TFHUB_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["TFHUB_CACHE_DIR"]
    else:
        os.environ["TFHUB_CACHE_DIR"] = before


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """Is heard, although a shell starts its background jobs without it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real models, data and server tools that lies beside the checkout."""
    if not _SHARED.is_dir():
        pytest.skip(f"TF_FINETUNE_SHARED: {_SHARED} does not exist")
    return _SHARED
