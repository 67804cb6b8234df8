"""Where the inputs of examples are before they are read: images in a store, texts or columns.

One idea: the store tells what the examples are, so no flag and no second field can disagree.
"""

from tf_finetune.data import columns, feature_inputs, image_stores, text_store

IMAGE, TEXT, COLUMNS = "image", "text", "columns"
# Of a model: an image or a text, and columns of the same row.
MIXED = "mixed"
# What examples of a kind are called in messages.
PLURALS = {IMAGE: "images", TEXT: "texts", COLUMNS: "columns"}

InputStore = image_stores.ImageStore | text_store.Texts | columns.Columns | feature_inputs.Features


def find_kind(store: InputStore) -> str:
    """What a store holds.

    Args:
      store: of a split or a source.

    Returns:
      IMAGE, TEXT or COLUMNS.
    """
    if isinstance(store, columns.Columns):
        return COLUMNS
    return TEXT if isinstance(store, text_store.Texts) else IMAGE
