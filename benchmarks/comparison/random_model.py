"""Writes a network with random weights, for the contenders that read Keras files.

    python -m benchmarks.comparison.random_model resnet50 model.keras --size=224

Nothing is trained, so the statistics of BatchNormalization are the fresh 0 and 1 and the features
tell little: what is compared is the work, not what pretraining is worth.
"""

import argparse

from benchmarks.comparison import backbones


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbone", choices=backbones.NETWORKS)
    parser.add_argument("path")
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    import keras

    keras.utils.set_random_seed(0)
    make = getattr(keras.applications, backbones.NETWORKS[options.backbone].keras_name)
    shape = (options.size, options.size, 3)
    make(weights=None, include_top=False, input_shape=shape).save(options.path)


if __name__ == "__main__":
    main()
