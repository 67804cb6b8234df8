"""Peak memory of training on a large CSV and on a tenth of it.

    python benchmarks/stream_csv.py [--gigabytes=2] [--folder=/var/tmp] [--most=300]

Generates a table of 100 columns of numbers and a label, trains one epoch of a small network on a
tenth of it and on all, each in a process of its own, and prints both peaks of the resident memory
(VmHWM) and the difference in MB (10^6 bytes); the process fails where it is above --most. Needs the
table's size on the disk once and a half.
"""

import argparse
import datetime
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time

import numpy as np

_COLUMNS = 100
_CHILD = """
import sys
from tf_finetune import main
code = main.main(sys.argv[1:])
# Not ru_maxrss: that one remembers the process that started this one.
print(open("/proc/self/status").read())
sys.exit(code)
"""


def write_table(path: str, num_bytes: int) -> int:
    """Writes a CSV of at least so many bytes.

    Args:
      path: the file.
      num_bytes: its size.

    Returns:
      The number of rows.
    """
    generator = np.random.default_rng(0)
    names = [f"x{number}" for number in range(_COLUMNS)]
    num_rows = 0
    with open(path, "w", encoding="ascii") as file:
        file.write(",".join([*names, "label"]) + "\n")
        while file.tell() < num_bytes:
            labels = generator.integers(0, 3, 2000)
            numbers = generator.normal(size=(2000, _COLUMNS))
            numbers[np.arange(2000), labels] += 5
            template = ",".join(["%.5f"] * _COLUMNS) + ",%s\n"
            for row, label in zip(numbers.tolist(), labels.tolist(), strict=True):
                file.write(template % (*row, f"class{label}"))
            num_rows += 2000
    return num_rows


def write_model(path: str) -> None:
    """Writes a small network of one vector.

    Args:
      path: a name that ends in .keras.
    """
    import keras

    features = keras.Input((_COLUMNS,), name="features")
    x = keras.layers.Dense(32, activation="relu")(features)
    keras.Model(features, keras.layers.Dense(4, activation="softmax")(x)).save(path)


def measure_peak(table: str, model: str, folder: str) -> int:
    """Trains one epoch in a process of its own.

    Args:
      table: the CSV.
      model: the network.
      folder: the workdir.

    Returns:
      The peak of its resident memory in bytes.
    """
    flags = [
        f"--model={model}",
        f"--data={table}",
        f"--feature_columns=x0..x{_COLUMNS - 1}",
        f"--workdir={folder}",
        "--epochs=1",
        "--batch_size=1024",
        "--patience_epochs=1",
    ]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *flags], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"training failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    print(next(line for line in done.stdout.splitlines() if line.startswith("Time:")))
    return int(re.findall(r"VmHWM:\s+(\d+)", done.stdout)[-1]) * 1024


def main() -> None:
    """Measures and prints both peaks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--most", type=float, default=300.0, help="MB")
    options = parser.parse_args()
    print(
        f"`python {shlex.join(sys.argv)}`, {datetime.date.today()}, {os.cpu_count()} "
        f"{platform.machine()} cores, Python {platform.python_version()}",
        flush=True,
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        model = os.path.join(folder, "model.keras")
        write_model(model)
        peaks = []
        for part in (0.1, 1.0):
            table = os.path.join(folder, f"table_{part}.csv")
            num_rows = write_table(table, int(options.gigabytes * part * 1e9))
            size = os.path.getsize(table) / 1e6
            peak = measure_peak(table, model, os.path.join(folder, f"run_{part}"))
            peaks.append(peak / 1e6)
            print(f"{size:,.0f} MB, {num_rows:,} rows: peak {peaks[-1]:,.0f} MB", flush=True)
            os.remove(table)
    difference = peaks[1] - peaks[0]
    print(f"difference: {difference:,.0f} MB, {(time.monotonic() - started) / 60:.0f} minutes")
    sys.exit(int(difference > options.most))


if __name__ == "__main__":
    main()
