"""A process that is alone; several are in tests/e2e/test_multi_worker.py."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import worker_processes
from tf_finetune import distribution, findings, options, worker_strategy, workers


@pytest.fixture(params=[None, "one_device", "mirrored"])
def alone(request):
    return workers.Workers(request.param and distribution.make_strategy(request.param))


def test_who_is_alone_is_the_chief(alone):
    assert (alone.number, alone.index, alone.is_chief, alone.is_joined) == (1, 0, True, False)


def test_who_is_alone_decides_by_itself(alone):
    assert alone.add_up([3, 4]).tolist() == [3, 4]
    assert alone.vote(True, False) == (True, False)
    value = {"not": (1, float("nan"))}
    assert alone.share(value) is value
    assert alone.ask_chief(lambda: value) is value
    alone.check_same({"what": "ever"}, hint="")


def test_errors_of_who_is_alone_pass_through(alone):
    def refuse():
        raise findings.RefusedError(findings.Problem("so"))

    with pytest.raises(findings.RefusedError, match=r"^so$"):
        alone.ask_chief(refuse)
    with pytest.raises(tf.errors.UnavailableError), alone.naming_the_lost():
        raise tf.errors.UnavailableError(None, None, "gone")


def test_who_is_alone_tells_what_happens(alone, capsys):
    with alone.silenced():
        print("told")
    assert capsys.readouterr().out == "told\n"


def test_variables_of_who_is_alone_stay(alone):
    variable = keras.Variable([1.0, 2.0])
    alone.average([variable])
    assert np.array(variable).tolist() == [1.0, 2.0]


def test_a_worker_that_is_no_chief_is_silent(capsys):
    other = workers.Workers()
    other.index = 1
    with other.silenced():
        print("told")
        print("an error", file=sys.stderr)
    print("again")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("again\n", "an error\n")


def test_who_has_used_tensorflow_is_refused(monkeypatch):
    tf.constant(0)
    monkeypatch.setenv(
        "TF_CONFIG",
        '{"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}',
    )
    lines = []
    with pytest.raises(options.SpecError) as error:
        distribution.make_strategy("multi_worker", announce=lines.append)
    assert str(error.value) == (
        "--strategy=multi_worker joins the other workers before anything else of TensorFlow, which "
        "this process has used already. Start the run in a new process."
    )
    assert lines == ["Worker 0 of 1, the chief: waiting for all of 127.0.0.1:1."]


def test_an_address_that_is_taken_is_refused():
    code = "from tf_finetune import distribution; distribution.make_strategy('multi_worker')"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        place = {"cluster": {"worker": [address]}, "task": {"type": "worker", "index": 0}}
        finished = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "TF_CONFIG": json.dumps(place)},
            capture_output=True,
            text=True,
        )
    assert finished.stderr.splitlines()[-1] == (
        "tf_finetune.options.SpecError: --strategy=multi_worker: TF_CONFIG gives this worker the "
        f"address {address}, at which it cannot be reached: the port is taken, or may not be used. "
        "Expected a free one on this machine."
    )


def test_ctrl_c_ends_a_worker_that_waits_for_the_others(tmp_path):
    (place, _) = worker_processes.make_places(2)
    flags = ["--strategy=multi_worker", f"--model={tmp_path}", f"--data={tmp_path}"]
    worker = worker_processes.Worker(flags, place, tmp_path)
    worker.wait_for("Worker 0 of 2, the chief: waiting for all of ")
    time.sleep(1)  # until it waits inside of TensorFlow
    worker.process.send_signal(signal.SIGINT)
    assert worker.end(secs=20).code == -signal.SIGINT


@pytest.mark.parametrize("num_parts", [1, 2, 3])
def test_each_batch_is_divided_among_the_devices_of_a_worker(num_parts):
    numbers = tf.data.Dataset.range(8).batch(5)  # 5 and 3
    batches = numbers.map(lambda batch: ({"x": batch}, batch * 10))
    divided = worker_strategy.divide(batches, num_parts=num_parts)
    parts = [(inputs["x"].numpy().tolist(), labels.numpy().tolist()) for inputs, labels in divided]
    expected = {
        1: [[0, 1, 2, 3, 4], [5, 6, 7]],
        2: [[0, 1], [2, 3, 4], [5], [6, 7]],
        3: [[0], [1, 2], [3, 4], [5], [6], [7]],
    }[num_parts]
    assert parts == [(part, [10 * number for number in part]) for part in expected]
    assert int(divided.cardinality()) == len(expected)
