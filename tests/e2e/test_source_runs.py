"""Every further source through the whole verb: what can be separated is, and what cannot fails."""

import json
import random

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import tf_finetune as tff
from tests import task_data, tiny, tiny_text
from tests.data import record_files, table_files
from tf_finetune import main, outcomes

PHASE = "--phase=name=head,epochs=25,freeze=all,learning_rate=0.03"
VECTORS = ("--feature_columns=embedding", PHASE, "--batch_size=16")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return task_data.write_model(tmp_path_factory.mktemp("model") / "primaries.keras")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "mlp.keras"
    table_files.make_network().save(path)
    return str(path)


def train(model, data, folder, *flags):
    return main.main([f"--model={model}", f"--data={data}", f"--workdir={folder}", *flags])


def predict(source, path, output):
    flags = ["--mode=predict", source, f"--input={path}", f"--output={output}"]
    assert main.main(flags) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


def write_vectors(path, *, count=150, seed=0, shuffled=False):
    """JSONL of a vector and the class that it separates, or one of no meaning."""
    rows = table_files.make_rows(count, seed=seed)
    labels = [row[4] for row in rows]
    if shuffled:
        random.Random(1).shuffle(labels)
    with path.open("w") as file:
        for row, label in zip(rows, labels, strict=True):
            numbers = [float(cell) for cell in row[:4]]
            file.write(json.dumps({"embedding": numbers, "label": label}) + "\n")
    return path, labels


def test_vectors_of_jsonl(tmp_path, network, capsys):
    data, _ = write_vectors(tmp_path / "a.jsonl")
    folder = tmp_path / "run"
    assert train(network, data, folder, *VECTORS, "--require_min=test/accuracy:1.0") == 0
    more, labels = write_vectors(tmp_path / "b.jsonl", count=9, seed=1)
    with more.open("a") as file:
        file.write('{"embedding": [1, 2]}\n')
    by_run = predict(f"--workdir={folder}", more, tmp_path / "run.jsonl")
    by_export = predict(f"--model={folder}/export/1", more, tmp_path / "export.jsonl")
    for found in (by_run, by_export):
        predicted = [row["predictions"]["label"]["predicted"] for row in found[:9]]
        assert predicted == [[label] for label in labels]
        assert found[9]["error"] == (
            "column 'embedding': expected a list of 4 numbers, as in the first row. Received 2"
        )
    signature = tf.saved_model.load(f"{folder}/export/1").signatures["serving_default"]
    vectors = [json.loads(line)["embedding"] for line in more.read_text().splitlines()[:9]]
    served = signature(features=tf.constant(vectors, tf.float32))
    assert served["classes"].numpy().tolist() == [label.encode() for label in labels]
    capsys.readouterr()
    flags = ["--mode=evaluate", f"--workdir={folder}", f"--test_data={data}"]
    assert main.main(flags) == 0
    assert "135 of 150 examples were used in training or validation" in capsys.readouterr().out
    (tmp_path / "c.jsonl").write_text('{"embedding": [1, 2]}\n')
    flags = ["--mode=predict", f"--workdir={folder}", f"--output={tmp_path}/c.csv"]
    assert main.main([*flags, f"--input={tmp_path}/c.jsonl"]) == 2
    assert (
        f"error: {tmp_path}/c.jsonl has 2 numbers in the first cell of 'embedding'. The model "
        "takes 4."
    ) in capsys.readouterr().err


def test_vectors_of_jsonl_with_random_labels(tmp_path, network, capsys):
    data, _ = write_vectors(tmp_path / "a.jsonl", shuffled=True)
    flags = (*VECTORS, "--require_min=test/accuracy:0.9")
    assert train(network, data, tmp_path / "run", *flags) == 3
    assert "--require_min=test/accuracy:0.9 is not met" in capsys.readouterr().err


def make_colors(count=90, size=12, *, seed=0):
    """Images of three solid colours with a little noise, and their names."""
    generator = np.random.default_rng(seed)
    names = sorted(tiny.COLORS)
    labels = [names[number % 3] for number in range(count)]
    pixels = np.array([tiny.COLORS[label] for label in labels])[:, np.newaxis, np.newaxis]
    noise = generator.integers(-20, 21, (count, size, size, 3))
    return np.clip(pixels + noise, 0, 255).astype(np.uint8), labels


def color_spec(classifier, folder, **data):
    phase = tff.PhaseSpec(name="head", epochs=25, freeze="all", learning_rate=0.1)
    return tff.RunSpec(
        workdir=str(folder),
        model=tff.ModelSpec(model=str(classifier), pixel_range="0..1"),
        data=tff.DataSpec(**data),
        train=tff.TrainSpec(phases=(phase,), batch_size=16),
        export=tff.ExportSpec(require_min=("test/accuracy:1.0",)),
    )


def test_arrays_from_python(tmp_path, classifier):
    images, labels = make_colors()
    spec = color_spec(classifier, tmp_path / "run")
    lines = []
    summary = tff.train(spec, data=(images, labels), announce=lines.append)
    assert summary["test"]["label"]["accuracy"] == 1.0
    assert summary["examples"] == {"train": 72, "validation": 9, "test": 9}
    served = tf.saved_model.load(summary["export"]["path"]).signatures["serving_default"]
    answer = served(image=tf.constant(images[:3], tf.float32))
    assert answer["classes"].numpy().tolist() == [label.encode() for label in labels[:3]]
    # The same arrays again are the same run; others are not.
    assert tff.train(spec, data=(images, labels), announce=lines.append) == summary
    with pytest.raises(tff.RefusedError, match="holds another run; its flags differ"):
        tff.train(spec, data=(images[::-1], labels[::-1]))
    more = make_colors(9, seed=1)
    lines.clear()
    reports = tff.evaluate(str(tmp_path / "run"), test_data=more, announce=lines.append)
    assert reports["test"].heads["label"].metrics["accuracy"] == 1.0
    assert any("cannot be listed any more" in line for line in lines)
    with pytest.raises(tff.RefusedError, match="they are on no disk"):
        tff.evaluate(str(tmp_path / "run"))


def test_a_tf_dataset_with_a_test_set_step_by_step(tmp_path, classifier):
    images, labels = make_colors()
    dataset = tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})
    test = tf.data.Dataset.from_tensor_slices(make_colors(12, seed=1)).batch(5)
    spec = color_spec(classifier, tmp_path / "run")
    splits = tff.load_data(spec.data, data=dataset.shuffle(90), test_data=test)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (81, 9, 12)
    backbone = tff.load_backbone(spec.model)
    pre = tff.make_preprocessing(spec.data, input_shape=backbone.input_shape)
    splits, pre, _ = tff.read_images(splits, pre, on_bad_example="error")
    heads = (tff.HeadSpec(name="label", dropout=0.0),)
    model = tff.attach_heads(backbone, heads=heads, infos=splits.heads)
    phases = tff.plan_phases(
        spec.train, spec.freeze, table=backbone.table, num_train_examples=len(splits.train)
    )
    task = tff.Task(splits=splits, preprocessing=pre, heads=heads, train=spec.train, phases=phases)
    tff.fit(model, backbone, task, announce=lambda line: None)
    batches = tff.make_dataset(splits.test, pre, batch_size=5)
    report = tff.evaluate_model(model, batches, heads=splits.heads, split="test")
    assert report.heads["label"].metrics["accuracy"] == 1.0
    summary = tff.train(spec, data=dataset.batch(8), test_data=test, announce=lambda line: None)
    assert summary["examples"]["test"] == 12
    assert summary["test"]["label"]["accuracy"] == 1.0


def test_arrays_with_random_labels(tmp_path, classifier):
    images, labels = make_colors()
    random.Random(1).shuffle(labels)
    spec = color_spec(classifier, tmp_path / "run")
    with pytest.raises(outcomes.RequirementError, match=r"test/accuracy:1\.0 is not met"):
        tff.train(spec, data=(images, labels), announce=lambda line: None)


class Colors(tfds.core.GeneratorBasedBuilder):
    """Solid colours in two splits, or a text that names the colour."""

    VERSION = tfds.core.Version("1.0.0")
    random_labels = False

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(12, 12, 3)),
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=sorted(tiny.COLORS)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(90, 0), "test": self._generate_examples(30, 1)}

    def _generate_examples(self, count, seed):
        images, labels = make_colors(count, seed=seed)
        told = random.Random(1).sample(labels, count) if self.random_labels else labels
        for number, (image, label) in enumerate(zip(images, told, strict=True)):
            text = f"{labels[number]} number {number}"
            yield number, {"image": image, "text": text, "label": label}


class RandomColors(Colors):
    random_labels = True


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (Colors, RandomColors):
        builder(data_dir=folder).download_and_prepare()
    return folder


COLOR_FLAGS = (
    "--pixel_range=0..1",
    "--phase=name=head,epochs=25,freeze=all,learning_rate=0.1",
    "--batch_size=16",
    "--require_min=test/accuracy:1.0",
)


def test_solid_colors_of_tfds(tmp_path, prepared, classifier, capsys):
    """Must show 4: the splits that are named are the splits of the run."""
    folder = tmp_path / "run"
    data = ("--test_data=tfds:colors/test", f"--tfds_data_dir={prepared}", *COLOR_FLAGS)
    assert train(classifier, "tfds:colors/train", folder, *data) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["examples"] == {"train": 81, "validation": 9, "test": 30}
    served = tf.saved_model.load(summary["export"]["path"]).signatures["serve_bytes"]
    images, labels = make_colors(3, seed=2)
    encoded = [tf.io.encode_png(image) for image in images]
    assert served(image_bytes=tf.stack(encoded))["classes"].numpy().tolist() == [
        label.encode() for label in labels
    ]
    flags = ["--mode=evaluate", f"--workdir={folder}", "--require_min=test/accuracy:1.0"]
    assert main.main(flags) == 0
    capsys.readouterr()
    assert train(classifier, "tfds:colors/tests", tmp_path / "other", *data) == 2
    assert (
        "error: --data=tfds:colors/tests: no split 'tests'. Did you mean 'test'? It has 'test', "
        "'train'."
    ) in capsys.readouterr().err


def test_tfds_with_random_labels(tmp_path, prepared, classifier, capsys):
    flags = ("--test_data=tfds:random_colors/test", f"--tfds_data_dir={prepared}", *COLOR_FLAGS)
    assert train(classifier, "tfds:random_colors/train", tmp_path / "run", *flags) == 3
    assert "--require_min=test/accuracy:1.0 is not met" in capsys.readouterr().err


def write_records(path, examples):
    path.write_bytes(b"".join(record_files.frame(record_files.example(**one)) for one in examples))
    return path


@pytest.mark.parametrize("shuffled", [False, True])
def test_vectors_of_records(tmp_path, network, shuffled):
    rows = table_files.make_rows(150)
    labels = [row[4].encode() for row in rows]
    if shuffled:
        random.Random(1).shuffle(labels)
    data = write_records(
        tmp_path / "a.tfrecord",
        [
            {"embedding": [float(cell) for cell in row[:4]], "label": label}
            for row, label in zip(rows, labels, strict=True)
        ],
    )
    schema = "--record_schema=embedding=float32[4],label=bytes"
    flags = (*VECTORS, schema, "--require_min=test/accuracy:1.0")
    assert train(network, data, tmp_path / "run", *flags) == (3 if shuffled else 0)
    if not shuffled:
        flags = ["--mode=evaluate", f"--workdir={tmp_path}/run", "--require_min=test/accuracy:1.0"]
        assert main.main(flags) == 0
        assert main.main([*flags, f"--test_data={data}"]) == 0


@pytest.mark.parametrize("shuffled", [False, True])
def test_texts_of_records(tmp_path, shuffled):
    rows = tiny_text.make_rows(120)
    labels = [label.encode() for _, label in rows]
    if shuffled:
        random.Random(1).shuffle(labels)
    data = write_records(
        tmp_path / "a.tfrecord",
        [
            {"text": text.encode(), "label": label}
            for (text, _), label in zip(rows, labels, strict=True)
        ],
    )
    tiny_text.make_classifier().save(tmp_path / "words.keras")
    flags = (
        "--phase=name=fine,epochs=10,freeze=none,learning_rate=0.03",
        "--batch_size=16",
        "--require_min=test/accuracy:1.0",
    )
    code = train(tmp_path / "words.keras", data, tmp_path / "run", *flags)
    assert code == (3 if shuffled else 0)
    if not shuffled:
        served = tf.saved_model.load(f"{tmp_path}/run/export/1").signatures["serving_default"]
        answer = served(text=tf.constant(["a lovely great film", "dull and boring"]))
        assert answer["classes"].numpy().tolist() == [b"pos", b"neg"]


@pytest.mark.parametrize("shuffled", [False, True])
def test_raw_pixels_with_two_heads_in_records(tmp_path, classifier, shuffled):
    generator = np.random.default_rng(0)
    present = np.array([[number >> bit & 1 for bit in range(3)] for number in range(120)])
    noise = generator.integers(-15, 16, (120, 12, 12, 3))
    pixels = np.clip(40 + 170 * present[:, np.newaxis, np.newaxis] + noise, 0, 255)
    told = generator.permutation(present) if shuffled else present
    data = write_records(
        tmp_path / "a.tfrecord",
        [
            {
                "pixels": image.astype(np.uint8).tobytes(),
                "count": int(flags.sum()),
                "tags": np.flatnonzero(flags).tolist() or [9],
            }
            for image, flags in zip(pixels, told, strict=True)
        ],
    )
    flags = (
        "--record_schema=pixels=uint8[12x12x3],count=int64,tags=int64[]",
        "--head=name=count,dropout=0",
        "--head=name=tags,kind=multilabel,dropout=0",
        "--pixel_range=0..1",
        "--phase=name=head,epochs=25,learning_rate=0.1",
        "--batch_size=16",
        "--require_min=test/count/accuracy:1.0",
        "--require_min=test/tags/accuracy:1.0",
    )
    assert train(classifier, data, tmp_path / "run", *flags) == (3 if shuffled else 0)
