"""A tf.data service on this machine: a dispatcher and workers in processes of their own."""

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys

# As README says how to start them; a lost worker is noticed sooner than after a minute.
_DISPATCHER = """
import sys
import tensorflow as tf
service = tf.data.experimental.service
config = service.DispatcherConfig(port=int(sys.argv[1]), worker_timeout_ms=3000)
server = service.DispatchServer(config)
print("ready", flush=True)
server.join()
"""
_WORKER = """
import sys
import tensorflow as tf
service = tf.data.experimental.service
config = service.WorkerConfig(
    f"127.0.0.1:{sys.argv[1]}", worker_address=f"127.0.0.1:{sys.argv[2]}", port=int(sys.argv[2]),
    heartbeat_interval_ms=500,
)
server = service.WorkerServer(config)
print("ready", flush=True)
server.join()
"""


@dataclasses.dataclass(frozen=True)
class Service:
    address: str
    dispatcher: subprocess.Popen
    workers: tuple[subprocess.Popen, ...]


def find_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [str(each.getsockname()[1]) for each in sockets]


def _start(code, *arguments, folder):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


@contextlib.contextmanager
def started(number, folder):
    """Starts a dispatcher and so many workers; none outlives the block."""
    port, *ports = find_ports(number + 1)
    processes = [_start(_DISPATCHER, port, folder=folder)]
    try:
        assert processes[0].stdout.readline() == "ready\n"
        processes += [_start(_WORKER, port, own, folder=folder) for own in ports]
        for process in processes[1:]:
            assert process.stdout.readline() == "ready\n"
        dispatcher, *workers = processes
        yield Service(f"grpc://127.0.0.1:{port}", dispatcher, tuple(workers))
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
