"""The data doctor through the door: every planted fault is found in its place, and no other."""

import csv
import json
import os

import numpy as np
import PIL.Image

from tests.data import image_bytes
from tf_finetune import main

TIFF = b"II*\0" + bytes(40)


class Images:
    """Noise images, each its own."""

    def __init__(self, folder):
        self.folder = folder
        self._generator = np.random.default_rng(7)

    def make(self, height=24, width=24):
        return self._generator.integers(0, 256, (height, width, 3)).astype(np.uint8)

    def encode(self, form="PNG", **options):
        return image_bytes.encode(self.make(), form, **options)

    def write(self, name, content=None):
        path = os.path.join(os.fsencode(self.folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(self.encode() if content is None else content)
        return self

    def copy(self, source, target):
        return self.write(target, (self.folder / source).read_bytes())


def validate(capsys, data, *flags):
    """(exit code, everything that the report says)."""
    output = data.parent / "report.json"
    code = main.main(["--mode=validate", f"--data={data}", f"--output={output}", *flags])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    report = json.loads(output.read_text())
    assert captured.out.splitlines()[-1] == (
        f"{report['num_errors']} errors, {report['num_warnings']} warnings."
    )
    assert code == (2 if report["num_errors"] else 0)
    return code, report


def write_clean_folder(folder):
    images = Images(folder)
    for split, number in (("train", 14), ("test", 6)):
        for name in ("bird", "cat", "dog"):
            for index in range(number):
                images.write(f"{split}/{name}/{index:02d}.png")
    return images


def make_bomb():
    content = bytearray(image_bytes.make_png(np.zeros((2, 2, 1), np.uint16)))
    content[16:24] = (30_000).to_bytes(4, "big") * 2
    return bytes(content)


def damage(content):
    middle = len(content) // 2
    return content[:middle] + bytes(20) + content[middle + 20 :]


def make_animation(images):
    frames = [PIL.Image.fromarray(images.make()) for _ in range(3)]
    return image_bytes.encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


def make_odd_images(images):
    """{name of a bad or odd image: (its bytes, its severity, what is said of it)}."""
    pixels = images.make()
    clear = np.dstack([pixels, np.zeros((24, 24), np.uint8)])
    wide = (images.make().astype(np.uint16) << 8) + 1
    return {
        "empty.jpg": (b"", "error", "is no image that can be decoded: it is empty"),
        "text.jpg": (b"hello hello", "error", "it begins with 'hello hello'"),
        "cut.png": (images.encode()[:-40], "error", "is cut off: a PNG without its last chunk"),
        "end.jpg": (images.encode("JPEG")[:-2], "error", "a JPEG without its end mark"),
        "part.webp": (images.encode("WEBP")[:-9], "error", "is cut off: a WebP of "),
        "damaged.png": (damage(images.encode()), "error", "its PNG data is damaged"),
        "scan.png": (TIFF, "error", "it is a TIFF file, which is not supported"),
        "bomb.png": (make_bomb(), "error", "30000 x 30000 = 900,000,000 pixels, more than"),
        "wrong.jpg": (images.encode(), "warning", "is a PNG file with the ending .jpg. Rename"),
        "plain.png": (
            image_bytes.encode(np.full((24, 24, 3), 9, np.uint8), "PNG"),
            "warning",
            "has one colour only.",
        ),
        "dot.png": (
            image_bytes.encode(images.make(2, 2), "PNG"),
            "warning",
            "is very small: 2 x 2 pixels",
        ),
        "band.png": (
            image_bytes.encode(images.make(20, 300), "PNG"),
            "warning",
            "is very long: 300 x 20 pixels.",
        ),
        "moving.gif": (make_animation(images), "warning", "an animation of 3 frames"),
        "clear.png": (image_bytes.encode(clear, "PNG"), "warning", "is fully transparent"),
        "wide.png": (image_bytes.make_png(wide), "warning", "has 16 bits for a value"),
    }


def compare(report, faults):
    """(faults that were not found once, each in its place; messages about anything else)."""
    left = list(report["problems"])
    missing = []
    for severity, path, line, words in faults:
        found = [
            problem
            for problem in left
            if (problem["severity"], problem["path"]) == (severity, str(path))
            and problem["line"] == line
            and words in problem["message"]
        ]
        missing += [] if len(found) == 1 else [(path, line, words)]
        left = [problem for problem in left if problem not in found]
    return missing, [problem["message"] for problem in left]


def test_a_clean_folder(tmp_path, capsys):
    write_clean_folder(tmp_path / "photos")
    code, report = validate(capsys, tmp_path / "photos")
    assert (code, report["problems"]) == (0, [])
    assert report["num_examples"] == {"train": 36, "validation": 6, "test": 18}
    assert report["classes"]["label"]["cat"] == {"test": 6, "train": 12, "validation": 2}
    assert report["histograms"] == {
        "Format": {"PNG": 60},
        "Mode": {"RGB": 60},
        "Longer side, pixels": {"17 to 32": 60},
        "Most frequent width x height": {"24 x 24": 60},
    }


def test_every_fault_of_a_folder(tmp_path, capsys):
    root = tmp_path / "photos"
    images = write_clean_folder(root)
    faults = []
    for name, (content, severity, words) in make_odd_images(images).items():
        images.write(f"train/dog/{name}", content)
        faults.append((severity, root / "train" / "dog" / name, words))
    images.write("train/cat/notes.txt").write("train/cat/photo.tif", TIFF)
    images.write("train/.DS_Store").write("__MACOSX/train/._x.jpg").write("train/lost.png")
    images.write("train/Cat/0.png").write("train/Cat/1.png").write("train/Cat/2.png")
    images.write("train/rare/0.png")
    for index in range(5):
        images.write(f"train/few/{index}.png")
    for index in range(4):
        images.write(f"train/New folder/{index}.png").write(f"train/a, b/{index}.png")
        images.write(f"train/nan/{index}.png")
    (root / "train" / "void").mkdir()
    images.copy("train/bird/00.png", "train/bird/copy.png")
    images.copy("train/bird/01.png", "train/cat/same.png")
    images.copy("train/bird/02.png", "test/bird/leak.png")
    PIL.Image.open(root / "train/bird/03.png").save(root / "train/bird/equal.bmp")
    (tmp_path / "secret.png").write_bytes(images.encode())
    (root / "train/cat/out.png").symlink_to(tmp_path / "secret.png")
    (root / "train/cat/broken.png").symlink_to("nowhere.png")
    os.mkfifo(root / "train/cat/pipe.png")
    images.write(b"train/cat/\xff.png")
    cat, bird = root / "train" / "cat", root / "train" / "bird"
    faults += [
        ("warning", root, "2 files that are no JPEG, PNG, BMP, GIF or WebP (1 .tif, 1 .txt)"),
        ("warning", root, "2 hidden or repeated files and folders: '__MACOSX', 'train/.DS_Store'"),
        ("warning", root, "1 images outside of class folders: 'train/lost.png'"),
        ("error", root, "classes 'Cat', 'cat' are nearly the same name. Rename one, or name all"),
        ("warning", root, "have fewer than 3 examples, too few"),
        ("warning", root, "classes of head 'label' have fewer than 10 exam"),
        ("warning", root / "train/rare", "examples and 'rare' 1, more than 20 to 1."),
        ("warning", root / "train/New folder", "class 'New folder' has the name of a new"),
        ("warning", root, "class name 'a, b' has a comma. Training refuses it."),
        ("warning", root, "'nan' are classes here. Are they missing values?"),
        ("error", root / "train/void", "the class folder has no image."),
        ("warning", bird / "00.png", f"is identical to {bird}/copy.png: a copy weighs as"),
        ("warning", bird / "01.png", f"is identical to {cat}/same.png, with different labels: "),
        ("warning", root / "test/bird/leak.png", f"identical to {bird}/02.png, in train and test"),
        ("warning", bird / "03.png", f"is pixel by pixel equal to {bird}/equal.bmp: a copy"),
        ("error", cat / "out.png", "is a link that leads out of the data folder (--follow_links"),
        ("error", cat / "broken.png", "cannot be opened: No such file or directory"),
        ("error", cat / "pipe.png", "is no regular file but a FIFO, socket or device"),
        ("warning", root, "1 file names are not UTF-8, and split.csv writes their bytes as"),
    ]
    code, report = validate(capsys, root)
    assert code == 2 and len(faults) > 30
    placed = [(severity, path, None, words) for severity, path, words in faults]
    assert compare(report, placed) == ([], [])


def write_rows(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


def write_clean_table(folder):
    """A table of images and one to test on; their rows."""
    images, rows, test_rows = Images(folder), [], []
    for name in ("bird", "cat", "dog"):
        for index in range(14):
            images.write(f"{name}/{index:02d}.png")
            rows.append([f"{name}/{index:02d}.png", name, str(index)])
        for index in range(6):
            images.write(f"test/{name}{index:02d}.png")
            test_rows.append([f"test/{name}{index:02d}.png", name, str(index)])
    return images, rows, test_rows


WORDS = (
    "a",
    "quiet",
    "film",
    "about",
    "people",
    "who",
    "leave",
    "one",
    "city",
    "and",
    "come",
    "home",
)
HEADER = ["image", "label", "age"]


def validate_table(capsys, folder, rows, test_rows, *flags):
    path = write_rows(folder / "labels.csv", [HEADER, *rows])
    test = write_rows(folder / "test.csv", [HEADER, *test_rows])
    return validate(capsys, path, f"--test_data={test}", "--label_column=label", *flags)


def test_a_clean_table(tmp_path, capsys):
    _, rows, test_rows = write_clean_table(tmp_path)
    code, report = validate_table(capsys, tmp_path, rows, test_rows)
    assert (code, report["problems"]) == (0, [])
    assert report["columns"] == [
        {"name": "label", "num_values": 3, "num_missing": 0, "low": None, "high": None},
        {"name": "age", "num_values": 14, "num_missing": 0, "low": 0, "high": 13},
    ]


def test_every_fault_of_a_table(tmp_path, capsys):
    folder = tmp_path / "data"
    images, rows, test_rows = write_clean_table(folder)
    table, first_bad = folder / "labels.csv", len(rows) + 2
    (tmp_path / "secret.png").write_bytes(images.encode())
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    for name in ("x.png", "y.png", "u.png", "v.png"):
        images.write(name)
    bad = [
        (["nowhere.png", "cat", "1"], "error", "'nowhere.png' does not exist."),
        (["", "cat", "1"], "error", "the path is empty."),
        (["http://127.0.0.1/x.png", "cat", "1"], "error", "is a URL."),
        (["../secret.png", "cat", "1"], "error", "'../secret.png' leaves the table's folder."),
        (["out.png", "cat", "1"], "error", "lies behind, a link that leads out of the data"),
        (["cat", "cat", "1"], "error", "'cat' is no regular file."),
        (["x.png", "cat"], "error", "expected 3 columns (image, label, age). Received 2."),
        (["x.png", "cat", "1", "2"], "error", "expected 3 columns (image, label, age). Received 4"),
        (["x.png", "", "1"], "error", "no label in column 'label'."),
        (["y.png", "cow", "1"], "error", "label 'cow' is not a class of --classes"),
        (["u.png", "Cat", "1"], "error", "label 'Cat' is not a class of --classes"),
        (["cat/01.png", "dog", "1"], "error", "'cat/01.png' has other labels in line 17."),
        (["cat/02.png", "cat", "2"], "warning", f"1 rows repeat another: lines {first_bad + 12}."),
        (["v.png", "cat", ""], "warning", "column 'age' is empty here and nowhere else."),
    ]
    for name, (content, severity, words) in make_odd_images(images).items():
        images.write(f"odd/{name}", content)
        bad.append(([f"odd/{name}", "dog", "1"], severity, words))
    rows += [row for row, _, _ in bad]
    images.copy("bird/00.png", "copy.png").copy("bird/01.png", "same.png")
    images.copy("bird/02.png", "leak.png").write("rare.png")
    PIL.Image.open(folder / "bird/03.png").save(folder / "equal.bmp")
    after = len(rows) + 2
    rows += [["copy.png", "bird", "1"], ["same.png", "cat", "1"], ["equal.bmp", "bird", "1"]]
    rows += [["rare.png", "rare", "1"]]
    test_rows.append(["leak.png", "bird", "1"])
    faults = [(severity, line, words) for line, (_, severity, words) in enumerate(bad, first_bad)]
    faults += [
        ("warning", 2, f"'bird/00.png' is identical to {table}, line {after}: a copy weighs"),
        ("warning", 3, f"identical to {table}, line {after + 1}, with different labels: 'bird', '"),
        ("warning", 4, f"identical to {folder}/test.csv, line 20, in --data and test: test"),
        ("warning", 5, f"is pixel by pixel equal to {table}, line {after + 2}: a copy weighs"),
        ("warning", first_bad + 10, "examples and 'Cat' 1, more than 20 to 1."),
        ("warning", None, "1 of 4 classes have fewer than 3 examples"),
    ]
    code, report = validate_table(capsys, folder, rows, test_rows, "--classes=bird,cat,dog,rare")
    assert code == 2 and len(faults) > 30
    placed = [(severity, table, line, words) for severity, line, words in faults]
    assert compare(report, placed) == ([], [])


def write_clean_texts():
    generator = np.random.default_rng(3)
    rows = []
    for index in range(48):
        text = " ".join(generator.permutation(WORDS)[:9]) + "."
        rows.append([text, ("bad", "fair", "good")[index % 3], "web"])
    return rows[:36], rows[36:]


def validate_texts(capsys, folder, rows, test_rows, *flags):
    header = ["text", "label", "source"]
    path = write_rows(folder / "texts.csv", [header, *rows])
    test = write_rows(folder / "test.csv", [header, *test_rows])
    return validate(capsys, path, f"--test_data={test}", "--label_column=label", *flags)


def test_clean_texts(tmp_path, capsys):
    code, report = validate_texts(capsys, tmp_path, *write_clean_texts())
    assert (code, report["problems"]) == (0, [])
    assert report["histograms"] == {"Length, words and marks": {"9 to 16": 48}}


def test_every_fault_of_texts(tmp_path, capsys):
    rows, test_rows = write_clean_texts()
    table, first_bad = tmp_path / "texts.csv", len(rows) + 2
    text = "one more film that nobody has seen yet"
    bad = [
        (["", "good", "web"], "error", "the text is empty."),
        (["  \t ", "good", "web"], "error", "the text is empty."),
        ([text + " 1", "good"], "error", "expected 3 columns (text, label, source). Received 2."),
        (
            [text + " 2", "good", "a", "b"],
            "error",
            "expected 3 columns (text, label, source). Rece",
        ),
        ([text + " 3", "", "web"], "error", "no label in column 'label'."),
        ([text + " 4", "good", ""], "warning", "column 'source' is empty here and nowhere else."),
        (["N/A", "good", "web"], "warning", "the text is 'N/A'. Is it missing?"),
        (["?! ...", "good", "web"], "warning", "the text '?! ...' has no letter and no digit."),
        (["so\x07 good", "good", "web"], "warning", "has control characters."),
        (
            ["un trÃ¨s bon film", "good", "web"],
            "warning",
            "'un trÃ¨s bon film' was read in a wrong encoding.",
        ),
        (["bad \ufffd sign", "good", "web"], "warning", "was read in a wrong encoding."),
        (["https://example.com/x?y=1", "good", "web"], "warning", "the text is only an address"),
        (["a fine<br /> film", "good", "web"], "warning", "has HTML tags."),
        (["text", "label", "source"], "warning", "the row repeats the names of the columns."),
        (["very " * 600 + "long", "good", "web"], "warning", "a text of 601 words; half of all"),
    ]
    rows += [row for row, _, _ in bad]
    after = len(rows) + 2
    rows += [
        [rows[0][0], "bad", "web"],
        [rows[1][0], "good", "web"],
        [rows[2][0].upper(), "good", "web"],
        [text + " 5", "Good", "web"],
        [text + " 6", "Good", "web"],
        [text + " 7", "Good", "web"],
        [text + " 8", "nan", "web"],
        [text + " 9", "a, b", "web"],
        [text + " 10", "New folder", "web"],
    ]
    test_rows += [[rows[3][0], "bad", "web"], [text + " 11", "unknown", "web"]]
    faults = [
        (severity, table, line, words) for line, (_, severity, words) in enumerate(bad, first_bad)
    ]
    test = tmp_path / "test.csv"
    faults += [
        ("warning", table, None, "2 of 56 rows repeat the text of another, and are in its split."),
        ("error", table, None, "classes 'Good', 'good' are nearly the same name."),
        ("warning", table, None, "classes have fewer than 3 examples"),
        ("warning", table, None, "'nan' are classes here. Are they missing values?"),
        ("warning", table, None, "class name 'a, b' has a comma."),
        ("error", test, 15, "label 'unknown' is not a class of"),
        ("warning", table, 2, f"is identical to {table}, line {after}: a copy weighs"),
        ("warning", table, 3, f"is identical to {table}, line {after + 1}, with different labels"),
        ("warning", table, 4, f"but for case and spaces identical to {table}, line {after + 2}"),
        (
            "warning",
            table,
            5,
            f"is identical to {test}, line 14, in --data and test: test measures memory",
        ),
        ("warning", table, after + 3, "of head 'label' have fewer than 10 examples: 'Good (3)'."),
        ("warning", table, after + 8, "class 'New folder' has the name of a new folder."),
        ("warning", table, after + 8, "more than 20 to 1."),
    ]
    faults.append(
        (
            "warning",
            table,
            52,
            ": the first of 1 of 70 texts of which --sequence_length=40 cuts off the end: it has "
            "at least 603 tokens, the longest 603. 603 would hold 99 of 100.",
        )
    )
    code, report = validate_texts(capsys, tmp_path, rows, test_rows, "--sequence_length=40")
    assert code == 2 and len(faults) > 25
    assert compare(report, faults) == ([], [])


def test_numbers(tmp_path, capsys):
    generator = np.random.default_rng(0)
    rows = [
        [f"{a:.4f}", f"{b:.4f}", name] for a, b in generator.normal(size=(30, 2)) for name in "x"
    ]
    rows = [[*row[:2], ("in", "out")[index % 2]] for index, row in enumerate(rows)]
    flags = ("--feature_columns=a,b", "--label_column=label")
    path = write_rows(tmp_path / "clean.csv", [["a", "b", "label"], *rows])
    code, report = validate(capsys, path, *flags)
    assert (code, report["problems"], report["input_kind"]) == (0, [], "columns")
    assert [column["name"] for column in report["columns"]] == ["a", "b", "label"]
    rows[4][0] = rows[9][0] = "-999"
    rows.append([*rows[0][:2], "out"])
    path = write_rows(
        tmp_path / "bad.csv", [["a", "b", "c", "label"], *[[*row[:2], "7", row[2]] for row in rows]]
    )
    code, report = validate(capsys, path, "--feature_columns=a,b,c", "--label_column=label")
    faults = [
        ("warning", path, None, "1 of 31 rows repeat the features of another"),
        ("warning", path, 2, "column 'c' has the same value in every row."),
        ("warning", path, 6, "column 'a' has -999 in 2 rows, and "),
        ("warning", path, 2, f"is equal in all features to {path}, line 32, with different labels"),
    ]
    assert code == 0 and compare(report, faults) == ([], [])


def test_what_training_refuses_and_what_it_says(tmp_path, classifier, capsys):
    root = tmp_path / "photos"
    images = write_clean_folder(root)
    images.copy("train/bird/00.png", "train/cat/same.png")
    images.copy("train/bird/01.png", "test/bird/leak.png")
    flags = [f"--model={classifier}", f"--data={root}", "--pixel_range=0..1", "--epochs=1"]
    assert main.main([*flags, f"--workdir={tmp_path / 'run'}"]) == 0
    said = capsys.readouterr()
    text = said.out + said.err
    assert (
        "1 of 19 test images are equal to a training image, so test numbers are too good: " in text
    )
    assert "1 images are equal to one with another label, so one of the labels is wrong: " in text
    for index in range(3):
        images.write(f"train/Cat/{index}.png")
    assert main.main([*flags, f"--workdir={tmp_path / 'other'}"]) == 2
    assert (
        f"error: {root}: classes 'Cat', 'cat' are nearly the same name. Rename one, or name all "
        "classes in --classes if they are to be told apart.\n"
    ) in capsys.readouterr().err
