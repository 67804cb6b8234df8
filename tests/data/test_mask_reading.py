import io
import re

import numpy as np
import PIL.Image
import pytest

from tests import mask_data
from tests.data import test_exif
from tf_finetune import findings, specs
from tf_finetune.data import loading, mask_reading, preprocessing, reading

PRE = preprocessing.PreprocessingSpec(12, 16, 3)


def load(path, *, num_classes=4, **options):
    spec = specs.DataSpec(data=str(path), image_column="image", **options)
    head = specs.HeadSpec(name="mask", kind="segmentation", num_classes=num_classes)
    return loading.load_data(spec, heads=(head,))


@pytest.fixture
def table(tmp_path):
    return mask_data.write_folder(tmp_path / "data", count=20)


def read(splits, *, on_bad_example="error", max_image_pixels=10**6, pre=PRE):
    return reading.read_images(
        splits, pre, on_bad_example=on_bad_example, max_image_pixels=max_image_pixels
    )


def test_classes_are_counted_in_what_the_model_sees(table):
    splits, _, problems = read(load(table))
    assert not problems
    store = splits.train.positions["mask"]
    assert store.counts.sum() == len(splits.train) * 12 * 16
    for number, counts in zip(splits.train.labels["mask"], store.counts, strict=True):
        assert counts.tolist() == np.bincount(store.pixels[number].ravel(), minlength=4).tolist()
    mask = mask_reading.read_mask(store.paths[0], max_pixels=None)
    assert np.array_equal(store.pixels[0], mask[1::2, 1::2])


def refusals(splits, **options):
    with pytest.raises(findings.RefusedError) as caught:
        read(splits, **options)
    return [problem.message for problem in caught.value.problems]


SKIP = "--on_bad_example=skip leaves the example out."


def test_each_bad_mask_is_named(table):
    masks = table.parent / "masks"
    bad = np.zeros((24, 32), np.uint8)
    bad[5, 7:9] = (9, 4)
    mask_data.write_mask(masks / "000.png", bad)
    mask_data.write_mask(masks / "001.png", np.zeros((24, 33), np.uint8))
    (masks / "002.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    PIL.Image.new("RGB", (32, 24)).save(masks / "003.png")
    splits = load(table)
    (masks / "004.png").unlink()
    found = sorted(refusals(splits))
    assert found == [
        f"{masks}/000.png has the class number 9 in row 5, column 7 and 1 other numbers out of "
        f"range. Expected 0 to 3, or 255 where there is no class. {SKIP}",
        f"{masks}/001.png has another size than its image: expected 32 x 24 pixels, as the image "
        f"stands upright. Received 33 x 24. {SKIP}",
        f"{masks}/002.png is cut off. {SKIP}",
        f"{masks}/003.png holds colours (RGB). Expected a palette or grey PNG of class numbers "
        f"from 0. {SKIP}",
        f"{masks}/004.png does not exist (a broken link, or removed meanwhile). {SKIP}",
    ]


def test_bad_masks_are_skipped(table):
    mask_data.write_mask(table.parent / "masks" / "003.png", np.full((24, 32), 200, np.uint8))
    splits, _, problems = read(load(table), on_bad_example="skip")
    assert sum(len(part) for part in splits.parts) == 19
    assert not any("images/003.png" in part.keys for part in splits.parts)
    path = table.parent / "masks" / "003.png"
    assert [problem.message for problem in problems] == [
        f"1 examples are left out because their masks cannot be used: '{path}'."
    ]


def spoil(table, keys):
    for key in keys:
        path = table.parent / "masks" / key.rpartition("/")[2]
        mask_data.write_mask(path, np.full((24, 32), 200, np.uint8))


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_skipping_does_not_empty_a_split(table, name):
    splits = load(table)
    keys = sorted(getattr(splits, name).keys)
    spoil(table, keys)
    masks = [f"'{table.parent}/masks/{key.rpartition('/')[2]}'" for key in keys]
    more = f" and {len(masks) - 5} more" if len(masks) > 5 else ""
    shown = ", ".join(masks[:5]) + more
    assert refusals(splits, on_bad_example="skip") == [
        f"The {name} split has no image left: none of its {len(keys)} has a mask that can be used. "
        f"Bad masks are {shown}. Repair them or choose other data."
    ]


def load_two_heads(table, rows):
    path = table.with_name("both.csv")
    path.write_text("image,mask,label,split\n" + "".join(f"{row}\n" for row in rows))
    spec = specs.DataSpec(data=str(path), image_column="image", split_column="split")
    heads = (
        specs.HeadSpec(name="mask", kind="segmentation", num_classes=4),
        specs.HeadSpec(name="label", kind="multiclass"),
    )
    return loading.load_data(spec, heads=heads)


def make_rows(*, masked):
    """Rows of 20 images, six of them for validation and test; only some have a mask."""
    names = ["train"] * 14 + ["validation"] * 3 + ["test"] * 3
    return [
        f"images/{number:03d}.png,{f'masks/{number:03d}.png' if number in masked else ''},"
        f"{'xy'[number % 2]},{name}"
        for number, name in enumerate(names)
    ]


def test_skipping_does_not_take_all_masks_beside_another_head(table):
    splits = load_two_heads(table, make_rows(masked=(0, 1, 14, 17)))
    spoil(table, ["000.png", "001.png"])
    assert refusals(splits, on_bad_example="skip") == [
        "the train split has no label of head 'mask'. Add some, or leave the head out."
    ]


def test_skipping_tells_where_a_head_is_no_longer_measured(table):
    splits = load_two_heads(table, make_rows(masked=(0, 1, 14, 17)))
    message = "the test split has no label of head 'mask'. Nothing of this head is measured there."
    assert message not in [problem.message for problem in read(splits)[2]]
    spoil(table, ["017.png"])
    problems = read(splits, on_bad_example="skip")[2]
    assert message in [problem.message for problem in problems]


def test_skipping_does_not_take_a_class_of_another_head(table):
    rows = make_rows(masked=range(20))
    for number in range(14):
        rows[number] = rows[number].replace(",x,", ",y,") if number != 4 else rows[number]
    splits = load_two_heads(table, rows)
    spoil(table, ["004.png"])
    assert refusals(splits, on_bad_example="skip") == [
        "Class 'x' of head 'label' has no training image left: none of its 1 has a mask that can "
        f"be used. Bad masks are '{table.parent}/masks/004.png'. Repair them or remove the class."
    ]


def test_five_are_listed_and_the_others_counted(table):
    for path in (table.parent / "masks").iterdir():
        mask_data.write_mask(path, np.full((24, 32), 200, np.uint8))
    found = refusals(load(table))
    assert (len(found), found[-1]) == (6, "and 15 more masks. --mode=validate lists all.")


def test_a_mask_that_promises_too_much_is_not_decoded(table):
    path = table.parent / "masks" / "000.png"
    contents = bytearray(path.read_bytes())
    contents[16:24] = (50_000).to_bytes(4, "big") * 2
    path.write_bytes(contents)
    assert refusals(load(table)) == [
        f"{path} is too large: 50000 x 50000 = 2,500,000,000 pixels, more than "
        f"--max_image_pixels=1000000. {SKIP}"
    ]


def test_nothing_to_learn(table):
    for path in (table.parent / "masks").iterdir():
        mask_data.write_mask(path, np.full((24, 32), 255, np.uint8))
    assert refusals(load(table)) == [
        "all pixels of the train split of head 'mask' are without a class. Expected two classes or "
        "more; 255 stands for no class."
    ]
    for path in (table.parent / "masks").iterdir():
        mask_data.write_mask(path, np.zeros((24, 32), np.uint8))
    assert refusals(load(table)) == [
        "all pixels of the train split of head 'mask' are of class '0'. Expected two classes or "
        "more; 255 stands for no class."
    ]


def test_a_class_that_training_lacks_is_a_warning(table):
    _, _, problems = read(load(table, num_classes=5))
    assert [problem.message for problem in problems] == [
        "the train split has no pixel of 1 of 5 classes of head 'mask': '4'."
    ]


def test_the_size_is_that_of_the_upright_image():
    stream = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (30, 20)).save(stream, "JPEG", exif=exif)
    assert mask_reading.find_upright_size(stream.seek(0) or stream) == (30, 20)
    plain = io.BytesIO()
    PIL.Image.new("RGB", (30, 20)).save(plain, "JPEG")
    assert mask_reading.find_upright_size(plain.seek(0) or plain) == (20, 30)
    assert mask_reading.find_upright_size(io.BytesIO(b"no image")) is None


def test_the_size_costs_the_header_alone():
    stream = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 8
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3)).astype(np.uint8)
    PIL.Image.fromarray(noise).save(stream, "JPEG", exif=exif)
    file = test_exif.Counted(stream.getvalue())
    assert mask_reading.find_upright_size(file) == (800, 600)
    assert file.num_read < 5000 < 100_000 < len(stream.getvalue())


def test_everything_bad_is_found_without_a_model(table):
    mask_data.write_mask(table.parent / "masks" / "003.png", np.full((24, 32), 200, np.uint8))
    problems, counts = mask_reading.find_bad_masks(load(table), max_pixels=None)
    assert len(problems) == 1
    assert re.search("003.png has the class number 200 in row 0, column 0", problems[0].message)
    assert counts["mask"].sum() == 19 * 24 * 32
