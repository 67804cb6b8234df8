"""What --input names, and what --output holds."""

import csv
import json
import os
import re
import socket

import numpy as np
import pytest

from tf_finetune import findings, head_kinds, prediction_files, prediction_masks

LABEL = head_kinds.HeadInfo("label", "multiclass", ("cat", "dog", "=owl"))
TAGS = head_kinds.HeadInfo("tags", "multilabel", ("day", "rain"), thresholds=(0.5, 0.5))


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def touch(*names):
    for name in names:
        path = os.fsencode(name)
        os.makedirs(os.path.dirname(path) or b".", exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"x")


def refused(*inputs):
    with pytest.raises(findings.RefusedError) as caught:
        prediction_files.iterate_inputs(inputs)
    assert all(problem.flag == "--input" for problem in caught.value.problems)
    return [problem.message for problem in caught.value.problems]


def label(*, classes=("cat",), probabilities=(0.75,), predicted=("cat",)):
    return prediction_files.HeadPrediction(predicted, classes, probabilities)


def write(rows, name, *, heads=(LABEL,), top_k=1):
    counts = prediction_files.write_predictions(iter(rows), name, heads=heads, top_k=top_k)
    with open(name, encoding="utf-8", newline="") as file:
        return counts, file.read()


def test_folder_is_searched_in_the_order_of_names():
    touch(
        "in/b.jpg",
        "in/a/2.PNG",
        "in/a/10.webp",
        "in/a[1]/x (y).gif",
        "in/猫.bmp",
        "in/caf\udce9.jpeg",
        "in/.hidden.jpg",
        "in/.git/x.jpg",
        "in/__MACOSX/b.jpg",
        "in/notes.txt",
        "in/Thumbs.db",
    )
    assert prediction_files.iterate_inputs(("in",)) == [
        "in/a/10.webp",
        "in/a/2.PNG",
        "in/a[1]/x (y).gif",
        "in/b.jpg",
        "in/caf\udce9.jpeg",
        "in/猫.bmp",
    ]


def test_links_are_followed_once_and_only_to_images():
    touch("in/sub/a.jpg", "secret.txt", "far/b.jpg")
    os.symlink("..", "in/sub/loop")
    os.symlink("../secret.txt", "in/secret.jpg")
    os.symlink("../far", "in/far")
    os.symlink("sub/a.jpg", "in/link.jpg")
    assert prediction_files.iterate_inputs(("in",)) == [
        "in/far/b.jpg",
        "in/link.jpg",
        "in/sub/a.jpg",
    ]


def test_files_are_taken_as_they_are_in_the_order_given():
    touch("b.dat", "a.jpg", "in/c.jpg")
    assert prediction_files.iterate_inputs(("b.dat", "in", "a.jpg")) == [
        "b.dat",
        "in/c.jpg",
        "a.jpg",
    ]


def test_every_bad_input_is_told():
    touch("in/notes.txt", "a.jpg")
    os.mkfifo("pipe")
    assert refused("in", "a.jpg", "b\n.jpg", "pipe") == [
        "--input=in holds no image. Expected files that end in .bmp, .gif, .jfif, .jpeg, .jpg, "
        ".png, .webp.",
        "--input=b\\n.jpg does not exist. Expected an image, a folder or a .csv.",
        "--input=pipe is no regular file but a FIFO, socket or device.",
    ]
    assert refused() == ["--input is needed: an image, a folder or a .csv."]


def test_folder_that_cannot_be_listed():
    touch("in/sub/a.jpg")
    os.chmod("in/sub", 0)
    try:
        if os.access("in/sub", os.R_OK):
            pytest.skip("root may list everything")
        assert refused("in") == ["--input: in/sub cannot be listed: Permission denied."]
    finally:
        os.chmod("in/sub", 0o755)


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg\nsub/b c.jpg\n",
        "a.jpg,cat\nsub/b c.jpg,dog\n",
        "file,label\na.jpg,cat\nsub/b c.jpg,dog\n",
        "id,Path\n7,a.jpg\n\n8,sub/b c.jpg\n",
        '\ufeffid,path\r\n7,a.jpg\r\n8,"sub/b c.jpg"\r\n',
    ],
)
def test_table_names_images_relative_to_itself(text):
    touch("tables/a.jpg", "tables/sub/b c.jpg")
    with open("tables/list.csv", "w", encoding="utf-8", newline="") as file:
        file.write(text)
    assert prediction_files.iterate_inputs(("tables/list.csv",)) == [
        "tables/a.jpg",
        "tables/sub/b c.jpg",
    ]


def test_table_may_name_absolute_paths_and_files_without_an_ending(tmp_path):
    touch("far/b.jpg", "tables/noending")
    with open("tables/list.csv", "w", encoding="utf-8") as file:
        file.write(f"noending\n{tmp_path}/far/b.jpg\n")
    assert prediction_files.iterate_inputs(("tables/list.csv",)) == [
        "tables/noending",
        f"{tmp_path}/far/b.jpg",
    ]


def test_own_output_is_an_input_again():
    touch("a.jpg", "b.jpg")
    rows = [prediction_files.Prediction(name, {"label": label()}) for name in ("a.jpg", "b.jpg")]
    write(rows, "out.csv")
    assert prediction_files.iterate_inputs(("out.csv",)) == ["a.jpg", "b.jpg"]


def test_table_tells_every_bad_line():
    touch("a.jpg")
    os.mkdir("folder.jpg")
    with open("list.csv", "w", encoding="utf-8") as file:
        file.write(
            "label,path\ncat,a.jpg\ncat,b\x1b.jpg\ncat\ncat,http://e/x.jpg\ncat,folder.jpg\n"
        )
    missing = "'b\\x1b.jpg' does not exist. Paths are relative to the table's folder."
    assert refused("list.csv") == [
        f"list.csv, line 3: {missing}",
        "list.csv, line 4: the path is empty.",
        "list.csv, line 5: 'http://e/x.jpg' is a URL. Expected the path of a file.",
        "list.csv, line 6: 'folder.jpg' is no regular file.",
    ]


def test_table_shows_the_first_five_of_many_bad_lines():
    with open("list.csv", "w", encoding="utf-8") as file:
        file.writelines(f"{number}.jpg\n" for number in range(40))
    messages = refused("list.csv")
    assert len(messages) == 6
    assert messages[4].startswith("list.csv, line 5: '4.jpg' does not exist.")
    assert messages[5] == "list.csv: and 35 more."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "list.csv: the file is empty. Expected rows with a path for each image."),
        (b"\n\n", "list.csv: the file is empty. Expected rows with a path for each image."),
        (b"path\n", "list.csv: no row below the header. Expected a path in each."),
        (
            b"path\ncaf\xe9.jpg\n",
            "list.csv, line 2: byte 0xe9 is not UTF-8. Save the file as UTF-8, or name its "
            "encoding with --encoding.",
        ),
        (
            b'path\n"a.jpg\nb.jpg\n',
            "list.csv, line 2: no valid CSV: unexpected end of data. Is a quotation mark missing?",
        ),
        (b"path\na\0.jpg\n", "list.csv, line 2: 'a\\x00.jpg' is no path."),
    ],
)
def test_table_that_is_no_table(content, message):
    with open("list.csv", "wb") as file:
        file.write(content)
    assert refused("list.csv") == [message]


def test_csv_of_one_class():
    rows = [
        prediction_files.Prediction("a.jpg", {"label": label(probabilities=(0.1234567891,))}),
        prediction_files.Prediction("b.jpg", {}, error="does not exist"),
    ]
    counts, text = write(rows, "out.csv")
    assert text == "path,class,probability,error\na.jpg,cat,0.1234568,\nb.jpg,,,does not exist\n"
    assert counts == prediction_files.WrittenPredictions(num_predicted=1, num_errors=1)


def test_csv_of_top_k_is_as_wide_as_the_head_has_classes():
    row = prediction_files.Prediction(
        "a.jpg", {"label": label(classes=("cat", "dog", "=owl"), probabilities=(0.7, 0.2, 1e-9))}
    )
    _, text = write([row], "out.csv", top_k=9)
    assert text == (
        "path,class_1,probability_1,class_2,probability_2,class_3,probability_3,error\n"
        "a.jpg,cat,0.7,dog,0.2,'=owl,1e-09,\n"
    )


def test_csv_of_several_heads_with_a_multilabel_one():
    tags = label(classes=("rain",), probabilities=(0.9,), predicted=("rain", "day"))
    none = label(classes=("rain",), probabilities=(0.1,), predicted=())
    rows = [
        prediction_files.Prediction("a.jpg", {"label": label(), "tags": tags}),
        prediction_files.Prediction("b.jpg", {"label": label(), "tags": none}),
    ]
    _, text = write(rows, "out.csv", heads=(LABEL, TAGS))
    assert text == (
        "path,label_class,label_probability,tags_classes,tags_class,tags_probability,error\n"
        "a.jpg,cat,0.75,rain|day,rain,0.9,\n"
        "b.jpg,cat,0.75,,rain,0.1,\n"
    )


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=cmd.jpg", "'=cmd.jpg"),
        ("+1.jpg", "'+1.jpg"),
        ("-1.jpg", "'-1.jpg"),
        ("@x.jpg", "'@x.jpg"),
        ("\t=x.jpg", "'\\t=x.jpg"),
        ("\r=x.jpg", "'\\r=x.jpg"),
        ("a\n\x1b[31m.jpg", "a\\n\\x1b[31m.jpg"),
        ('a,"b".jpg', 'a,"b".jpg'),
        ("caf\udce9 猫.jpg", "caf\\udce9 猫.jpg"),
        ("a=b.jpg", "a=b.jpg"),
    ],
)
def test_csv_cells_are_no_formulas_and_one_line(name, cell):
    _, text = write([prediction_files.Prediction(name, {"label": label()})], "out.csv")
    assert list(csv.reader(text.splitlines()))[1][0] == cell


def test_jsonl():
    tags = label(classes=("rain", "day"), probabilities=(0.9, 0.123456789), predicted=("rain",))
    rows = [
        prediction_files.Prediction("=a.jpg", {"tags": tags}),
        prediction_files.Prediction("b.jpg", {}, error="does not exist"),
    ]
    counts, text = write(rows, "out.jsonl", heads=(TAGS,), top_k=2)
    assert [json.loads(line) for line in text.split("\n")[:-1]] == [
        {
            "path": "=a.jpg",
            "predictions": {
                "tags": {
                    "predicted": ["rain"],
                    "classes": ["rain", "day"],
                    "probabilities": [0.9, 0.1234568],
                }
            },
        },
        {"path": "b.jpg", "error": "does not exist"},
    ]
    assert counts == prediction_files.WrittenPredictions(num_predicted=1, num_errors=1)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a\n\x1b\u2028\x85\U000e0001.jpg", "a\n\x1b\u2028\x85\U000e0001.jpg"),
        ('"\\é猫😀.jpg', '"\\é猫😀.jpg'),
        ("caf\udce9.jpg", "caf\\udce9.jpg"),
    ],
)
def test_jsonl_is_one_line_for_every_reader(name, path):
    _, text = write([prediction_files.Prediction(name, {"label": label()})], "out.jsonl")
    (line,) = text.splitlines()
    assert json.loads(line)["path"] == path
    assert line.isprintable()


def test_rows_are_written_as_they_come_and_named_at_the_end():
    def rows():
        for number in range(3000):
            yield prediction_files.Prediction(f"{number}.jpg", {"label": label()})
        assert not os.path.exists("deep/out.csv")
        (temporary,) = os.listdir("deep")
        assert os.path.getsize(f"deep/{temporary}") > 10_000

    counts = prediction_files.write_predictions(rows(), "deep/out.csv", heads=(LABEL,), top_k=1)
    assert counts.num_predicted == 3000
    assert os.listdir("deep") == ["out.csv"]


def test_former_file_survives_a_failure():
    with open("out.csv", "w", encoding="utf-8") as file:
        file.write("precious")

    def rows():
        yield prediction_files.Prediction("a.jpg", {"label": label()})
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        prediction_files.write_predictions(rows(), "out.csv", heads=(LABEL,), top_k=1)
    assert os.listdir() == ["out.csv"]
    with open("out.csv", encoding="utf-8") as file:
        assert file.read() == "precious"


def test_full_disk():
    def rows():
        yield prediction_files.Prediction("a.jpg", {"label": label()})
        raise OSError(28, "No space left on device")

    with pytest.raises(findings.RefusedError) as caught:
        prediction_files.write_predictions(rows(), "out.csv", heads=(LABEL,), top_k=1)
    assert re.fullmatch(
        r"--output=out\.csv cannot be written: No space left on device, [\d.]+ \w+ free\. A former "
        r"file is as it was: make room there, and run the same command again\.",
        str(caught.value),
    )
    assert os.listdir() == []


def test_outputs_that_could_not_be_written():
    touch("list.csv", "file")
    os.mkdir("folder.csv")
    os.symlink("list.csv", "link.csv")
    also = "is also an --input, which would be lost. Choose another name."
    expected = {
        "out.txt": "--output=out.txt must end in .csv or .jsonl.",
        "folder.csv": "--output=folder.csv is a folder. Expected the name of a file.",
        "list.csv": f"--output=list.csv {also}",
        "./link.csv": f"--output=./link.csv {also}",
        "file/out.csv": f"--output=file/out.csv cannot be written: {os.getcwd()}/file is not a "
        "folder.",
    }
    for path, message in expected.items():
        with pytest.raises(findings.RefusedError) as caught:
            prediction_files.check_output(path, inputs=("list.csv", "missing.jpg"))
        assert str(caught.value) == message
    prediction_files.check_output("new/folder/OUT.JSONL", inputs=("list.csv", "missing.jpg"))
    assert not os.path.exists("new")


def test_output_without_permission():
    os.mkdir("locked", 0o500)
    if os.access("locked", os.W_OK):
        pytest.skip("root may write everywhere")
    with pytest.raises(findings.RefusedError) as caught:
        prediction_files.check_output("locked/out.csv")
    assert str(caught.value) == (
        f"--output=locked/out.csv cannot be written: no permission in {os.getcwd()}/locked."
    )


def test_socket_in_a_folder_is_listed_and_left_to_the_reader():
    touch("in/a.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("in/s.jpg")
        assert prediction_files.iterate_inputs(("in",)) == ["in/a.jpg", "in/s.jpg"]


AGE = head_kinds.HeadInfo("age", "regression", ())


def test_numbers_have_a_column_or_a_key():
    number = prediction_files.HeadPrediction((), (), (), number=12.345678901)
    rows = [
        prediction_files.Prediction("a.jpg", {"age": number, "label": label()}),
        prediction_files.Prediction("b.jpg", {}, error="does not exist"),
    ]
    assert write(rows, "out.csv", heads=(AGE, LABEL))[1] == (
        "path,age_prediction,label_class,label_probability,error\n"
        "a.jpg,12.34568,cat,0.75,\n"
        "b.jpg,,,,does not exist\n"
    )
    _, text = write(rows[:1], "out.jsonl", heads=(AGE,))
    assert json.loads(text) == {"path": "a.jpg", "predictions": {"age": {"prediction": 12.34568}}}


def test_a_line_that_is_no_json_is_told_with_the_others(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"path": "none.png"}\n[1]\n{"path": ["a"]}\n')
    with pytest.raises(findings.RefusedError) as caught:
        prediction_files.iterate_inputs((str(path),))
    first, *others = [problem.message for problem in caught.value.problems]
    assert first.startswith(f"{path}, line 1: ")
    assert others == [
        f"{path}, line 2: expected an object such as {{...}}. Received another value.",
        f"{path}, line 3: expected a path. Received a list.",
    ]


MASK = head_kinds.HeadInfo("mask", "segmentation", ("a", "b"))


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_prediction_can_be_repeated(name, error):
    mask = prediction_files.HeadPrediction(
        (), MASK.classes, (1.0, 0.0), mask=np.zeros((2, 3), np.uint8)
    )
    rows = [prediction_files.Prediction(f"{n}.png", {"mask": mask}) for n in range(2)]

    def stop():
        yield rows[0]
        raise error

    with pytest.raises((KeyboardInterrupt, findings.RefusedError)):
        write(stop(), name, heads=(MASK,))
    assert os.listdir() == []
    prediction_masks.check_folder(name, (MASK,), inputs=[])
    assert write(rows, name, heads=(MASK,))[0].num_predicted == 2
    assert sorted(os.listdir()) == [name, "out_masks"]
    assert sorted(os.listdir("out_masks")) == ["0.png", "1.png"]
    prediction_masks.check_folder(name, (MASK,), inputs=[])
