"""What is said where a model and its data are not of one kind."""

import keras
import numpy as np
import pytest

from tests import mask_data, tag_data
from tests.data import data_files, mixed_files
from tf_finetune import input_checks, layer_table, specs
from tf_finetune.data import columns, loading, mixed_spec, preprocessing, text_store
from tf_finetune.models import backbone

IMAGES = np.zeros((30, 8, 8, 3), np.uint8)
LABELS = np.arange(30) % 3
AGES = np.linspace(1, 90, 30)
TEXTS = [f"plain {number}" for number in range(30)]
MASK = specs.HeadSpec("mask", "segmentation", num_classes=4)
TAGS = specs.HeadSpec("tags", "token_classification")


def make_backbone(model):
    images = [tensor.shape for tensor in model.inputs if len(tensor.shape) == 4]
    kind = "text" if model.inputs[0].dtype == "string" else "columns"
    return backbone.Backbone(
        model,
        tuple(images[0][1:]) if images else (),
        "none",
        None,
        layer_table.LayerTable(()),
        (),
        "",
        "",
        None,
        input_kind="image" if images else kind,
    )


@pytest.fixture(scope="module")
def models():
    image, age = mixed_files.make_image_network(), keras.Input((1,), name="age")
    ids = keras.Input((1,), dtype="int32", name="ids")
    vector = keras.layers.Flatten()(keras.layers.Embedding(7, 2)(ids))
    return {
        "image": image,
        "map": keras.Model(image.input, image.get_layer("conv").output),
        "text": mixed_files.make_text_network(),
        "age": keras.Model(age, keras.layers.Dense(2)(age)),
        "ids": keras.Model(ids, vector),
        "named": mixed_files.make_named_network(),
        "image_ids": keras.Model(
            [image.input, ids],
            keras.layers.Concatenate()([image.get_layer("pool").output, vector]),
        ),
    }


def settle(model, source, *, heads=(), augment="none", pixel_range="auto", **options):
    """`settle_inputs` of arrays (a tuple or dict) or of a path."""
    given, data = {"data": source}, specs.DataSpec(data="arrays:0123", **options)
    if not isinstance(source, tuple | dict):
        given, data = {}, specs.DataSpec(data=str(source), **options)
    listed = specs.DataSpec(**options) if given else data
    splits = loading.load_data(listed, heads=tuple(heads), **given)
    spec = specs.RunSpec(
        data=data,
        model=specs.ModelSpec("m.keras", pixel_range=pixel_range),
        augment=specs.AugmentSpec(augment),
    )
    return input_checks.settle_inputs(spec, make_backbone(model), splits)


def refused(*arguments, **options):
    return data_files.refusal(settle, *arguments, **options)


def write_table(folder, **columns_of_text):
    """photo, the given columns and label of 24 images."""
    rows = mixed_files.make_rows(24)
    mixed_files.write_images(folder, rows)
    cells = zip(*columns_of_text.values(), (row[-1] for row in rows), strict=True)
    return mixed_files.write_table(
        folder / "table.csv",
        [[f"photos/{number:03d}.png", *row] for number, row in enumerate(cells)],
        names=("photo", *columns_of_text, "label"),
    )


def test_what_fits(models, tmp_path):
    found = settle(models["image"], (IMAGES, LABELS))
    assert isinstance(found, preprocessing.PreprocessingSpec)
    assert settle(models["text"], (TEXTS, LABELS)) == text_store.TextSpec("text")
    assert isinstance(settle(models["age"], ({"age": AGES}, LABELS)), columns.ColumnsSpec)
    table = write_table(tmp_path, age=range(24), sex="fm" * 12)
    options = {"image_column": "photo", "feature_columns": "age,sex", "label_column": "label"}
    found = settle(models["named"], table, **options)
    assert isinstance(found, mixed_spec.MixedSpec)
    assert [part.name for part in found.columns.inputs] == ["age", "sex"]


@pytest.mark.parametrize(
    ("model", "source", "message"),
    [
        ("age", (IMAGES, LABELS), "--model=m.keras takes columns, and data holds images. Name the "
         "columns of a table that it takes with --feature_columns."),
        ("age", (TEXTS, LABELS), "--model=m.keras takes columns, and data holds texts. Name the "
         "columns of a table that it takes with --feature_columns."),
        ("image", ({"a": AGES}, LABELS), "--model=m.keras takes images, and data holds columns. "
         "Choose a model of vectors, leave --feature_columns out, or name the column of images "
         "beside them with --image_column."),
        ("text", ({"a": AGES}, LABELS), "--model=m.keras takes texts, and data holds columns. "
         "Choose a model of vectors, leave --feature_columns out, or name the column of texts "
         "beside them with --text_column."),
        ("text", (IMAGES, LABELS), "--model=m.keras takes texts, and data holds images. Give a "
         ".csv with a header and name its column of texts with --text_column, or choose a model "
         "for images."),
        ("image", (TEXTS, LABELS), "--model=m.keras takes images, and data holds texts. Choose a "
         "model that takes strings; where the .csv names images, --image_column names their "
         "column instead of --text_column."),
        ("named", (IMAGES, LABELS), "--model=m.keras has several inputs ('age', 'pixels', 'sex'), "
         "and the data have images alone. Give a table, name its column of images with "
         "--image_column and the columns for the other inputs with --feature_columns."),
    ],
)  # fmt: skip
def test_another_kind_is_refused(models, model, source, message):
    assert refused(models[model], source) == [message]


def test_a_path_is_named_as_its_flag(models, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"t {n},{'xy'[n % 2]}\n" for n in range(20)))
    (line,) = refused(models["image"], path, text_column="text")
    assert line.startswith(f"--model=m.keras takes images, and --data={path} holds texts. ")


@pytest.mark.parametrize(
    ("model", "source", "kind"),
    [("text", (TEXTS, LABELS), "texts"), ("age", ({"age": AGES}, LABELS), "columns")],
)
def test_flags_about_images(models, model, source, kind):
    flags = {"image_size": "32", "pixel_max": 255.0, "resize": "crop", "pixel_range": "0..1"}
    lines = refused(models[model], source, augment="flip", **flags)
    expected = ["image_size=32", "pixel_max=255.0", "resize=crop", "pixel_range=0..1"]
    assert lines == [
        f"--{flag} has no effect on {kind}. Leave it out." for flag in (*expected, "augment=flip")
    ]


@pytest.mark.parametrize("part", ["data", "validation_data"])
def test_ids_that_an_embedding_has_no_row_for(models, part):
    ids = np.arange(30) % 7
    bad = np.where(ids == 6, 7, ids)
    sources = {"data": ({"ids": ids}, LABELS), "validation_data": ({"ids": ids}, LABELS)}
    sources[part] = ({"ids": bad}, LABELS)
    splits = loading.load_data(specs.DataSpec(), **sources)
    spec = specs.RunSpec(model=specs.ModelSpec("m.keras"))
    line = (
        "The model's input 'ids' takes int32, and the column 'ids' has 7. Expected whole numbers "
        "from 0 to 6."
    )
    checked = make_backbone(models["ids"])
    assert data_files.refusal(input_checks.settle_inputs, spec, checked, splits) == [line]


def test_ids_beside_images(models, tmp_path):
    table = write_table(tmp_path, ids=[number % 8 for number in range(24)])
    options = {"image_column": "photo", "feature_columns": "ids", "label_column": "label"}
    assert refused(models["image_ids"], table, **options) == [
        "The model's input 'ids' takes int32, and the column 'ids' has 7. Expected whole numbers "
        "from 0 to 6."
    ]


def test_heads_of_pixels(models, tmp_path):
    path = mask_data.write_folder(tmp_path, count=12)
    head, options = "--head=name=mask,kind=segmentation", {"heads": (MASK,)}
    assert settle(models["map"], path, **options).channels == 3
    map_needed = (
        f"{head} needs a feature map, [batch, height, width, channels]. The features of "
        "--model=m.keras have the shape (None, 3). Name an earlier layer with --cut_layer; "
        "--mode=inspect lists them."
    )
    unmasked = "--augment=randaugment moves pixels in ways that no mask follows. Leave it out."
    assert refused(models["image"], path, **options) == [map_needed]
    assert refused(models["map"], path, augment="flip,randaugment", **options) == [unmasked]
    assert refused(models["image"], path, augment="randaugment", **options) == [
        map_needed,
        unmasked,
    ]
    table = tmp_path / "texts.csv"
    table.write_text("text,mask\n" + "".join(f"t {n},masks/{n:03d}.png\n" for n in range(12)))
    assert refused(models["text"], table, text_column="text", **options) == [
        f"{head} is about images, and the model takes texts."
    ]


def test_heads_of_pixels_and_words_take_no_columns(models, tmp_path):
    mask_data.write_folder(tmp_path, count=12)
    table = tmp_path / "ages.csv"
    rows = "".join(f"images/{n:03d}.png,{n},masks/{n:03d}.png\n" for n in range(12))
    table.write_text("image,age,mask\n" + rows)
    options = {"image_column": "image", "feature_columns": "age", "heads": (MASK,)}
    assert refused(models["map"], table, **options) == [
        "Heads of pixels and of words take no columns. Leave --feature_columns out."
    ]


def test_heads_of_words(models, tmp_path):
    path = tag_data.write_csv(tmp_path / "tags.csv", tag_data.make_sentences(20))
    head, options = "--head=name=tags,kind=token_classification", {"text_column": "text"}
    unknown = (
        f"{head}: --model=m.keras has no WordPiece tokenizer of ours. Choose hf:DIR or "
        "kerashub:PRESET of a BERT, or a model of token ids with --vocabulary of WordPiece."
    )
    assert refused(models["text"], path, heads=(TAGS,), **options) == [unknown]
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(
            [f"{lines[0]},label", *(f"{line},{'xy'[n % 2]}" for n, line in enumerate(lines[1:]))]
        )
        + "\n"
    )
    heads = (TAGS, specs.HeadSpec("label"))
    assert refused(models["text"], path, heads=heads, **options) == [
        f"{head} stands alone. Train a head of the whole text in another run.",
        unknown,
    ]


def test_columns_that_go_to_the_heads(models, tmp_path):
    table = write_table(tmp_path, age=range(24), sex="fm" * 12)
    options = {"data": str(table), "image_column": "photo", "label_column": "label"}
    spec = specs.RunSpec(model=specs.ModelSpec("m.keras"))
    for name, columns_asked in (("image", "age"), ("named", "age,sex")):
        data = specs.DataSpec(feature_columns=columns_asked, **options)
        splits = loading.load_data(data)
        checked = make_backbone(models[name])
        prepared = input_checks.settle_inputs(spec, checked, splits)
        measured = input_checks.measure_columns(prepared, checked, splits)
        assert (measured is None) == (name == "named")
    assert input_checks.measure_columns(text_store.TextSpec("text"), checked, splits) is None
