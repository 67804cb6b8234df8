import os
import signal

import pytest

from tf_finetune import interruptions


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
