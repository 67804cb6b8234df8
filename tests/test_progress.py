import io

from tf_finetune import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_one_line_at_the_end():
    stream = io.StringIO()
    with progress.ProgressBar("Reading", 1000, stream=stream) as bar:
        for done in range(1, 1001):
            bar.update(done)
    assert stream.getvalue() == "Reading 1000/1000, 0 s\n"


def test_a_log_shows_that_a_long_loop_is_alive(monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    with progress.ProgressBar("Reading", 10, stream=stream) as bar:
        for done in range(1, 11):
            bar.update(done)
    lines = stream.getvalue().splitlines()
    assert 3 <= len(lines) <= 6
    assert lines[0].startswith("Reading 3/10, ")
    assert lines[0].endswith(" s left")


def test_a_terminal_is_redrawn_on_one_line(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = Terminal()
    bar = progress.ProgressBar("Reading", 4, stream=stream)
    bar.update(2)
    bar.close("done")
    first, last = stream.getvalue().split("\r\x1b[K")[1:]
    assert first.startswith("[############............] Reading 2/4, ")
    assert last.startswith("Reading 2/4, ")
    assert last.endswith("  done\n")


def test_nothing_to_do():
    stream = io.StringIO()
    with progress.ProgressBar("Reading", 0, stream=stream):
        pass
    assert stream.getvalue() == ""
    progress.ProgressBar("Reading", 0, stream=stream).close("nothing new")
    assert stream.getvalue() == "Reading 0/0, 0 s  nothing new\n"


def test_an_unknown_total():
    stream = io.StringIO()
    with progress.ProgressBar("Downloading", None, stream=stream) as bar:
        bar.update(7)
    assert stream.getvalue() == "Downloading 7, 0 s\n"
