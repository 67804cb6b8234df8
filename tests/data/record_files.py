"""TFRecord files as bytes, right and wrong ones."""

import struct

import tensorflow as tf

from tf_finetune.trust import crc32c


def frame(data: bytes) -> bytes:
    """One record with its framing."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, _checksum(length), data, _checksum(data)),
    )


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", crc32c.masked(data))


def example(**features: int | bytes | float | list) -> bytes:
    """A tf.train.Example; a list has its type from its first element."""
    made = {}
    for name, values in features.items():
        values = values if isinstance(values, list) else [values]
        if isinstance(values[0], bytes):
            made[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        elif isinstance(values[0], float):
            made[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            made[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()
