"""A model and its export on images, good and bad."""

import os

import numpy as np
import pytest
import tensorflow as tf

from tests import serving_models
from tf_finetune import exporting, findings, head_kinds, prediction, prediction_files
from tf_finetune.data import preprocessing

HEADS = (serving_models.MULTICLASS, serving_models.BINARY, serving_models.MULTILABEL)
PNG_DAMAGED = (
    "is no image that can be decoded: its PNG data is damaged, cut off or of an unsupported kind"
)


@pytest.fixture(scope="module")
def model():
    return serving_models.make_model(*HEADS)


@pytest.fixture(scope="module")
def export_path(model, tmp_path_factory):
    exported = exporting.write_export(
        model,
        heads=HEADS,
        preprocessing=serving_models.make_spec(),
        export_dir=str(tmp_path_factory.mktemp("export")),
        warmup_inputs=[],
    )
    return exported.path


@pytest.fixture(scope="module")
def predict_batch(model):
    return prediction.model_predictor(model, HEADS, serving_models.make_spec())


@pytest.fixture
def images(tmp_path):
    """Seven PNGs of another size than the model's."""
    contents = serving_models.encode_pngs(serving_models.make_pixels(7, size=(20, 31)))
    paths = [str(tmp_path / f"{number}.png") for number in range(7)]
    for path, content in zip(paths, contents, strict=True):
        with open(path, "wb") as file:
            file.write(content)
    return paths


def predict(paths, predict_batch, *, heads=HEADS, batch_size=3, top_k=9):
    predictor = prediction.Predictor(predict_batch, heads, "image")
    return list(
        prediction.predict_files(paths, predictor=predictor, batch_size=batch_size, top_k=top_k)
    )


def fixed_predictor(head, probabilities, answers):
    """A model that knows one answer."""

    def predict_batch(contents):
        size = (len(contents), 1)
        output = prediction.HeadOutput(
            np.tile(np.array([probabilities], np.float32), size), np.tile([answers], size)
        )
        return {head.name: output}

    return predict_batch


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_rows_have_the_models_probabilities(model, predict_batch, images, batch_size):
    rows = predict(images, predict_batch, batch_size=batch_size)
    assert [row.path for row in rows] == images
    assert all(row.error == "" for row in rows)
    pixels = []
    for path in images:
        with open(path, "rb") as file:
            content = tf.constant(file.read())
        pixels.append(preprocessing.decode_image(content, serving_models.make_spec()).numpy())
    for head in HEADS:
        expected = serving_models.model_probabilities(model, np.array(pixels), head)
        received = []
        for row in rows:
            result = row.heads[head.name]
            chances = dict(zip(result.classes, result.probabilities, strict=True))
            received.append([chances[name] for name in head.classes])
        np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-7)
        for row, chances in zip(rows, expected, strict=True):
            result = row.heads[head.name]
            if head.kind == "multilabel":
                answer = {c for c, p in zip(head.classes, chances, strict=True) if p >= 0.5}
                assert set(result.predicted) == answer
            else:
                assert result.predicted == (head.classes[chances.argmax()],)
            assert list(result.probabilities) == sorted(result.probabilities, reverse=True)


def test_export_gives_the_same_rows(predict_batch, export_path, images):
    export = prediction.export_predictor(export_path)
    export_batch = export.predict_batch
    assert export.input_kind == "image"
    assert export.heads == (
        head_kinds.HeadInfo("label", "multiclass", ("blue", "green", "red")),
        head_kinds.HeadInfo("sharp", "multiclass", ("no", "yes")),
        head_kinds.HeadInfo("tags", "multilabel", ("indoor", "night", "snow", "water")),
    )
    exported, trained = predict(images, export_batch), predict(images, predict_batch)
    assert [row.path for row in exported] == images
    for one, other in zip(exported, trained, strict=True):
        for name in ("label", "sharp", "tags"):
            assert one.heads[name].predicted == other.heads[name].predicted
            assert one.heads[name].classes == other.heads[name].classes
            assert one.heads[name].probabilities == pytest.approx(
                other.heads[name].probabilities, abs=1e-6
            )


def test_export_of_one_head_has_no_prefix(images, tmp_path):
    head = serving_models.MULTICLASS
    model = serving_models.make_model(head)
    exported = exporting.write_export(
        model,
        heads=(head,),
        preprocessing=serving_models.make_spec(),
        export_dir=str(tmp_path / "export"),
        warmup_inputs=[],
    )
    export = prediction.export_predictor(exported.path)
    export_batch, heads = export.predict_batch, export.heads
    assert heads == (head,)
    predict_batch = prediction.model_predictor(model, heads, serving_models.make_spec())
    answers = [
        [row.heads["label"].predicted for row in predict(images, batch, heads=heads)]
        for batch in (predict_batch, export_batch)
    ]
    assert answers[0] == answers[1]


def test_export_answers_with_its_own_thresholds(images, tmp_path):
    """An export holds no thresholds to read: its `classes` output is the answer."""
    sharp = head_kinds.HeadInfo("sharp", "binary", ("no", "yes"), thresholds=(0.0,))
    tags = head_kinds.HeadInfo("tags", "multilabel", ("a", "b", "c"), thresholds=(0.0, 1.0, 0.0))
    model = serving_models.make_model(sharp, tags)
    exported = exporting.write_export(
        model,
        heads=(sharp, tags),
        preprocessing=serving_models.make_spec(),
        export_dir=str(tmp_path / "export"),
        warmup_inputs=[],
    )
    export = prediction.export_predictor(exported.path)
    for predict_batch, heads in (
        (export.predict_batch, export.heads),
        (
            prediction.model_predictor(model, (sharp, tags), serving_models.make_spec()),
            (sharp, tags),
        ),
    ):
        for row in predict(images, predict_batch, heads=heads):
            assert row.heads["sharp"].predicted == ("yes",)
            assert row.heads["sharp"].classes == ("yes", "no")
            assert sorted(row.heads["tags"].predicted) == ["a", "c"]


@pytest.mark.parametrize("source", ["model", "export"])
def test_bad_images_have_a_row_each_and_cost_nobody_else(
    source, predict_batch, export_path, images, tmp_path
):
    with open(images[0], "rb") as file:
        whole = file.read()
    bad = {
        "cut.png": whole[: len(whole) // 2],
        "empty.png": b"",
        "text.jpg": b"hello, I am no image",
        "scan.tif.png": b"II*\0" + bytes(200),
        "photo.jpg": b"\xff\xd8\xff\xe0" + bytes(100),
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.png")
    names = [*bad, "pipe.png", "gone.png"]
    paths = [images[0], *(str(tmp_path / name) for name in names), *images[1:]]
    batch = predict_batch
    if source == "export":
        batch = prediction.export_predictor(export_path).predict_batch
    rows = predict(paths, batch, batch_size=8)
    assert [row.path for row in rows] == paths
    start = "is no image that can be decoded: it"
    assert {os.path.basename(row.path): row.error for row in rows if row.error} == {
        "cut.png": PNG_DAMAGED,
        "empty.png": f"{start} is empty",
        "text.jpg": f"{start} begins with 'hello, I am no i'",
        "scan.tif.png": f"{start} is a TIFF file, which is not supported; convert it to PNG",
        "photo.jpg": PNG_DAMAGED.replace("PNG", "JPEG"),
        "pipe.png": "is a pipe, not a file",
        "gone.png": "does not exist (a broken link, or removed meanwhile)",
    }
    alone = predict(images, batch)
    for row, expected in zip([row for row in rows if not row.error], alone, strict=True):
        assert row.heads["label"].predicted == expected.heads["label"].predicted
        assert row.heads["label"].probabilities == pytest.approx(
            expected.heads["label"].probabilities, abs=1e-6
        )


def test_damaged_bytes_never_stop_the_others(predict_batch, images, tmp_path):
    generator = np.random.default_rng(0)
    pixels = serving_models.make_pixels(1, size=(20, 31))[0]
    contents = [tf.io.encode_jpeg(pixels).numpy(), serving_models.encode_pngs(pixels[None])[0]]
    paths = []
    for number in range(40):
        content = bytearray(contents[number % 2])
        for place in generator.integers(0, len(content), 4):
            content[place] = generator.integers(0, 256)
        paths.append(str(tmp_path / f"fuzz{number}"))
        with open(paths[-1], "wb") as file:
            file.write(content[: generator.integers(10, len(content) + 1)])
    rows = predict([images[0], *paths, images[1]], predict_batch, batch_size=16)
    assert len(rows) == 42
    assert not rows[0].error and not rows[-1].error
    assert sum(bool(row.error) for row in rows) > 10


def test_sparse_file_of_terabytes_is_not_read(predict_batch, tmp_path):
    path = tmp_path / "huge.png"
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(2**40)
    (row,) = predict([str(path)], predict_batch)
    assert row.error == "is larger than 512 MiB"


def test_name_that_is_not_utf8(predict_batch, images, tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    os.rename(images[0], name)
    (row,) = predict([os.fsdecode(name)], predict_batch)
    assert row.error == ""


def test_top_k_and_ties(images):
    head = serving_models.MULTILABEL
    predict_batch = fixed_predictor(head, [0.2, 0.7, 0.7, 0.6], [False, True, True, True])
    (row,) = predict(images[:1], predict_batch, heads=(head,), top_k=2)
    assert row.heads["tags"] == prediction_files.HeadPrediction(
        predicted=("night", "snow", "water"),
        classes=("night", "snow"),
        probabilities=pytest.approx((0.7, 0.7)),
    )


def test_answer_of_a_binary_head_comes_first(images):
    head = serving_models.BINARY
    predict_batch = fixed_predictor(head, [0.7, 0.3], [False, True])
    (row,) = predict(images[:1], predict_batch, heads=(head,), top_k=1)
    assert row.heads["sharp"] == prediction_files.HeadPrediction(
        ("yes",), ("yes",), pytest.approx((0.3,))
    )


def test_model_that_gives_nan(images):
    model = serving_models.make_model(serving_models.MULTICLASS)
    model.get_layer("label_logits").kernel.assign(np.full((8, 3), np.nan))
    heads = (serving_models.MULTICLASS,)
    predict_batch = prediction.model_predictor(model, heads, serving_models.make_spec())
    rows = predict(images[:2], predict_batch, heads=heads)
    assert [row.error for row in rows] == [
        "gets no number from head 'label', whose weights are damaged"
    ] * 2


def test_progress_is_shown(predict_batch, images, capsys):
    predict(images, predict_batch)
    assert capsys.readouterr().out.splitlines()[-1].startswith("Predicting 7/7, ")


def test_no_image_no_row(predict_batch):
    assert predict([], predict_batch) == []


def refusal(path):
    with pytest.raises(findings.RefusedError) as caught:
        prediction.export_predictor(str(path))
    return str(caught.value)


def test_folders_that_are_no_export(export_path, tmp_path):
    expected = "Expected EXPORT_DIR/VERSION of an earlier export."
    assert refusal(tmp_path / "gone") == f"--model={tmp_path}/gone is no folder. {expected}"
    assert refusal(tmp_path) == f"--model={tmp_path} holds no saved_model.pb. {expected}"
    parent = os.path.dirname(export_path)
    os.mkdir(os.path.join(parent, "notes"))
    assert refusal(parent) == (
        f"--model={parent} holds no saved_model.pb. Give one of its versions, such as "
        f"--model={parent}/1."
    )
    (tmp_path / "saved_model.pb").write_bytes(b"no protocol buffer")
    assert refusal(tmp_path) == (
        f"{tmp_path}: saved_model.pb is truncated or damaged. Copy or download it again."
    )


def save_module(path, *, outputs, labels=None, name="serve_bytes"):
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serve(image_bytes):
        return {key: tf.zeros([tf.size(image_bytes), width]) for key, width in outputs.items()}

    tf.saved_model.save(module, str(path), signatures={name: serve})
    if labels is not None:
        (path / "assets").mkdir(exist_ok=True)
        (path / "assets" / "labels_label.txt").write_bytes(labels)


def test_saved_models_that_are_not_ours(tmp_path):
    path = tmp_path / "1"
    outputs = {"probabilities": 3, "classes": 1}
    save_module(path, outputs=outputs, name="other")
    assert refusal(path) == f"--model={path} has no signature 'serve_bytes'. It has 'other'."
    save_module(path, outputs=outputs)
    assert refusal(path) == (
        f"--model={path} has no assets/labels_HEAD.txt with class names. Is it our export?"
    )
    save_module(path, outputs=outputs, labels=b"a\nb\n")
    assert refusal(path) == (
        f"--model={path} has 2 class names for the 3 probabilities of head 'label'."
    )
    save_module(path, outputs={"scores": 3}, labels=b"a\nb\nc\n")
    assert refusal(path) == (
        f"--model={path} has class names of head 'label', but no outputs 'probabilities', "
        "'classes'. It has 'scores'."
    )
    save_module(path, outputs=outputs, labels=b"a\xff\nb\nc\n")
    assert refusal(path) == f"--model={path} has class names that are not UTF-8."
    (path / "assets" / "labels_label.txt").unlink()
    (path / "assets" / "labels_label.txt").mkdir()
    assert refusal(path) == (f"--model={path} has class names that cannot be read: Is a directory.")


@pytest.mark.parametrize("others", [(), (serving_models.MULTICLASS,)])
def test_export_of_numbers_gives_the_same_rows(others, images, tmp_path):
    heads = (serving_models.REGRESSION, *others)
    model = serving_models.make_model(*heads)
    exported = exporting.write_export(
        model,
        heads=heads,
        preprocessing=serving_models.make_spec(),
        export_dir=str(tmp_path / "export"),
        warmup_inputs=[],
    )
    export = prediction.export_predictor(exported.path)
    # The only head of an export has no name in it.
    name = "age" if others else "label"
    assert (export.heads[0].name, export.heads[0].kind) == (name, "regression")
    predict_batch = prediction.model_predictor(model, heads, serving_models.make_spec())
    rows = predict(images, predict_batch, heads=heads)
    served = predict(images, export.predict_batch, heads=export.heads)
    for one, other in zip(rows, served, strict=True):
        assert one.heads["age"].number == pytest.approx(other.heads[name].number, rel=1e-5)
        assert one.heads["age"].predicted == ()
    assert len({row.heads["age"].number for row in rows}) > 1
