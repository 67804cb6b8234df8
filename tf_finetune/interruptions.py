"""SIGTERM and Ctrl-C, held back until a step of training is whole.

One idea: between two steps the numbers of a run belong together, within one they do not. A second
signal is not held back.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """What was asked for while it was held back."""

    def __init__(self) -> None:
        self._former: dict[int, Any] = {}
        self._number: int | None = None

    @property
    def is_asked(self) -> bool:
        """Whether a signal is held back."""
        return self._number is not None

    @property
    def number(self) -> int:
        """The signal that is held back; 0: none."""
        return self._number or 0

    def ask(self, number: int) -> None:
        """Holds back a signal that another process of the same run got.

        Args:
          number: of the signal.
        """
        if self._number is None and number in self._former:
            self._number = number

    def obey(self) -> None:
        """Does what the signal would have done, if there was one.

        Raises:
          KeyboardInterrupt: by most handlers.
        """
        if self._number is not None:
            number, self._number = self._number, None
            self._former[number](number, None)

    def _take(self, former: dict[int, Any]) -> None:
        self._former = former

    def _note(self, number: int, frame: Any) -> None:
        if self._number is not None:
            self._former[number](number, frame)
        self._number = number


@contextlib.contextmanager
def postponed() -> Iterator[Interruption]:
    """Holds signals back that a handler of Python's takes.

    In threads other than the main one nothing is held back.

    Yields:
      What was asked for; whoever gets it calls `obey` where that is safe.

    Raises:
      KeyboardInterrupt: a signal was held back until the block's end.
    """
    found = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    former = {number: signal.getsignal(number) for number in _SIGNALS}
    found._take({number: handler for number, handler in former.items() if callable(handler)})
    for number, handler in former.items():
        if callable(handler):
            signal.signal(number, found._note)
    try:
        yield found
    finally:
        for number, handler in former.items():
            if callable(handler):
                signal.signal(number, handler)
    found.obey()
