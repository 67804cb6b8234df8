"""The door: flags in, exit code out.

    python -m tf_finetune.main --flagfile=configs/quickstart.flags

Exit codes: 0 done; 1 crash; 2 anything refused: a flag, the spec, the data, a model file; 3 a
requirement not met, or nothing learnt; 4 training diverged; 130 interrupted, 138 another process
lost, 143 terminated.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from tf_finetune import (
    disk_room,
    findings,
    interruptions,
    spec_flags,
    specs,
    tf_config,
    workdir,
)
from tf_finetune.models import admission

# The modes that open --model in any case.
_EXAMINED_EARLY = ("train", "inspect")
_HELP = ("--help", "-h", "-help", "--helpfull", "-?")


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does: with its best weights on the disk."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for.

    Args:
      arguments: what follows the program's name; default: `sys.argv[1:]`.

    Returns:
      The exit code.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if any(argument in _HELP for argument in arguments):
            with disk_room.naming(""):
                print(spec_flags.format_help(), end="")
            return 0
        parsed = spec_flags.parse_args(arguments)
        if not parsed.given:
            raise specs.SpecError("Nothing to do: give --model and --data. --help lists all flags.")
        _prepare_tensorflow()
        with (
            interruptions.listening(_terminate, _interrupt, before_end=workdir.remove_begun),
            disk_room.naming(""),  # what names no file of its own, such as what is printed
        ):
            if parsed.spec.mode in _EXAMINED_EARLY:
                admission.start(parsed.spec.model)  # while the rest is imported
            # Imported late: a misspelt flag is answered before TensorFlow is.
            from tf_finetune import verbs

            return verbs.run_verb(parsed.spec, given=parsed.given)
    except specs.SpecError as error:
        return _refuse(error.problems)
    except findings.RefusedError as error:
        return _refuse([problem.message for problem in error.problems])
    except OSError as error:
        is_full = isinstance(error, disk_room.FullDiskError)
        if not is_full and not (error.filename and disk_room.is_unwritable(error)):
            raise
        where = findings.one_line(os.fsdecode(error.filename or "A file or what is printed"))
        advice = "make room" if is_full else "change that"
        return _refuse(
            [
                f"{where}: {error.strerror}. What was written before is whole: {advice}, and run "
                "the same command again."
            ]
        )
    except MemoryError:
        return _refuse(
            [
                "There is too little memory. Expected more, or a smaller --batch_size, model or "
                "data set. What was written before is whole."
            ]
        )
    except _Terminated:
        print("Terminated.", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def run() -> NoReturn:
    """Runs what this process's command line asks for.

    Returns:
      Never: it ends the process with the exit code.
    """
    code = _flush(main())
    for number in (signal.SIGINT, signal.SIGTERM):  # too late: what the code says is done
        signal.signal(number, signal.SIG_IGN)
    if code == tf_config.LOST_EXIT_CODE:
        # What TensorFlow clears up at the end would wait for those who are gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _flush(code: int) -> int:
    """Writes out what was printed, before Python does at its end, which would fail with a trace."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads it any more
        pass
    except OSError as error:
        if not code:
            print(f"error: what is printed cannot be written: {error.strerror}.", file=sys.stderr)
        code = code or 2
    else:
        return code
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _refuse(problems: Sequence[str]) -> int:
    with contextlib.suppress(OSError):  # the disk that it goes to may be full
        sys.stdout.flush()
    for problem in problems:
        print(f"error: {findings.one_line(problem)}", file=sys.stderr)
    return 2


def _terminate(number: int, frame: object) -> None:
    raise _Terminated


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _prepare_tensorflow() -> None:
    # TensorFlow greets a machine without a GPU with an error; what matters comes as an exception.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # By default each file that is read from gs:// takes a buffer of 64 MiB, however small it is.
    os.environ.setdefault("GCS_READAHEAD_BUFFER_SIZE_BYTES", str(2**23))


if __name__ == "__main__":
    run()
