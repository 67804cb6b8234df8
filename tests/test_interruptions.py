import contextlib
import io
import os
import signal
import subprocess
import sys
import time

import pytest

from tf_finetune import interruptions, progress


def test_a_signal_waits_until_it_is_obeyed():
    taken = []
    former = signal.signal(signal.SIGTERM, lambda number, frame: taken.append(number))
    try:
        with interruptions.postponed() as interruption:
            assert (interruption.is_asked, interruption.number) == (False, 0)
            os.kill(os.getpid(), signal.SIGTERM)
            assert (interruption.is_asked, interruption.number) == (True, signal.SIGTERM)
            assert not taken
            interruption.obey()
            assert taken == [signal.SIGTERM]
            assert not interruption.is_asked
    finally:
        signal.signal(signal.SIGTERM, former)


def test_a_signal_that_another_process_got_is_obeyed_too():
    with interruptions.postponed() as interruption:
        interruption.ask(signal.SIGINT)
        interruption.ask(signal.SIGTERM)  # the first counts
        assert interruption.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            interruption.obey()
        interruption.ask(signal.SIGUSR1)  # not held back here
        assert not interruption.is_asked


def test_nothing_is_held_back_before_it_is_worth_it():
    taken = []
    former = signal.signal(signal.SIGTERM, lambda number, frame: taken.append(number))
    try:
        with interruptions.postponed(is_held=False) as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            assert taken == [signal.SIGTERM]
            interruption.hold()
            os.kill(os.getpid(), signal.SIGTERM)
            assert (len(taken), interruption.is_asked) == (1, True)
        assert len(taken) == 2
    finally:
        signal.signal(signal.SIGTERM, former)


# One call that no signal ends, as TensorFlow compiles a graph.
BUSY = """
import hashlib, sys, threading, time
from tf_finetune import interruptions, workdir

class Ended(KeyboardInterrupt):
    pass

def end(number, frame):
    raise Ended

def announce():
    about_to_call.wait()
    print("busy", flush=True)

secs = float(sys.argv[1])
start = time.monotonic()
hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000)
rounds = int(200_000 * secs / (time.monotonic() - start))
with interruptions.listening(end, end, before_end=workdir.remove_begun):
    with workdir.replace_file(sys.argv[2]) as temporary:
        open(temporary, "w").close()
        with interruptions.postponed(is_held=sys.argv[3] == "held") as interruption:
            about_to_call = threading.Event()
            threading.Thread(target=announce, daemon=True).start()
            # The other thread runs when this one lets go of the interpreter: within the call.
            sys.setswitchinterval(100)
            try:
                about_to_call.set()
                hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)
                print("held", interruption.number, flush=True)
                interruption.obey()
            except Ended:
                print("heard", flush=True)
                raise SystemExit(9)
"""


@pytest.mark.parametrize(
    ("secs", "held", "code", "printed"),
    [
        (60, "", 143, ""),  # the call goes on for a minute
        (0.5, "", 9, "heard\n"),  # it is over soon
        (4, "held", 9, "held 15\nheard\n"),  # a step of training is waited for
    ],
)
def test_a_call_that_hears_no_signal(tmp_path, secs, held, code, printed):
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(secs), str(tmp_path / "file"), held],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "busy\n"
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=50)
    assert (process.returncode, out) == (code, printed), error
    if code == 143:
        assert error == "Terminated.\n"
        assert time.monotonic() - start < 10  # 2 s, where the machine is idle
    assert list(tmp_path.iterdir()) == []


def test_the_handlers_of_a_caller_come_back():
    former = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def end(number, frame):
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        with (
            pytest.raises(KeyboardInterrupt),
            interruptions.listening(end, end, before_end=lambda: None),
        ):
            os.kill(os.getpid(), number)
            time.sleep(1)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == former
    assert signal.set_wakeup_fd(-1) == -1


class EndedError(KeyboardInterrupt):
    """What the handlers of these tests raise."""


def end(number, frame):
    raise EndedError


def lose():
    """As Keras does where it asks a tensor for its shape."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    except:  # noqa: E722
        pass


def listen():
    return interruptions.listening(end, end, before_end=lambda: None)


def test_a_signal_that_a_library_loses_is_obeyed_at_the_next_place():
    reached = []
    with pytest.raises(EndedError), listen():
        interruptions.obey_missed()
        lose()
        reached.append(1)
        progress.ProgressBar("Working", 2, stream=io.StringIO()).update(1)
        reached.append(2)
    assert reached == [1]
    interruptions.obey_missed()  # over with the block


def test_a_signal_that_a_library_makes_an_error_is_obeyed():
    with pytest.raises(EndedError) as caught, listen():
        lose()
        raise TypeError("a shape of None")
    assert isinstance(caught.value.__context__, TypeError)


class Lasting:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


def test_a_signal_that_comes_in_a_destructor_leaves_no_trace(capsys):
    former = sys.unraisablehook
    with pytest.raises(EndedError), listen():
        Lasting()
        interruptions.obey_missed()
    assert capsys.readouterr().err == ""
    assert sys.unraisablehook is former


def test_what_clears_up_after_a_signal_is_let_be():
    cleared = []
    with pytest.raises(OSError, match="full"), listen():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        finally:
            with contextlib.suppress(ValueError):
                interruptions.obey_missed()
                cleared.append(1)
                raise ValueError
            raise OSError("full")
    assert cleared == [1]


def test_an_error_without_a_signal_stays():
    with pytest.raises(TypeError), listen():
        raise TypeError
