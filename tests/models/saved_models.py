"""Small SavedModels of the kinds that people have, written by TensorFlow alone."""

import pathlib

import numpy as np
import tensorflow as tf

WORDS = ("[PAD]", "[UNK]", "good", "bad", "film", "very")
LENGTH = 6


class Encoder(tf.Module):
    """A BERT-like encoder: dict of tokens in, dict of pooled and sequence output out."""

    def __init__(self, *, vocabulary_size: int = len(WORDS), width: int = 8):
        super().__init__()
        generator = tf.random.Generator.from_seed(0)

        def weight(name, shape):
            return tf.Variable(generator.normal(shape, stddev=0.5), name=name)

        self.table = weight("embeddings/table", [vocabulary_size, width])
        self.kernel = weight("layer_0/dense/kernel", [width, width])
        self.bias = weight("layer_0/dense/bias", [width])
        self.pooler = weight("pooler/kernel", [width, width])
        self.variables_in_order = [self.table, self.kernel, self.bias, self.pooler]

    @tf.function
    def __call__(self, inputs, training=False):
        mask = tf.cast(inputs["input_mask"], tf.float32)[..., tf.newaxis]
        x = tf.gather(self.table, inputs["input_word_ids"])
        x += tf.cast(inputs["input_type_ids"], tf.float32)[..., tf.newaxis]
        x = tf.tanh(x @ self.kernel + self.bias)
        if training:
            x = tf.nn.dropout(x, 0.5)
        mean = tf.reduce_sum(x * mask, axis=1) / tf.reduce_sum(mask, axis=1)
        return {"pooled_output": tf.tanh(mean @ self.pooler), "sequence_output": x}


class Preprocessor(tf.Module):
    """Splits at spaces and looks words up in a vocabulary file."""

    def __init__(self, vocabulary: pathlib.Path):
        super().__init__()
        self.file = tf.saved_model.Asset(str(vocabulary))
        initializer = tf.lookup.TextFileInitializer(
            self.file,
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        self.words = tf.lookup.StaticHashTable(initializer, default_value=1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, text):
        words = tf.strings.split(tf.strings.lower(text))
        ids = self.words.lookup(words.flat_values)
        ids = words.with_flat_values(ids).to_tensor(shape=[None, LENGTH])
        ids = tf.ensure_shape(tf.cast(ids, tf.int32), [None, LENGTH])
        return {
            "input_word_ids": ids,
            "input_mask": tf.cast(ids > 0, tf.int32),
            "input_type_ids": tf.zeros_like(ids),
        }


def write_encoder(folder: pathlib.Path) -> Encoder:
    """Writes an encoder with training and inference graphs."""
    encoder = Encoder()
    spec = tf.TensorSpec([None, LENGTH], tf.int32)
    inputs = {name: spec for name in ("input_word_ids", "input_mask", "input_type_ids")}
    for training in (True, False):
        encoder.__call__.get_concrete_function(inputs, training=training)
    tf.saved_model.save(encoder, str(folder))
    return encoder


def write_preprocessor(folder: pathlib.Path) -> Preprocessor:
    """Writes a preprocessor whose vocabulary is an asset."""
    vocabulary = folder.parent / "vocabulary.txt"
    vocabulary.write_text("".join(f"{word}\n" for word in WORDS))
    module = Preprocessor(vocabulary)
    tf.saved_model.save(module, str(folder))
    vocabulary.unlink()
    return module


class ImageModule(tf.Module):
    """A reusable image module: convolution, BatchNormalization, dense, with its own loss."""

    def __init__(self, *, channels: int = 4):
        super().__init__()
        generator = np.random.default_rng(0)

        def weight(name, shape, *, trainable=True):
            value = generator.uniform(0.3, 1, shape).astype(np.float32)
            return tf.Variable(value, name=name, trainable=trainable)

        self.kernel = weight("conv/kernel", [3, 3, 3, channels])
        self.gamma = weight("norm/gamma", [channels])
        self.beta = weight("norm/beta", [channels])
        self.mean = weight("norm/moving_mean", [channels], trainable=False)
        self.variance = weight("norm/moving_variance", [channels], trainable=False)
        self.dense = weight("dense/kernel", [channels, 5])
        self.trainable_variables_ = [self.kernel, self.gamma, self.beta, self.dense]
        self.regularization_losses = [self.penalty]

    @tf.function(input_signature=[])
    def penalty(self):
        return 0.01 * tf.reduce_sum(self.dense**2)

    @tf.function
    def __call__(self, images, training=False):
        x = tf.nn.conv2d(images, self.kernel, 2, "SAME")
        if training:
            mean, variance = tf.nn.moments(x, [0, 1, 2])
            self.mean.assign(0.9 * self.mean + 0.1 * mean)
            self.variance.assign(0.9 * self.variance + 0.1 * variance)
        else:
            mean, variance = self.mean, self.variance
        x = tf.nn.batch_normalization(x, mean, variance, self.beta, self.gamma, 1e-3)
        return tf.reduce_mean(tf.nn.relu(x), [1, 2]) @ self.dense


def write_image_module(folder: pathlib.Path, *, size: int | None = 8) -> ImageModule:
    """Writes an image module with training and inference graphs."""
    module = ImageModule()
    spec = tf.TensorSpec([None, size, size, 3], tf.float32)
    for training in (True, False):
        module.__call__.get_concrete_function(spec, training=training)
    tf.saved_model.save(module, str(folder))
    return module


def write_function(folder: pathlib.Path, function, *specs, name="serving_default", variables=()):
    """Writes a SavedModel of one signature and no `__call__`."""
    module = tf.Module()
    module.held = list(variables)
    traced = tf.function(function).get_concrete_function(*specs)
    tf.saved_model.save(module, str(folder), signatures={name: traced})


class TextModule(tf.Module):
    """A hub module of sentences: the mean of the vectors of their words, by hash bucket."""

    def __init__(self, *, buckets: int, width: int):
        super().__init__()
        values = np.random.default_rng(0).normal(0, 0.1, (buckets, width)).astype(np.float32)
        self.table = tf.Variable(values, name="embeddings/table")
        self.regularization_losses = []
        self.buckets = buckets

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, sentences):
        words = tf.strings.split(tf.strings.lower(sentences))
        numbers = tf.strings.to_hash_bucket_fast(words.flat_values, self.buckets)
        rows = words.value_rowids()
        vectors = tf.gather(self.table, numbers)
        sums = tf.math.unsorted_segment_sum(vectors, rows, words.nrows())
        return sums / tf.sqrt(tf.cast(words.row_lengths(), tf.float32) + 1.0)[:, tf.newaxis]


def write_text_module(folder: pathlib.Path, *, buckets: int = 4096, width: int = 16) -> TextModule:
    """Writes a module of strings, trainable."""
    module = TextModule(buckets=buckets, width=width)
    tf.saved_model.save(module, str(folder))
    return module
