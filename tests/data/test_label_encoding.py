import numpy as np
import pytest

from tests.data import data_files
from tf_finetune import specs
from tf_finetune.data import examples, image_stores, label_encoding

SPEC = specs.DataSpec()
HEAD = specs.HeadSpec()


def make_part(*, source="labels.csv", **columns):
    total = len(next(iter(columns.values())))
    return examples.Examples(
        source=source,
        keys=examples.object_array([f"{number}.jpg" for number in range(total)]),
        inputs=image_stores.ArrayImages(np.zeros((total, 1, 1, 1), np.uint8)),
        labels={name: examples.object_array(list(cells)) for name, cells in columns.items()},
        lines=np.arange(2, total + 2),
    )


def read(*parts, spec=SPEC, heads=(HEAD,)):
    found, problems = label_encoding.read_heads(list(parts), spec, heads=heads)
    return found, [problem.message for problem in problems]


def test_one_column_of_names():
    (head,), problems = read(make_part(label=["dog", "cat"] * 3))
    assert problems == []
    assert (head.info.name, head.info.kind, head.column) == ("label", "multiclass", "label")
    assert head.info.classes == ("cat", "dog")
    assert head.info.thresholds == ()
    assert head.labels[0].tolist() == ["dog", "cat"] * 3


def test_binary_and_multilabel():
    tags = [("a", "b"), (), ("b",), ("a",)] * 3
    heads = (
        specs.HeadSpec(name="tags"),
        specs.HeadSpec(name="ok", kind="binary"),
        specs.HeadSpec(name="single", label="ok", kind="multilabel"),
    )
    found, problems = read(make_part(tags=tags, ok=["no", "yes"] * 6), heads=heads)
    assert problems == []
    assert [(head.info.kind, head.info.classes, head.info.thresholds) for head in found] == [
        ("multilabel", ("a", "b"), (0.5, 0.5)),
        ("binary", ("no", "yes"), (0.5,)),
        ("multilabel", ("no", "yes"), (0.5, 0.5)),
    ]
    assert found[2].labels[0].tolist()[:2] == [("no",), ("yes",)]


def test_classes_keep_the_order_that_is_asked_for(tmp_path):
    part = make_part(label=["cat", "dog"] * 3)
    (head,), _ = read(part, spec=specs.DataSpec(classes="dog,cat"))
    assert head.info.classes == ("dog", "cat")
    (tmp_path / "names.txt").write_text("\ufeffdog\n\n cat \n", encoding="utf-8")
    (head,), _ = read(part, spec=specs.DataSpec(classes=f"@{tmp_path}/names.txt"))
    assert head.info.classes == ("dog", "cat")


def test_read_classes_is_csv():
    assert label_encoding.read_classes(None) is None
    assert label_encoding.read_classes('a, "b c" ,"d,e"') == ("a", "b c", "d,e")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--classes expects at least two names. Received 0."),
        ("a", "--classes expects at least two names. Received 1."),
        ("a,b,a", "--classes names 'a' twice."),
        ("@no.txt", "--classes=@no.txt cannot be read: No such file or directory."),
        ("@latin", "--classes=@latin cannot be read: it is not UTF-8."),
    ],
)
def test_bad_classes(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin").write_bytes(b"\xe9\nb\n")
    assert data_files.refusal(label_encoding.read_classes, text) == [message]
    _, problems = read(make_part(label=["a", "b"] * 3), spec=specs.DataSpec(classes=text))
    assert problems == [message]


def test_the_second_column_is_the_label_unless_told():
    part = make_part(breed=["a", "b"] * 3, colour=["x", "y", "z"] * 2)
    (head,), problems = read(part)
    assert head.column == "breed"
    assert problems == [
        "labels.csv: the label is column 'breed'; 'colour' not used. --label_column chooses "
        "another."
    ]
    (head,), _ = read(part, spec=specs.DataSpec(label_column="colour"))
    assert head.column == "colour" and head.info.classes == ("x", "y", "z")
    (head,), _ = read(part, heads=(specs.HeadSpec(name="colour"),))
    assert head.column == "colour"
    (head,), problems = read(make_part(id=["1", "2"] * 3, label=["a", "b"] * 3))
    assert head.column == "label"


def test_columns_that_do_not_exist():
    part = make_part(breed=["a", "b"] * 3, colour=["x", "y"] * 3)
    unknown = "labels.csv has no label column 'color'. Did you mean 'colour'? It has 'breed', "
    assert read(part, spec=specs.DataSpec(label_column="color"))[1] == [unknown + "'colour'."]
    heads = (specs.HeadSpec(name="a", label="color"), specs.HeadSpec(name="b"))
    assert read(part, heads=heads)[1] == [
        unknown + "'colour'.",
        "--head=name=b needs label=COLUMN: one of 'breed', 'colour'.",
    ]


def test_a_label_column_that_no_head_reads():
    part = make_part(breed=["a", "b"] * 3, colour=["x", "y"] * 3)
    head = specs.HeadSpec("h", kind="multiclass", label="colour")
    _, problems = read(part, spec=specs.DataSpec(label_column="breed"), heads=(head,))
    assert problems == [
        "--label_column=breed is read by no head: --head names 'colour'. Leave one of them out."
    ]
    for column, label in (("colour", "colour"), ("breed", None)):
        head = specs.HeadSpec("h", kind="multiclass", label=label)
        assert not read(part, spec=specs.DataSpec(label_column=column), heads=(head,))[1]


def test_other_sources_must_fit():
    first = make_part(breed=["cat", "dog"] * 3)
    folder = make_part(source="more.csv", label=["dog", "cow", "cow"])
    found, problems = read(first, folder)
    assert found == []
    assert problems == [
        "more.csv, line 3: label 'cow' (2 examples) is not a class of labels.csv: 'cat', 'dog'."
    ]
    (head,), problems = read(first, make_part(source="more.csv", label=["dog"]))
    assert problems == [] and head.labels[1].tolist() == ["dog"]
    table = make_part(source="more.csv", race=["dog"], other=["x"])
    assert read(first, table)[1] == [
        "more.csv has no label column 'breed'. It has 'race', 'other'."
    ]


def test_labels_that_are_missing_or_several():
    part = make_part(label=["cat", "", "dog", ""] + ["cat", "dog"] * 3)
    assert read(part)[1] == [
        f"labels.csv, line {line}: no label in column 'label'." for line in (3, 5)
    ]
    cells = [("cat",), ("cat", "dog"), ("dog",), ()]
    several = make_part(label=cells * 2 + cells[::2])
    assert read(several, heads=(specs.HeadSpec(kind="multiclass"),))[1] == [
        *(
            f"labels.csv, line {line}: 'cat|dog' names 2 classes, and head 'label' is multiclass: "
            "it takes one. --head=name=label,kind=multilabel takes several."
            for line in (3, 7)
        ),
        *(f"labels.csv, line {line}: no label in column 'label'." for line in (5, 9)),
    ]


def test_classes_against_labels():
    part = make_part(label=["cat"] * 3 + ["dog"] * 3 + ["cats"] * 2)
    assert read(part, spec=specs.DataSpec(classes="cat,dog,owl"))[1] == [
        "labels.csv, line 8: label 'cats' (2 examples) is not a class of --classes: 'cat', 'dog', "
        "'owl'. Did you mean 'cat'?",
        "--classes names 'owl', with no example in labels.csv.",
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a,b", "has a comma"),
        ("a\x1b[31m", "has a line end or control character"),
        ("a\u2028b", "has a line end or control character"),
        ("a\udcff", "is not UTF-8"),
    ],
)
def test_class_names_that_cannot_be_written(name, reason):
    _, problems = read(make_part(label=[name, "b"] * 3))
    assert problems == [
        f"labels.csv: class name '{name.encode('unicode_escape').decode()}' {reason}. Rename the "
        "class."
    ]


def test_class_names_in_any_script():
    names = ["猫", "été 1", "می‌خواهم", "👩‍🚀", "a|b/c=d"]
    (head,), problems = read(make_part(label=names * 3))
    assert problems == [] and set(head.info.classes) == set(names)


def test_numbers_of_classes():
    assert read(make_part(label=["cat"] * 4))[1] == [
        "labels.csv has only one class, 'cat'. Expected two or more."
    ]
    three = make_part(label=["a", "b", "c"] * 3)
    heads = (specs.HeadSpec(name="x", num_classes=2, label="label"),)
    assert read(three, heads=heads)[1] == [
        "--head=name=x has num_classes=2. The data has 3: 'a', 'b', 'c'."
    ]
    assert read(three, heads=(specs.HeadSpec(kind="binary"),))[1] == [
        "--head=name=label has kind=binary, which has 2 classes. The data has 3: 'a', 'b', 'c'."
    ]
    none = make_part(label=[(), ()])
    assert read(none)[1] == ["labels.csv has no label at all. Expected two or more classes."]


def test_small_and_odd_classes_are_warned_about():
    found, problems = read(make_part(label=["cat"] * 3 + ["NaN"] * 2))
    assert len(found) == 1
    assert problems == [
        "labels.csv: 1 of 2 classes have fewer than 3 examples, too few for training, validation "
        "and test: 'NaN'.",
        "labels.csv: 'NaN' are classes here. Are they missing values?",
    ]


def test_classes_are_of_one_head():
    heads = (specs.HeadSpec(name="a", label="label"), specs.HeadSpec(name="b", label="label"))
    found, problems = read(
        make_part(label=["a", "b"] * 3), spec=specs.DataSpec(classes="a,b"), heads=heads
    )
    assert len(found) == 2
    assert problems == ["--classes names the classes of one head. Received 2 heads. Leave it out."]


def test_missing_labels_of_several_heads_are_counted():
    part = make_part(
        breed=["cat", "", "dog", ""] * 3,
        tags=[("a", "b"), ("b",), "", ""] * 3,
        age=["1", "2", "", ""] * 3,
        x=["1", "0", "", ""] * 3,
        y=["1", "", "1", ""] * 3,
    )
    heads = (
        specs.HeadSpec(name="breed"),
        specs.HeadSpec(name="tags"),
        specs.HeadSpec(name="age", kind="regression"),
        specs.HeadSpec(name="marks", label="y+x"),
    )
    found, problems = read(part, heads=heads)
    assert [(head.info.kind, head.info.classes, head.column) for head in found] == [
        ("multiclass", ("cat", "dog"), "breed"),
        ("multilabel", ("a", "b"), "tags"),
        ("regression", (), "age"),
        ("multilabel", ("y", "x"), "y+x"),
    ]
    assert problems == [
        "labels.csv, column 'breed': 6 of 12 examples have no label. Head 'breed' passes them "
        "over.",
        "labels.csv, column 'tags': 6 of 12 examples have no label. Head 'tags' passes them over.",
        "labels.csv, column 'age': 6 of 12 examples have no label. Head 'age' passes them over.",
        "labels.csv, column 'y+x': 3 of 12 examples have no label; classes of some examples are "
        "unknown: 'x (3)', 'y (3)'. Head 'marks' passes them over.",
        "labels.csv: 3 of 12 examples have no label of any head, and nothing is learnt from them.",
    ]


def test_a_single_head_needs_a_label_for_each_example():
    heads = (specs.HeadSpec(name="age", kind="regression"),)
    assert read(make_part(age=["1", "", "2"]), heads=heads)[1] == [
        "labels.csv, line 3: no label in column 'age'."
    ]
    marks = (specs.HeadSpec(label="a+b"),)
    part = make_part(a=["1"] * 3 + ["", ""], b=["0", "1", "1", "1", ""])
    assert read(part, heads=marks)[1] == ["labels.csv, line 6: no label in column 'a+b'."]


def test_numbers_that_teach_nothing():
    heads = (specs.HeadSpec(name="age", kind="regression"),)
    assert read(make_part(age=["3"] * 4), heads=heads)[1] == [
        "labels.csv: every label of head 'age' is 3. Expected numbers that differ."
    ]
    assert read(
        make_part(age=["3", "4"] * 4), spec=specs.DataSpec(examples_per_class=2), heads=heads
    )[1] == ["--examples_per_class needs classes. Head 'age' has none: leave it out."]


def test_options_that_a_kind_does_not_take():
    part = make_part(label=["cat", "dog"] * 3, a=["0", "1"] * 3)
    head = specs.HeadSpec(name="x", label="label", threshold="0.3", empty="missing")
    assert read(part, heads=(head,))[1] == [
        "--head=name=x is multiclass and has no threshold: its answer is the most probable class. "
        "Leave threshold out.",
        "--head=name=x is multiclass, and empty=missing is about kind=multilabel. Leave it out.",
    ]
    head = specs.HeadSpec(name="x", label="label+a", kind="binary")
    assert read(part, heads=(head,))[1] == [
        "--head=name=x: label=label+a names 2 columns, a class each, which kind=multilabel takes. "
        "Received kind=binary."
    ]
    head = specs.HeadSpec(name="x", label="a", kind="regression")
    assert read(part, spec=specs.DataSpec(classes="a,b"), heads=(head,))[1] == [
        "--classes names classes, and --head=name=x has kind=regression, which has none. Leave it "
        "out."
    ]


def test_a_threshold_that_is_given():
    heads = (specs.HeadSpec(name="ok", kind="binary", threshold="0.3"),)
    (head,), _ = read(make_part(ok=["no", "yes"] * 3), heads=heads)
    assert head.info.thresholds == (0.3,)


def test_columns_that_a_joint_names_and_that_do_not_exist():
    part = make_part(label=["cat", "dog"] * 3, red=["0", "1"] * 3)
    heads = (specs.HeadSpec(name="x", label="label+redd"),)
    assert read(part, heads=heads)[1] == [
        "labels.csv has no label column 'redd'. Did you mean 'red'? It has 'label', 'red'."
    ]
