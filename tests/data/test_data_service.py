"""Batches that workers read are those of a process that reads by itself, bit for bit."""

import os
import pathlib
import re
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from tests import service_processes
from tests.data import image_bytes, test_pipeline
from tf_finetune import findings, option_values, tf_config
from tf_finetune.data import (
    batching,
    data_service,
    image_stores,
    loaders,
    pipeline,
    preprocessing,
    service_patience,
)

# Bytes that are sent, a quarter of the images', and a size that is not that of the files.
PRE = preprocessing.PreprocessingSpec(10, 7, 3, "crop")
VIEWS = option_values.read_augment("rotate:20,flip,color")
MIXED = option_values.read_augment("flip,mixup")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two folders, in which processes see other files under the same path."""
    folder = tmp_path_factory.mktemp("places")
    for name in ("here", "there"):
        (folder / name).mkdir()
        (folder / name / "a.txt").write_text(name)
    (folder / "here" / "b.txt").write_text("b")
    return folder


@pytest.fixture(scope="module")
def service(places):
    """A dispatcher and two workers."""
    with service_processes.started(2, places / "there") as started:
        yield started.address


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder, paths = tmp_path_factory.mktemp("images"), np.empty(90, object)
    for number, image in enumerate(test_pipeline.make_pixels(90, height=12, width=12)):
        path = folder / f"{number}.jpg"
        # The quick decoder's: its graph is the smaller one.
        path.write_bytes(image_bytes.encode(image, "JPEG"))
        paths[number] = os.fsencode(path)
    images = image_stores.PathImages(paths)
    assert loaders.are_plain_jpegs(images, np.arange(90))
    return test_pipeline.make_split(images, np.roll(np.arange(3, 90), 20))


def read(split, **options):
    options = {"batch_size": 12, "pre": PRE, **options}
    if "epoch" in options:
        options["epoch"] = tf.Variable(options["epoch"], dtype=tf.int64, trainable=False)
    dataset = pipeline.make_dataset(split, options.pop("pre"), with_weights=True, **options)
    return [tf.nest.flatten(batch) for batch in dataset.as_numpy_iterator()]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        for values, others in zip(batch, other, strict=True):
            np.testing.assert_array_equal(values, others)
            assert values.dtype == others.dtype


TRAINING = {"shuffle_seed": 3, "epoch": 2}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": data_service.CHUNK},
        {"batch_size": 50, "num_replicas": 4},
        {"pre": preprocessing.PreprocessingSpec(10, 7, 1, "pad", pixel_max=200.0)},
        TRAINING,
        {**TRAINING, "first_batch": 3},
        {**TRAINING, "views": VIEWS},
        {**TRAINING, "views": VIEWS, "num_views": 2},
        {**TRAINING, "views": VIEWS, "strata": np.repeat([0, 1], [80, 7])},
        {**TRAINING, "views": MIXED, "share": batching.Share(1, 3)},
    ],
    ids=str,
)
def test_the_batches_are_the_same(service, split, options, monkeypatch):
    # Several pieces, the last with a part of a chunk.
    monkeypatch.setattr(data_service, "_MAX_PIECE", 3 * data_service.CHUNK)
    assert_same(read(split, service=service, **options), read(split, **options))


def test_each_epoch_is_read_anew(service, split):
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
    options = {"batch_size": 30, "shuffle_seed": 1, "epoch": epoch, "views": VIEWS}
    served, own = (
        pipeline.make_dataset(split, PRE, service=name, **options) for name in (service, None)
    )
    firsts = []
    for number in (0, 1, 0):
        epoch.assign(number)
        batches = [[tf.nest.flatten(b) for b in each.as_numpy_iterator()] for each in (served, own)]
        assert_same(*batches)
        firsts.append(batches[0][0][0])
    np.testing.assert_array_equal(firsts[0], firsts[2])
    assert not np.array_equal(firsts[0], firsts[1])


def make_piece(split, count, *, view=None):
    rows = range(count)
    return data_service._Piece(
        tf.constant(split.inputs.paths[split.indices[rows]], tf.string),
        tf.zeros(count, tf.int64),
        tf.constant(0, tf.int64),
        preprocessing.decode_plain_jpeg,
        view,
        PRE,
    )


@pytest.mark.parametrize(
    ("order", "lost"),
    [
        ((2, 0, 1, 4, 3), ()),
        ((4, 3, 2, 1, 0), (4,)),
        ((0, 1, 2, 3, 4), (1, 2)),
        ((), (0, 1, 2, 3, 4)),
    ],
)
def test_chunks_are_put_in_order_and_the_lost_ones_read(split, order, lost):
    count = 4 * data_service.CHUNK + 5
    piece = make_piece(split, count)
    came = np.array([number for number in order if number not in lost], np.int64)
    # What came is marked, so that it shows what was read here.
    served = tf.data.Dataset.from_tensor_slices(came).map(
        lambda number: (number, 255 - piece._read_chunk(number).get_single_element())
    )
    given = list(piece._put_in_order(served).as_numpy_iterator())
    assert [len(chunk) for chunk in given] == [data_service.CHUNK] * 4 + [5]
    expected = np.concatenate([batch[0] for batch in read(split, batch_size=data_service.CHUNK)])
    for number, chunk in enumerate(given):
        first = number * data_service.CHUNK
        own = expected[first : first + len(chunk)]
        np.testing.assert_array_equal(chunk, own if number in lost else 255 - own)


def test_what_is_no_file_is_refused(service):
    pixels = test_pipeline.make_pixels(4)
    split = test_pipeline.make_split(test_pipeline.make_store("array", pixels, None), range(4))
    with pytest.raises(ValueError, match=r"^A data service reads images that are files\. Received"):
        read(split, service=service)


def test_workers_that_see_the_files(service, split):
    assert data_service.reach(service, split.inputs.paths[:2]) == 2


def test_workers_that_see_other_files(service, places, monkeypatch):
    first, second = b"/proc/self/cwd/a.txt", b"/proc/self/cwd/b.txt"
    monkeypatch.chdir(places / "there")
    assert data_service.reach(service, [first]) == 2
    monkeypatch.chdir(places / "here")
    with pytest.raises(findings.RefusedError) as other:
        data_service.reach(service, [first])
    assert str(other.value) == (
        f"--data_service={service}: one of its workers reads something else under the path of "
        "'/proc/self/cwd/a.txt'. Expected the same files under the same paths, and the same "
        "version of TensorFlow, on all of them."
    )
    with pytest.raises(findings.RefusedError) as absent:
        data_service.reach(service, [first, second])
    assert str(absent.value).startswith(
        f"--data_service={service}: one of its workers cannot read '/proc/self/cwd/a.txt', "
        "'/proc/self/cwd/b.txt' ("
    )
    assert "b.txt; No such file or directory" in str(absent.value)


def test_a_worker_that_cannot_read_an_image(service, split, places, monkeypatch):
    monkeypatch.chdir(places / "here")
    paths = split.inputs.paths.copy()
    (places / "here" / "c.jpg").write_bytes(pathlib.Path(os.fsdecode(paths[5])).read_bytes())
    paths[5] = b"/proc/self/cwd/c.jpg"
    images = image_stores.PathImages(paths)
    with pytest.raises(findings.RefusedError) as caught, data_service.naming_faults(service):
        read(test_pipeline.make_split(images, range(90)), service=service)
    assert re.fullmatch(
        rf"--data_service={service}: its worker 127\.0\.0\.1:\d+ cannot read an image "
        r"\(/proc/self/cwd/c\.jpg; No such file or directory\)\. Expected the same files under the "
        r"same paths, and the same version of TensorFlow, on all of them\. Put that right and run "
        r"the same command again\.",
        str(caught.value),
    ), caught.value
    with pytest.raises(tf.errors.OpError), data_service.naming_faults(None):
        raise tf.errors.NotFoundError(None, None, "Failed to get element from worker a:1: b")


def test_no_dispatcher(monkeypatch):
    monkeypatch.setattr(data_service, "REACH_SECS", 0.5)
    (port,) = service_processes.find_ports(1)
    with pytest.raises(tf_config.LostError) as caught:
        data_service.reach(f"grpc://127.0.0.1:{port}", [b"a.png"])
    assert str(caught.value) == (
        f"--data_service=grpc://127.0.0.1:{port}: there is no dispatcher (Connection refused). "
        "Waited for 0 s. Start it, or correct the address."
    )


def test_no_worker(monkeypatch, split, tmp_path):
    monkeypatch.setattr(data_service, "REACH_SECS", 2)
    with (
        service_processes.started(0, tmp_path) as service,
        pytest.raises(tf_config.LostError) as caught,
    ):
        data_service.reach(service.address, split.inputs.paths[:1])
    assert str(caught.value) == (
        f"--data_service={service.address}: its dispatcher has no worker. Waited for 2 s. Start "
        "one."
    )


def test_who_waits_in_vain_gives_up(monkeypatch):
    monkeypatch.setattr(service_patience, "PATIENCE_SECS", 0.4)
    said = []
    patience = service_patience.Patience("grpc://a:1", give_up=said.append)
    gate = tf.queue.FIFOQueue(1, [tf.int64], [()])
    chunks = tf.data.Dataset.range(2).map(lambda number: (number, number))
    watched = iter(patience.watch(chunks))
    next(watched)
    time.sleep(1)
    assert not said  # nobody asks
    slow = patience.watch(tf.data.Dataset.range(1).map(lambda number: (gate.dequeue(), number)))
    waiting = threading.Thread(target=lambda: list(slow.as_numpy_iterator()))
    waiting.start()
    time.sleep(1)
    assert said == [
        "--data_service=grpc://a:1: nothing has come for 0 s. Start the dispatcher and its "
        "workers again, then the same command: it goes on from the newest checkpoint."
    ]
    gate.enqueue(tf.constant(1, tf.int64))
    waiting.join()
    assert [int(number) for number, _ in watched] == [1]
    assert not patience._waiting  # at the end, and where an iterator is left in the middle
    unfinished = iter(patience.watch(chunks.prefetch(2)))
    next(unfinished)
    del unfinished
    assert not patience._waiting
