import os
import unicodedata

import pytest

from tests.data import data_files
from tf_finetune import findings, specs
from tf_finetune.data import tables


def write_table(folder, text, *, encoding="utf-8"):
    path = folder / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return str(path)


@pytest.fixture
def photos(tmp_path):
    data_files.write_files(tmp_path, cat=3, dog=3)
    return tmp_path


def load(path, **options):
    return tables.load(specs.DataSpec(**options), path, flag="data")


def messages(part):
    return [problem.message for problem in part.problems]


@pytest.mark.parametrize("text", ["image,label\n", "\ufeffimage,label\r\n", "", "\ufeff"])
def test_header_or_none_with_or_without_bom(photos, text):
    path = write_table(photos, text + "dog/0.jpg,dog\ncat/1.jpg, cat \n\n./cat//0.jpg,cat\n")
    part = load(path)
    assert part.keys.tolist() == ["cat/0.jpg", "cat/1.jpg", "dog/0.jpg"]
    assert list(part.labels) == ["label"]
    assert part.labels["label"].tolist() == ["cat", "cat", "dog"]
    assert [os.fsdecode(name) for name in part.inputs.paths] == [
        str(photos / key) for key in part.keys
    ]
    first = 2 if "image" in text else 1
    assert part.lines.tolist() == [first + 3, first + 1, first]
    assert part.locate(0) == f"{path}, line {first + 3}"
    assert part.problems == ()


def test_columns_by_name(photos):
    path = write_table(photos, "breed,file,colour\nx,cat/0.jpg,red\ny,dog/0.jpg,blue\n")
    part = load(path, image_column="file")
    assert part.keys.tolist() == ["cat/0.jpg", "dog/0.jpg"]
    assert {name: cells.tolist() for name, cells in part.labels.items()} == {
        "breed": ["x", "y"],
        "colour": ["red", "blue"],
    }


def test_several_labels_in_a_cell(photos):
    path = write_table(
        photos, "image,tags,name\ncat/0.jpg,a | b|a,x\ncat/1.jpg,,y\ndog/0.jpg,b,z\n"
    )
    part = load(path)
    assert part.labels["tags"].tolist() == [("a", "b"), (), ("b",)]
    assert part.labels["name"].tolist() == ["x", "y", "z"]


def test_quoted_cells_and_their_lines(photos):
    data_files.write_named(photos, "a, b.jpg", "c..d.jpg")
    path = write_table(photos, 'image,label\n"a, b.jpg","x\ny"\nc..d.jpg,z\nnope.jpg,z\n')
    part = load(path)
    assert part.keys.tolist() == ["a, b.jpg", "c..d.jpg"]
    assert part.labels["label"].tolist() == ["x\ny", "z"]
    assert part.lines.tolist() == [2, 4]
    assert messages(part) == [
        f"{path}, line 5: 'nope.jpg' does not exist. Paths are relative to the table's folder."
    ]


def test_names_in_either_unicode_form(tmp_path):
    decomposed = unicodedata.normalize("NFD", "été.jpg")
    data_files.write_named(tmp_path, decomposed, "猫 [1].jpg")
    part = load(write_table(tmp_path, "été.jpg,a\n猫 [1].jpg,b\n"))
    assert part.keys.tolist() == ["été.jpg", "猫 [1].jpg"]
    assert all(os.path.exists(path) for path in part.inputs.paths)


def test_each_bad_row_has_its_line(photos):
    outside = photos.parent / "secret.jpg"
    outside.touch()
    os.mkfifo(photos / "pipe.jpg")
    (photos / "secret.txt").touch()
    (photos / "leak.jpg").symlink_to(photos / "secret.txt")
    path = write_table(
        photos,
        "image,breed,colour\n"
        "cat/0.jpg,x,y\n"
        "cat/1.jpg,x\n"
        "cat/1.jpg,x,y,z\n"
        "../secret.jpg,x,y\n"
        f"{outside},x,y\n"
        "cat/../../secret.jpg,x,y\n"
        "http://127.0.0.1/x.jpg,x,y\n"
        " ,x,y\n"
        "a\0.jpg,x,y\n"
        "cat,x,y\n"
        "pipe.jpg,x,y\n"
        "leak.jpg,x,y\n"
        "dog/9.jpg,x,y\n"
        "dog/0.jpg/1.jpg,x,y\n"
        f"{photos}/dog/0.jpg,x,y\n",
    )
    part = load(path)
    leaves = "leaves the table's folder. Expected a path of a file below it."
    assert messages(part) == [
        f"{path}, line 3: expected 3 columns (image, breed, colour). Received 2.",
        f"{path}, line 4: expected 3 columns (image, breed, colour). Received 4.",
        f"{path}, line 5: '../secret.jpg' {leaves}",
        f"{path}, line 6: '{outside}' {leaves}",
        f"{path}, line 7: 'cat/../../secret.jpg' {leaves}",
        f"{path}, line 8: 'http://127.0.0.1/x.jpg' is a URL. Expected the path of a file below the "
        "table's folder.",
        f"{path}, line 9: the path is empty.",
        f"{path}, line 10: 'a\\x00.jpg' is no path.",
        f"{path}, line 11: 'cat' is no regular file.",
        f"{path}, line 12: 'pipe.jpg' is no regular file.",
        f"{path}, line 13: 'leak.jpg' is a link to a file that is no image.",
        f"{path}, line 14: 'dog/9.jpg' does not exist. Paths are relative to the table's folder.",
        f"{path}, line 15: 'dog/0.jpg/1.jpg' cannot be opened: Not a directory.",
    ]
    assert part.keys.tolist() == ["cat/0.jpg", "dog/0.jpg"]
    assert {problem.path for problem in part.problems} == {path}
    assert [problem.line for problem in part.problems] == list(range(3, 16))


def test_links_out_of_the_folder_are_not_followed(photos, tmp_path_factory):
    outside = data_files.write_files(tmp_path_factory.mktemp("outside"), all=2)
    (photos / "a.jpg").symlink_to(outside / "all" / "0.jpg")
    (photos / "more").symlink_to(outside)
    (photos / "b.jpg").symlink_to(photos / "dog" / "0.jpg")
    text = "image,label\na.jpg,x\nmore/all/1.jpg,x\nb.jpg,x\ncat/0.jpg,y\n"
    path = write_table(photos, text)
    part = load(path)
    assert part.keys.tolist() == ["b.jpg", "cat/0.jpg"]
    reason = (
        "is, or lies behind, a link that leads out of the data folder (--follow_links reads such "
        "images, if you made the links yourself)."
    )
    assert messages(part) == [
        f"{path}, line 2: 'a.jpg' {reason}",
        f"{path}, line 3: 'more/all/1.jpg' {reason}",
    ]
    assert load(path, follow_links=True).keys.tolist() == [
        "a.jpg",
        "b.jpg",
        "cat/0.jpg",
        "more/all/1.jpg",
    ]


def test_missing_files_can_be_skipped_but_not_malformed_rows(photos):
    path = write_table(photos, "image,label\ncat/0.jpg,x\ncat/9.jpg,x\ncat/1.jpg\n")
    part = load(path, on_bad_example="skip")
    assert [problem.severity for problem in part.problems] == [findings.WARNING, findings.ERROR]
    assert part.problems[0].message == (
        f"{path}, line 3: 'cat/9.jpg' does not exist. Paths are relative to the table's folder. "
        "Skipped."
    )


def test_repeated_rows(photos):
    path = write_table(
        photos, "image,label\ncat/0.jpg,x\ncat/0.jpg,x\ncat/./1.jpg,x\ncat/1.jpg,y\n"
    )
    part = load(path)
    assert part.keys.tolist() == ["cat/0.jpg", "cat/1.jpg"]
    assert messages(part) == [
        f"{path}, line 5: 'cat/1.jpg' has other labels in line 4. Expected one row for each image; "
        'several labels are joined by "|".',
        f"{path}: 1 rows repeat another: lines 3. Skipped.",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": the file is empty. Expected rows path,label."),
        ("\n\n", ": the file is empty. Expected rows path,label."),
        (
            "image,label\n",
            ": no row below the header. Expected a row path,label for each image.",
        ),
        ("image\ncat/0.jpg\n", ", line 1: expected at least 2 columns (path,label). Received 1."),
        (
            "image;label\ncat/0.jpg;cat\n",
            ", line 1: expected at least 2 columns (path,label). Received 1. Is it separated by "
            "';'? Use commas.",
        ),
        (
            "cat/0.jpg,x,y\n",
            ", line 1: expected 2 columns (path,label) without a header. Received 3. Add a line "
            "with the names of the columns.",
        ),
        (
            "image,label,label\ncat/0.jpg,x,y\n",
            ", line 1: expected a name of its own for each column. Received image,label,label.",
        ),
        (
            "image,label,\ncat/0.jpg,x,y\n",
            ", line 1: expected a name of its own for each column. Received image,label,.",
        ),
        (
            'image,label\ncat/0.jpg,"x\n',
            ", line 2: no valid CSV: unexpected end of data. Is a quotation mark missing?",
        ),
    ],
)
def test_files_that_are_no_table(photos, text, message):
    path = write_table(photos, text)
    assert data_files.refusal(load, path) == [path + message]


def test_other_encodings_are_named(photos):
    path = write_table(photos, "image,label\ncat/0.jpg,a\ncat/1.jpg,été\n", encoding="latin-1")
    assert data_files.refusal(load, path) == [
        f"{path}, line 3: byte 0xe9 is not UTF-8. Save the file as UTF-8, or "
        "name its encoding with --encoding."
    ]


def test_unknown_image_column(photos):
    path = write_table(photos, "image,label\ncat/0.jpg,a\n")
    assert data_files.refusal(load, path, image_column="imgae") == [
        f"--image_column=imgae: {path} has no such column. Did you mean 'image'? It has 'image', "
        "'label'."
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, ["'0.png' does not exist. Paths are relative to the table's folder."]),
        ({"text_column": "text"},
         ["the text is empty. --on_bad_example=skip leaves such rows out."]),
        ({"feature_columns": "age=number"}, ["column 'age': expected a number. Received 'old'."]),
        ({"image_column": "image", "feature_columns": "age=number"},
         ["'0.png' does not exist. Paths are relative to the table's folder.",
          "column 'age': expected a number. Received 'old'."]),
        ({"text_column": "text", "feature_columns": "age=number"},
         ["the text is empty. --on_bad_example=skip leaves such rows out.",
          "column 'age': expected a number. Received 'old'."]),
    ],
)  # fmt: skip
def test_a_line_that_is_no_json_hides_no_other_mistake(tmp_path, options, told):
    (tmp_path / "1.png").write_bytes(b"x")
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"image": "1.png", "text": "a", "age": 3, "label": "a"}\n'
        '{"image": "1.png"\n'
        '{"image": "0.png", "text": "", "age": "old", "label": "a"}\n'
        '{"image": "1.png", "text": {}}\n'
    )
    spec = specs.DataSpec(data=str(path), **options)
    part = tables.load(spec, str(path), flag="data")
    assert len(part) == 1
    assert sorted(problem.message for problem in part.problems) == [
        f"{path}, line 2: no valid JSON: Expecting ',' delimiter at character 19. Expected an "
        "object on one line.",
        *(f"{path}, line 3: {message}" for message in sorted(told)),
        f"{path}, line 4: the value of 'text' is an object. Expected text, a number or a list of "
        "names.",
    ]
