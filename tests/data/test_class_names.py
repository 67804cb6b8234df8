import numpy as np
import pytest

from tf_finetune import findings
from tf_finetune.data import class_names, examples, text_store


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "Cat"),
        ("golden retriever", "golden_retriever"),
        ("golden-retriever", "Golden  Retriever"),
        ("caf\u00e9", "cafe\u0301"),
        ("cat", "cat\u200b"),
        ("cat", "cat (1)"),
        ("cat", "cat - Copy"),
        ("\uff21\uff22", "ab"),
    ],
)
def test_names_that_are_one_to_a_reader(names):
    assert len(set(map(class_names.fold, names))) == 1


@pytest.mark.parametrize(
    "names", [("A", "a"), ("-1", "1"), ("1 1", "11"), ("c", "c#"), ("cat", "cats"), ("+", "-")]
)
def test_names_that_are_two(names):
    assert len(set(map(class_names.fold, names))) == 2


def test_twins():
    texts = text_store.Texts(np.array(["x"], object))
    keys, lines = np.array(["x"], object), np.array([2])
    table = examples.Examples("a.csv", keys, texts, {}, lines=lines)
    names = ("Cat", "New_York", "cat", "dog", "new york")
    found = class_names.find_twins(table, names, single=True)
    advice = "Rename one, or name all classes in --classes if they are to be told apart."
    assert [problem.message for problem in found] == [
        f"a.csv: classes 'Cat', 'cat' are nearly the same name. {advice}",
        f"a.csv: classes 'New_York', 'new york' are nearly the same name. {advice}",
    ]
    assert {problem.severity for problem in found} == {findings.ERROR}
    others = examples.Examples("tfds:x", keys, texts, {})
    for part, single in ((table, False), (others, True)):
        found = class_names.find_twins(part, names, single=single)
        assert [problem.severity for problem in found] == [findings.WARNING] * 2


def test_names_of_new_folders():
    assert class_names.is_junk("New Folder (2)") and class_names.is_junk("untitled folder")
    assert not class_names.is_junk("new folders") and not class_names.is_junk("folder")
