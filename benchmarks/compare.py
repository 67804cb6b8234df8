"""The same fine-tuning by plain Keras, PyTorch and tf_finetune, on the same files.

    python -m benchmarks.compare [--images=DIR] [--backbone=resnet50] [--output=FILE.json]

Each contender is a process of its own, one after another, by turns where there are repeats: the
times include starting it, loading the model, compiling, training, and measuring on the test split.
tf_finetune runs through its command line with new, empty folders, and with a requirement that
nobody meets: it exports nothing, as the others do not either. All have the same images (8, 1 and 1
of ten for training, validation and test), the same epochs, batch size and constant learning rate of
Adam. The weights are random, of one file for both Keras contenders and PyTorch's own for PyTorch:
nothing is downloaded, features of a network with fresh BatchNormalization statistics tell little,
and so the accuracy only shows that the contenders agree. PyTorch takes part where torch and
torchvision are installed.

Without --images it makes some: a shape in its class's colour before clutter, with noise, 320 x 240.

Instead of the comparison: --scale (more and more images), --prefix_only (one pass of the frozen
network, without training), --memory (kept features of more and more small images). Prints Markdown,
progress goes to stderr; exit code 1 where a contender failed.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
from typing import Any

from benchmarks.comparison import (
    backbones,
    cache_memory,
    contenders,
    images,
    machine,
    processes,
    tables,
)

_DEFAULT_IMAGES = 1_000
_SCALE, _MEMORY = "500,1000,2000,4000", "2000,20000"


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints.

    Args:
      arguments: of the command line; default: the process's.

    Returns:
      The exit code: 0, or 1 where a contender failed.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    try:
        torch_versions = machine.find_torch(options.torch_python)
        header = machine.describe(arguments, torch_versions=torch_versions)
        report: dict[str, Any] = {"header": header, "options": vars(options)}
        print(tables.format_header(header), flush=True)
        with tempfile.TemporaryDirectory(prefix="compare-", dir=options.folder) as name:
            text = _measure(options, pathlib.Path(name), report)
    except (ValueError, contenders.FailedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    if options.output:
        pathlib.Path(options.output).write_text(json.dumps(report, indent=2) + "\n")
    return int(bool(report.get("failed")))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--images", help="folder of class folders; default: made")
    add("--num_images", type=_positive, help="of all together, the first of each; default: all")
    add("--backbone", choices=backbones.NETWORKS, default="resnet50")
    add("--what", choices=backbones.WHATS, default="frozen", help="partial: the last block trains")
    add(
        "--plain_batch_norm",
        choices=("auto", "held", "train"),
        default="auto",
        help="BatchNormalization of the other contenders; auto: held, but train with unfrozen",
    )
    add("--contenders", default="keras,torch,tf_finetune", help=", ".join(contenders.CONTENDERS))
    add("--epochs", type=_positive, default=10)
    add("--size", type=_positive, default=224, help="pixels of a side")
    add("--batch_size", type=_positive, default=32)
    add("--learning_rate", type=float, default=1e-3)
    add("--repeat", type=_positive, default=1)
    add("--torch_python", default=sys.executable, help="interpreter of an environment with torch")
    add("--flag", action="append", default=[], help="one more flag for tf_finetune: --flag=--x=y")
    add("--second_run", action="store_true", help="tf_finetune again, with its cache")
    add("--double_epochs", action="store_true", help="tf_finetune with twice the epochs, no cache")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--scale", type=_numbers, nargs="?", const=_numbers(_SCALE), metavar="N,N")
    modes.add_argument("--memory", type=_numbers, nargs="?", const=_numbers(_MEMORY), metavar="N,N")
    modes.add_argument("--prefix_only", action="store_true")
    add("--folder", help="for temporary files; default: the system's")
    add("--output", help="gets everything as JSON")
    options = parser.parse_args(arguments)
    options.contenders = options.contenders.split(",")
    for name in options.contenders:
        if name not in contenders.CONTENDERS:
            parser.error(f"--contenders: expected {', '.join(contenders.CONTENDERS)}; got {name!r}")
    if (options.second_run or options.double_epochs) and contenders.OURS not in options.contenders:
        parser.error("--second_run and --double_epochs need tf_finetune among --contenders")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return number


def _numbers(text: str) -> list[int]:
    numbers = [_positive(part) for part in text.split(",")]
    if numbers != sorted(set(numbers)):
        raise argparse.ArgumentTypeError(f"expected rising numbers, got {text}")
    return numbers


def _measure(options: argparse.Namespace, folder: pathlib.Path, report: dict[str, Any]) -> str:
    """Fills the report and returns its tables."""
    if options.memory:
        return _measure_memory(options, folder, report)
    found = _find_images(options, folder)
    model = folder / "random.keras"
    say(f"writing {options.backbone} with random weights")
    module = "benchmarks.comparison.random_model"
    command = [sys.executable, "-m", module, options.backbone, str(model), f"--size={options.size}"]
    done = processes.run(command, log=folder / "model.log")
    if done.code:
        raise contenders.FailedError(f"The model was not written:\n{done.tail}")
    if options.scale:
        return _measure_scale(options, folder, report, found=found, model=model)
    job = _make_job(options, folder, found=found, model=model, count=options.num_images)
    report["images"] = _count(job.data)
    if options.prefix_only:
        return _measure_prefix(job, report)
    return _measure_contenders(job, report)


def _find_images(options: argparse.Namespace, folder: pathlib.Path) -> dict:
    if options.images:
        return images.list_images(pathlib.Path(options.images))
    count = options.scale[-1] if options.scale else options.num_images or _DEFAULT_IMAGES
    say(f"writing {count:,} images")
    images.write_images(folder / "images", count)
    return images.list_images(folder / "images")


def _make_job(
    options: argparse.Namespace,
    folder: pathlib.Path,
    *,
    found: dict,
    model: pathlib.Path,
    count: int | None,
) -> contenders.Job:
    data = pathlib.Path(tempfile.mkdtemp(prefix="data-", dir=folder))
    counts = images.split_images(images.choose_images(found, count), data)
    return contenders.Job(options, model, data, counts[images.TRAIN], folder)


def _count(data: pathlib.Path) -> dict[str, int]:
    return {
        split: sum(path.is_file() for path in (data / split).rglob("*")) for split in images.SPLITS
    }


def _measure_contenders(job: contenders.Job, report: dict[str, Any]) -> str:
    options = job.options
    has_torch = bool(machine.find_torch(options.torch_python))
    reasons = {
        name: reason
        for name in options.contenders
        if (reason := contenders.find_reason_against(name, options, has_torch=has_torch))
    }
    runs = [name for name in options.contenders if name not in reasons]
    results: dict[str, list[contenders.Result]] = {}
    failed: dict[str, str] = {}
    for number in range(options.repeat):
        # Each begins some rounds, so that none has always the same neighbour.
        turn = number % len(runs) if runs else 0
        for name in runs[turn:] + runs[:turn]:
            say(f"round {number + 1} of {options.repeat}: {contenders.LABELS[name]}")
            try:
                for which, result in _run(name, job).items():
                    results.setdefault(which, []).append(result)
            except contenders.FailedError as error:
                say(str(error))
                failed[name] = str(error)
    order = [name for name in contenders.LABELS if name in results]
    found = {name: tables.summarize(results[name]) for name in order}
    report |= {"contenders": found, "not_run": reasons, "failed": failed}
    report["ratios"] = _find_ratios(found)
    counts = report["images"]
    intro = (
        f"{options.backbone}, {options.what}, random weights; {counts[images.TRAIN]} images for "
        f"training, {counts[images.VALIDATION]} for validation, {counts[images.TEST]} for testing; "
        f"{options.epochs} epochs at {options.size} px, batches of {options.batch_size}, Adam "
        f"{options.learning_rate:g}; medians of {options.repeat}\n\n"
    )
    return intro + tables.format_contenders(found, reasons | dict.fromkeys(failed, "failed"))


def _run(name: str, job: contenders.Job) -> dict[str, contenders.Result]:
    """A contender's turn; of tf_finetune also the runs that follow from it."""
    if name != contenders.OURS:
        return {name: contenders.run_loop(name, job)}
    cache = pathlib.Path(tempfile.mkdtemp(prefix="cache-", dir=job.folder))
    results = {name: contenders.run_ours(job, cache=cache)}
    if job.options.second_run:
        results[contenders.SECOND] = contenders.run_ours(job, cache=cache, rate_factor=0.5)
    if job.options.double_epochs:
        empty = pathlib.Path(tempfile.mkdtemp(prefix="cache-", dir=job.folder))
        epochs = 2 * job.options.epochs
        results[contenders.DOUBLE] = contenders.run_ours(job, cache=empty, epochs=epochs)
    return results


def _find_ratios(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Each one's seconds by tf_finetune's, the rates in training, its epochs by one pass."""
    ours = found.get(contenders.OURS)
    if ours is None:
        return {}
    ratios = {
        f"{name}_by_tf_finetune": round(values["seconds"] / ours["seconds"], 3)
        for name, values in found.items()
        if name != contenders.OURS
    }
    ratios |= {
        f"training_rate_of_tf_finetune_by_{name}": round(
            ours["training_images_per_second"] / values["training_images_per_second"], 3
        )
        for name, values in found.items()
        if name in contenders.CONTENDERS and name != contenders.OURS
    }
    features, train = (ours["parts"].get(name, 0.0) for name in ("features", "train"))
    if features:
        ratios["features_and_epochs_by_features"] = round((features + train) / features, 3)
    return ratios


def _measure_scale(
    options: argparse.Namespace,
    folder: pathlib.Path,
    report: dict[str, Any],
    *,
    found: dict,
    model: pathlib.Path,
) -> str:
    results: dict[int, list[contenders.Result]] = {count: [] for count in options.scale}
    jobs = {
        count: _make_job(options, folder, found=found, model=model, count=count)
        for count in options.scale
    }
    for number in range(options.repeat):
        for count, job in jobs.items():
            say(f"round {number + 1} of {options.repeat}: {count:,} images")
            cache = pathlib.Path(tempfile.mkdtemp(prefix="cache-", dir=folder))
            results[count].append(contenders.run_ours(job, cache=cache))
    rows = [{"images": count, **tables.summarize(runs)} for count, runs in results.items()]
    report["scale"] = rows
    return tables.format_scale(rows)


def _measure_prefix(job: contenders.Job, report: dict[str, Any]) -> str:
    options, path = job.options, job.folder / "prefix.json"
    say(f"one pass by turns, {options.repeat} rounds after one that does not count")
    command = [
        *(sys.executable, "-m", "benchmarks.comparison.prefix_speed"),
        f"--backbone={options.backbone}",
        f"--model={job.model}",
        f"--data={job.data}",
        f"--facts={path}",
        f"--size={options.size}",
        f"--batch_size={options.batch_size}",
        f"--repeat={options.repeat}",
    ]
    done = processes.run(command, log=job.folder / "prefix.log")
    if done.code:
        raise contenders.FailedError(f"prefix_speed ended with code {done.code}:\n{done.tail}")
    report["prefix"] = json.loads(path.read_text())
    return tables.format_prefix(report["prefix"])


def _measure_memory(
    options: argparse.Namespace, folder: pathlib.Path, report: dict[str, Any]
) -> str:
    rows = []
    for count in options.memory:
        peaks = []
        for number in range(options.repeat):
            say(f"round {number + 1} of {options.repeat}: {count:,} small images")
            peaks.append(cache_memory.measure(count, folder=folder, epochs=options.epochs))
        row = max(peaks, key=lambda one: one["peak_mb"] or 0)
        rows.append(row | {"seconds": statistics.median(one["seconds"] for one in peaks)})
    difference = None
    if rows[-1]["peak_mb"] is not None:
        difference = rows[-1]["peak_mb"] - rows[0]["peak_mb"]
    report["memory"] = {"rows": rows, "difference_mb": difference}
    return tables.format_memory(rows) + f"\nDifference: {difference} MB\n"


def say(text: str) -> None:
    """Progress, apart from what is measured."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
