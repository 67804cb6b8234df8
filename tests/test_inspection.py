import keras
import pytest

from tests import tiny
from tf_finetune import findings, inspection, specs
from tf_finetune.models import formats


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.keras"
    tiny.make_classifier().save(path)
    return str(path)


def test_text(path):
    text = inspection.describe_model(specs.ModelSpec(model=path), freeze="4")
    assert text.splitlines() == [
        f"Model:          {path}",
        f"Format:         .keras of Keras {keras.__version__}",
        f"SHA-256:        {formats.file_sha256(path)}",
        "Input:          (12, 12, 3), ? is any size",
        "Outputs:        classifier (5)",
        "Old classifier: The old classifier 'classifier' (Dense, 5 units) and what follows it are "
        "cut off.",
        "Cut off:        'pool', 'drop', 'classifier'",
        "Features:       (6, 6, 8)",
        "Pooling:        avg",
        "Pixel range:    settled with the data, by the statistics of the first BatchNormalization",
        "",
        "number  name    class               output shape  parameters  state",
        "     1  conv_a  Conv2D              (12, 12, 6)          162  frozen",
        "     2  norm_a  BatchNormalization  (12, 12, 6)           24  frozen",
        "     3  relu_a  ReLU                (12, 12, 6)            0  frozen",
        "     4  conv_b  Conv2D              (6, 6, 8)            440  frozen",
        "     5  norm_b  BatchNormalization  (6, 6, 8)             32  held",
        "     6  relu_b  ReLU                (6, 6, 8)              0  trainable",
        "--freeze=4: 4 of 6 layers frozen, 1 trainable, 1 BatchNormalization held in inference "
        "mode (--batch_norm=frozen).",
        "Parameters: 626 frozen, 0 trainable, 32 held.",
    ]


def test_application_without_a_file_and_with_a_warning():
    spec = specs.ModelSpec(model="keras:VGG16,weights=none,input_shape=32x32x1")
    lines = inspection.describe_model(spec).splitlines()
    assert lines[1:7] == [
        "Format:         keras.applications.VGG16, weights none",
        "Input:          (32, 32, 1), ? is any size",
        "Outputs:        block5_pool (1, 1, 512)",
        "Old classifier: No old classifier at the end: every layer is kept.",
        "Cut off:        nothing",
        "Features:       (1, 1, 512)",
    ]
    assert lines[8] == (
        "Pixel range:    0..1: caffe is for 3 channels, the model has 1: set --pixel_range "
        "(WARNING)"
    )
    assert lines[-2] == "--freeze=all: 18 of 18 layers frozen, 0 trainable."


def test_batch_norm_and_known_range(path):
    spec = specs.ModelSpec(model=path, pixel_range="0..255")
    text = inspection.describe_model(spec, freeze="none", batch_norm="train")
    assert "Pixel range:    0..255: as --pixel_range says\n" in text
    assert "held" not in text


def test_rule_that_does_not_fit(path):
    with pytest.raises(findings.RefusedError) as caught:
        inspection.describe_model(specs.ModelSpec(model=path), freeze="86")
    assert str(caught.value) == (
        "--freeze=86 is more than the 6 layers of the backbone. --mode=inspect lists them."
    )
