"""What a measurement ran on."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence

_FLAGS = ("amx_bf16", "avx512_bf16")
_PACKAGES = ("tensorflow", "keras", "numpy")
TORCH_PACKAGES = ("torch", "torchvision")
_NONE = "not installed"
_ASK = """
import importlib.metadata, sys
for name in sys.argv[1:]:
    print(importlib.metadata.version(name))
"""


def describe(
    arguments: Sequence[str],
    *,
    module: str = "benchmarks.compare",
    torch_versions: Sequence[str] = (),
) -> dict[str, object]:
    """The header of a report.

    Args:
      arguments: of the command line.
      module: what it runs.
      torch_versions: of `find_torch`.

    Returns:
      {"command", "date", "processor", "bfloat16", "cores", "versions"}; "bfloat16" are those of
      the processor's flags amx_bf16 and avx512_bf16 that it has.
    """
    facts = _read_processor()
    flags = facts.get("flags", "").split()
    return {
        "command": " ".join(["python", "-m", module, *arguments]),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "bfloat16": [flag for flag in _FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "versions": {"python": platform.python_version()}
        | {name: _find_version(name) for name in _PACKAGES}
        | dict(zip(TORCH_PACKAGES, torch_versions or (_NONE, _NONE), strict=True)),
    }


def find_torch(python: str) -> tuple[str, ...]:
    """Versions of torch and torchvision; empty where one is missing.

    Args:
      python: the interpreter that would run them.

    Raises:
      ValueError: there is no such interpreter.
    """
    try:
        done = subprocess.run(
            [python, "-c", _ASK, *TORCH_PACKAGES], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ValueError(f"--torch_python={python}: {error.strerror}.") from error
    return tuple(done.stdout.split()) if done.returncode == 0 else ()


def _find_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return _NONE


def _read_processor() -> dict[str, str]:
    """The first processor's entry in /proc/cpuinfo; empty where there is none."""
    facts: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, colon, value = line.partition(":")
                if not colon:
                    break
                facts[name.strip()] = value.strip()
    except OSError:
        return {}
    return facts
