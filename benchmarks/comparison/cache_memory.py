"""Whether ten times the images take more memory: features that are kept on the disk.

A small network of 32 x 32 pixels whose last convolution trains: the features are 16 KiB per image,
so those of the 18,000 of 20,000 images that train or validate (295 MB) are read from the disk while
it trains, and those of 2,000 are kept in memory.
"""

import pathlib
import sys
import tempfile

from benchmarks.comparison import contenders, images, processes

SIDE = 32
CUT = "features"


def main() -> None:
    """Writes the network to the path that is the only argument."""
    import keras

    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((SIDE, SIDE, 3)),
        keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
        keras.layers.Conv2D(64, 3, strides=2, padding="same", activation="relu", name=CUT),
        keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="last"),
    ]
    keras.Sequential(layers).save(sys.argv[1])


def measure(count: int, *, folder: pathlib.Path, epochs: int) -> dict[str, object]:
    """Trains on that many images with --feature_cache=disk.

    Args:
      count: of images, which are made here.
      folder: temporary.
      epochs: passes over the features.

    Returns:
      {"images", "seconds", "peak_mb", "features": the lines that tell of them}.

    Raises:
      contenders.FailedError: a process ended with an error.
    """
    own = pathlib.Path(tempfile.mkdtemp(dir=folder))
    images.write_images(own / "images", count, sides=(SIDE, SIDE))
    command = [sys.executable, "-m", "benchmarks.comparison.cache_memory", str(own / "tiny.keras")]
    made = processes.run(command, log=own / "model.log")
    command = [
        *(sys.executable, "-m", "tf_finetune.main"),
        f"--model={own / 'tiny.keras'}",
        "--pixel_range=0..1",
        f"--data={own / 'images'}",
        f"--freeze=until:{CUT}",
        f"--epochs={epochs}",
        "--feature_cache=disk",
        "--feature_precision=float32",
        f"--cache_dir={own / 'cache'}",
        f"--workdir={own / 'run'}",
        contenders.NO_EXPORT,
    ]
    done = made if made.code else processes.run(command, log=own / "log.txt")
    if done.code != contenders.REQUIREMENT_NOT_MET:
        raise contenders.FailedError(
            f"{count:,} images: a process ended with code {done.code}:\n{done.tail}"
        )
    lines = (own / "log.txt").read_text(errors="replace").splitlines()
    return {
        "images": count,
        "seconds": round(done.seconds, 1),
        "peak_mb": done.peak_mb,
        # How many were computed and how large they are: that the cache was what was measured.
        "features": [line for line in lines if line.startswith("Feature")],
    }


if __name__ == "__main__":
    main()
