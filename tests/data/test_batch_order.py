import numpy as np
import pytest
import tensorflow as tf

from tests.data import test_pipeline
from tf_finetune.data import batch_order, image_stores, pipeline, text_store


# Nothing can be drawn from a stream.
@pytest.mark.parametrize(
    ("kind", "is_drawn"),
    [
        ("stream", False),
        *((kind, is_drawn) for kind in ("decoded", "files", "texts") for is_drawn in (False, True)),
    ],
)
def test_which_examples_a_batch_has(tmp_path, kind, is_drawn):
    """What is told of a batch without reading it is what the batch has."""
    pixels = test_pipeline.make_pixels(30)
    stores = {
        "decoded": lambda: image_stores.DecodedImages(pixels),
        "files": lambda: test_pipeline.write_images(tmp_path, pixels),
        "stream": lambda: test_pipeline.make_stream(pixels, encoded=False),
        "texts": lambda: text_store.Texts(
            np.array([f"text {number}" for number in range(30)], object),
            lengths=np.arange(30, dtype=np.int32) % 7,
        ),
    }
    split = test_pipeline.make_split(stores[kind](), np.arange(2, 29))
    strata = np.arange(27) % 2 if is_drawn else None
    epoch = tf.Variable(0, dtype=tf.int64)
    options = {"batch_size": 8, "shuffle_seed": 3, "num_replicas": 2, "strata": strata}
    pre = text_store.TextSpec("text") if kind == "texts" else test_pipeline.PRE
    dataset = pipeline.make_dataset(split, pre, epoch=epoch, **options)
    for number in (0, 5):
        epoch.assign(number)
        batches = [batch[1]["label"].numpy() for batch in dataset]
        for first, last in ((0, 1), (1, 3), (3, 4)):
            found = batch_order.find_examples(split, epoch=number, steps=(first, last), **options)
            np.testing.assert_array_equal(found, np.concatenate(batches[first:last]))
