"""What the examination adds to loading a model of 95 MB.

    python benchmarks/trust_overhead.py [--repeats=5]

Writes a ResNet50 (95 MB) as .h5 and .keras, and loads it with and without the examination, by
turns: in a new process each, as a run does (the examination goes on while TensorFlow is imported),
and in this process, where TensorFlow is there and the examination is waited for. Prints a Markdown
table of medians and ratios.
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

from tf_finetune import specs
from tf_finetune.models import admission, loading

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
            for where, load in (("a run", load_in_new_process), ("one process", load_here)):
                print(measure(path, where, load, repeats=options.repeats))
                sys.stdout.flush()


def load_in_new_process(path: str, examined: str) -> None:
    """Loads as a run does."""
    subprocess.run([sys.executable, "-c", PROCESS, path, examined], check=True)


def load_here(path: str, examined: str) -> None:
    """Loads where TensorFlow is imported already."""
    os.utime(path)  # or the answer would come from the last time
    keras.backend.clear_session()
    original = admission.check
    if examined == "without":
        admission.check = lambda *arguments, **options: ()
    try:
        loading.load_backbone(specs.ModelSpec(model=path))
    finally:
        admission.check = original


def measure(path: str, where: str, load: Callable[[str, str], None], *, repeats: int) -> str:
    """A row of the table."""
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(repeats):
        for examined, values in seconds.items():
            start = time.perf_counter()
            load(path, examined)
            values.append(time.perf_counter() - start)
    without, both = (statistics.median(values) for values in seconds.values())
    size = os.path.getsize(path) / 1e6
    return (
        f"| {pathlib.Path(path).suffix} | {size:.0f} | {where} | {without:.2f} s | {both:.2f} s | "
        f"{both - without:.2f} s | {both / without:.2f} |"
    )


if __name__ == "__main__":
    main()
