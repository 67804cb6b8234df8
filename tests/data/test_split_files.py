import numpy as np
import pytest

from tf_finetune import findings
from tf_finetune.data import examples, split_files, splits


def test_split_file_round_trip(tmp_path):
    rows = [("cat/a b.jpg", "train"), ('d"o,g/\n.jpg', "test"), ("=1+1.jpg", "validation")]
    path = tmp_path / "split.csv"
    path.write_text(split_files.format_split_file(rows), encoding="utf-8")
    assert "\n./=1+1.jpg,validation\n" in path.read_text(encoding="utf-8")
    found = split_files.read_split_file(str(path))
    assert dict(zip(found.keys.tolist(), found.codes.tolist(), strict=True)) == {
        "cat/a b.jpg": splits.TRAIN,
        'd"o,g/\n.jpg': splits.TEST,
        "=1+1.jpg": splits.VALIDATION,
    }


def test_split_file_mistakes_are_all_named(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("key,split\na.jpg,train\nb.jpg,dev\na.jpg,test\n\nc.jpg\n", encoding="utf-8")
    with pytest.raises(findings.RefusedError) as caught:
        split_files.read_split_file(str(path))
    assert str(caught.value).split("\n") == [
        f"--split_file={path}, line 3: expected train, validation or test. Received 'dev'.",
        f"--split_file={path}, line 4: 'a.jpg' is there twice.",
        f"--split_file={path}, line 6: expected 2 columns (key,split). Received 1.",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, " cannot be read: No such file or directory. Expected a split.csv."),
        (b"", ", line 1: expected the header key,split of a run's split.csv."),
        (b"a,b\n", ", line 1: expected the header key,split of a run's split.csv."),
        (
            b"key,split\n\xff,train\n",
            " is no CSV in UTF-8. Expected a split.csv of an earlier run.",
        ),
    ],
)
def test_split_file_that_is_none(tmp_path, content, message):
    path = tmp_path / "split.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(findings.RefusedError) as caught:
        split_files.read_split_file(str(path))
    assert str(caught.value) == f"--split_file={path}{message}"


@pytest.mark.parametrize("rising", [True, False])
def test_keys_are_looked_up_whatever_their_order(tmp_path, rising):
    names = [f"{number:06d}/\u00fc{'x' * (number % 40)}" for number in range(40_000)]
    rows = [(name, examples.SPLIT_NAMES[number % 3]) for number, name in enumerate(names)]
    path = tmp_path / "split.csv"
    path.write_text(split_files.format_split_file(rows if rising else rows[::-1]), encoding="utf-8")
    found = split_files.read_split_file(str(path))
    keys = examples.object_array(["0", *names[::2], "zzz"])
    codes = found.find(keys)
    assert codes[0] == codes[-1] == splits.LEFT_OUT
    assert codes[1:-1].tolist() == [number % 3 for number in range(0, 40_000, 2)]
    assert found.find_others([keys[:500], keys[500:]]).tolist() == names[1::2]
    assert found.find(examples.object_array([])).tolist() == []


def test_a_file_of_no_example(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("key,split\n", encoding="utf-8")
    found = split_files.read_split_file(str(path))
    assert len(found) == 0
    assert found.find(examples.object_array(["a"])).tolist() == [splits.LEFT_OUT]
    assert found.find_others([examples.object_array(["a"])]).tolist() == []


def test_twice_is_told_at_the_second_line_of_an_unsorted_file(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text('key,split\nb,train\n"c\n",test\na,train\nb,test\nb,test\n', encoding="utf-8")
    with pytest.raises(findings.RefusedError) as caught:
        split_files.read_split_file(str(path))
    assert [problem.line for problem in caught.value.problems] == [6, 7]
    assert np.unique([problem.flag for problem in caught.value.problems]).tolist() == [
        "--split_file"
    ]
