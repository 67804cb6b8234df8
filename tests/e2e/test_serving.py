"""A published version, asked over REST and gRPC as a client would.

The server is tensorflow_model_server where TF_MODEL_SERVER_BIN names one; else the stand-in of
TF_FINETUNE_SHARED, which loads the version by the same C++ code, without Keras.
"""

import base64
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests import serving_models, tiny
from tf_finetune import exporting, head_kinds
from tf_finetune.data import preprocessing

grpc = pytest.importorskip("grpc")
predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
prediction_service_pb2_grpc = pytest.importorskip(
    "tensorflow_serving.apis.prediction_service_pb2_grpc"
)

COLORS = head_kinds.HeadInfo("label", "multiclass", ("blå", "зелёный", "赤"))
HEADS = (COLORS, serving_models.BINARY, serving_models.MULTILABEL)
SPEC = serving_models.make_spec()
SIZES = ((12, 12), (200, 90), (33, 64))
START_SECS = 120


@dataclasses.dataclass
class Server:
    """A running server.

    Attributes:
      url: of the model, for REST.
      predict: the gRPC call.
      ready: what the stand-in said when it was ready; the real server says nothing.
    """

    url: str
    predict: object
    ready: dict

    def get(self, path: str = "") -> dict:
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            return json.load(response)

    def post(self, **body) -> dict:
        request = urllib.request.Request(f"{self.url}:predict", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def call(self, signature: str, **inputs) -> dict[str, np.ndarray]:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "pets"
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        outputs = self.predict(request, timeout=60).outputs
        return {name: tf.make_ndarray(value) for name, value in outputs.items()}


@contextlib.contextmanager
def serve(folder: pathlib.Path, request: pytest.FixtureRequest):
    binary = os.environ.get("TF_MODEL_SERVER_BIN")
    if binary:
        command, ports = [binary], free_ports()
    else:
        script = request.getfixturevalue("shared") / "serving" / "tfs_mini.py"
        command, ports = [sys.executable, str(script)], (0, 0)
    command += ["--model_name=pets", f"--model_base_path={folder}"]
    command += [f"--rest_api_port={ports[0]}", f"--port={ports[1]}"]
    log = folder.parent / f"{folder.name}.log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        try:
            ready = {} if binary else read_ready_line(process, log)
            rest, port = (ready["rest"], ready["grpc"]) if ready else ports
            url = f"http://127.0.0.1:{rest}/v1/models/pets"
            wait_until_available(url, log)
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                yield Server(url, stub.Predict, ready)
        finally:
            process.kill()


def free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def read_ready_line(process: subprocess.Popen, log: pathlib.Path) -> dict:
    line = process.stdout.readline()
    assert line, f"the server did not start:\n{log.read_text()}"
    return json.loads(line)


def wait_until_available(url: str, log: pathlib.Path) -> None:
    deadline = time.monotonic() + START_SECS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                (status,) = json.load(response)["model_version_status"]
                if status["state"] == "AVAILABLE":
                    return
        except (urllib.error.URLError, ValueError):
            pass
        assert time.monotonic() < deadline, f"the server is not ready:\n{log.read_text()}"
        time.sleep(0.2)


def make_color_image(number: int, size: tuple[int, int], *, noise: int = 20) -> np.ndarray:
    color = list(tiny.COLORS.values())[number]
    noise = np.random.default_rng(number).integers(-noise, noise + 1, (*size, 3))
    return np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, *, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def b64(contents: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(contents).decode()}


def trained_probabilities(model, images: list[bytes], head=COLORS) -> np.ndarray:
    pixels = [preprocessing.decode_image(tf.constant(image), SPEC).numpy() for image in images]
    return serving_models.model_probabilities(model, np.stack(pixels), head)


@pytest.fixture(scope="module")
def model():
    """Tells three colours; its other heads are not trained."""
    model = serving_models.make_model(*HEADS)
    numbers = np.arange(30) % 3
    pixels = np.stack(
        [make_color_image(number, SIZES[0], noise=2 * row) for row, number in enumerate(numbers)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    colors = keras.Model(model.input, {COLORS.name: model.output[COLORS.name]})
    colors.compile(keras.optimizers.Adam(0.02), {COLORS.name: loss})
    colors.fit({"image": pixels.astype(np.float32)}, {COLORS.name: numbers}, epochs=40, verbose=0)
    return model


@pytest.fixture(scope="module")
def one_head(model):
    return keras.Model(model.input, {COLORS.name: model.output[COLORS.name]})


@pytest.fixture(scope="module")
def images():
    return [encode(make_color_image(number, size)) for number, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def server(one_head, images, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("models") / "pets"
    for warmup_inputs in ([], images):
        exporting.write_export(
            one_head,
            heads=(COLORS,),
            preprocessing=SPEC,
            export_dir=str(folder),
            warmup_inputs=warmup_inputs,
        )
    (folder / "incomplete-of-a-dead-run").mkdir()
    with serve(folder, request) as server:
        yield server


@pytest.fixture(scope="module")
def three_heads_server(model, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("three") / "pets"
    exporting.write_export(
        model, heads=HEADS, preprocessing=SPEC, export_dir=str(folder), warmup_inputs=[]
    )
    with serve(folder, request) as server:
        yield server


def test_rest_answers_jpegs_of_three_sizes_as_the_trained_model_does(server, one_head, images):
    response = server.post(signature_name="serve_bytes", instances=[b64(image) for image in images])

    rows = response["predictions"]
    assert [row["classes"] for row in rows] == list(COLORS.classes)
    received = np.array([row["probabilities"] for row in rows])
    expected = trained_probabilities(one_head, images)
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5)


def test_grpc_answers_jpegs_of_three_sizes_as_the_trained_model_does(server, one_head, images):
    outputs = server.call("serve_bytes", image_bytes=np.array(images, object))

    assert [name.decode("utf-8") for name in outputs["classes"]] == list(COLORS.classes)
    expected = trained_probabilities(one_head, images)
    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        (
            "JPEG",
            {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06" + b"\0" * 6},
        ),
    ],
)
def test_every_image_format_is_decoded_as_in_training(server, one_head, kind, options):
    pixels = np.zeros((20, 34, 3), np.uint8)
    pixels[:, :17], pixels[:, 17:] = (220, 40, 30), (30, 40, 220)
    image = encode(pixels, kind=kind, **options)

    outputs = server.call("serve_bytes", image_bytes=np.array([image], object))

    expected = trained_probabilities(one_head, [image])
    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=0, atol=1e-5)


def test_pixels_are_answered_as_the_trained_model_does(server, one_head):
    pixels = serving_models.make_pixels(4).astype(np.float32)
    expected = serving_models.model_probabilities(one_head, pixels, COLORS)

    outputs = server.call("serving_default", image=pixels)
    rows = server.post(instances=pixels.tolist())["predictions"]

    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=0, atol=1e-5)
    received = np.array([row["probabilities"] for row in rows])
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5)


def test_one_example_in_every_form_of_rest(server, images):
    bodies = [
        {"instances": [b64(images[0])]},
        {"instances": [{"image_bytes": b64(images[0])}]},
        {"inputs": [b64(images[0])]},
        {"inputs": {"image_bytes": [b64(images[0])]}},
    ]

    answers = [server.post(signature_name="serve_bytes", **body) for body in bodies]

    (row,) = answers[0]["predictions"]
    assert sorted(row) == ["classes", "probabilities"]
    assert row["classes"] == "blå"
    assert answers[1] == answers[0]
    columns = {name: [value] for name, value in row.items()}
    assert answers[2]["outputs"] == answers[3]["outputs"] == columns


@pytest.mark.parametrize(
    "contents", [b"no image", b"", b"\xff\xd8\xff\xe0\0\x10JFIF", b"\x89PNG\r\n\x1a\n" + b"x" * 99]
)
def test_one_bad_image_fails_its_request_and_no_other(server, images, contents):
    batch = [images[0], contents, images[1]]

    with pytest.raises(urllib.error.HTTPError) as rest:
        server.post(signature_name="serve_bytes", instances=[b64(image) for image in batch])
    with pytest.raises(grpc.RpcError) as rpc:
        server.call("serve_bytes", image_bytes=np.array(batch, object))

    assert rest.value.code == 400
    assert rpc.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    server.post(signature_name="serve_bytes", instances=[b64(images[0])])


@pytest.mark.parametrize("shape", [(1, 24, 24, 3), (1, 12, 13, 3), (2, 12, 12, 1), (12, 12, 3)])
def test_pixels_of_another_shape_fail(server, shape):
    with pytest.raises(grpc.RpcError) as rpc:
        server.call("serving_default", image=np.zeros(shape, np.float32))

    assert rpc.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_metadata_has_the_shapes(server):
    signatures = server.get("/metadata")["metadata"]["signature_def"]["signature_def"]

    def shapes(part: dict) -> dict:
        return {
            name: (value["dtype"], [int(side["size"]) for side in value["tensor_shape"]["dim"]])
            for name, value in part.items()
        }

    outputs = {"classes": ("DT_STRING", [-1]), "probabilities": ("DT_FLOAT", [-1, 3])}
    assert shapes(signatures["serving_default"]["inputs"]) == {
        "image": ("DT_FLOAT", [-1, 12, 12, 3])
    }
    assert shapes(signatures["serve_bytes"]["inputs"]) == {"image_bytes": ("DT_STRING", [-1])}
    assert shapes(signatures["serving_default"]["outputs"]) == outputs
    assert shapes(signatures["serve_bytes"]["outputs"]) == outputs


def test_newest_version_is_served_and_folders_without_a_number_are_not(server):
    (status,) = server.get()["model_version_status"]

    assert (status["version"], status["state"]) == ("2", "AVAILABLE")


def test_stand_in_replays_the_warmup_requests(server):
    if not server.ready:
        pytest.skip("TF_MODEL_SERVER_BIN: the real server does not say what it replayed")

    assert server.ready["warmup_records"] == 4


C_PROGRAM = """
import json, sys
import tf_capi
folder, image_path, image_bytes, probabilities = sys.argv[1:]
with open(image_path, "rb") as file:
    feeds = [(image_bytes, tf_capi.STR, [file.read()])]
(rows,) = tf_capi.SavedModel(folder).run(feeds, [probabilities])
loaded = [name for name in ("tensorflow", "keras") if name in sys.modules]
print(json.dumps({"rows": rows.tolist(), "loaded": loaded}))
"""


def test_version_runs_in_c_without_keras(one_head, images, tmp_path, shared):
    exported = exporting.write_export(
        one_head,
        heads=(COLORS,),
        preprocessing=SPEC,
        export_dir=str(tmp_path / "models"),
        warmup_inputs=[],
    )
    (tmp_path / "image.jpg").write_bytes(images[0])
    data = pathlib.Path(exported.path, "saved_model.pb").read_bytes()
    (meta_graph,) = saved_model_pb2.SavedModel.FromString(data).meta_graphs
    signature = meta_graph.signature_def["serve_bytes"]
    names = [signature.inputs["image_bytes"].name, signature.outputs["probabilities"].name]

    output = subprocess.run(
        [sys.executable, "-c", C_PROGRAM, exported.path, tmp_path / "image.jpg", *names],
        env={**os.environ, "PYTHONPATH": str(shared / "serving")},
        check=True,
        capture_output=True,
        timeout=120,
    ).stdout

    answer = json.loads(output)
    assert answer["loaded"] == []
    expected = trained_probabilities(one_head, images[:1])
    np.testing.assert_allclose(answer["rows"], expected, rtol=0, atol=1e-5)


def test_several_heads_answer_in_one_row(three_heads_server, model, images):
    response = three_heads_server.post(
        signature_name="serve_bytes", instances=[b64(image) for image in images]
    )

    rows = response["predictions"]
    assert [row["label_classes"] for row in rows] == list(COLORS.classes)
    for head in HEADS:
        received = np.array([row[f"{head.name}_probabilities"] for row in rows])
        expected = trained_probabilities(model, images, head)
        np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5)


def test_multilabel_rows_are_padded_with_empty_strings(three_heads_server, model):
    head = serving_models.MULTILABEL
    images = serving_models.encode_pngs(serving_models.make_pixels(3))
    images += [encode(make_color_image(number, SIZES[0])) for number in range(3)]

    response = three_heads_server.post(
        signature_name="serve_bytes", instances=[b64(image) for image in images]
    )

    expected = []
    for row in trained_probabilities(model, images, head):
        reached = [name for name, p in zip(head.classes, row, strict=True) if p >= 0.5]
        expected.append(reached + [""] * (len(head.classes) - len(reached)))
    received = [row["tags_classes"] for row in response["predictions"]]
    assert received == expected
    assert len({row.count("") for row in received}) > 1, "every row has as many classes"
