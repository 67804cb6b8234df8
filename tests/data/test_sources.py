import subprocess
import sys

import pytest

from tests.data import data_files
from tf_finetune import specs
from tf_finetune.data import image_folder, sklearn_source, sources, tables, tfds_source

EXPECTED = (
    "Expected a folder of class folders, a .csv, .tsv or .jsonl, a .tfrecord, tfds:NAME or "
    "sklearn:NAME."
)


def test_the_kind_is_told_from_the_text(tmp_path):
    data_files.write_named(tmp_path, "a.CSV", "tfds:x/b.jpg")
    assert sources.find_source(str(tmp_path), flag="data") is image_folder.load
    assert sources.find_source(str(tmp_path / "a.CSV"), flag="data") is tables.load
    assert sources.find_source("tfds:mnist", flag="data") is tfds_source.load
    assert sources.find_source("sklearn:digits", flag="data") is sklearn_source.load
    # A path with a prefix's letters is still reachable.
    assert sources.find_source(str(tmp_path / "tfds:x"), flag="data") is image_folder.load


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"--test_data is missing. {EXPECTED}"),
        ("photos", f"--test_data=photos does not exist. {EXPECTED}"),
        (
            "sklaern:digits",
            "--test_data=sklaern:digits does not exist. Did you mean 'sklearn:digits'? " + EXPECTED,
        ),
        (
            "a.txt",
            "--test_data=a.txt is neither a folder nor a .csv, .tsv, .jsonl or .tfrecord file. "
            f"{EXPECTED}",
        ),
    ],
)
def test_what_is_no_source(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").touch()
    assert data_files.refusal(sources.find_source, text, flag="test_data") == [message]


def test_loading_imports_no_tensorflow(tmp_path):
    data_files.write_files(tmp_path, cat=4, dog=4)
    (tmp_path / "labels.csv").write_text("cat/0.jpg,a\ncat/1.jpg,b\n")
    code = (
        "import sys\n"
        "from tf_finetune import specs\n"
        "from tf_finetune.data import loading\n"
        "for text in sys.argv[1:]:\n"
        "    loading.load_data(specs.DataSpec(data=text))\n"
        "heavy = {'tensorflow', 'keras', 'tensorflow_datasets'} & set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    arguments = [str(tmp_path), str(tmp_path / "labels.csv"), "sklearn:digits"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_every_loader_takes_the_same_arguments(tmp_path):
    spec = specs.DataSpec(tfds_data_dir=str(tmp_path))
    for text in ("sklearn:nothing", "tfds:nothing_at_all"):
        (line,) = data_files.refusal(sources.load_source, spec, text, flag="data")
        assert line.startswith(f"--data={text}")
