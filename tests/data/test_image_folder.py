import os
import unicodedata

import pytest

from tests.data import data_files
from tf_finetune import findings, specs
from tf_finetune.data import examples, image_folder

SPEC = specs.DataSpec()


def load(folder, *, spec=SPEC):
    return image_folder.load(spec, str(folder), flag="data")


def test_keys_are_sorted_and_labels_are_folders(tmp_path):
    data_files.write_files(tmp_path, dog=2, cat=3)
    part = load(tmp_path)
    assert part.keys.tolist() == ["cat/0.jpg", "cat/1.jpg", "cat/2.jpg", "dog/0.jpg", "dog/1.jpg"]
    assert part.labels["label"].tolist() == ["cat"] * 3 + ["dog"] * 2
    assert part.splits is None
    assert part.problems == ()
    assert [os.fsdecode(path) for path in part.inputs.paths] == [
        str(tmp_path / key) for key in part.keys
    ]
    status = os.stat(tmp_path / "dog/1.jpg")
    assert part.stamps[4].tolist() == [status.st_size, status.st_mtime_ns]


def test_images_are_found_at_any_depth_and_by_every_ending(tmp_path):
    data_files.write_named(
        tmp_path,
        "cat/a/b/c.PNG",
        "cat/d.jpeg",
        "dog/e.JPG",
        "dog/f/g.webp",
        "dog/h.gif",
        "dog/i.bmp",
    )
    part = load(tmp_path)
    assert part.keys.tolist() == [
        "cat/a/b/c.PNG",
        "cat/d.jpeg",
        "dog/e.JPG",
        "dog/f/g.webp",
        "dog/h.gif",
        "dog/i.bmp",
    ]
    assert part.labels["label"].tolist() == ["cat"] * 2 + ["dog"] * 4


def test_names_in_any_script(tmp_path):
    decomposed = unicodedata.normalize("NFD", "été")
    names = ["a[1]*?/x {0}.jpg", f"{decomposed} 猫/my photo 🐶 (1).jpg", " קוף/ა.jpg"]
    data_files.write_named(tmp_path / "b[0] c", *names)
    part = load(tmp_path / "b[0] c")
    expected = sorted(unicodedata.normalize("NFC", name) for name in names)
    assert part.keys.tolist() == expected
    assert part.labels["label"].tolist() == [key.split("/")[0] for key in expected]
    assert all(os.path.exists(path) for path in part.inputs.paths)


def test_a_name_that_is_not_utf8_is_kept_and_said(tmp_path):
    data_files.write_named(tmp_path, b"cat/\xff\xe9.jpg", "dog/1.jpg")
    part = load(tmp_path)
    assert part.keys.tolist() == ["cat/\\xff\\xe9.jpg", "dog/1.jpg"]
    assert os.path.exists(part.inputs.paths[0])
    assert data_files.warnings_of(part.problems) == [
        f"{tmp_path}: 1 file names are not UTF-8, and split.csv writes their bytes as \\x..: "
        "'cat/\\xff\\xe9.jpg'."
    ]


def test_two_unicode_forms_of_a_name_are_refused(tmp_path):
    data_files.write_named(tmp_path, "cat/\u00e9.jpg", "cat/e\u0301.jpg", "dog/1.jpg")
    (problem,) = load(tmp_path).problems
    assert problem.message == (
        f"{tmp_path}/cat/é.jpg: two files have this name in different Unicode forms. Rename one of "
        "them."
    )


def test_what_is_left_aside_is_counted(tmp_path):
    data_files.write_files(tmp_path, cat=1, dog=1)
    data_files.write_named(
        tmp_path,
        ".DS_Store",
        "__MACOSX/._x.jpg",
        "cat/._0.jpg",
        "cat/Thumbs.db",
        "cat/b.tif",
        "cat/c.HEIC",
        "dog/d.tif",
        "dog/README",
        "notes.txt",
        "loose.jpg",
    )
    assert data_files.warnings_of(load(tmp_path).problems) == [
        f"{tmp_path}: left aside 1 images outside of class folders: 'loose.jpg'. Move them into "
        "the folder of their class.",
        f"{tmp_path}: left aside 4 hidden or repeated files and folders: '.DS_Store', '__MACOSX', "
        "'cat/._0.jpg', 'cat/Thumbs.db'.",
        f"{tmp_path}: left aside 5 files that are no JPEG, PNG, BMP, GIF or WebP (2 .tif, 1 .txt, "
        "1 .heic, 1 no ending): 'cat/b.tif', 'cat/c.HEIC', 'dog/README', 'dog/d.tif', "
        "'notes.txt'. Convert images of other formats first.",
    ]


def test_links(tmp_path):
    data_files.write_files(tmp_path / "store", all=3)
    data_files.write_named(tmp_path, "store/secret.txt", "store/3f2a")
    data_files.write_files(tmp_path / "photos", dog=1)
    cat = tmp_path / "photos" / "cat"
    cat.mkdir()
    (cat / "a.jpg").symlink_to(tmp_path / "store" / "all" / "0.jpg")
    (cat / "b.jpg").symlink_to(tmp_path / "store" / "3f2a")
    (cat / "leak.jpg").symlink_to(tmp_path / "store" / "secret.txt")
    (cat / "loop").symlink_to(cat)
    (cat / "up").symlink_to(tmp_path)
    (tmp_path / "photos" / "owl").symlink_to(tmp_path / "store" / "all")
    part = load(tmp_path / "photos", spec=specs.DataSpec(follow_links=True))
    assert part.keys.tolist() == [
        "cat/a.jpg",
        "cat/b.jpg",
        "dog/0.jpg",
        "owl/0.jpg",
        "owl/1.jpg",
        "owl/2.jpg",
    ]
    first, second = data_files.warnings_of(part.problems)
    assert first.endswith(
        "left aside 2 hidden or repeated files and folders: 'cat/loop', 'cat/up'."
    )
    assert "'cat/leak.jpg'" in second


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    data_files.write_files(tmp_path / "store", all=3)
    photos = data_files.write_files(tmp_path / "photos", cat=2, dog=2)
    data_files.write_named(photos, "dog/inner/5.jpg")
    (photos / "cat" / "a.jpg").symlink_to(tmp_path / "store" / "all" / "0.jpg")
    (photos / "cat" / "here.jpg").symlink_to(photos / "dog" / "1.jpg")
    (photos / "cat" / "more").symlink_to(tmp_path / "store")
    (photos / "owl").symlink_to("../store/all")
    # A folder beside that begins with the same letters is no part of this one.
    (tmp_path / "photos2").mkdir()
    (photos / "dog" / "2.jpg").symlink_to(tmp_path / "photos2" / "x.jpg")
    (tmp_path / "link").symlink_to(photos)
    for root in (photos, tmp_path / "link"):
        part = load(root)
        assert part.keys.tolist() == [
            "cat/0.jpg",
            "cat/1.jpg",
            "cat/here.jpg",
            "dog/0.jpg",
            "dog/1.jpg",
            "dog/inner/5.jpg",
        ]
        reason = (
            "is a link that leads out of the data folder (--follow_links reads such images, if you "
            "made the links yourself). Remove it, or give --on_bad_example=skip."
        )
        assert [(problem.severity, problem.message) for problem in part.problems] == [
            (findings.ERROR, f"{root}/{name} {reason}")
            for name in ("cat/a.jpg", "cat/more", "dog/2.jpg", "owl")
        ]
    skipped = load(photos, spec=specs.DataSpec(on_bad_example="skip"))
    assert len(data_files.warnings_of(skipped.problems)) == 4


def test_links_and_paths_without_end(tmp_path):
    photos = data_files.write_files(tmp_path / "photos", cat=2, dog=2)
    (photos / "loop.jpg").symlink_to("loop.jpg")
    (photos / "cat" / "loop.jpg").symlink_to("loop.jpg")
    here = os.open(photos / "dog", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 250, dir_fd=here)
        inner = os.open("x" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    part = load(photos)
    assert len(part) == 4
    messages = [problem.message for problem in part.problems]
    assert [message.split(" cannot be opened: ")[1] for message in messages] == [
        "Too many levels of symbolic links. Remove it, or give --on_bad_example=skip.",
        "Too many levels of symbolic links. Remove it, or give --on_bad_example=skip.",
        "File name too long. Remove it, or give --on_bad_example=skip.",
    ]


def test_what_is_no_file_is_never_opened(tmp_path):
    data_files.write_files(tmp_path, cat=1, dog=1)
    os.mkfifo(tmp_path / "cat" / "x.jpg")
    (tmp_path / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    part = load(tmp_path)
    assert part.keys.tolist() == ["cat/0.jpg", "dog/0.jpg"]
    advice = "Remove it, or give --on_bad_example=skip."
    assert [(problem.severity, problem.message) for problem in part.problems] == [
        (
            findings.ERROR,
            f"{tmp_path}/cat/x.jpg is no regular file but a FIFO, socket or device. {advice}",
        ),
        (
            findings.ERROR,
            f"{tmp_path}/dog/gone.jpg cannot be opened: No such file or directory. {advice}",
        ),
    ]
    skipped = load(tmp_path, spec=specs.DataSpec(on_bad_example="skip"))
    assert data_files.warnings_of(skipped.problems)[0] == (
        f"{tmp_path}/cat/x.jpg is no regular file but a FIFO, socket or device. Skipped."
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "test"], {"train": "train", "test": "test"}),
        (["Training", "VALID"], {"Training": "train", "VALID": "validation"}),
        (["train", "val", "testing"], {"train": "train", "val": "validation", "testing": "test"}),
        (["train"], {"train": "train"}),
        (["test", "validation"], None),
        (["train", "val", "valid"], None),
        (["train", "test", "boat"], None),
        (["cat", "dog"], None),
        ([], None),
    ],
)
def test_find_split_folders(names, expected):
    assert image_folder.find_split_folders(names) == expected


def test_split_folders_are_kept(tmp_path):
    data_files.write_files(tmp_path / "train", cat=2, dog=2)
    data_files.write_files(tmp_path / "val", cat=1, dog=1)
    part = load(tmp_path)
    assert part.keys.tolist() == [
        "train/cat/0.jpg",
        "train/cat/1.jpg",
        "train/dog/0.jpg",
        "train/dog/1.jpg",
        "val/cat/0.jpg",
        "val/dog/0.jpg",
    ]
    assert [examples.SPLIT_NAMES[code] for code in part.splits] == ["train"] * 4 + [
        "validation"
    ] * 2
    assert part.labels["label"].tolist() == ["cat", "cat", "dog", "dog", "cat", "dog"]


def test_what_is_left_aside_in_split_folders(tmp_path):
    data_files.write_files(tmp_path / "train", cat=1, dog=1)
    data_files.write_named(tmp_path, "train/.DS_Store", "train/labels.txt")
    hidden, unsupported = data_files.warnings_of(load(tmp_path).problems)
    assert hidden.endswith("left aside 1 hidden or repeated files and folders: 'train/.DS_Store'.")
    assert "(1 .txt): 'train/labels.txt'." in unsupported


def test_a_folder_that_cannot_be_listed(tmp_path):
    assert data_files.refusal(load, tmp_path / "gone") == [
        f"{tmp_path}/gone cannot be listed: No such file or directory."
    ]


def test_a_class_named_test_beside_others_is_a_class(tmp_path):
    data_files.write_files(tmp_path, test=1, boat=1)
    part = load(tmp_path)
    assert part.splits is None and part.problems == ()
    assert part.labels["label"].tolist() == ["boat", "test"]


def test_vehicles_with_a_train_are_classes_and_it_is_said(tmp_path):
    data_files.write_files(tmp_path, train=1, boat=1)
    part = load(tmp_path)
    assert part.labels["label"].tolist() == ["boat", "train"]
    assert data_files.warnings_of(part.problems) == [
        f"{tmp_path}: 'train' are read as classes, because they are not one folder each of train, "
        "validation and test alone. Found: 'boat', 'train'."
    ]


def test_empty_class_folders(tmp_path):
    data_files.write_files(tmp_path / "train", cat=1, dog=1, owl=0)
    data_files.write_files(tmp_path / "test", cat=1, dog=0)
    assert [(problem.severity, problem.message) for problem in load(tmp_path).problems] == [
        (
            findings.WARNING,
            f"{tmp_path}/test/dog: the class folder has no image. Add some, or remove the folder.",
        ),
        (
            findings.ERROR,
            f"{tmp_path}/train/owl: the class folder has no image. Add some, or remove the folder.",
        ),
    ]


EXPECTED = "Expected a folder for each class, with JPEG, PNG, BMP, GIF or WebP files in it."


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], f"is empty. {EXPECTED}"),
        (["1.jpg", "2.png"], f"has 2 images but no class folder with an image. {EXPECTED}"),
        (["cat/1.tif"], f"has no image among its 1 files ('cat/1.tif'). {EXPECTED}"),
        (["cat/.x"], f"has class folders without any image: 'cat'. {EXPECTED}"),
    ],
)
def test_folders_without_examples(tmp_path, names, message):
    data_files.write_named(tmp_path, *names)
    assert data_files.refusal(load, tmp_path) == [f"--data={tmp_path} {message}"]


def test_terminal_codes_in_names_are_escaped(tmp_path):
    data_files.write_named(tmp_path, "cat/\x1b[31m.jpg/x.jpg", "dog/\n\x1b]0;x.jpg")
    os.mkfifo(tmp_path / "dog" / "\x1b[2J.jpg")
    part = load(tmp_path)
    assert len(part) == 2
    assert all(problem.message.isprintable() for problem in part.problems)


def test_a_folder_too_many(tmp_path):
    data_files.write_files(tmp_path / "photos" / "unpacked", cat=3, dog=3)
    part = load(tmp_path / "photos")
    assert data_files.warnings_of(part.problems) == [
        f"{tmp_path}/photos: all images are in folders of the only folder. Did you mean "
        f"--data={tmp_path}/photos/unpacked?"
    ]
    assert load(tmp_path / "photos" / "unpacked").problems == ()
