"""What is odd against the rest; single odd images are in e2e/test_doctor.py."""

import numpy as np
import PIL.Image
import pytest

from tests.data import image_bytes
from tf_finetune import specs
from tf_finetune.data import doctor


def find(folder, **options):
    (folder / "a").mkdir(parents=True, exist_ok=True)
    spec = specs.DataSpec(data=str(folder), **options)
    sections = {section.title: section.problems for section in doctor.examine(spec).sections}
    return [problem.message for problem in sections.get("Images", ())]


@pytest.fixture
def write(tmp_path):
    generator = np.random.default_rng(0)

    def write_images(*shapes):
        for number, shape in enumerate(shapes):
            path = tmp_path / "abc"[number % 2] / f"{number:02d}.png"
            path.parent.mkdir(exist_ok=True)
            PIL.Image.fromarray(generator.integers(0, 256, shape).astype(np.uint8)).save(path)
        return tmp_path

    return write_images


def test_what_all_images_are_is_not_odd(write):
    assert find(write(*[(2, 60)] * 8)) == []  # small and long


def test_images_of_one_colour_are_odd_among_others(write):
    folder = write(*[(8, 8)] * 6)
    for number in range(6):
        PIL.Image.new("L", (8, 8), 20 * number).save(folder / "a" / f"plain{number}.png")
    assert len(find(folder)) == 6
    PIL.Image.new("L", (8, 8), 200).save(folder / "a" / "plain6.png")
    assert find(folder) == []


def test_images_that_are_enlarged(write):
    folder = write((8, 8), *[(30, 30)] * 7)
    assert find(folder, image_size="100") == [
        f"{folder}: 1 of 8 images are enlarged more than 4 times by --image_size=100: "
        f"'{folder}/a/00.png'."
    ]
    assert find(folder, image_size="32") == []


def test_8_bits_among_16(write):
    folder = write((8, 8), (8, 8))
    generator = np.random.default_rng(1)
    for number in range(5):
        wide = generator.integers(0, 65_536, (8, 8, 1)).astype(np.uint16)
        (folder / "b" / f"wide{number}.png").write_bytes(image_bytes.make_png(wide))
    assert find(folder) == [
        f"{folder}/{name}.png has 8 bits for a value, others 16. Convert it like the others."
        for name in ("a/00", "b/01")
    ]
