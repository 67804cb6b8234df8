"""SIGTERM and Ctrl-C: held back until a step of training is whole, heard while TensorFlow is busy.

One idea: between two steps the numbers of a run belong together, within one they do not; a second
signal is not held back. Python hears a signal only when a call into TensorFlow is over, which may
take a minute where a graph is compiled: then there is nothing to write down, and the process ends
within the call.

Reference: https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd.
"""

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NAMES = {signal.SIGTERM: b"Terminated.\n", signal.SIGINT: b"Interrupted.\n"}
# So long a call may go on before the process is ended within it.
_PATIENCE_SECS = 2.0
_POLL_SECS = 0.1


class _Hearing:
    """Whether Python has heard the newest signal, whether it may take its time, what it raises."""

    def __init__(self) -> None:
        self.heard = threading.Event()
        self.num_held = 0
        self.obey: Callable[[], None] | None = None


_hearing = _Hearing()


class Interruption:
    """What was asked for while it was held back.

    Args:
      is_held: see `postponed`.
    """

    def __init__(self, *, is_held: bool = True) -> None:
        self._former: dict[int, Any] = {}
        self._number: int | None = None
        self._is_held = False
        if is_held:
            self.hold()

    @property
    def is_asked(self) -> bool:
        """Whether a signal is held back."""
        return self._number is not None

    @property
    def number(self) -> int:
        """The signal that is held back; 0: none."""
        return self._number or 0

    def hold(self) -> None:
        """From now on signals are held back."""
        if not self._is_held:
            self._is_held = True
            _hearing.num_held += 1

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
        _hearing.heard.set()
        if not self._is_held:
            self._former[number](number, frame)
            return
        if self._number is not None:
            self._former[number](number, frame)
        self._number = number

    def _end(self) -> None:
        if self._is_held:
            self._is_held = False
            _hearing.num_held -= 1


@contextlib.contextmanager
def postponed(*, is_held: bool = True) -> Iterator[Interruption]:
    """Holds signals back that a handler of Python's takes.

    In threads other than the main one nothing is held back.

    Args:
      is_held: from the beginning; else from `Interruption.hold` on.

    Yields:
      What was asked for; whoever gets it calls `obey` where that is safe.

    Raises:
      KeyboardInterrupt: a signal was held back until the block's end.
    """
    found = Interruption(is_held=is_held)
    if threading.current_thread() is not threading.main_thread():
        try:
            yield found
        finally:
            found._end()
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
        found._end()
    found.obey()


@contextlib.contextmanager
def listening(
    terminate: Callable[[int, Any], None],
    interrupt: Callable[[int, Any], None],
    *,
    before_end: Callable[[], None],
) -> Iterator[None]:
    """Takes SIGTERM and Ctrl-C while the block runs, and ends the process where it cannot.

    A signal that Python has not heard after 2 seconds, because TensorFlow is busy, ends the process
    with 128 + its number at once, unless signals are held back: then the call is a step of
    training, which is waited for. In threads other than the main one nothing is taken.

    Args:
      terminate: what SIGTERM does: raises a KeyboardInterrupt.
      interrupt: what Ctrl-C does, unless the process ignores it: likewise.
      before_end: clears up before the process is ended within a call, from another thread.

    Yields:
      None.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in _SIGNALS}
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    hook, sys.unraisablehook = sys.unraisablehook, _pass_over_signals(sys.unraisablehook)
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(reader, before_end), daemon=True)
    watch.start()
    for number, action in ((signal.SIGTERM, terminate), (signal.SIGINT, interrupt)):
        if former[number] is not signal.SIG_IGN or number == signal.SIGTERM:
            signal.signal(number, _make_handler(action))
    try:
        with heard():
            yield
    finally:
        _hearing.obey = None
        sys.unraisablehook = hook
        for number, handler in former.items():
            # None: a handler that Python did not set, and cannot set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(descriptor)
        writer.close()
        watch.join(_PATIENCE_SECS)


def _make_handler(action: Callable[[int, Any], None]) -> Callable[[int, Any], None]:
    def handle(number: int, frame: Any) -> None:
        _hearing.heard.set()
        _hearing.obey = functools.partial(action, number, None)
        action(number, frame)

    return handle


def _pass_over_signals(hook: Callable[[Any], Any]) -> Callable[[Any], None]:
    """What a handler raised in a destructor is lost, and obeyed later: no trace is shown of it."""

    def show(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            hook(unraisable)

    return show


def obey_missed() -> None:
    """Does again what a signal did in `listening`, where the process has gone on all the same.

    Raises:
      KeyboardInterrupt: by most handlers; not while the first one is on its way.
    """
    if _hearing.obey is None or threading.current_thread() is not threading.main_thread():
        return
    error = sys.exception()
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return
        error = error.__context__
    _hearing.obey()


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Obeys a signal which the block has made an error of another kind.

    Yields:
      None.
    """
    try:
        yield
    except Exception:
        obey_missed()
        raise


def _watch(reader: socket.socket, before_end: Callable[[], None]) -> None:
    """Hears of each signal at once, whatever the main thread does; ends with the other end."""
    while numbers := reader.recv(1):
        number, waited = numbers[0], 0.0
        if number not in _NAMES:
            continue
        while not _hearing.heard.wait(_POLL_SECS):
            # What is held back is obeyed after the step, however long that takes.
            waited = 0.0 if _hearing.num_held else waited + _POLL_SECS
            if waited >= _PATIENCE_SECS:
                _end_now(number, before_end)
        _hearing.heard.clear()
        with contextlib.suppress(BlockingIOError):  # the same again: Python hears them as one
            reader.recv(4096, socket.MSG_DONTWAIT)
    reader.close()


def _end_now(number: int, before_end: Callable[[], None]) -> None:
    before_end()
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        sys.stdout.flush()
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _NAMES[signal.Signals(number)])
    os._exit(128 + number)
