import os

import numpy as np

from tests import mask_data
from tf_finetune import specs
from tf_finetune.data import label_cells, loading, sources


def convert(path, **options):
    spec = specs.DataSpec(data=str(path), image_column="image", **options)
    part = sources.load_source(spec, str(path), flag="data")
    head = specs.HeadSpec(name="mask", kind="segmentation", num_classes=4)
    return label_cells.convert(
        part, ("mask",), head=head, kind="segmentation", follow_links=spec.follow_links
    )


def test_paths_are_relative_to_the_table(tmp_path):
    path = mask_data.write_folder(tmp_path / "data", count=2)
    cells, problems = convert(path)
    assert not problems
    assert list(cells) == [str(tmp_path / "data" / "masks" / f"00{n}.png") for n in range(2)]


def test_an_empty_cell_is_a_missing_mask(tmp_path):
    path = mask_data.write_folder(tmp_path / "data", count=2)
    path.write_text("image,mask\nimages/000.png,\nimages/001.png,masks/001.png\n")
    cells, problems = convert(path)
    assert (list(np.array(cells) == ""), problems) == ([True, False], [])


def test_every_bad_cell_has_its_line(tmp_path):
    path = mask_data.write_folder(tmp_path / "data", count=5)
    os.symlink("/etc/hostname", tmp_path / "data" / "masks" / "link.png")
    (tmp_path / "outside").mkdir()
    mask_data.write_mask(tmp_path / "outside" / "m.png", np.zeros((2, 2), np.uint8))
    os.symlink(tmp_path / "outside", tmp_path / "data" / "out")
    cells = ("nowhere.png", "../x.png", "http://a/b.png", "masks/link.png", "out/m.png")
    lines = [f"images/{number:03d}.png,{cell}" for number, cell in enumerate(cells)]
    path.write_text("image,mask\n" + "\n".join(lines) + "\n")
    _, problems = convert(path)
    assert [problem.message for problem in problems] == [
        f"{path}, line 2: mask: 'nowhere.png' does not exist. Paths are relative to the table's "
        "folder.",
        f"{path}, line 3: mask: '../x.png' leaves the table's folder. Expected a path of a file "
        "below it.",
        f"{path}, line 4: mask: 'http://a/b.png' is a URL. Expected the path of a file below the "
        "table's folder.",
        f"{path}, line 5: mask: 'masks/link.png' is, or lies behind, a link that leads out of the "
        "data folder (--follow_links reads such images, if you made the links yourself).",
        f"{path}, line 6: mask: 'out/m.png' is, or lies behind, a link that leads out of the data "
        "folder (--follow_links reads such images, if you made the links yourself).",
    ]
    path.write_text("image,mask\nimages/000.png,out/m.png\n")
    assert convert(path, follow_links=True)[1] == []


def test_a_folder_is_no_table(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            mask_data.write_mask(tmp_path / name / f"{number}.png", np.zeros((4, 4), np.uint8))
    spec = specs.DataSpec(data=str(tmp_path))
    heads = (specs.HeadSpec(name="mask", kind="segmentation", num_classes=4),)
    parts, _ = loading.load_parts(spec)
    _, problems = loading.examine_parts(parts, spec, heads=heads)
    assert [problem.message for problem in problems] == [
        "--head=name=mask,kind=segmentation takes a table (.csv, .tsv, .jsonl) with a column of "
        f"images and one of masks. {tmp_path} is none."
    ]
