"""TensorBoard's event files of a run.

One idea: they are a picture of history.csv for people. Each start of a run adds files of its own; a
line that a full disk or a killed run has cut is the last one of its file, which readers pass over.
"""

import os

import tensorflow as tf

from tf_finetune import disk_room

_NAMES = ("train", "validation")


class EventWriter:
    """Writes the curves of one split.

    Args:
      folder: for event files; made when the first number is written.
    """

    def __init__(self, folder: str):
        self._folder = folder
        self._writer = tf.summary.create_file_writer(folder)

    def write(self, name: str, value: float, *, step: int) -> None:
        """Adds a point to a curve.

        Args:
          name: of the curve.
          value: the number.
          step: the epoch.

        Raises:
          disk_room.FullDiskError: the disk is full.
        """
        with disk_room.naming(self._folder), self._writer.as_default():
            tf.summary.scalar(name, value, step=step)

    def close(self) -> None:
        """Writes out what waits.

        Raises:
          disk_room.FullDiskError: the disk is full.
        """
        with disk_room.naming(self._folder):
            self._writer.close()


def make_writers(logs_dir: str | None) -> dict[str, EventWriter]:
    """The writers of a phase.

    Args:
      logs_dir: the run's folder of logs; None: nothing is written.

    Returns:
      {"train": ..., "validation": ...}, or {}.
    """
    if logs_dir is None:
        return {}
    return {name: EventWriter(os.path.join(logs_dir, name)) for name in _NAMES}
