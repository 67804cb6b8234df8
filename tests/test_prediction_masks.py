import os

import numpy as np
import pytest

from tf_finetune import findings, head_kinds, prediction_masks
from tf_finetune.data import mask_files

HEADS = (head_kinds.HeadInfo("mask", "segmentation", ("a", "b")),)
MASK = np.array([[0, 1], [2, 255]], np.uint8)


def test_masks_stand_beside_their_table_under_names_of_their_own(tmp_path):
    paths = ("a/1.jpg", "b/1.png", "B/1.JPG", "../..", "=cmd|' !A0.png", "-x.png")
    with prediction_masks.MaskWriter(str(tmp_path / "out" / "found.csv")) as writer:
        names = [writer.write(MASK, path=path) for path in paths]
        assert names == [
            f"found_masks/{name}.png" for name in ("1", "1_2", "1_3", "image", "_cmd____A0", "x")
        ]
        assert writer.write(MASK, path="1.png", suffix="_road") == "found_masks/1_road.png"
        assert not (tmp_path / "out" / "found_masks").exists()
        writer.publish()
    assert os.listdir(tmp_path / "out") == ["found_masks"]
    for name in [*names, "found_masks/1_road.png"]:
        contents = (tmp_path / "out" / name).read_bytes()
        assert np.array_equal(mask_files.decode_mask(contents), MASK)


def write(output, paths, *, fails=None):
    """Writes masks as a prediction does; it fails in writing them, or when they are in place."""
    with prediction_masks.MaskWriter(str(output)) as writer:
        for path in paths:
            writer.write(MASK, path=path)
        if fails == "writing":
            raise KeyboardInterrupt
        writer.publish()
        if fails == "naming the table":
            raise KeyboardInterrupt


@pytest.mark.parametrize("folder", ["absent", "empty"])
@pytest.mark.parametrize("fails", ["writing", "naming the table"])
def test_masks_without_their_table_are_removed(tmp_path, fails, folder):
    output, masks = tmp_path / "found.csv", tmp_path / "found_masks"
    if folder == "empty":
        masks.mkdir()
    with pytest.raises(KeyboardInterrupt):
        write(output, ["1.png"], fails=fails)
    assert not masks.exists() or os.listdir(masks) == []
    prediction_masks.check_folder(str(output), HEADS, inputs=[])
    write(output, ["1.png"])
    assert os.listdir(tmp_path) == ["found_masks"] and os.listdir(masks) == ["1.png"]


def test_other_masks_of_a_folder_stay(tmp_path):
    output, masks = tmp_path / "found.csv", tmp_path / "found_masks"
    masks.mkdir()
    for name in ("1.png", "2.png"):
        (masks / name).write_bytes(b"former")
    with pytest.raises(KeyboardInterrupt):
        write(output, ["1.png", "3.png"], fails="writing")
    assert [path.read_bytes() for path in sorted(masks.iterdir())] == [b"former"] * 2
    write(output, ["1.png", "3.png"])
    assert sorted(os.listdir(masks)) == ["1.png", "2.png", "3.png"]
    assert np.array_equal(mask_files.decode_mask((masks / "1.png").read_bytes()), MASK)
    assert (masks / "2.png").read_bytes() == b"former"
    assert os.listdir(tmp_path) == ["found_masks"]


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "found_masks").write_bytes(b"mine")
    with pytest.raises(NotADirectoryError):
        write(tmp_path / "found.csv", ["1.png"])
    assert (tmp_path / "found_masks").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["found_masks"]


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


ROW = '{"path": "1.png", "predictions": {"mask": {"mask": "found_masks/1.png"}}}\n'
BAD_ROW = '{"path": "0.png", "error": "is empty"}\n'
FORMER = {
    "found.csv": ["path,mask,fraction_a,fraction_b,error\n", 'path,m_mask,"fraction_a,b",error\n'],
    "found.jsonl": [ROW, BAD_ROW + ROW],
    "found.CSV": ["path,mask,error\n"],
}
OTHER = {
    "found.csv": [
        "image,mask\n1.png,found_masks/1.png\n",
        "path,class,probability,error\n1.png,a,0.9,\n",
        'path,class,"a,mask",error\n',
        "\n",
        "path,mask\xe9,error\n",
    ],
    "found.jsonl": [
        '{"image": "1.png", "mask": "found_masks/1.png"}\n',
        '{"path": "1.png", "predictions": {"label": {"predicted": ["a"]}}}\n',
        '{"path": "1.png", "predictions": ["mask"]}\n',
        '{"path": "1.png"}\n',
        BAD_ROW,
        BAD_ROW + "[1]\n",
        "[" * 200_000 + "\n",
        '"path"\n',
    ],
    "found.CSV": [""],
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
    for text in OTHER[name]:
        (tmp_path / name).write_text(text, "latin-1")
        assert refusal(output) == message
    for text in FORMER[name]:
        (tmp_path / name).write_text(text)
        prediction_masks.check_folder(str(output), HEADS, inputs=[])
