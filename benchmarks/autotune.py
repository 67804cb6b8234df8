"""What it costs to let TensorFlow tune a data set while it is read.

    python -m benchmarks.autotune [--images=300,600,900] [--repeat=5]

An epoch of made images through MobileNetV2, as the package reads them, and with the thread that
tunes data sets, by turns. Seconds until the last batch is there, and until the iterator is gone
after it, which every epoch waits for. Prints Markdown.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

_SIDE, _BATCH = 224, 32


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints.

    Args:
      arguments: of the command line; default: the process's.

    Returns:
      The exit code, 0.
    """
    from benchmarks.comparison import images, machine, tables

    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.autotune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", default="300,600,900", help="of an epoch")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args(arguments)
    header = machine.describe(arguments, module="benchmarks.autotune")
    print(tables.format_header(header), flush=True)
    print("| | images | seconds to the last batch | seconds from it to the iterator's end |")
    print("| --- | ---: | ---: | --- |")
    consume = _make_consumer()
    with tempfile.TemporaryDirectory() as name:
        for count in map(int, options.images.split(",")):
            folder = pathlib.Path(name) / str(count)
            images.write_images(folder, count)
            _measure(count, folder, consume, repeat=options.repeat)
    return 0


def _measure(
    count: int, folder: pathlib.Path, consume: Callable[[Any], None], *, repeat: int
) -> None:
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    _read(_make_dataset(folder, is_tuned=False), consume)  # the files, once, for none of them
    for _ in range(repeat):
        for is_tuned, values in found.items():
            values.append(_read(_make_dataset(folder, is_tuned=is_tuned), consume))
    for is_tuned, values in found.items():
        waits = ", ".join(f"{wait:.2f}" for _, wait in values)
        last = statistics.median(secs for secs, _ in values)
        print(
            f"| {'tuned' if is_tuned else 'fixed'} | {count} | {last:.2f} | {waits} |", flush=True
        )


def _make_consumer() -> Callable[[Any], None]:
    import keras
    import tensorflow as tf

    network = keras.applications.MobileNetV2(
        weights=None, include_top=False, pooling="avg", input_shape=(_SIDE, _SIDE, 3)
    )
    compute = tf.function(lambda images: network(images, training=False))
    return lambda batch: compute(batch[0]["image"]).numpy()


def _make_dataset(folder: pathlib.Path, *, is_tuned: bool) -> Any:
    import tensorflow as tf

    from tf_finetune import specs
    from tf_finetune.data import loading, pipeline, preprocessing

    splits = loading.load_data(specs.DataSpec(data=str(folder), split=(1.0, 0.0, 0.0)))
    pre = preprocessing.PreprocessingSpec(_SIDE, _SIDE, 3)
    dataset = pipeline.make_dataset(splits.train, pre, batch_size=_BATCH)
    if not is_tuned:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = True
    return dataset.with_options(options)


def _read(dataset: Any, consume: Callable[[Any], None]) -> tuple[float, float]:
    """(seconds to the last batch, seconds from it to the iterator's end)."""
    start = last = time.perf_counter()
    iterator = iter(dataset)
    for batch in iterator:
        consume(batch)
        last = time.perf_counter()
    del iterator
    return last - start, time.perf_counter() - last


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
