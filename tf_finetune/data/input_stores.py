"""Where the inputs of examples are before they are read: images in a store, or texts.

One idea: the store tells what the examples are, so no flag and no second field can disagree.
"""

from tf_finetune.data import image_stores, text_store

IMAGE, TEXT = "image", "text"

InputStore = image_stores.ImageStore | text_store.Texts


def find_kind(store: InputStore) -> str:
    """What a store holds.

    Args:
      store: of a split or a source.

    Returns:
      IMAGE or TEXT.
    """
    return TEXT if isinstance(store, text_store.Texts) else IMAGE
