import numpy as np
import pytest
import tensorflow as tf

from tf_finetune import warmup

prediction_log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")


def parse(data: bytes):
    log = prediction_log_pb2.PredictionLog.FromString(data)
    assert log.WhichOneof("log_type") == "predict_log"
    return log.predict_log.request


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", np.arange(24, dtype=np.float32).reshape(1, 2, 4, 3)),
        ("image_bytes", np.array([b"\xff\xd8\x00\x00", b""], object)),
        ("text", np.array(["größe 猫".encode()], object)),
        ("long", np.zeros((1, 300, 300, 3), np.float32) + 0.5),
        ("empty", np.zeros((0, 3), np.float32)),
    ],
)
def test_request_reads_as_tensorflow_servings_own_message(name, value):
    request = parse(warmup.encode_request(warmup.Request("serve", {name: value})))

    assert request.model_spec.signature_name == "serve"
    assert list(request.inputs) == [name]
    np.testing.assert_array_equal(tf.make_ndarray(request.inputs[name]), value)


def test_request_has_no_unknown_or_missing_part():
    inputs = {"b": np.float32([1]), "a": np.float32([2])}
    data = warmup.encode_request(warmup.Request("serve", inputs))

    expected = prediction_log_pb2.PredictionLog()
    expected.predict_log.request.model_spec.signature_name = "serve"
    for name, value in inputs.items():
        expected.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    assert data == expected.SerializeToString(deterministic=True)


def test_file_lies_where_tensorflow_serving_looks(tmp_path):
    requests = [warmup.Request("serve", {"x": np.float32([number])}) for number in range(3)]

    warmup.write_requests(str(tmp_path), requests)

    path = tmp_path / "assets.extra" / "tf_serving_warmup_requests"
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    assert [tf.make_ndarray(parse(record).inputs["x"])[0] for record in records] == [0, 1, 2]


@pytest.mark.parametrize("count", [0, 1001])
def test_number_of_requests_is_bounded(tmp_path, count):
    requests = [warmup.Request("serve", {})] * count

    with pytest.raises(ValueError) as error:
        warmup.write_requests(str(tmp_path), requests)

    assert str(error.value) == (f"TF Serving replays 1 to 1000 warm-up requests. Received {count}.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_image_has_the_size_asked_for(channels):
    image = tf.io.decode_png(warmup.make_gray_png(height=5, width=7, channels=channels))

    assert image.shape == (5, 7, channels)
    assert np.all(image.numpy() == 128)
