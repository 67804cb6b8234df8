import numpy as np
import pytest

from tests.data import data_files, image_bytes, record_files
from tf_finetune import specs
from tf_finetune.data import image_stores, loading, record_features, record_schema, sources

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3)).astype(np.uint8)
PNGS = [image_bytes.encode(image, "PNG") for image in PIXELS]


def write(path, *records):
    path.write_bytes(b"".join(map(record_files.frame, records)))
    return str(path)


def fault_of(schema, **features):
    reader = record_features.ExampleReader()
    found = reader.read_features(memoryview(record_files.example(**features)))
    return record_schema.find_fault(record_schema.read_schema(schema), found, reader)


def test_fields_are_read(tmp_path):
    path = tmp_path / "schema.txt"
    path.write_text("\ufeffa = int64\n\nx=float32[2x3]\nb=bytes[]?\nimage=uint8[5x4]\n")
    schema = record_schema.read_schema(f"@{path}")
    assert schema == record_schema.read_schema("a=int64,x=float32[2x3],b=bytes[]?,image=uint8[5x4]")
    assert [(f.kind, f.count, f.optional, f.shape) for f in schema.values()] == [
        ("int64", 1, False, ()),
        ("float", 6, False, ()),
        ("bytes", None, True, ()),
        ("bytes", 1, False, (5, 4, 1)),
    ]
    assert record_schema.read_schema(None) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", f": 'a' is no feature. Expected {record_schema.EXPECTED}."),
        ("a=int32", f": 'a=int32' is no feature. Expected {record_schema.EXPECTED}."),
        ("a=float32[0]", f": 'a=float32[0]' is no feature. Expected {record_schema.EXPECTED}."),
        ("a=uint8", f": 'a=uint8' is no feature. Expected {record_schema.EXPECTED}."),
        ("a=uint8[2x2x5]", f": 'a=uint8[2x2x5]' is no feature. Expected {record_schema.EXPECTED}."),
        ("a=int64,a=bytes", " names 'a' twice."),
        (",", f" names no feature. Expected {record_schema.EXPECTED}."),
        ("@/nowhere/x", "=@/nowhere/x cannot be read: No such file or directory."),
    ],
)
def test_what_is_no_schema(text, message):
    assert data_files.refusal(record_schema.read_schema, text) == [f"--record_schema{message}"]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("a=int64,x=float32[2],b=bytes,l=int64[]", ""),
        ("c=int64?,c2=float32[3]?", ""),
        ("c=int64", "has no feature 'c' of --record_schema. It has 'a', 'b', 'l', 'x'"),
        ("a=float32", "is not as --record_schema says: its feature 'a' holds int64 values. "
         "Expected float"),
        ("x=float32", "is not as --record_schema says: its feature 'x' holds 2 values. Expected 1"),
        ("l=int64[2]", "is not as --record_schema says: its feature 'l' holds 3 values. Expected "
         "2"),
        ("b=uint8[2x2]", "is not as --record_schema says: its feature 'b' holds 3 bytes. Expected "
         "4, uint8 2x2x1"),
    ],
)  # fmt: skip
def test_records_are_held_against_it(schema, message):
    assert fault_of(schema, a=3, x=[0.5, 1.5], b=b"abc", l=[1, 2, 3]) == message


def test_only_its_features_are_read_from_records_with_images(tmp_path):
    records = [record_files.example(image=PNGS[n], label=n % 2, id=b"%d" % n) for n in range(12)]
    path = write(tmp_path / "a.tfrecord", *records, record_files.example(image=PNGS[0], label=0.5))
    spec = specs.DataSpec(record_schema="image=bytes,label=int64")
    part = sources.load_source(spec, path, flag="data")
    assert list(part.labels) == ["label"] and len(part) == 12
    assert [problem.message for problem in part.problems] == [
        f"{path}, record 13 is not as --record_schema says: its feature 'label' holds float "
        "values. Expected int64. Repair the file; --on_bad_example=skip leaves the record out."
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_raw_pixels(tmp_path, dtype):
    pixels = PIXELS.astype(dtype) * (1 if dtype is np.uint8 else 257)
    paths = []
    for file in range(2):
        records = [
            record_files.example(pixels=pixels[n].tobytes(), label=n % 2)
            for n in range(6 * file, 6 * file + 6)
        ]
        paths.append(write(tmp_path / f"a.tfrecord-0000{file}-of-00002", *records))
    name = np.dtype(dtype).name
    spec = specs.DataSpec(
        data=f"{tmp_path}/a.tfrecord-*", record_schema=f"pixels={name}[5x4x3],label=int64"
    )
    splits = loading.load_data(spec)
    store = splits.train.inputs
    if dtype is np.uint8:
        assert isinstance(store, image_stores.ArrayImages)
        np.testing.assert_array_equal(store.pixels, pixels)
    else:
        np.testing.assert_array_equal(list(store.make_dataset().as_numpy_iterator()), pixels)
    assert splits.train.labels["label"].tolist() == (splits.train.indices % 2).tolist()


def test_it_is_of_records_alone(tmp_path):
    data_files.write_files(tmp_path, cat=2, dog=2)
    spec = specs.DataSpec(data=str(tmp_path), record_schema="a=int64")
    assert data_files.refusal(loading.load_data, spec) == [
        f"--record_schema needs TFRecords. Received --data={tmp_path}."
    ]
