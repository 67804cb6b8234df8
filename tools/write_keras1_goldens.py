"""Writes tests/golden/keras1_2_2.zip: models saved by the real Keras 1.2.2, with their outputs.

One idea: Keras 1.2.2 still runs on the TensorFlow of today, in its version 1 mode, after four
changes to its text. What it saves and answers is what the loader is tested against.

    pip download --no-deps --no-binary :all: --no-build-isolation keras==1.2.2
    tar xzf Keras-1.2.2.tar.gz
    python tools/write_keras1_goldens.py Keras-1.2.2 tests/golden/keras1_2_2.zip
"""

import inspect
import os
import pathlib
import shutil
import sys
import tempfile
import zipfile

import numpy as np

_CHANGES = {
    "backend/tensorflow_backend.py": (
        ("import tensorflow as tf", "import tensorflow.compat.v1 as tf\ntf.disable_v2_behavior()"),
        ("control_flow_ops.while_loop", "tf.while_loop"),
        ("control_flow_ops.cond", "tf.cond"),
    ),
    "callbacks.py": (("from collections import Iterable", "from collections.abc import Iterable"),),
}
_DATE = (2017, 2, 12, 0, 0, 0)
_SHAPES = {"tf": (9, 10, 3), "th": (3, 9, 10)}


def main(source: str, target: str) -> None:
    """Writes the archive.

    Args:
      source: folder of the unpacked sources of Keras 1.2.2.
      target: the archive to write.
    """
    with tempfile.TemporaryDirectory() as folder:
        _prepare_keras(pathlib.Path(source), pathlib.Path(folder))
        writer = _Writer(pathlib.Path(folder))
        for ordering in ("tf", "th"):
            _write_images(writer, ordering)
        _write_vectors(writer)
        _write_sequences(writer)
        _write_merges(writer)
        with zipfile.ZipFile(target, "w") as archive:
            for path in sorted(writer.folder.glob("*.[hn]*")):
                info = zipfile.ZipInfo(path.name, _DATE)
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, path.read_bytes(), compresslevel=9)


def _prepare_keras(source: pathlib.Path, folder: pathlib.Path) -> None:
    shutil.copytree(source / "keras", folder / "keras")
    for name, changes in _CHANGES.items():
        path = folder / "keras" / name
        text = path.read_text()
        for old, new in changes:
            text = text.replace(old, new)
        path.write_text(text)
    sys.path.insert(0, str(folder))
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["HOME"] = str(folder)
    if not hasattr(inspect, "getargspec"):
        inspect.getargspec = inspect.getfullargspec


class _Writer:
    """Saves models with random weights, and their outputs."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder / "files"
        self.folder.mkdir()
        self._random = np.random.RandomState(0)

    def write(self, name, make, *, ordering="tf", tokens=0):
        from keras import backend

        backend.set_image_dim_ordering(ordering)
        model = make()
        model.set_weights([self._random.normal(0, 0.4, w.shape) for w in model.get_weights()])
        _make_variances_positive(model)
        inputs = [self._input(backend.int_shape(tensor), tokens) for tensor in model.inputs]
        outputs = model.predict(inputs if len(inputs) > 1 else inputs[0])
        outputs = outputs if isinstance(outputs, list) else [outputs]
        model.save(str(self.folder / f"{name}.h5"))
        arrays = {f"input_{number}": value for number, value in enumerate(inputs)}
        arrays |= {f"output_{number}": value for number, value in enumerate(outputs)}
        np.savez(self.folder / f"{name}.npz", **arrays)

    def _input(self, shape, tokens):
        shape = [size or (5 if axis else 3) for axis, size in enumerate(shape)]
        if tokens:
            return self._random.randint(0, tokens, shape).astype("int32")
        return self._random.normal(0, 1, shape).astype("float32")


def _make_variances_positive(layer):
    for inner in getattr(layer, "flattened_layers", None) or getattr(layer, "layers", None) or ():
        _make_variances_positive(inner)
    if type(layer).__name__ == "TimeDistributed":
        _make_variances_positive(layer.layer)
    if type(layer).__name__ == "BatchNormalization":
        *others, variance = layer.get_weights()
        layer.set_weights([*others, np.abs(variance) + 0.3])


def _write_images(writer, ordering):
    import keras.layers as kl
    from keras.constraints import maxnorm
    from keras.models import Model, Sequential
    from keras.regularizers import l1, l2

    shape, axis = _SHAPES[ordering], -1 if ordering == "tf" else 1
    last = ordering == "tf"

    def write(name, *layers):
        writer.write(f"{name}_{ordering}", lambda: Sequential([f() for f in layers]), **given)

    given = {"ordering": ordering}
    write(
        "conv",
        lambda: kl.ZeroPadding2D((1, 2), input_shape=shape),
        lambda: kl.Convolution2D(
            *(4, 3, 2),
            activation="relu",
            subsample=(2, 1),
            W_regularizer=l2(0.01),
            b_regularizer=l1(0.1),
            W_constraint=maxnorm(2),
        ),
        lambda: kl.BatchNormalization(axis=axis, epsilon=1e-2),
        lambda: kl.PReLU(),
        lambda: kl.Convolution2D(5, 3, 3, border_mode="same", bias=False),
        lambda: kl.MaxPooling2D((2, 2)),
        lambda: kl.Flatten(),
        lambda: kl.Dense(6, activation="softmax"),
    )
    write(
        "atrous",
        lambda: kl.AtrousConvolution2D(4, 3, 3, atrous_rate=(2, 2), input_shape=shape),
        lambda: kl.UpSampling2D((2, 1)),
        lambda: kl.Cropping2D(((1, 0), (2, 1))),
        lambda: kl.AveragePooling2D((2, 2), border_mode="same"),
        lambda: kl.GlobalAveragePooling2D(),
        lambda: kl.Dense(3),
    )
    write(
        "separable",
        lambda: kl.SeparableConvolution2D(
            4, 3, 3, depth_multiplier=2, input_shape=shape, activation="tanh"
        ),
        lambda: kl.ZeroPadding2D((1, 0, 2, 1)),
        lambda: kl.LeakyReLU(0.2),
        lambda: kl.GlobalMaxPooling2D(),
    )
    for mode, size, output in (("valid", 3, (19, 21)), ("same", 4, (18, 20))):
        whole = (None, *output, 4) if last else (None, 4, *output)
        write(
            f"deconv_{mode}",
            lambda size=size, whole=whole, mode=mode: kl.Deconvolution2D(
                *(4, size, size),
                output_shape=whole,
                border_mode=mode,
                subsample=(2, 2),
                input_shape=shape,
            ),
            lambda: kl.ELU(0.7),
            lambda: kl.Convolution2D(2, 2, 2),
        )
    write(
        "local2d",
        lambda: kl.LocallyConnected2D(
            4, 3, 2, input_shape=shape, activation="relu", subsample=(2, 2)
        ),
        lambda: kl.Flatten(),
        lambda: kl.Dense(2),
    )
    video = {"input_shape": (4, *shape)}
    write(
        "convlstm",
        lambda: kl.ConvLSTM2D(3, 3, 3, border_mode="same", return_sequences=True, **video),
        lambda: kl.ConvLSTM2D(2, 3, 3, border_mode="same"),
    )
    write(
        "frames",
        lambda: kl.TimeDistributed(kl.Convolution2D(3, 3, 3), **video),
        lambda: kl.TimeDistributed(kl.MaxPooling2D()),
        lambda: kl.TimeDistributed(kl.Flatten()),
        lambda: kl.LSTM(3),
    )
    write(
        "conv3d",
        lambda: kl.Convolution3D(3, 2, 3, 2, input_shape=(5, 6, 7, 2) if last else (2, 5, 6, 7)),
        lambda: kl.ZeroPadding3D((1, 0, 1)),
        lambda: kl.MaxPooling3D(),
        lambda: kl.Flatten(),
        lambda: kl.Dense(2),
    )

    def functional():
        image = kl.Input(shape=shape, name="image")
        left = kl.Convolution2D(4, 3, 3, border_mode="same", activation="relu")(image)
        right = kl.Convolution2D(4, 1, 1)(image)
        both = kl.merge([left, right], mode="sum")
        whole = kl.merge([left, right, both], mode="concat", concat_axis=axis)
        whole = kl.BatchNormalization(axis=axis)(kl.SpatialDropout2D(0.3)(whole))
        flat = kl.Flatten()(whole)
        return Model(image, [kl.Dense(3)(flat), kl.Dense(2, activation="sigmoid")(flat)])

    def nested():
        model = Sequential()
        model.add(
            Sequential(
                [
                    kl.Convolution2D(3, 3, 3, input_shape=shape),
                    kl.BatchNormalization(axis=axis),
                    kl.Activation("relu"),
                    kl.Convolution2D(4, 3, 3),
                    kl.BatchNormalization(axis=axis),
                ]
            )
        )
        model.add(kl.Flatten())
        head = [kl.Dense(5, input_dim=120), kl.BatchNormalization(), kl.Dense(2)]
        model.add(Sequential(head))
        return model

    def siamese():
        image = kl.Input(shape=shape)
        features = kl.BatchNormalization(axis=axis)(kl.Convolution2D(4, 3, 3)(image))
        inner = Model(image, kl.GlobalAveragePooling2D()(features))
        for layer in inner.layers:
            layer.trainable = False
        first, second = kl.Input(shape=shape), kl.Input(shape=shape)
        both = kl.merge([inner(first), inner(second)], mode="mul")
        return Model([first, second], kl.Dense(2)(both))

    for name, make in (("functional", functional), ("nested", nested), ("siamese", siamese)):
        writer.write(f"{name}_{ordering}", make, **given)


def _write_vectors(writer):
    import keras.layers as kl
    from keras.models import Sequential
    from keras.regularizers import activity_l2

    writer.write(
        "dense",
        lambda: Sequential(
            [
                kl.Dense(6, input_dim=5, init="he_normal", activation="hard_sigmoid"),
                *(kl.Dropout(0.5), kl.GaussianNoise(0.1), kl.GaussianDropout(0.2)),
                kl.ActivityRegularization(l1=0.1),
                *(kl.Highway(activation="relu"), kl.MaxoutDense(4, nb_feature=3)),
                *(kl.ParametricSoftplus(), kl.SReLU(), kl.ThresholdedReLU(0.3)),
                kl.BatchNormalization(mode=1),
                kl.Dense(3, activation="softplus", activity_regularizer=activity_l2(0.1)),
            ]
        ),
    )
    writer.write(
        "batch_mode_2",
        lambda: Sequential(
            [kl.Dense(6, input_dim=5), kl.BatchNormalization(mode=2), kl.Dense(3, bias=False)]
        ),
    )
    writer.write(
        "without_bias",
        lambda: Sequential([kl.Highway(bias=False, input_dim=5), kl.MaxoutDense(3, bias=False)]),
    )
    writer.write(
        "prelu_shared",
        lambda: Sequential(
            [
                kl.Convolution2D(3, 3, 3, input_shape=(8, 8, 2)),
                *(kl.PReLU(shared_axes=[1, 2]), kl.Flatten(), kl.Dense(2)),
            ]
        ),
    )


def _write_sequences(writer):
    import keras.layers as kl
    from keras.models import Sequential

    for name in ("LSTM", "GRU", "SimpleRNN"):
        cell, stem = getattr(kl, name), name.lower()
        for mode in ("cpu", "mem", "gpu"):
            writer.write(
                f"{stem}_{mode}",
                lambda cell=cell, mode=mode: Sequential(
                    [
                        kl.Embedding(20, 6, input_length=7, mask_zero=True, dropout=0.1),
                        cell(5, return_sequences=True, consume_less=mode, dropout_W=0.1),
                        *(cell(4, go_backwards=True, consume_less=mode), kl.Dense(2)),
                    ]
                ),
                tokens=20,
            )
        writer.write(
            f"both_{stem}",
            lambda cell=cell: Sequential(
                [
                    kl.Bidirectional(cell(4, return_sequences=True), input_shape=(6, 3)),
                    *(kl.Bidirectional(cell(3), merge_mode="sum"), kl.Dense(2)),
                ]
            ),
        )
    for name, layers in _sequence_models(kl).items():
        tokens = 20 if name == "tokens" else 0
        writer.write(name, lambda layers=layers: Sequential(layers()), tokens=tokens)


def _sequence_models(kl):
    from keras.models import Sequential

    def frames():
        inner = Sequential([kl.Dense(4, input_dim=3), kl.BatchNormalization(), kl.Dense(2)])
        return [kl.TimeDistributed(inner, input_shape=(5, 3)), kl.Flatten(), kl.Dense(2)]

    return {
        "unrolled": lambda: [
            kl.LSTM(
                5, inner_activation="sigmoid", activation="relu", unroll=True, input_shape=(6, 3)
            ),
            *(kl.RepeatVector(3), kl.TimeDistributedDense(4, activation="relu")),
            *(kl.TimeDistributed(kl.Dense(2)), kl.Permute((2, 1)), kl.Reshape((6,))),
        ],
        "stateful": lambda: [
            kl.GRU(5, stateful=True, batch_input_shape=(3, 6, 3)),
            kl.Dense(2),
        ],
        "masking": lambda: [
            kl.Masking(0.0, input_shape=(6, 3)),
            *(kl.LSTM(4, return_sequences=True), kl.TimeDistributed(kl.Dense(2)), kl.GRU(3)),
        ],
        "conv1d": lambda: [
            kl.Convolution1D(4, 3, input_shape=(12, 3), border_mode="same", subsample_length=2),
            *(kl.MaxPooling1D(2), kl.UpSampling1D(2), kl.ZeroPadding1D(1), kl.Cropping1D((1, 0))),
            *(kl.AtrousConvolution1D(4, 2, atrous_rate=2), kl.AveragePooling1D(2, stride=1)),
            *(kl.LocallyConnected1D(3, 2), kl.GlobalMaxPooling1D()),
        ],
        "tokens": lambda: [
            kl.Embedding(20, 6, input_length=12),
            kl.Convolution1D(4, 3, activation="relu"),
            *(kl.GlobalAveragePooling1D(), kl.Dense(1, activation="sigmoid")),
        ],
        "frames_of_model": frames,
    }


def _write_merges(writer):
    import keras.layers as kl
    from keras.models import Model, Sequential

    def branches(mode):
        left = Sequential([kl.Dense(4, input_dim=3), kl.Activation("relu")])
        right = Sequential([kl.Dense(4, input_dim=5)])
        return Sequential([kl.Merge([left, right], mode=mode)])

    def merged(mode):
        model = branches(mode)
        if mode != "cos":
            model.add(kl.Dense(2))
        return model

    def dots():
        left, right = kl.Input((4, 5)), kl.Input((6, 5))
        vectors = [kl.Dense(5)(kl.Flatten()(tensor)) for tensor in (left, right)]
        dot = kl.merge([left, right], mode="dot", dot_axes=(2, 2))
        return Model([left, right], [dot, kl.merge(vectors, mode="cos", dot_axes=1)])

    def deep():
        image = kl.Input((7,))
        both = branches("concat")
        both.add(kl.Dense(6))
        model = Sequential([kl.Merge([both, Model(image, kl.Dense(6)(image))], mode="sum")])
        model.add(Sequential([kl.Dense(3, input_dim=6), kl.BatchNormalization()]))
        model.add(kl.Dense(2))
        return model

    def first():
        model = Sequential([branches("concat")])
        model.add(kl.Dense(2))
        return model

    def shared():
        left, right, dense = kl.Input((5,)), kl.Input((5,)), kl.Dense(4)
        return Model([left, right], kl.merge([dense(left), dense(right)], mode="concat"))

    for mode in ("sum", "mul", "concat", "ave", "max", "dot", "cos"):
        writer.write(f"merge_{mode}", lambda mode=mode: merged(mode))
    makers = {"dots": dots, "merge_deep": deep, "merge_first": first, "shared": shared}
    for name, make in makers.items():
        writer.write(name, make)


if __name__ == "__main__":
    main(*sys.argv[1:])
