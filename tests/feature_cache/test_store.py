import multiprocessing
import os
import random
import signal
import time

import ml_dtypes
import numpy as np
import pytest

from tf_finetune.feature_cache import shards, store

LAYOUT = shards.Layout({"features_0": (4,), "features_0_mask": (2,)}, {
    "features_0": "bfloat16", "features_0_mask": "bool",
})  # fmt: skip


def make_rows(count, *, seed=0):
    generator = np.random.default_rng(seed)
    digests = generator.integers(0, 256, (count, 16), np.uint8)
    return digests, {
        "features_0": generator.normal(size=(count, 4)).astype(ml_dtypes.bfloat16),
        "features_0_mask": generator.integers(0, 2, (count, 2)).astype(bool),
    }


def silent(text):
    raise AssertionError(text)


def open_store(folder, announce=silent):
    return store.FeatureStore(LAYOUT, folder=folder and str(folder), announce=announce)


@pytest.mark.parametrize("on_disk", [True, False])
def test_rows_come_back_in_any_order(tmp_path, on_disk):
    digests, arrays = make_rows(50)
    features = open_store(tmp_path if on_disk else None)
    assert features.is_kept == on_disk
    for start in range(0, 50, 7):
        part = slice(start, start + 7)
        features.add(digests[part], {name: array[part] for name, array in arrays.items()})
        if start % 2 == 0:
            features.flush()
    assert len(features.find_missing(digests)) == 1  # the last part is not flushed
    features.flush()
    assert len(features.find_missing(digests)) == 0
    order = np.random.default_rng(1).permutation(50)
    order = np.concatenate([order, order[:9]])
    found = features.read(digests[order])
    read = features.make_reader(digests)(order)
    for (name, array), own in zip(arrays.items(), read, strict=True):
        for values in (found[name], own):
            assert values.dtype == array.dtype
            np.testing.assert_array_equal(values, array[order])
    assert len(os.listdir(tmp_path)) == (5 if on_disk else 0)


def test_a_later_run_finds_what_is_there(tmp_path):
    digests, arrays = make_rows(10)
    features = open_store(tmp_path)
    features.add(digests[:6], {name: array[:6] for name, array in arrays.items()})
    features.flush()
    again = open_store(tmp_path)
    np.testing.assert_array_equal(again.find_missing(digests), [6, 7, 8, 9])
    np.testing.assert_array_equal(
        again.read(digests[[3, 1]])["features_0"], arrays["features_0"][[3, 1]]
    )


def test_equal_examples_are_computed_once():
    digests, _ = make_rows(4)
    features = open_store(None)
    np.testing.assert_array_equal(features.find_missing(digests[[2, 1, 2, 0, 1, 3]]), [0, 1, 3, 5])


def test_digests_that_end_in_zeros_are_told_apart():
    digests = np.zeros((4, 16), np.uint8)
    digests[1, 0] = digests[2, 15] = digests[3, 14] = 1
    features = open_store(None)
    assert len(features.find_missing(digests)) == 4
    rows = {
        "features_0": np.arange(16, dtype=np.float32).reshape(4, 4).astype(ml_dtypes.bfloat16),
        "features_0_mask": np.zeros((4, 2), bool),
    }
    features.add(digests, rows)
    features.flush()
    np.testing.assert_array_equal(
        features.read(digests[::-1])["features_0"], rows["features_0"][::-1]
    )


def test_damage_is_told_and_only_that_shard_is_missing(tmp_path):
    digests, arrays = make_rows(9)
    features = open_store(tmp_path)
    for start in (0, 3, 6):
        part = slice(start, start + 3)
        features.add(digests[part], {name: array[part] for name, array in arrays.items()})
        features.flush()
    victim = sorted(tmp_path.iterdir())[1]
    content = bytearray(victim.read_bytes())
    content[-1] ^= 0xFF
    victim.write_bytes(bytes(content))
    lines = []
    again = open_store(tmp_path, lines.append)
    assert lines == ["Feature cache: 1 damaged file removed, those features are computed again."]
    assert len(again.find_missing(digests)) == 3
    assert not victim.exists()


def write_many(folder, seed):
    features = open_store(folder)
    digests, arrays = make_rows(60)
    order = np.random.default_rng(seed).permutation(60)
    for row in order:
        if len(features.find_missing(digests[[row]])):
            features.add(digests[[row]], {name: array[[row]] for name, array in arrays.items()})
            features.flush()


def test_two_processes_at_once(tmp_path):
    context = multiprocessing.get_context("fork")  # no TensorFlow there
    workers = [context.Process(target=write_many, args=(str(tmp_path), seed)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    digests, arrays = make_rows(60)
    features = open_store(tmp_path)
    assert len(features.find_missing(digests)) == 0
    for name, values in features.read(digests).items():
        np.testing.assert_array_equal(values, arrays[name])


def make_slowly(folder, counter):
    """A pass of 200 batches of three, whose features a few flushes keep."""
    store._FLUSH_SECS = 0.05
    features = open_store(folder)
    digests, arrays = make_rows(600)
    missing = features.find_missing(digests)
    for start in range(0, len(missing), 3):
        rows = missing[start : start + 3]
        time.sleep(0.003)
        features.add(digests[rows], {name: array[rows] for name, array in arrays.items()})
        counter.value += len(rows)
    features.flush()


def test_a_pass_that_is_killed_goes_on_where_it_was(tmp_path):
    """Five times at random moments; what is repeated was in flight."""
    context = multiprocessing.get_context("fork")  # no TensorFlow there
    generator, digests, arrays = random.Random(0), *make_rows(600)
    lost = []
    for _ in range(5):
        counter = context.Value("i", 0)
        before = len(open_store(tmp_path).find_missing(digests))
        worker = context.Process(target=make_slowly, args=(tmp_path, counter))
        worker.start()
        # After some work, however long that takes on this machine.
        goal = generator.randint(60, 110)
        while counter.value < goal and worker.is_alive():
            time.sleep(0.001)
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        left = len(open_store(tmp_path).find_missing(digests))
        lost.append(counter.value - (before - left))
    counter = context.Value("i", 0)
    before = len(open_store(tmp_path).find_missing(digests))
    worker = context.Process(target=make_slowly, args=(tmp_path, counter))
    worker.start()
    worker.join()
    assert counter.value == before < 600
    # At most what 0.05 s and the writing of a file bring, at 3 ms a batch.
    assert min(lost) >= 0 and max(lost) <= 3 * (0.05 / 0.003 + 2)
    for name, values in open_store(tmp_path).read(digests).items():
        np.testing.assert_array_equal(values, arrays[name])
    assert all(path.suffix == ".shard" for path in tmp_path.iterdir())


def test_what_waits_is_written_after_some_time_and_size(tmp_path, monkeypatch):
    digests, arrays = make_rows(4)
    one = {name: array[:1] for name, array in arrays.items()}
    features = open_store(tmp_path)
    features.add(digests[:1], one)
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(store, "_FLUSH_SECS", 0.0)
    monkeypatch.setattr(store, "_FLUSH_PART", 0.0)
    features.add(digests[1:2], one)
    assert len(os.listdir(tmp_path)) == 1
    monkeypatch.setattr(store, "_FLUSH_SECS", 1e9)
    monkeypatch.setattr(store, "_MAX_SHARD_BYTES", 2 * LAYOUT.row_bytes)
    features.add(digests[2:3], one)
    assert len(os.listdir(tmp_path)) == 1
    features.add(digests[3:], one)
    assert len(os.listdir(tmp_path)) == 2
