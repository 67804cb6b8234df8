"""A progress bar that also looks right in a log file.

On a terminal one line is redrawn. In a file or a pipe nothing is redrawn: a line every ten seconds
shows that the run is alive, and one at the end says how long it took. All work that takes long has
one, so it is here that a signal is obeyed which a library has lost.
"""

import sys
import time
import typing

from tf_finetune import interruptions

_REDRAW_SECS = 0.1
_LOG_SECS = 10.0
_BAR_WIDTH = 24


class ProgressBar:
    """Shows how far a loop of known length has come.

    Args:
      label: what is being done.
      total: number of items, at least 0; None: unknown.
      stream: where to write; default: standard output.

    Example:
      >>> import io
      >>> stream = io.StringIO()
      >>> with ProgressBar("Reading", 20, stream=stream) as bar:
      ...     for done in range(1, 21):
      ...         bar.update(done)
      >>> stream.getvalue()
      'Reading 20/20, 0 s\\n'
    """

    def __init__(self, label: str, total: int | None, *, stream: typing.TextIO | None = None):
        self._label = label
        self._total = total
        self._stream = stream or sys.stdout
        self._terminal = self._stream.isatty()
        self._start = time.monotonic()
        self._written = self._start
        self._done = 0
        self._closed = False

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._closed:
            self.close()

    def update(self, done: int) -> None:
        """Says that `done` of the total are done.

        Args:
          done: count so far, 0 to the total.

        Raises:
          KeyboardInterrupt: see `interruptions.obey_missed`.
        """
        interruptions.obey_missed()
        self._done = done
        now = time.monotonic()
        if now - self._written < (_REDRAW_SECS if self._terminal else _LOG_SECS):
            return
        self._written = now
        if self._terminal:
            filled = _BAR_WIDTH * done // self._total if self._total else 0
            bar = "#" * filled + "." * (_BAR_WIDTH - filled)
            self._stream.write(f"\r\x1b[K[{bar}] {self._text()}")
        else:
            self._stream.write(self._text() + "\n")
        self._stream.flush()

    def close(self, note: str = "") -> None:
        """Writes the last line.

        Args:
          note: what came out, written behind the count.
        """
        self._closed = True
        if self._total == 0 and not note:
            return  # there was nothing to do
        erase = "\r\x1b[K" if self._terminal else ""
        self._stream.write(f"{erase}{self._text()}{'  ' if note else ''}{note}\n")
        self._stream.flush()

    def _text(self) -> str:
        elapsed = time.monotonic() - self._start
        of_total = "" if self._total is None else f"/{self._total}"
        text = f"{self._label} {self._done}{of_total}, {elapsed:.0f} s"
        if self._total is not None and 0 < self._done < self._total:
            text += f", {elapsed * (self._total - self._done) / self._done:.0f} s left"
        return text
