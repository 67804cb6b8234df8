"""What options of the training step cost and save: memory, and seconds of the processor.

    python -m benchmarks.training_steps [--repeat=3]

Each row is the command line in a process of its own on images that are made here, the rows by
turns. `memory`: the peak of training MobileNetV2 whole at 160 px with batches of 32, of 4 times 8
accumulated, and of 8. `python`: a tiny network, with and without --steps_per_execution. `prefix`:
MobileNetV2 frozen at 224 px with new views in each epoch, its layers in the training step or
compiled. For the last two, a run of few epochs is taken from one of more: what is left are epochs,
without start, compilation and export. Prints a table in Markdown.
"""

import argparse
import pathlib
import shlex
import statistics
import sys
import tempfile

from benchmarks.comparison import contenders, images, machine, processes, tables

MOBILENET, TINY = "mobilenetv2", "tiny"
# {part: (network, images, pixels of a side, epochs of the short and the long run, flags, rows)}
PARTS = {
    "memory": (
        MOBILENET,
        96,
        160,
        (0, 1),
        ["--freeze=none", "--feature_cache=off"],
        (
            ["--batch_size=32"],
            ["--batch_size=8", "--accumulate_steps=4"],
            ["--batch_size=8"],
        ),
    ),
    "python": (
        TINY,
        1_000,
        32,
        (2, 14),
        ["--freeze=none", "--feature_cache=off", "--batch_size=8"],
        (["--steps_per_execution=1"], ["--steps_per_execution=8"]),
    ),
    "prefix": (
        MOBILENET,
        160,
        224,
        (1, 4),
        ["--freeze=all", "--augment=flip", "--feature_precision=float32"],
        (["--feature_cache=off"], ["--feature_cache=compiled"]),
    ),
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, help="default: all")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    header = machine.describe(sys.argv[1:], module="benchmarks.training_steps")
    print(tables.format_header(header))
    print("| part | flags | epochs | processor s | range | peak MB |")
    print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    for part in [options.part] if options.part else PARTS:
        with tempfile.TemporaryDirectory() as folder:
            measure(part, pathlib.Path(folder), repeat=options.repeat)


def measure(part: str, folder: pathlib.Path, *, repeat: int) -> None:
    """Runs all rows of a part and prints them.

    Args:
      part: key of PARTS.
      folder: temporary.
      repeat: rounds.
    """
    network, count, size, (few, many), flags, rows = PARTS[part]
    sides = (size, size) if network == TINY else (320, 240)
    images.write_images(folder / "images", count, sides=sides)
    model = folder / "model.keras"
    module, arguments = "random_model", [network, str(model), f"--size={size}"]
    if network == TINY:
        module, arguments = "cache_memory", [str(model)]
    command = [sys.executable, "-m", f"benchmarks.comparison.{module}", *arguments]
    if (made := processes.run(command, log=folder / "model.log")).code:
        raise contenders.FailedError(made.tail)
    flags = [
        f"--model={model}",
        "--pixel_range=" + ("0..1" if network == TINY else "-1..1"),
        f"--data={folder / 'images'}",
        "--patience_epochs=1000",
        contenders.NO_EXPORT,
        *flags,
    ]
    found: dict[int, list[tuple[float, int]]] = {number: [] for number in range(len(rows))}
    for _ in range(repeat):
        for number, row in enumerate(rows):
            runs = [
                contenders.run_flags([*flags, *row, f"--epochs={epochs}"], folder)
                for epochs in (few, many)
                if epochs
            ]
            seconds = runs[-1].cpu_seconds - (runs[0].cpu_seconds if few else 0.0)
            found[number].append((seconds, runs[-1].peak_mb or 0))
    for number, row in enumerate(rows):
        seconds = [value for value, _ in found[number]]
        peak = statistics.median(value for _, value in found[number])
        print(
            f"| {part} | `{shlex.join(row)}` | {many - few} | {statistics.median(seconds):.1f} "
            f"| {min(seconds):.1f} to {max(seconds):.1f} | {peak:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
