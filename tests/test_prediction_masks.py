import os

import numpy as np
import pytest

from tf_finetune import findings, head_kinds, prediction_masks
from tf_finetune.data import mask_files

HEADS = (head_kinds.HeadInfo("mask", "segmentation", ("a", "b")),)
MASK = np.array([[0, 1], [2, 255]], np.uint8)


def test_masks_stand_beside_their_table_under_names_of_their_own(tmp_path):
    writer = prediction_masks.MaskWriter(str(tmp_path / "out" / "found.csv"))
    (tmp_path / "out").mkdir()
    paths = ("a/1.jpg", "b/1.png", "B/1.JPG", "../..", "=cmd|' !A0.png", "-x.png")
    names = [writer.write(MASK, path=path) for path in paths]
    assert names == [
        f"found_masks/{name}.png" for name in ("1", "1_2", "1_3", "image", "_cmd____A0", "x")
    ]
    assert writer.write(MASK, path="1.png", suffix="_road") == "found_masks/1_road.png"
    for name in names:
        contents = (tmp_path / "out" / name).read_bytes()
        assert np.array_equal(mask_files.decode_mask(contents), MASK)


def refusal(output, *inputs):
    with pytest.raises(findings.RefusedError) as caught:
        prediction_masks.check_folder(str(output), HEADS, inputs=inputs)
    return str(caught.value)


def test_other_files_are_not_replaced(tmp_path):
    output, folder = tmp_path / "found.csv", tmp_path / "found_masks"
    prediction_masks.check_folder(str(output), HEADS, inputs=[str(tmp_path / "images")])
    start = f"--output={output}: masks go to {folder}, "
    os.symlink(tmp_path, folder)
    assert refusal(output) == f"{start}which is no folder. Choose another name."
    prediction_masks.check_folder(str(output), HEADS[:0], inputs=[])
    folder.unlink()
    folder.mkdir()
    ending = "where an --input lies, which would be lost. Choose another name."
    assert refusal(output, str(folder / "1.png")) == start + ending
    assert refusal(output, str(folder)) == start + ending
