"""The door: flags in, exit code out.

    python -m tf_finetune.main --flagfile=configs/quickstart.flags

Exit codes: 0 done; 1 crash; 2 anything refused: a flag, the spec, the data, a model file; 3 a
requirement not met, or nothing learnt; 4 training diverged; 130 interrupted, 138 another worker
lost, 143 terminated.
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from tf_finetune import findings, spec_flags, specs, tf_config
from tf_finetune.models import admission

# The modes that open --model in any case.
_EXAMINED_EARLY = ("train", "inspect")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
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
    if any(argument in _HELP for argument in arguments):
        print(spec_flags.format_help(), end="")
        return 0
    try:
        parsed = spec_flags.parse_args(arguments)
        if not parsed.given:
            raise specs.SpecError("Nothing to do: give --model and --data. --help lists all flags.")
        _prepare_tensorflow()
        if parsed.spec.mode in _EXAMINED_EARLY:
            admission.start(parsed.spec.model)  # while the rest is imported
        with contextlib.suppress(ValueError):  # only the main thread may set it
            signal.signal(signal.SIGTERM, _terminate)
        # Imported late: a misspelt flag is answered before TensorFlow is.
        from tf_finetune import verbs

        return verbs.run_verb(parsed.spec, given=parsed.given)
    except specs.SpecError as error:
        return _refuse(error.problems)
    except findings.RefusedError as error:
        return _refuse([problem.message for problem in error.problems])
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = f" ({findings.one_line(os.fsdecode(error.filename))})" if error.filename else ""
        return _refuse(
            [
                f"The disk is full{where}. What was written before is whole: make room, and run "
                "the same command again."
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
    code = main()
    if code == tf_config.LOST_EXIT_CODE:
        # What TensorFlow clears up at the end would wait for those who are gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _refuse(problems: Sequence[str]) -> int:
    sys.stdout.flush()
    for problem in problems:
        print(f"error: {findings.one_line(problem)}", file=sys.stderr)
    return 2


def _terminate(number: int, frame: object) -> None:
    raise _Terminated


def _prepare_tensorflow() -> None:
    # TensorFlow greets a machine without a GPU with an error; what matters comes as an exception.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"


if __name__ == "__main__":
    run()
