"""How fast JPEG files become augmented batches, beside a bare tf.data loop over the same files.

    python benchmarks/input_pipeline.py [--images=400] [--repeats=7] [--augment=flip,crop]

Writes JPEGs of about 500 x 375 pixels into a temporary folder and reads them by turns:

  bare     list_files, read_file, decode_jpeg, resize (antialias=True: the same pixels), batch,
           prefetch, with AUTOTUNE everywhere
  aliased  the same with tf.image.resize's default, antialias=False: other, jagged pixels
  plain    this package's pipeline: shuffled, upright, any format, no augmentation
  ours     the same with --augment

Pixels are never kept, so every epoch decodes every file. Prints a table of medians over the rounds,
in each of which all four run, and as JSON how fast ours is as a part of each other: by the clock,
and by processor seconds, which other programs on the machine disturb less.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import PIL.Image
import tensorflow as tf

from tf_finetune import specs
from tf_finetune.data import image_stores, loading, pipeline, preprocessing

SIZE = 224
BATCH_SIZE = 32


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--augment", default="flip,crop")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(folder, options.images)
        loops = {
            "bare": make_bare(folder, antialias=True),
            "aliased": make_bare(folder, antialias=False),
            "plain": make_ours(paths, augment="none"),
            "ours": make_ours(paths, augment=options.augment),
        }
        seconds, processor_seconds = measure(loops, repeats=options.repeats)
    print("| loop | images per second | lowest | highest | processor ms per image |")
    print("|---|---:|---:|---:|---:|")
    for name, values in seconds.items():
        rates = [options.images / value for value in values]
        cost = 1000 * statistics.median(processor_seconds[name]) / options.images
        print(
            f"| {name} | {statistics.median(rates):.0f} | {min(rates):.0f} | {max(rates):.0f} | "
            f"{cost:.2f} |"
        )
    facts = {
        "images": options.images,
        "augment": options.augment,
        "cores": os.cpu_count(),
        "speed_of_ours": compare(seconds),
        "speed_of_ours_by_processor_seconds": compare(processor_seconds),
    }
    print(json.dumps(facts))


def compare(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Ours beside each other loop, round by round.

    Args:
      seconds: {name: of each round}.

    Returns:
      {name: median, lowest and highest of its seconds over ours}.
    """
    result = {}
    for name, values in seconds.items():
        ratios = [value / ours for value, ours in zip(values, seconds["ours"], strict=True)]
        result[name] = {
            "median": round(statistics.median(ratios), 3),
            "lowest": round(min(ratios), 3),
            "highest": round(max(ratios), 3),
        }
    return result


def write_images(folder: str, count: int) -> list[str]:
    """Photographs of nothing: smooth colours and some noise, 40 to 60 kB each.

    Args:
      folder: where to.
      count: how many.

    Returns:
      Their paths, sorted.
    """
    generator = np.random.default_rng(0)
    paths = []
    for number in range(count):
        width, height = int(generator.integers(480, 521)), int(generator.integers(360, 391))
        small = generator.integers(0, 256, (24, 32, 3)).astype(np.uint8)
        smooth = PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth, np.int16) + generator.integers(-12, 13, (height, width, 3))
        path = pathlib.Path(folder, f"{number:05d}.jpg")
        PIL.Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path, quality=85)
        paths.append(str(path))
    return paths


def make_bare(folder: str, *, antialias: bool) -> tf.data.Dataset:
    """The loop that everybody writes first.

    Args:
      folder: of JPEG files.
      antialias: of `tf.image.resize`.

    Returns:
      Dataset of float32 [batch, 224, 224, 3].
    """

    def load(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.image.resize(image, (SIZE, SIZE), antialias=antialias)

    files = tf.data.Dataset.list_files(os.path.join(folder, "*.jpg"), shuffle=False)
    images = files.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return images.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def make_ours(paths: list[str], *, augment: str) -> tf.data.Dataset:
    """The pipeline of training, on files that are not kept in memory.

    Args:
      paths: of JPEG files.
      augment: value of --augment.

    Returns:
      Dataset of what Keras fits on.
    """
    names = np.array([os.fsencode(path) for path in paths], object)
    count = len(paths)
    split = loading.Split(
        "train",
        np.array([os.path.basename(path) for path in paths], object),
        image_stores.PathImages(names),
        np.arange(count),
        {"label": np.zeros(count, np.int32)},
    )
    steps = specs.AugmentSpec(augment=augment).steps
    return pipeline.make_dataset(
        split,
        preprocessing.PreprocessingSpec(SIZE, SIZE, 3),
        batch_size=BATCH_SIZE,
        shuffle_seed=0,
        epoch=tf.Variable(0, dtype=tf.int64, trainable=False),
        with_weights=True,
        views=steps or None,
    )


def measure(
    loops: dict[str, tf.data.Dataset], *, repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Runs the loops by turns.

    Args:
      loops: datasets by name.
      repeats: rounds that count; one more comes first and does not.

    Returns:
      ({name: seconds of each round}, {name: processor seconds of each round}).
    """
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    processor_seconds: dict[str, list[float]] = {name: [] for name in loops}
    names = list(loops)
    for round_number in range(repeats + 1):
        # Each begins some rounds, so that none has always the same neighbour.
        turn = round_number % len(names)
        for name in names[turn:] + names[:turn]:
            start, used = time.perf_counter(), time.process_time()
            for _ in loops[name]:
                pass
            if round_number:
                seconds[name].append(time.perf_counter() - start)
                processor_seconds[name].append(time.process_time() - used)
    return seconds, processor_seconds


if __name__ == "__main__":
    main()
