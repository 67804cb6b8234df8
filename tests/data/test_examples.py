import dataclasses

import numpy as np
import pytest

from tf_finetune import findings
from tf_finetune.data import examples, image_stores, json_rows


def make_part(**options):
    defaults = {
        "source": "photos",
        "keys": examples.object_array(["a\x1b.jpg", "b.jpg"]),
        "inputs": image_stores.ArrayImages(np.zeros((2, 1, 1, 1), np.uint8)),
        "labels": {"label": examples.object_array(["x", "y"])},
    }
    return examples.Examples(**(defaults | options))


def test_object_array_keeps_tuples_of_one_length():
    array = examples.object_array([("a", "b"), ("c", "d")])
    assert array.shape == (2,) and array[1] == ("c", "d")
    assert examples.object_array([]).shape == (0,)


def test_places_of_examples():
    stamps = np.zeros((2, 2), np.int64)
    assert make_part(stamps=stamps).locate(0) == "photos/a\\x1b.jpg"
    assert make_part(source="tfds:x").locate(1) == "tfds:x, example b.jpg"
    table = make_part(source="a.csv", stamps=stamps, lines=np.array([4, 9]))
    assert table.problem(1, "is odd.", flag="--head") == findings.Problem(
        "a.csv, line 9: is odd.", path="a.csv", line=9, flag="--head"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Labell", " Did you mean 'label'?"),
        ("LABEL", " Did you mean 'label'?"),
        ("xyz", ""),
        ("imge", " Did you mean 'Image'?"),
    ],
)
def test_nearest_name(name, expected):
    assert examples.nearest_name(name, ["label", "Image"]) == expected


def test_find_duplicates():
    assert examples.find_duplicates(["a", "b", "b", "b", "c", "d", "d"]) == ["b", "d"]


def test_cut_problems_counts_for_each_file():
    problems = [findings.Problem("no class", path="a.csv")]
    problems += [
        findings.Problem(f"{path} {line}", path=path, line=line)
        for line in range(1, 8)
        for path in ("a.csv", "b.csv")
    ]
    cut = [problem.message for problem in examples.cut_problems(problems)]
    assert cut == [
        "no class",
        *(f"{path} {line}" for line in range(1, 5) for path in ("a.csv", "b.csv")),
        "a.csv 5",
        "a.csv: and 2 more.",
        "b.csv 5",
        "b.csv: and 2 more.",
    ]
    assert examples.cut_problems(problems[:11]) == problems[:11]


def test_cut_problems_shows_the_first_lines_of_a_file():
    def line(path, number):
        return findings.Problem(f"{path} {number}", path=path, line=number)

    other = findings.Problem("no class", path="a.csv")
    problems = [line("a.csv", 9), line("b.csv", 3), other, line("b.csv", 2), line("a.csv", 8)]
    problems += [line("a.csv", number) for number in (7, 2, 10, 3)]
    cut = [problem.message for problem in examples.cut_problems(problems)]
    assert cut == [
        *("a.csv 2", "b.csv 2", "no class", "b.csv 3"),
        *("a.csv 3", "a.csv 7", "a.csv 8", "a.csv 9", "a.csv: and 1 more."),
    ]


def test_fingerprint_covers_everything_that_matters():
    part = make_part(stamps=np.array([[1, 2], [3, 4]]))
    others = [
        dataclasses.replace(part, stamps=np.array([[1, 2], [3, 5]])),
        dataclasses.replace(part, keys=examples.object_array(["a", "b.jpg"])),
        dataclasses.replace(part, labels={"label": examples.object_array(["x", "x"])}),
        dataclasses.replace(part, labels={"other": examples.object_array(["x", "y"])}),
        dataclasses.replace(part, identity="mnist/3.0.1"),
        dataclasses.replace(part, splits=np.zeros(2, np.int8)),
    ]
    prints = {examples.fingerprint([one]) for one in (part, *others)}
    assert len(prints) == 7
    assert examples.fingerprint([part]) == examples.fingerprint([dataclasses.replace(part)])
    assert examples.fingerprint([part, part]) not in prints


def test_the_fingerprint_covers_every_element_of_a_list():
    cells = [json_rows.ListCell.make(text) for text in ("OOB", "OBB", "OB")]
    prints = {
        examples.fingerprint([make_part(labels={"tags": examples.object_array([cell, ""])})])
        for cell in (*cells, ("O", "B"))
    }
    # Where nothing is repeated a list is the names in it.
    assert len(prints) == 3
