"""A thousand damaged files: each is loaded or refused, and the process that does it goes on."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests import tiny
from tests.models import hugging_face_folders

PER_FILE = 200
WORKER = """
import json, sys, tarfile
from tf_finetune import findings
from tf_finetune.models import loading

for line in sys.stdin:
    job = json.loads(line)
    with open(job["source"], "rb") as file:
        content = bytearray(file.read())
    for position, value in job["changes"]:
        content[position] ^= value
    with open(job["target"], "wb") as file:
        file.write(content[: job["length"]])
    if job["packed"]:
        with tarfile.open(job["model"], "w:gz") as archive:
            for name, path in (("saved_model.pb", job["target"]), *job["packed"]):
                archive.add(path, name)
    try:
        loading.load_pretrained(job["model"])
        answer = "loaded"
    except findings.RefusedError as error:
        answer = "refused" if str(error) else "silent"
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps([job["number"], answer]), flush=True)
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory, shared):
    """{name: (file that is damaged, value of --model, further members of its archive)}."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("good")
    for name in ("three.h5", "three.keras"):
        tiny.make_classifier().save(folder / name)
    two = shared / "zoo/h5/k2.2.4tf_dl4j_tfkeras_cnn2d_112.h5"
    (folder / "two.h5").write_bytes(two.read_bytes())

    class Module(tf.Module):
        def __init__(self):
            self.kernel = tf.Variable(tf.random.normal((3, 4)))

        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3))])
        def __call__(self, x):
            return tf.reduce_mean(x, (1, 2)) @ self.kernel

    saved = folder / "saved"
    tf.saved_model.save(Module(), str(saved))
    members = [
        (str(path.relative_to(saved)), str(path))
        for path in sorted(saved.rglob("*"))
        if path.is_file() and path.name not in ("saved_model.pb", "fingerprint.pb")
    ]
    hugging = hugging_face_folders.write(folder / "hf", hugging_face_folders.make_weights())
    hugging = pathlib.Path(str(hugging).removeprefix("hf:"))
    return {
        "three.h5": (folder / "three.h5", None, []),
        "two.h5": (folder / "two.h5", None, []),
        "three.keras": (folder / "three.keras", None, []),
        "model.tar.gz": (saved / "saved_model.pb", None, members),
        "hf": (hugging / "model.safetensors", f"hf:{hugging}", []),
    }


def make_jobs(good, folder: pathlib.Path):
    """The damage: a third is cut off, two thirds have 1 to 16 bytes changed."""
    draw = np.random.default_rng(0)
    for name, (source, model, packed) in good.items():
        source_copy = folder / f"good_{name}"
        source_copy.write_bytes(source.read_bytes())
        size = source_copy.stat().st_size
        for number in range(PER_FILE):
            cut = draw.random() < 1 / 3
            # Headers are what parsers act on: half of the changes are in the first 4 KiB.
            end = min(size, 4096) if draw.random() < 0.5 else size
            count = 0 if cut else int(draw.integers(1, 17))
            target = source if model else folder / name
            yield {
                "number": f"{name} {number}",
                "source": str(source_copy),
                "length": int(draw.integers(0, size)) if cut else size,
                "changes": [
                    [int(draw.integers(0, end)), int(draw.integers(1, 256))] for _ in range(count)
                ],
                "target": str(folder / "member" if packed else target),
                "model": model or str(folder / name),
                "packed": packed,
            }


@pytest.mark.slow
def test_every_mutation_is_loaded_or_refused_and_the_process_lives(good, tmp_path):
    jobs = list(make_jobs(good, tmp_path))
    assert len(jobs) == 1000
    environment = {
        **os.environ,
        "PYTHONPATH": os.getcwd(),
        "TFHUB_CACHE_DIR": str(tmp_path / "cache"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", WORKER],
        input="".join(json.dumps(job) + "\n" for job in jobs),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
    )
    answers = dict(json.loads(line) for line in done.stdout.splitlines() if line[:2] == '["')
    unanswered = [job["number"] for job in jobs if job["number"] not in answers]
    assert done.returncode == 0, (unanswered[:1], done.stderr[-2000:])
    assert not unanswered
    wrong = {number: text for number, text in answers.items() if text not in ("loaded", "refused")}
    assert not wrong
    for name in good:
        own = [text for number, text in answers.items() if number.startswith(f"{name} ")]
        assert own.count("refused") >= PER_FILE // 3, name
