"""The requests that TF Serving replays when it loads a model, written without its packages.

The first request to a fresh graph is slow, and a model with damaged files often fails only then.
TF Serving therefore replays recorded requests before it takes real ones, and does not serve a
version in which one fails. The record is a protobuf message of length-delimited fields only, so
its wire format is a tag and a length before each; the tensors in it are TensorFlow's own protos.

Reference: TensorFlow Serving, "SavedModel Warmup",
https://www.tensorflow.org/tfx/serving/saved_model_warmup; Protocol Buffers, "Encoding",
https://protobuf.dev/programming-guides/encoding
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
# TF Serving refuses to load a version with more.
MAX_REQUESTS = 1000

# Stands for a text, for a model that comes without an example.
SENTENCE = b"The quick brown fox jumps over the lazy dog."

# Field numbers of tensorflow_serving/apis: prediction_log.proto, predict.proto and model.proto.
_LOG_PREDICT_LOG = 6
_PREDICT_LOG_REQUEST = 1
_REQUEST_MODEL_SPEC = 1
_REQUEST_INPUTS = 2
_MODEL_SPEC_SIGNATURE_NAME = 3
_MAP_KEY = 1
_MAP_VALUE = 2
_LENGTH_DELIMITED = 2


@dataclasses.dataclass(frozen=True)
class Request:
    """A predict request.

    Attributes:
      signature: name of the signature it goes to.
      inputs: {input's name: tensor}; object arrays hold bytes.
    """

    signature: str
    inputs: dict[str, np.ndarray]


def write_requests(folder: str, requests: Sequence[Request]) -> None:
    """Writes the requests into a SavedModel, where TF Serving looks for them.

    Args:
      folder: the SavedModel.
      requests: 1 to 1000 requests.

    Raises:
      ValueError: there are none or more than 1000.
      tensorflow.errors.OpError: the file cannot be written.
    """
    if not 1 <= len(requests) <= MAX_REQUESTS:
        raise ValueError(
            f"TF Serving replays 1 to {MAX_REQUESTS} warm-up requests. Received {len(requests)}."
        )
    path = os.path.join(folder, FILE)
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for request in requests:
            writer.write(encode_request(request))


def encode_request(request: Request) -> bytes:
    """A request as the bytes of a tensorflow.serving.PredictionLog.

    Args:
      request: the request.

    Returns:
      The serialized message; equal requests give equal bytes.
    """
    signature = request.signature.encode("utf-8")
    message = _field(_REQUEST_MODEL_SPEC, _field(_MODEL_SPEC_SIGNATURE_NAME, signature))
    for name, value in sorted(request.inputs.items()):
        tensor = tf.make_tensor_proto(value).SerializeToString(deterministic=True)
        entry = _field(_MAP_KEY, name.encode("utf-8")) + _field(_MAP_VALUE, tensor)
        message += _field(_REQUEST_INPUTS, entry)
    return _field(_LOG_PREDICT_LOG, _field(_PREDICT_LOG_REQUEST, message))


def make_gray_png(*, height: int, width: int, channels: int) -> bytes:
    """A PNG of one gray, for a model that comes without an example.

    Args:
      height: pixels, at least 1.
      width: pixels, at least 1.
      channels: 1 or 3.

    Returns:
      The encoded image.
    """
    return tf.io.encode_png(tf.fill((height, width, channels), tf.constant(128, tf.uint8))).numpy()


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(payload)) + payload


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])
