"""Workers on this machine: real processes with TF_CONFIG, started and waited for by tests."""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import time

# The door, as the command line opens it; and what a worker that writes nothing has learnt.
_DRIVER = """
import sys
from tf_finetune import checkpoints, main, training

fit = training.fit

def fit_and_tell(model, *arguments, **options):
    result = fit(model, *arguments, **options)
    print("weights", checkpoints.digest_weights(model.get_weights()), file=sys.stderr)
    return result

training.fit = fit_and_tell
main.run()
"""


@dataclasses.dataclass
class Ended:
    """A worker that has ended."""

    code: int
    out: str
    error: str
    secs: float = 0.0

    @property
    def weights(self):
        (line,) = [line for line in self.error.splitlines() if line.startswith("weights ")]
        return line


class Worker:
    """A worker that may still run."""

    def __init__(self, flags, place, folder, *, prelude=""):
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TF_CONFIG": json.dumps(place)}
        index = place["task"]["index"]
        self.paths = [folder / f"{name}_{index}_{time.time_ns()}" for name in ("out", "error")]
        with contextlib.ExitStack() as stack:
            out, error = (stack.enter_context(open(path, "w")) for path in self.paths)
            self.process = subprocess.Popen(
                [sys.executable, "-c", prelude + _DRIVER, *flags],
                stdout=out,
                stderr=error,
                env=environment,
            )

    def read(self):
        return [path.read_text() for path in self.paths]

    def wait_for(self, text, *, secs=180):
        """Until the worker has printed a text."""
        end = time.monotonic() + secs
        while not any(text in content for content in self.read()):
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError("".join(self.read()))
            time.sleep(0.05)

    def end(self, *, secs=300):
        """Waits for the worker's end."""
        start = time.monotonic()
        try:
            code = self.process.wait(secs)
        except subprocess.TimeoutExpired as error:
            self.process.kill()
            raise AssertionError("".join(self.read())) from error
        return Ended(code, *self.read(), time.monotonic() - start)


def make_places(number):
    """TF_CONFIG of as many workers, on ports that are free."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    cluster = {"worker": addresses}
    return [
        {"cluster": cluster, "task": {"type": "worker", "index": index}} for index in range(number)
    ]


@contextlib.contextmanager
def started(flags, number, folder, *, preludes=()):
    """Starts as many workers with the same flags; none outlives the block.

    A prelude is what a worker runs before the door is opened, {index of the worker: code}.
    """
    folder.mkdir(exist_ok=True)
    preludes = dict(preludes)
    workers = [
        Worker(flags, place, folder, prelude=preludes.get(index, ""))
        for index, place in enumerate(make_places(number))
    ]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()


def run(flags, number, folder):
    """What becomes of as many workers."""
    with started(flags, number, folder) as workers:
        return [worker.end() for worker in workers]
