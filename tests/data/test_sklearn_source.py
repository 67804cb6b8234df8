import numpy as np
import sklearn.datasets

from tests.data import data_files
from tf_finetune import specs
from tf_finetune.data import sklearn_source


def test_digits_are_bytes():
    part = sklearn_source.load(specs.DataSpec(), "sklearn:digits", flag="data")
    digits = sklearn.datasets.load_digits()
    assert part.inputs.pixels.shape == (1797, 8, 8, 1) and part.inputs.pixels.dtype == np.uint8
    expected = np.round(digits.images[..., None] * 255 / 16)
    assert np.array_equal(part.inputs.pixels, expected)
    assert part.inputs.pixels.min() == 0 and part.inputs.pixels.max() == 255
    assert part.labels["label"].tolist() == [str(digit) for digit in digits.target]
    assert part.keys[0] == "0000" and part.keys[-1] == "1796"
    assert sorted(part.keys) == part.keys.tolist()
    assert part.locate(7) == "sklearn:digits, example 0007"


def test_other_names_are_refused():
    load = sklearn_source.load
    assert data_files.refusal(load, specs.DataSpec(), "sklearn:digit", flag="data") == [
        "--data=sklearn:digit: scikit-learn has no image data set of that name. Did you mean "
        "'digits'? There is sklearn:digits."
    ]
