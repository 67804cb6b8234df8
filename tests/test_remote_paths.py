"""Addresses that are opened, and what is told of all others."""

import pytest

from tf_finetune import findings, remote_paths, specs


def make_spec(**options):
    data = {name: options.pop(name) for name in list(options) if name in DATA}
    export = specs.ExportSpec(export_dir=options.pop("export_dir", None))
    predict = specs.PredictSpec(input=options.pop("input", ()), output=options.pop("output", None))
    names = ("cache_dir", "data_service")
    train = specs.TrainSpec(**{name: options.pop(name, None) for name in names})
    return specs.RunSpec(
        data=specs.DataSpec(**data), export=export, predict=predict, train=train, **options
    )


DATA = ("data", "validation_data", "test_data", "split_file", "vocabulary", "tfds_data_dir")


def problems_of(**options):
    with pytest.raises(findings.RefusedError) as caught:
        remote_paths.check_paths(make_spec(**options))
    return [problem.message for problem in caught.value.problems]


@pytest.mark.parametrize("flag", ["data", "validation_data", "test_data", "workdir", "export_dir"])
@pytest.mark.parametrize(
    "path",
    ["s3://bucket/x", "hdfs://host/x", "https://host/x.csv", "ram://x", "file:///x", "GS://b/x"],
)
def test_other_schemes_are_refused(flag, path):
    assert problems_of(**{flag: path}) == [
        f"--{flag}={path} is an address of a kind that is not opened. Expected a path on this "
        "machine or gs://BUCKET/PATH. Copy it to one of them."
    ]


@pytest.mark.parametrize("path", ["gs://", "gs:///x", "gs://b//x", "gs://b/../x", "gs://b/./x"])
def test_an_address_without_bucket_or_with_odd_parts_is_refused(path):
    assert problems_of(workdir=path) == [
        f"--workdir={path}: expected gs://BUCKET/PATH, without empty parts, '.' and '..'. "
        "Correct it."
    ]


def test_a_forgotten_slash_makes_no_folder():
    assert problems_of(workdir="gs:/bucket/run") == [
        "--workdir=gs:/bucket/run is an address of a kind that is not opened. Expected a path on "
        "this machine or gs://BUCKET/PATH. Copy it to one of them."
    ]


@pytest.mark.parametrize("flag", ["split_file", "vocabulary", "cache_dir", "output"])
@pytest.mark.parametrize("path", ["gs://bucket/x", "s3://bucket/x"])
def test_what_is_read_here_only(flag, path):
    assert problems_of(**{flag: path}) == [
        f"--{flag}={path}: expected a path on this machine. Received an address. Copy it here, "
        "and name the copy."
    ]


def test_all_mistakes_are_told_together():
    found = problems_of(data="s3://b/x", workdir="gs://", input=("a.png", "gs://b/i"))
    assert [text.split("=")[0] for text in found] == ["--data", "--workdir", "--input"]


@pytest.mark.parametrize("flag", ["workdir", "export_dir"])
@pytest.mark.parametrize("folder", ["gs://b/photos", "gs://b/photos/", "gs://b/photos/run"])
def test_an_output_inside_the_data_is_refused(flag, folder):
    assert problems_of(data="gs://b/photos", **{flag: folder}) == [
        f"--{flag}={folder} lies inside the data folder gs://b/photos, and would be read as a "
        "class. Choose a folder elsewhere."
    ]


def test_versions_inside_the_workdir_are_refused():
    assert problems_of(workdir="gs://b/run", export_dir="gs://b/run/models") == [
        "--export_dir=gs://b/run/models lies inside --workdir. In an object store expected a "
        "folder elsewhere, or no --export_dir: versions are in WORKDIR/export then."
    ]


def test_what_is_opened():
    remote_paths.check_paths(
        make_spec(
            data="gs://bucket",
            validation_data="gs://bucket2/val/",
            test_data="sklearn:digits",
            workdir="gs://bucket3/photos run",
            export_dir="gs://bucket3/photos run 2",
            input=("tfds:x", "a/b"),
            vocabulary="~/words.txt",
            tfds_data_dir="gs://tfds-data/datasets",
        )
    )


@pytest.mark.parametrize(
    ("path", "expected"), [("gs://b/x", True), ("gs:/x", False), ("x", False), (None, False)]
)
def test_is_remote(path, expected):
    assert remote_paths.is_remote(path) is expected


def test_join():
    assert remote_paths.join("gs://b/x/", "y/z") == "gs://b/x/y/z"
    assert remote_paths.join("gs://b/x/", "") == "gs://b/x"


@pytest.mark.parametrize("flag", ["data", "validation_data", "test_data"])
def test_what_workers_of_a_data_service_would_not_see(flag):
    paths = {"data": "photos", flag: "gs://bucket/photos", "data_service": "grpc://host:5000"}
    assert problems_of(**paths) == [
        "--data_service: examples in gs:// are copied to this machine, where its workers do not "
        "see them. Leave it out, or name a folder that they see."
    ]
