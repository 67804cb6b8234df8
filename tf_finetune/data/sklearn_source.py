"""`sklearn:NAME`: image data sets that come inside scikit-learn, so that no network is needed."""

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import examples, image_stores

PREFIX = "sklearn:"
NAMES = ("digits",)


def load(spec: specs.DataSpec, text: str, *, flag: str) -> examples.Examples:
    """Lists an image data set of scikit-learn.

    Args:
      spec: not read; every source takes the same arguments.
      text: "sklearn:digits".
      flag: name of the flag that `text` stands in, for messages.

    Returns:
      1,797 grayscale digits, uint8 [8, 8, 1]; keys are the index with leading zeros; the label
      column is "label".

    Raises:
      findings.RefusedError: another name.

    Reference:
      E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, 1998,
      https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits.
    """
    name = text.removeprefix(PREFIX)
    if name not in NAMES:
        known = ", ".join(PREFIX + known for known in NAMES)
        raise findings.RefusedError(
            findings.Problem(
                f"--{flag}={findings.one_line(text)}: scikit-learn has no image data set of that "
                f"name.{examples.nearest_name(name, list(NAMES))} There is {known}.",
                flag=f"--{flag}",
            )
        )
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    # Stored as counts 0 to 16; a store holds 0 to 255.
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    return examples.Examples(
        source=text,
        keys=examples.object_array([f"{index:04d}" for index in range(len(pixels))]),
        inputs=image_stores.ArrayImages(pixels),
        labels={
            examples.LABEL_COLUMN: examples.object_array([str(digit) for digit in digits.target])
        },
        identity=text,
    )
