"""What checkpoints at the default interval add to a run: seconds, against --checkpoint_secs=0.

    python -m benchmarks.checkpoint_overhead --model=MODEL --data=FOLDER [--repeat=5]

Each row is the command line in a process of its own, in new folders. `recipe`: nothing but --model
and --data. `unfrozen`: all layers for three epochs, whose checkpoints are the largest. The two ways
take turns, and each pair begins with the other one: what the machine does meanwhile falls on both.
The overhead is that of the medians; beside it are those of the pairs. Without --model and --data:
MobileNet of random weights on images that are made here. Prints a table in Markdown.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile

from benchmarks.comparison import contenders, images, machine, processes, tables

PARTS = {
    "recipe": (),
    "unfrozen": ("--freeze=none", "--epochs=3", "--feature_cache=off", "--patience_epochs=1000"),
}
WAYS = {"default": (), "none": ("--checkpoint_secs=0",)}
MADE_MODEL = "keras:MobileNet,alpha=0.25,weights=none,input_shape=128x128x3"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MADE_MODEL)
    parser.add_argument("--data", help="a folder of class folders")
    parser.add_argument("--part", choices=PARTS, help="default: all")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    header = machine.describe(sys.argv[1:], module="benchmarks.checkpoint_overhead")
    print(tables.format_header(header))
    print("| part | checkpoints | wall s | range | processor s | overhead | of the pairs |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if options.data is None:
            options.data = folder / "images"
            images.write_images(options.data, 1000)
        flags = [f"--model={options.model}", f"--data={options.data}", contenders.NO_EXPORT]
        for part in [options.part] if options.part else PARTS:
            measure(part, flags, folder, repeat=options.repeat)


def measure(part: str, flags: list[str], folder: pathlib.Path, *, repeat: int) -> None:
    """Runs a part both ways by turns and prints its rows.

    Args:
      part: key of PARTS.
      flags: of all runs.
      folder: temporary.
      repeat: pairs.
    """
    found: dict[str, list[processes.Finished]] = {way: [] for way in WAYS}
    # What the system reads for the first time counts for none.
    contenders.run_flags([*flags, *PARTS[part]], folder)
    for number in range(repeat):
        for way in list(WAYS)[:: -1 if number % 2 else 1]:
            found[way].append(contenders.run_flags([*flags, *PARTS[part], *WAYS[way]], folder))
    seconds = {way: [done.seconds for done in runs] for way, runs in found.items()}
    pairs = [
        100 * (own / bare - 1)
        for own, bare in zip(seconds["default"], seconds["none"], strict=True)
    ]
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    for way, values in seconds.items():
        overhead = f"{100 * (medians[way] / medians['none'] - 1):.1f} %"
        spread = f"{min(pairs):.1f} to {max(pairs):.1f} %"
        processor = statistics.median(done.cpu_seconds for done in found[way])
        print(
            f"| {part} | {way} | {medians[way]:.1f} | {min(values):.1f} to {max(values):.1f} "
            f"| {processor:.1f} | {overhead} | {spread if way == 'default' else '-'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
