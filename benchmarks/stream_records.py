"""Whether ten times the images take more memory: training from TFRecord files.

    python benchmarks/stream_records.py [--images=200000] [--size=32]

Writes tf.train.Example records of small JPEGs in two colours into a temporary folder, then trains a
tiny network for one epoch, in a process of its own, on a tenth of them and on all. Prints both
peaks of memory (VmHWM) and the difference in MB (10^6 bytes), as JSON, and on stderr how far it is;
the process fails where the difference is above --most. Four minutes on two cores.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

_SHARDS = 10
_TRAIN = """
import json, re, sys
import tf_finetune as tff
model, data, workdir, result = sys.argv[1:]
summary = tff.train(
    tff.RunSpec(
        workdir=workdir,
        model=tff.ModelSpec(model=model),
        data=tff.DataSpec(data=data),
        train=tff.TrainSpec(epochs=1, batch_size=128),
    ),
)
# Not ru_maxrss: that one remembers the process that started this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024 / 1e6
facts = {
    "examples": sum(summary["examples"].values()),
    "peak_mb": round(peak),
    "accuracy": summary["test"]["label"]["accuracy"],
}
with open(result, "w") as file:
    json.dump(facts, file)
"""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--most", type=float, default=300.0, help="MB")
    options = parser.parse_args()
    heading = (
        f"python {shlex.join(sys.argv)}, {datetime.date.today()}, {os.cpu_count()} "
        f"{platform.machine()} cores, Python {platform.python_version()}"
    )
    print(heading, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        print(f"Writing {options.images:,} records", file=sys.stderr, flush=True)
        write_records(folder, options.images, size=options.size)
        write_model(folder / "tiny.keras", size=options.size)
        part = measure(folder, "images-00000-of-*.tfrecord")
        whole = measure(folder, "images-*.tfrecord")
    difference = whole["peak_mb"] - part["peak_mb"]
    facts = {
        "command": heading,
        "images": options.images,
        "tenth": part,
        "all": whole,
        "difference_mb": difference,
    }
    print(json.dumps(facts))
    sys.exit(int(difference > options.most))


def write_records(folder: pathlib.Path, count: int, *, size: int) -> None:
    """Ten files of records with the features image and label.

    Args:
      folder: where to.
      count: records of all files together.
      size: pixels of a side.
    """
    import numpy as np
    import tensorflow as tf

    generator = np.random.default_rng(0)
    for shard in range(_SHARDS):
        path = folder / f"images-{shard:05d}-of-{_SHARDS:05d}.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for number in range(shard, count, _SHARDS):
                label = (number // _SHARDS) % 2
                pixels = generator.integers(0, 64, (size, size, 3)).astype(np.uint8)
                pixels[..., label] += 128
                features = {
                    "image": _bytes(tf.io.encode_jpeg(pixels).numpy()),
                    "label": _bytes((b"red", b"green")[label]),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())


def _bytes(value: bytes) -> object:
    import tensorflow as tf

    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def write_model(path: pathlib.Path, *, size: int) -> None:
    """A network that any machine trains at once.

    Args:
      path: ends with .keras.
      size: pixels of a side.
    """
    import keras

    model = keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.save(path)


def measure(folder: pathlib.Path, pattern: str) -> dict[str, float]:
    """Trains in a process of its own.

    Args:
      folder: of `write_records`.
      pattern: of file names.

    Returns:
      {"examples", "peak_mb", "accuracy", "seconds"}.
    """
    workdir = tempfile.mkdtemp(dir=folder)
    result = folder / "facts.json"
    arguments = [folder / "tiny.keras", folder / pattern, workdir, result]
    command = [sys.executable, "-c", _TRAIN, *map(str, arguments)]
    started = time.monotonic()
    # What training says goes to stderr: it is the progress.
    subprocess.run(command, check=True, stdout=sys.stderr)
    facts = json.loads(result.read_text())
    return {**facts, "seconds": round(time.monotonic() - started)}


if __name__ == "__main__":
    main()
