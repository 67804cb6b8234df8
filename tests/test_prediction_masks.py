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
    prediction_masks.check_folder(str(output), HEADS, inputs=[])


FORMER = {
    "found.csv": "path,mask,fraction_a,fraction_b,error\n",
    "found.jsonl": '{"path": "1.png", "predictions": {}}\n',
    "found.CSV": "path,mask,error\n",
}
OTHER = {
    "found.csv": "image,mask\n1.png,found_masks/1.png\n",
    "found.jsonl": '{"image": "1.png", "mask": "found_masks/1.png"}\n',
    "found.CSV": "",
}


@pytest.mark.parametrize("name", FORMER)
def test_only_masks_of_a_former_prediction_are_replaced(tmp_path, name):
    """Masks beside a table of labels are a user's work; those of predictions can be made again."""
    output, folder = tmp_path / "found.csv", tmp_path / "found_masks"
    output = output if name == "found.jsonl" else tmp_path / name
    folder.mkdir()
    (folder / "1.png").write_bytes(b"painted by hand")
    message = (
        f"--output={output}: masks go to {folder}, which holds files and belongs to no table of "
        "predictions. Choose another name, or move it away."
    )
    assert refusal(output) == message
    (tmp_path / name).write_text(OTHER[name])
    assert refusal(output) == message
    (tmp_path / name).write_text(FORMER[name])
    prediction_masks.check_folder(str(output), HEADS, inputs=[])
