"""The pass over TFRecord files: what they are called, and which records cannot be used.

One idea: what a record is good for is its reader's business, an image's or a table's; that a bad
one is told with its file and number, and costs itself, is said here once.
"""

import bisect
import dataclasses
import os
import unicodedata
from collections.abc import Iterator

from tf_finetune import findings, regular_files, specs
from tf_finetune.data import record_framing

# Bad records of a file that are told; a file with so many is none to read on.
MAX_FAULTS = 100
_SKIP = "on_bad_example=skip"


@dataclasses.dataclass(frozen=True)
class RecordFile:
    """A file of records.

    Attributes:
      path: where it is.
      name: its path below the folder that all files are in, which is the same wherever they lie;
        encodable as UTF-8.
      num_bytes: its size when it was listed.
    """

    path: str
    name: str
    num_bytes: int

    def make_key(self, record: int) -> str:
        """The key of an example.

        Args:
          record: its number in the file from 1.

        Returns:
          NFC.
        """
        return unicodedata.normalize("NFC", f"{self.name}/{record:08d}")

    def locate(self, record: int) -> str:
        """Where a user finds a record.

        Args:
          record: its number in the file from 1.

        Returns:
          For example "a.tfrecord, record 3"; printable.
        """
        return f"{findings.one_line(self.path)}, record {record}"


class RecordPass:
    """Reads records of files one after another, and collects what is wrong.

    Args:
      spec: the data options: `on_bad_example`.
      paths: of the files, in order, at least one.

    Attributes:
      files: that were begun so far.
      problems: what was wrong so far.
    """

    def __init__(self, spec: specs.DataSpec, paths: list[str]):
        self._skip = spec.on_bad_example == "skip"
        self._paths = paths
        self._folder = os.path.commonpath([os.path.dirname(path) for path in paths]) or "."
        self.files: list[RecordFile] = []
        self._starts: list[int] = []
        self._stamps: list[str] = []
        self._num_records = 0
        self._num_faults = 0
        self.problems: list[findings.Problem] = []

    def read(self) -> Iterator[tuple[RecordFile, record_framing.Record]]:
        """Reads every file, from its beginning to its end or to too many bad records.

        Yields:
          Each record whose bytes are right. Of the others, and of files that cannot be read, there
          is a problem.
        """
        for path in self._paths:
            shown = findings.one_line(path)
            try:
                file = self._add_file(path)
                for record in record_framing.read_records(os.fsencode(path)):
                    self._num_records += 1
                    if record.fault:
                        self.report(file, record.number, record.fault)
                    else:
                        yield file, record
                    if self._num_faults >= MAX_FAULTS:
                        text = f"{shown}: after {MAX_FAULTS} bad records the rest is not read."
                        self.problems.append(findings.Problem(text, path=shown))
                        break
            except regular_files.NotRegularError as error:
                self.problems.append(findings.Problem(f"{shown} {error.strerror}.", path=shown))
            except OSError as error:
                text = f"{shown} cannot be read: {error.strerror}."
                self.problems.append(findings.Problem(text, path=shown))

    def _add_file(self, path: str) -> RecordFile:
        name = os.fsencode(os.path.relpath(path, self._folder)).decode("utf-8", "backslashreplace")
        status = os.stat(path)
        file = RecordFile(path, name, status.st_size)
        self.files.append(file)
        self._starts.append(self._num_records)
        self._stamps.append(f"{name} {status.st_size} {status.st_mtime_ns}")
        self._num_faults = 0
        return file

    def report(self, file: RecordFile, record: int, fault: str) -> None:
        """Tells of a record that cannot be used.

        Args:
          file: that it is in.
          record: its number there from 1.
          fault: what is wrong, following its place; without a full stop.
        """
        self._num_faults += 1
        advice = "Skipped." if self._skip else f"Repair the file; --{_SKIP} leaves the record out."
        severity = findings.WARNING if self._skip else findings.ERROR
        self.problems.append(
            findings.Problem(
                f"{file.locate(record)} {fault}. {advice}",
                severity,
                path=findings.one_line(file.path),
                line=record,
                flag=f"--{_SKIP}",
            )
        )

    @property
    def num_records(self) -> int:
        """Records that were read so far, of all files, good or bad."""
        return self._num_records

    @property
    def identity(self) -> str:
        """What tells two versions of the files apart, see `examples.Examples`."""
        return "\n".join(self._stamps)

    def find(self, number: int) -> tuple[RecordFile, int]:
        """The place of a record.

        Args:
          number: `num_records` when it was read.

        Returns:
          (its file, its number there from 1).
        """
        place = bisect.bisect_left(self._starts, number) - 1
        return self.files[place], number - self._starts[place]
