import os

import numpy as np
import pytest
import tensorflow as tf

from tests.data import image_bytes
from tf_finetune import findings, head_kinds
from tf_finetune.data import (
    image_heads,
    image_stores,
    loaders,
    loading,
    parallelism,
    preprocessing,
    reading,
)

PRE = preprocessing.PreprocessingSpec(8, 10, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 10, 3)).astype(np.uint8)
PNGS = [image_bytes.encode(image, "PNG") for image in PIXELS]
HEAD = head_kinds.HeadInfo("label", "multiclass", ("cat", "dog"))
EXPECTED = "Expected JPEG, PNG, BMP, GIF or WebP; --on_bad_example=skip leaves it out."


def make_paths(folder, contents):
    paths = np.empty(len(contents), object)
    for number, content in enumerate(contents):
        path = folder / f"{number}.png"
        path.write_bytes(content)
        paths[number] = os.fsencode(path)
    return image_stores.PathImages(paths)


def make_stream(contents, *, size=None):
    return image_stores.StreamImages(
        lambda: tf.data.Dataset.from_tensor_slices(contents), size or len(contents)
    )


def make_split(name, images, indices, labels):
    keys = np.array([f"key {index}" for index in indices], object)
    return loading.Split(name, keys, images, np.array(indices, np.int64), labels)


def make_splits(images, train, validation, test, *, head=HEAD, encode=None):
    """Classes alternate with the index."""
    encode = encode or (lambda index: np.int32(index % 2))
    parts = [
        make_split(name, images, indices, {head.name: np.array([encode(i) for i in indices])})
        for name, indices in (("train", train), ("validation", validation), ("test", test))
    ]
    info = loading.DatasetInfo("photos", 12, ("label",), "")
    return loading.Splits(*parts, (head,), info)


SCRAMBLED = ([7, 2, 5, 0], [3, 6, 1], [4])


@pytest.mark.parametrize("name", ["paths", "array", "stream_bytes", "stream_pixels"])
def test_pixels_of_all_splits_are_kept_in_one_array(name, tmp_path, capsys):
    images = {
        "paths": lambda: make_paths(tmp_path, PNGS),
        "array": lambda: image_stores.ArrayImages(PIXELS),
        "stream_bytes": lambda: make_stream(PNGS),
        "stream_pixels": lambda: make_stream(PIXELS),
    }[name]()
    splits = make_splits(images, *SCRAMBLED)
    kept, pre, problems = reading.read_images(splits, PRE, on_bad_example="error")
    assert (pre, problems) == (PRE, ())
    store = kept.train.inputs
    assert isinstance(store, image_stores.DecodedImages)
    assert store is kept.validation.inputs
    assert store is kept.test.inputs
    assert (store.pixels.shape, store.pixels.dtype) == ((8, 8, 10, 3), np.uint8)
    for part, indices in zip((kept.train, kept.validation, kept.test), SCRAMBLED, strict=True):
        np.testing.assert_array_equal(store.pixels[part.indices], PIXELS[indices])
        assert part.keys.tolist() == [f"key {index}" for index in indices]
        assert part.labels["label"].tolist() == [index % 2 for index in indices]
    assert capsys.readouterr().out.splitlines()[-1].startswith("Reading images 8/8")


def test_kept_pixels_are_lent_to_tensorflow_without_a_copy():
    splits = make_splits(image_stores.ArrayImages(PIXELS), *SCRAMBLED)
    kept, _, _ = reading.read_images(splits, PRE, on_bad_example="error")
    pixels = kept.train.inputs.pixels
    tensor = loaders.as_tensor(pixels)
    pixels[0, 0, 0, 0] ^= 255
    assert tensor[0, 0, 0, 0].numpy() == pixels[0, 0, 0, 0]


@pytest.mark.parametrize("name", ["paths", "array", "stream"])
def test_images_that_do_not_fit_stay_where_they_are(name, tmp_path):
    images = {
        "paths": lambda: make_paths(tmp_path, PNGS),
        "array": lambda: image_stores.ArrayImages(PIXELS),
        "stream": lambda: make_stream(PIXELS),
    }[name]()
    splits = make_splits(images, *SCRAMBLED)
    num_bytes = 8 * 8 * 10 * 3
    same, _, _ = reading.read_images(
        splits, PRE, on_bad_example="error", memory_bytes=num_bytes - 1
    )
    assert same.train.inputs is images
    assert same.train.indices.tolist() == SCRAMBLED[0]


def test_images_that_fit_exactly_are_kept():
    splits = make_splits(image_stores.ArrayImages(PIXELS), *SCRAMBLED)
    num_bytes = 8 * 8 * 10 * 3
    kept, _, _ = reading.read_images(splits, PRE, on_bad_example="error", memory_bytes=num_bytes)
    assert isinstance(kept.train.inputs, image_stores.DecodedImages)


@pytest.mark.parametrize("bad", [(), (0,), (11,), (3, 4), (5, 6, 7, 8, 9, 10)])
def test_a_bad_image_hides_none_of_those_handed_over_with_it(bad, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK_IMAGES", 4)
    contents = [content[:-30] if row in bad else content for row, content in enumerate(PNGS)]
    images = make_paths(tmp_path, contents)
    splits = make_splits(images, list(range(12)), [], [])
    kept, _, problems = reading.read_images(splits, PRE, on_bad_example="skip")
    good = [row for row in range(12) if row not in bad]
    assert kept.train.keys.tolist() == [f"key {row}" for row in good]
    np.testing.assert_array_equal(kept.train.inputs.pixels[kept.train.indices], PIXELS[good])
    told = [message for problem in problems for message in [str(problem.message)]]
    assert len(told) == bool(bad)
    assert all(f"'{tmp_path}/{row}.png'" in told[0] for row in bad[:5])


def make_bad_files(folder):
    """Twelve files, of which 2, 4 and 6 are good."""
    images = make_paths(folder, PNGS)
    path = [os.fsdecode(path) for path in images.paths]
    os.truncate(path[0], 0)
    os.truncate(path[1], 60)
    (folder / "3.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0")
    (folder / "5.png").write_bytes(image_bytes.encode(PIXELS[0], "TIFF"))
    os.remove(path[7])
    os.remove(path[8])
    os.mkfifo(path[8])
    os.remove(path[9])
    os.symlink("/dev/zero", path[9])
    os.remove(path[10])
    os.mkdir(path[10])
    (folder / "11.png").write_bytes(b"\x1b[31mno\nimage at all")
    return images, path


def test_every_bad_image_is_named_at_once(tmp_path):
    images, path = make_bad_files(tmp_path)
    splits = make_splits(images, [6, 0, 1, 2], [3, 4, 5], [7, 8, 9, 10, 11])
    with pytest.raises(findings.RefusedError) as caught:
        reading.read_images(splits, PRE, on_bad_example="error")
    no_image = "is no image that can be decoded:"
    expected = [
        f"{path[0]} {no_image} it is empty. {EXPECTED}",
        f"{path[1]} {no_image} its PNG data is damaged, cut off or of an unsupported kind. "
        f"{EXPECTED}",
        f"{path[3]} {no_image} it is a git-lfs pointer; fetch the file with git lfs pull. "
        f"{EXPECTED}",
        f"{path[5]} {no_image} it is a TIFF file, which is not supported; convert it to PNG. "
        f"{EXPECTED}",
        f"{path[7]} does not exist (a broken link, or removed meanwhile). {EXPECTED}",
        f"{path[8]} is a pipe, not a file. {EXPECTED}",
        f"{path[9]} is a device, not a file. {EXPECTED}",
        f"{path[10]} is a folder, not a file. {EXPECTED}",
        f"{path[11]} {no_image} it begins with '\\x1b[31mno\\nimage at'. {EXPECTED}",
    ]
    assert str(caught.value).splitlines() == expected
    assert caught.value.problems[0] == findings.Problem(
        expected[0], path=path[0], flag="--on_bad_example=skip"
    )
    parts = (splits.train, splits.validation, splits.test)
    assert [problem.message for problem in reading.find_bad_images(parts, PRE)] == expected


def make_halves(index):
    return np.int32(index >= 4)


def test_skipped_images_are_dropped_and_counted(tmp_path):
    images, path = make_bad_files(tmp_path)
    splits = make_splits(images, [6, 0, 2, 1, 7], [3, 4, 5], [8, 10, 2], encode=make_halves)
    kept, _, problems = reading.read_images(splits, PRE, on_bad_example="skip")
    assert problems == (
        findings.Problem(
            f"7 of 11 images are left out because they cannot be read or decoded: '{path[0]}', "
            f"'{path[1]}', '{path[7]}', '{path[3]}', '{path[5]}' and 2 more.",
            severity="warning",
            flag="--on_bad_example=skip",
        ),
    )
    parts = (kept.train, kept.validation, kept.test)
    assert [part.keys.tolist() for part in parts] == [["key 6", "key 2"], ["key 4"], ["key 2"]]
    assert [part.labels["label"].tolist() for part in parts] == [[1, 0], [1], [0]]
    rows = np.concatenate([part.indices for part in parts])
    np.testing.assert_array_equal(kept.train.inputs.pixels[rows], PIXELS[[6, 2, 4, 2]])


def test_skipping_that_empties_a_split_or_a_class_is_refused(tmp_path):
    images, path = make_bad_files(tmp_path)
    splits = make_splits(images, [2, 4, 1, 3, 5], [0], [6])
    with pytest.raises(findings.RefusedError) as caught:
        reading.read_images(splits, PRE, on_bad_example="skip")
    names = f"'{path[1]}', '{path[3]}', '{path[5]}', '{path[0]}'"
    assert str(caught.value).splitlines() == [
        "The validation split has no image left: none of its 1 can be decoded. Bad images are "
        f"{names}. Repair them or choose other data.",
        "Class 'dog' of head 'label' has no training image left: none of its 3 can be decoded. "
        f"Bad images are {names}. Repair them or remove the class.",
    ]


@pytest.mark.parametrize(
    ("kind", "encode"),
    [
        ("binary", lambda index: np.float32([index % 2])),
        ("multilabel", lambda index: np.float32([1, index % 2])),
    ],
)
def test_an_emptied_class_of_other_kinds_is_refused(kind, encode, tmp_path):
    images, _ = make_bad_files(tmp_path)
    head = head_kinds.HeadInfo("task", kind, ("no", "yes"))
    splits = make_splits(images, [2, 4, 1], [6], [6], head=head, encode=encode)
    with pytest.raises(findings.RefusedError, match="Class 'yes' of head 'task' has no training"):
        reading.read_images(splits, PRE, on_bad_example="skip")


def test_no_decoder_sees_what_is_too_large(tmp_path):
    paths = make_paths(tmp_path, PNGS[:4])
    name = os.fsdecode(paths.paths[2])
    with open(name, "r+b") as file:
        file.seek(16)
        file.write((30_000).to_bytes(4, "big") * 2)
    splits = make_splits(paths, [0, 1, 2], [3], [])
    with pytest.raises(findings.RefusedError) as caught:
        reading.read_images(splits, PRE, on_bad_example="error")
    assert str(caught.value) == (
        f"{name} is too large: 30000 x 30000 = 900,000,000 pixels, more than "
        "--max_image_pixels=89478485. Give a larger --max_image_pixels if it is real; "
        "--on_bad_example=skip leaves it out."
    )
    kept, _, _ = reading.read_images(splits, PRE, on_bad_example="skip")
    assert kept.train.keys.tolist() == ["key 0", "key 1"]
    with pytest.raises(findings.RefusedError, match="10 x 8 = 80 pixels, more than"):
        reading.read_images(splits, PRE, on_bad_example="error", max_image_pixels=79)
    good = make_splits(paths, [0, 1], [3], [])
    reading.read_images(good, PRE, on_bad_example="error", max_image_pixels=80)


def test_a_file_without_anything_to_decode_is_left_aside(tmp_path):
    paths = make_paths(tmp_path, [*PNGS[:3], b"RIFF0000WEBP"])
    splits = make_splits(paths, [0, 1, 3], [2], [])
    kept, _, problems = reading.read_images(splits, PRE, on_bad_example="error")
    assert kept.train.keys.tolist() == ["key 0", "key 1"]
    assert [(problem.severity, problem.message) for problem in problems] == [
        (
            findings.WARNING,
            f"{tmp_path}/3.png holds no WebP image, or one of an unsupported kind. Left aside.",
        )
    ]


def test_large_images_are_decoded_one_at_a_time():
    assert reading._count_parallel(10_000) == parallelism.count_cores()
    assert reading._count_parallel(89_478_485) == 1
    assert reading._count_parallel(10**12) == 1


def test_an_empty_split_stays_empty(tmp_path):
    splits = make_splits(make_paths(tmp_path, PNGS), [0, 1], [], [])
    kept, _, problems = reading.read_images(splits, PRE, on_bad_example="skip")
    assert [len(kept.train), len(kept.validation), len(kept.test)] == [2, 0, 0]
    assert problems == ()


def test_of_many_images_that_do_not_fit_only_first_bytes_are_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reading, "MAX_CHECKED_IMAGES", 3)
    monkeypatch.setattr(image_heads, "MIN_SHOWN", 3)
    images, path = make_bad_files(tmp_path)
    good = make_splits(images, [1, 2, 4], [6], [])
    splits, _, _ = reading.read_images(good, PRE, on_bad_example="error", memory_bytes=0)
    assert splits.train.keys.tolist() == good.train.keys.tolist()
    assert capsys.readouterr().out.startswith("Checking files 4/4")
    with pytest.raises(findings.RefusedError) as caught:
        bad = make_splits(images, [1, 2, 4], [6, 0], [])
        reading.read_images(bad, PRE, on_bad_example="error", memory_bytes=0)
    assert [problem.path for problem in caught.value.problems] == [path[0]]
    skipping = make_splits(images, [1, 2, 4], [6], [], encode=make_halves)
    splits, _, _ = reading.read_images(skipping, PRE, on_bad_example="skip", memory_bytes=0)
    assert splits.train.keys.tolist() == ["key 2", "key 4"]
    assert splits.train.inputs is images


def test_bad_examples_of_a_stream_are_named_by_key():
    contents = [*PNGS[:3], b"text", *PNGS[4:6]]
    splits = make_splits(make_stream(contents), [5, 4, 3], [1], [2, 0])
    with pytest.raises(findings.RefusedError) as caught:
        reading.read_images(splits, PRE, on_bad_example="error")
    assert str(caught.value) == (
        "Example key 3 is no image that can be decoded: its data is damaged or of an unsupported "
        f"kind. {EXPECTED}"
    )
    splits = make_splits(make_stream(contents), [5, 4, 3], [1], [2, 0])
    kept, _, _ = reading.read_images(splits, PRE, on_bad_example="skip")
    assert kept.train.keys.tolist() == ["key 5", "key 4"]
    pixels = kept.train.inputs.pixels
    np.testing.assert_array_equal(pixels[kept.train.indices], PIXELS[[5, 4]])
    np.testing.assert_array_equal(pixels[kept.test.indices], PIXELS[[2, 0]])


def test_a_stream_that_ends_early_is_refused():
    splits = make_splits(make_stream(PIXELS[:4], size=6), [0, 5], [1], [2])
    with pytest.raises(findings.RefusedError) as caught:
        reading.read_images(splits, PRE, on_bad_example="error")
    assert (
        str(caught.value) == f"Example key 5 is missing: the data set ended before it. {EXPECTED}"
    )


def test_names_that_are_not_utf_8_are_shown_escaped(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9\n.jpg"
    with open(path, "wb") as file:
        file.write(b"")
    images = image_stores.PathImages(np.array([path], object))
    problems = reading.find_bad_images((make_split("train", images, [0], {}),), PRE)
    assert problems[0].message.startswith(f"{tmp_path}/caf\\udce9\\n.jpg is no image")


def test_splits_may_have_stores_of_their_own(tmp_path):
    splits = make_splits(make_paths(tmp_path, PNGS), [3, 4], [5], [])
    (tmp_path / "test").mkdir()
    test = make_paths(tmp_path / "test", PNGS[6:])
    other = make_split("test", test, [1, 0], {"label": np.zeros(2, np.int32)})
    splits = loading.Splits(splits.train, splits.validation, other, splits.heads, splits.info)
    kept, _, _ = reading.read_images(splits, PRE, on_bad_example="error")
    np.testing.assert_array_equal(kept.test.inputs.pixels[kept.test.indices], PIXELS[[7, 6]])
    assert kept.test.inputs is kept.train.inputs


# 16 bits

WIDE = np.random.default_rng(1).integers(0, 4096, (6, 6, 8, 1)).astype(np.uint16)
WIDE_PNGS = [image_bytes.make_png(image) for image in WIDE]
GREY = preprocessing.PreprocessingSpec(6, 8, 1)


def read_white(images, *, pre=GREY):
    splits = make_splits(images, [0, 1, 2], [4], [3])
    kept, pre, _ = reading.read_images(splits, pre, on_bad_example="error")
    return kept, pre.pixel_max


def test_white_is_measured_on_the_training_images(tmp_path):
    contents = [*WIDE_PNGS[:3], image_bytes.make_png(WIDE[3] * 16), *WIDE_PNGS[4:]]
    kept, white = read_white(make_paths(tmp_path, contents))
    # 144 values: the smallest one that 99.9 % do not exceed is the largest.
    assert white == WIDE[:3].max()
    pixels = kept.train.inputs.pixels
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[kept.train.indices], WIDE[:3] * (255.0 / white), rtol=1e-6)


def test_white_that_is_given_is_kept():
    given = preprocessing.PreprocessingSpec(6, 8, 1, pixel_max=4095.0)
    assert read_white(make_stream(WIDE), pre=given)[1] == 4095.0


def test_16_bits_outside_training_measure_nothing(tmp_path):
    assert read_white(make_paths(tmp_path, [*PNGS[:3], *WIDE_PNGS[:2]]))[1] == 65535.0


def test_a_stream_of_8_bits_has_no_white():
    assert read_white(make_stream(PIXELS))[1] is None


def test_white_of_a_stream():
    assert read_white(make_stream(WIDE))[1] == WIDE[:3].max()
