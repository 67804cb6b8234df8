import pytest

from tests.data import mixed_files
from tf_finetune import findings, specs
from tf_finetune.data import mixed_inputs, preprocessing, tables, text_store

PIXELS = preprocessing.PreprocessingSpec(8, 8, 3)
IMAGE = ("photo_in", (8, 8, 3), "float32")
AGE, SEX = ("age", (1,), "float32"), ("sex", (), "string")
FLAG = "--feature_columns"


def load(folder, features, *, is_text=False):
    rows = [["a.png", "4", "1.5", "f", "yes"], ["a.png", "5", "2.5", "m", "no"]]
    (folder / "a.png").write_bytes(b"x")
    names = ("place", "age", "height", "sex", "label")
    path = mixed_files.write_table(folder / "b.csv", rows, names=names)
    which = {"text_column" if is_text else "image_column": "place"}
    spec = specs.DataSpec(data=str(path), feature_columns=features, label_column="label", **which)
    return tables.load(spec, str(path), flag="data").features


def settle(folder, inputs, features, *, is_text=False):
    main = text_store.TextSpec("place") if is_text else PIXELS
    store = load(folder, features, is_text=is_text)
    return mixed_inputs.settle(main, tuple(inputs), store, model="m.keras")


def describe(spec):
    return {part.name: (part.columns, part.dtype, part.shape) for part in spec.columns.inputs}


def test_columns_of_a_model_of_one_input_go_to_the_heads(tmp_path):
    spec = settle(tmp_path, [IMAGE], "sex,height,age")
    assert (spec.main, spec.column) == (PIXELS, "place")
    assert describe(spec) == {
        "numbers": (("height", "age"), "float32", (2,)),
        "categories": (("sex",), "string", (1,)),
    }


def test_each_input_takes_the_column_of_its_name(tmp_path):
    spec = settle(tmp_path, [IMAGE, AGE, SEX], "sex,age")
    assert describe(spec) == {
        "age": (("age",), "float32", (1,)),
        "sex": (("sex",), "string", ()),
    }
    # A vector alone takes all columns in their order.
    spec = settle(tmp_path, [("sizes", (2,), "float32"), IMAGE], "height,age")
    assert describe(spec) == {"sizes": (("height", "age"), "float32", (2,))}


def test_inputs_may_be_named(tmp_path):
    inputs = [("sizes", (2,), "float32"), IMAGE, ("code", (), "string")]
    spec = settle(tmp_path, inputs, "sizes:height+age,code:sex")
    assert describe(spec) == {
        "sizes": (("height", "age"), "float32", (2,)),
        "code": (("sex",), "string", ()),
    }


@pytest.mark.parametrize(
    ("inputs", "features", "main"),
    [
        ([("words", (), "string")], "sex", "words"),
        ([("words", (), "string"), SEX], "sex", "words"),
        ([SEX, ("place", (1,), "string")], "sex", "place"),
        # A name that is the column's own is stronger than the rest.
        ([("place", (), "string"), AGE], "age", "place"),
    ],
)
def test_the_text_goes_to_the_input_that_is_left(tmp_path, inputs, features, main):
    store = load(tmp_path, features, is_text=True)
    found = mixed_inputs.find_main_input(tuple(inputs), store, is_text=True, model="m")
    assert found[0] == main


@pytest.mark.parametrize(
    ("inputs", "features", "message"),
    [
        ([IMAGE, AGE, SEX], "age", "--model=m.keras takes, beside the image of the column 'place', "
         f"the inputs 'age', 'sex', and {FLAG} names 'age': no column for 'sex'. Name a column as "
         "each input, or write INPUT:a+b,OTHER:c."),
        # A single scalar would take whatever there is.
        ([IMAGE, AGE], "height", "--model=m.keras takes, beside the image of the column 'place', "
         f"the inputs 'age', and {FLAG} names 'height': no column for 'age', no input for "
         "'height'. Name a column as each input, or write INPUT:a+b,OTHER:c."),
        ([IMAGE, ("sizes", (3,), "float32")], "age,height", "--model=m.keras takes 3 numbers in "
         f"its input 'sizes', and {FLAG} names 2 columns. Expected as many."),
        ([IMAGE], "sizes:age", f"{FLAG} names the inputs 'sizes', and --model=m.keras has only "
         "'photo_in'. Write the columns alone, a,b,c: they go to the heads."),
        ([IMAGE, ("image", (), "float32")], "image:age", f"{FLAG}: the image is served by the name "
         "'image', and a column or input has it too. Give that another name."),
    ],
)  # fmt: skip
def test_what_does_not_fit(tmp_path, inputs, features, message):
    with pytest.raises(findings.RefusedError) as caught:
        settle(tmp_path, inputs, features)
    assert [problem.message for problem in caught.value.problems] == [message]


@pytest.mark.parametrize(
    ("inputs", "features", "message"),
    [
        ([AGE, SEX], "age,sex", "--model=m.keras has no input for the texts of the column 'place'. "
         f"It has 'age', 'sex', and {FLAG} names 'age', 'sex'. Name the column of texts like the "
         "input that takes it."),
        ([("a", (), "string"), ("b", (), "string"), AGE], "age", "--model=m.keras has several "
         f"inputs that could take the texts of the column 'place': 'a', 'b', and {FLAG} names "
         "'age'. Name the column of texts like the input that takes it."),
    ],
)  # fmt: skip
def test_texts_without_an_input_of_their_own(tmp_path, inputs, features, message):
    with pytest.raises(findings.RefusedError) as caught:
        settle(tmp_path, inputs, features, is_text=True)
    assert [problem.message for problem in caught.value.problems] == [message]


@pytest.mark.parametrize("name", ["image", "image bytes", "image_bytes"])
def test_a_column_may_not_be_served_by_the_name_of_the_image(tmp_path, name):
    (tmp_path / "a.png").write_bytes(b"x")
    rows = [["a.png", "1", "x"], ["a.png", "2", "y"]]
    path = mixed_files.write_table(tmp_path / "b.csv", rows, names=("p", name, "l"))
    spec = specs.DataSpec(data=str(path), image_column="p", feature_columns=name)
    store = tables.load(spec, str(path), flag="data").features
    with pytest.raises(findings.RefusedError, match="the image is served by the name 'image"):
        mixed_inputs.settle(PIXELS, (IMAGE,), store, model="m.keras")
    # Of a text they mean nothing.
    spec = mixed_inputs.settle(text_store.TextSpec("p"), (("t", (), "string"),), store, model="m")
    assert spec.columns.columns == (name,)
