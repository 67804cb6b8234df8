"""Who trains together, as the environment variable TF_CONFIG tells each worker.

Reference: TensorFlow, "Multi-worker training with Keras",
https://www.tensorflow.org/tutorials/distribute/multi_worker_with_keras.
"""

import dataclasses
import json
import re

from tf_finetune import findings, options

VARIABLE = "TF_CONFIG"
# Kubeflow's convention: a failure that starting again may cure.
LOST_EXIT_CODE = 138
# In the order of their numbers: where there is a chief it is the first worker.
_JOBS = ("chief", "worker")
_ADDRESS = re.compile(r"[^\s/:]+:\d{1,5}|\[[0-9a-fA-F:.]+\]:\d{1,5}")
_EXAMPLE = (
    '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}'
)


class LostError(RuntimeError):
    """A worker does not answer any more; the command line ends with exit code 138."""


@dataclasses.dataclass(frozen=True)
class Place:
    """This process among those that train together.

    Attributes:
      addresses: HOST:PORT of every worker, the chief's first.
      index: which of them this process is, from 0.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        """Whether it is the one that writes."""
        return self.index == 0


def read_place(text: str | None) -> Place:
    """Reads TF_CONFIG.

    Args:
      text: its value; None: it is not set.

    Returns:
      The place of this process.

    Raises:
      SpecError: it is not set, no JSON, or does not say who the workers are and which this is.
    """
    if not text or not text.strip():
        raise options.SpecError(
            "--strategy=multi_worker reads the addresses of all workers from the environment "
            f"variable {VARIABLE}, which is not set. Expected {_EXAMPLE} with each worker's own "
            "index, or --strategy=auto."
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(f"is no JSON ({findings.one_line(error)})") from error
    if not isinstance(value, dict):
        raise _refused("is no JSON object")
    jobs = _read_jobs(value.get("cluster"))
    task = value.get("task")
    if not isinstance(task, dict):
        raise _refused('has no "task"')
    job, index = task.get("type"), task.get("index")
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    if job not in jobs:
        known = " or ".join(f'"{name}"' for name in jobs)
        raise _refused(
            f'has the task type {findings.one_line(repr(job))}, not {known} as "cluster"'
        )
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(jobs[job]):
        raise _refused(
            f"has the task index {findings.one_line(repr(index))}, not one from 0 to "
            f'{len(jobs[job]) - 1} as "cluster" has of "{job}"'
        )
    before = sum(len(jobs[name]) for name in list(jobs)[: list(jobs).index(job)])
    return Place(tuple(address for name in jobs for address in jobs[name]), before + index)


def _read_jobs(cluster: object) -> dict[str, list[str]]:
    """{job: addresses}, in the order of their numbers."""
    if not isinstance(cluster, dict) or not cluster:
        raise _refused('has no "cluster"')
    others = sorted(set(map(str, cluster)) - set(_JOBS))
    if others:
        raise _refused(
            f'has {findings.list_first(others)} in "cluster", and only workers (one of them may be '
            "called chief) train together here"
        )
    jobs = {name: cluster[name] for name in _JOBS if name in cluster}
    for name, addresses in jobs.items():
        if not isinstance(addresses, list) or not addresses:
            raise _refused(f'has no list of addresses as "{name}"')
        for address in addresses:
            if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
                shown = findings.one_line(repr(address))
                raise _refused(f'has {shown} as an address of "{name}", and no HOST:PORT')
    if len(jobs.get("chief", [""])) != 1:
        raise _refused('has several addresses as "chief"')
    every = [address for addresses in jobs.values() for address in addresses]
    twice = sorted({address for address in every if every.count(address) > 1})
    if twice:
        raise _refused(f"has the address {findings.list_first(twice)} twice")
    return jobs


def _refused(what: str) -> options.SpecError:
    return options.SpecError(
        f"--strategy=multi_worker: the environment variable {VARIABLE} {what}. Expected {_EXAMPLE}."
    )
