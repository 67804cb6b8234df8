"""What the examination adds to loading a model of 95 MB.

    python benchmarks/trust_overhead.py [--repeats=5]

Writes a ResNet50 (95 MB) as .h5 and .keras, and loads it with and without the examination, by
turns: in a new process each, as a run does (the examination goes on while TensorFlow is imported),
as the first model of a program that has imported TensorFlow, and as a later one of such a program,
where the examination is waited for. Prints a Markdown table of medians and ratios; the time is that
of the process for a run, and that of the call for the others.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras

import tf_finetune as tff
from tf_finetune.models import admission

# A program's first model; prints the seconds of the call.
FIRST = """
import sys, time
import keras
import tf_finetune as tff
from tf_finetune.models import admission
if sys.argv[2] == "without":
    admission.check = lambda *arguments, **options: ()
start = time.perf_counter()
tff.load_backbone(tff.ModelSpec(model=sys.argv[1]))
print(time.perf_counter() - start)
"""
# What a run does, from its first line to the loaded model.
PROCESS = """
import sys
from tf_finetune import specs
from tf_finetune.models import admission
spec = specs.ModelSpec(model=sys.argv[1])
if sys.argv[2] == "with":
    admission.start(spec)
else:
    admission.check = lambda *arguments, **options: ()
from tf_finetune import distribution
distribution.import_quietly()
from tf_finetune.models import loading
loading.load_backbone(spec)
"""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("| file | MB | where | loaded | examined and loaded | added | ratio |")
    print("|---|---:|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        model = keras.applications.ResNet50(
            weights=None, include_top=False, input_shape=(224, 224, 3)
        )
        for ending in (".h5", ".keras"):
            path = str(pathlib.Path(folder, "model").with_suffix(ending))
            model.save(path)
            for where, load in (
                ("a run", load_in_run),
                ("a program's first", load_first),
                ("a later one", load_here),
            ):
                print(measure(path, where, load, repeats=options.repeats))
                sys.stdout.flush()


def load_in_run(path: str, examined: str) -> float:
    """Seconds of a process that loads as a run does."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", PROCESS, path, examined], check=True)
    return time.perf_counter() - start


def load_first(path: str, examined: str) -> float:
    """Seconds of the first call in a new process that has imported TensorFlow."""
    command = [sys.executable, "-c", FIRST, path, examined]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def load_here(path: str, examined: str) -> float:
    """Seconds of a call in this process."""
    os.utime(path)  # or the answer would come from the last time
    time.sleep(4)  # nobody loads a model every second: the next process is ready by then
    keras.backend.clear_session()
    original = admission.check
    if examined == "without":
        admission.check = lambda *arguments, **options: ()
    start = time.perf_counter()
    try:
        tff.load_backbone(tff.ModelSpec(model=path))
    finally:
        admission.check = original
    return time.perf_counter() - start


def measure(path: str, where: str, load: Callable[[str, str], float], *, repeats: int) -> str:
    """A row of the table."""
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(repeats):
        for examined, values in seconds.items():
            values.append(load(path, examined))
    without, both = (statistics.median(values) for values in seconds.values())
    size = os.path.getsize(path) / 1e6
    return (
        f"| {pathlib.Path(path).suffix} | {size:.0f} | {where} | {without:.2f} s | {both:.2f} s | "
        f"{both - without:.2f} s | {both / without:.2f} |"
    )


if __name__ == "__main__":
    main()
