"""What the parts of a run hand on to each other, and how long each of them took."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from tf_finetune import findings, specs, workers
from tf_finetune.data import loading as data_loading


class Clock:
    """Seconds of each part of a run.

    Attributes:
      seconds: {part: seconds so far}.
    """

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """Books the time since the last lap on a part.

        Args:
          part: its name.
        """
        now = time.monotonic()
        self.seconds[part] = round(self.seconds.get(part, 0.0) + now - self._last, 3)
        self._last = now

    def move(self, source: str, target: str, *, secs: float) -> None:
        """Books a part of another part's time on its own.

        Args:
          source: the part that has it.
          target: the part that gets it.
          secs: how much; at most what the source has.
        """
        secs = min(round(secs, 3), self.seconds.get(source, 0.0))
        self.seconds[source] = round(self.seconds.get(source, 0.0) - secs, 3)
        self.seconds[target] = round(self.seconds.get(target, 0.0) + secs, 3)

    def total(self) -> dict[str, float]:
        """All parts.

        Returns:
          The seconds, and as "total" those since the start.
        """
        return {**self.seconds, "total": round(time.monotonic() - self._start, 3)}


@dataclasses.dataclass
class Run:
    """What the parts of a run hand on.

    Attributes:
      spec: as it was given, with a number as the batch size; paths are relative to the current
        folder.
      request: the same with absolute paths.
      folder: the workdir.
      announce: takes each line that tells what happens.
      clock: seconds of each part.
      splits: the data.
      head_specs: a spec per head.
      strategy: a tf.distribute strategy.
      precision: of the backbone, resolved.
      team: the processes that train together.
      sync: called after each whole write; sends it where the workdir is in an object store.
      warnings: what was warned of so far.
    """

    spec: specs.RunSpec
    request: specs.RunSpec
    folder: str
    announce: Callable[[str], None]
    clock: Clock
    splits: data_loading.Splits
    head_specs: tuple[specs.HeadSpec, ...]
    strategy: Any
    precision: str
    team: workers.Workers
    sync: Callable[[], None]
    warnings: list[str] = dataclasses.field(default_factory=list)

    def warn(self, problems: tuple[findings.Problem, ...]) -> None:
        """Tells warnings and remembers them for problems.txt.

        Args:
          problems: any number.
        """
        for problem in problems:
            self.warnings.append(problem.message)
            self.announce(f"Warning: {problem.message}")
