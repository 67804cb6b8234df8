"""The images that every contender reads: made or given, split once, the same files for all.

NumPy and Pillow only: the process that measures others stays small.
"""

import contextlib
import os
import pathlib
import shutil

import numpy as np
import PIL.Image
import PIL.ImageDraw

NUM_CLASSES = 10
TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")
# What image_dataset_from_directory, ImageFolder and tf_finetune all read.
_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp")
_SIDES = (320, 240)


def write_images(
    folder: pathlib.Path, count: int, *, sides: tuple[int, int] = _SIDES, noise: int = 24
) -> None:
    """JPEGs in a folder per class: its colour and its shape somewhere, clutter, noise.

    Each file is a function of its number alone: more images are the same ones and others.

    Args:
      folder: where to; class folders are made in it.
      count: of all classes together, each of which gets as many or one more.
      sides: width and height in pixels.
      noise: half the range of the noise, of 255; 24 makes 30 to 60 KB of 320 x 240 pixels.
    """
    for label in range(NUM_CLASSES):
        os.makedirs(folder / f"class_{label}", exist_ok=True)
    for number in range(count):
        label = number % NUM_CLASSES
        path = folder / f"class_{label}" / f"{number:06d}.jpg"
        draw_image(number, label, sides=sides, noise=noise).save(path, quality=90)


def draw_image(number: int, label: int, *, sides: tuple[int, int], noise: int) -> PIL.Image.Image:
    """One image of `write_images`."""
    generator = np.random.default_rng([number, label])
    background = generator.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    image = PIL.Image.fromarray(background).resize(sides, PIL.Image.Resampling.BICUBIC)
    width, height = sides
    reach = min(sides) * generator.uniform(0.2, 0.4)
    middle = np.array([generator.uniform(reach, width - reach), 0.0])
    middle[1] = generator.uniform(reach, height - reach)
    # Five shapes in two families of colours.
    hue = int((label % 5) * 51 + (label // 5) * 25 + generator.integers(-8, 9)) % 256
    color = PIL.Image.new("HSV", (1, 1), (hue, 220, 230)).convert("RGB").getpixel((0, 0))
    draw = PIL.ImageDraw.Draw(image)
    corners = label % 5 + 2
    if corners == 2:
        draw.ellipse([*(middle - reach), *(middle + reach)], fill=color)
    else:
        turn = float(generator.uniform(0, 360))
        draw.regular_polygon((*map(float, middle), reach), corners, rotation=turn, fill=color)
    pixels = np.asarray(image, np.int16) + generator.integers(-noise, noise + 1, (height, width, 3))
    return PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def list_images(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """{class: sorted paths} of a folder of class folders.

    Raises:
      ValueError: there are fewer than two classes with images in it.
    """
    found = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.is_dir() and not entry.name.startswith("."):
            paths = sorted(path for path in entry.rglob("*") if path.suffix.lower() in _ENDINGS)
            if paths:
                found[entry.name] = paths
    if len(found) < 2:
        raise ValueError(
            f"--images={folder}: expected a folder with at least two class folders of "
            f"{', '.join(_ENDINGS)} files. Found {len(found)}."
        )
    return found


def choose_images(
    found: dict[str, list[pathlib.Path]], count: int | None
) -> dict[str, list[pathlib.Path]]:
    """The first ones of each class, in equal parts as far as that goes.

    Args:
      found: of `list_images`.
      count: of all classes together; None: all.

    Raises:
      ValueError: there are not as many, or a class would get fewer than 3.
    """
    total = sum(map(len, found.values()))
    count = total if count is None else count
    if count > total:
        raise ValueError(f"Expected {count:,} images. Found {total:,} in --images.")
    numbers = dict.fromkeys(found, 0)
    left = count
    while left:
        for name, paths in found.items():
            if left and numbers[name] < len(paths):
                numbers[name] += 1
                left -= 1
    fewest = min(numbers, key=lambda name: numbers[name])
    if numbers[fewest] < 3:
        raise ValueError(
            f"Expected at least 3 images of each class, one for each split. "
            f"{fewest!r} has {numbers[fewest]}."
        )
    return {name: paths[: numbers[name]] for name, paths in found.items()}


def split_images(chosen: dict[str, list[pathlib.Path]], folder: pathlib.Path) -> dict[str, int]:
    """Lays the images out as train, validation and test: 8, 1 and 1 of ten in each class.

    Args:
      chosen: {class: paths}.
      folder: gets SPLIT/CLASS/NUMBER.ENDING, hard links where the file system can.

    Returns:
      {split: number of images}.
    """
    counts = dict.fromkeys(SPLITS, 0)
    for name, paths in chosen.items():
        part = max(1, round(len(paths) / 10))
        for number, path in enumerate(paths):
            from_end = len(paths) - 1 - number
            split = TEST if from_end < part else VALIDATION if from_end < 2 * part else TRAIN
            target = folder / split / name / f"{number:06d}{path.suffix.lower()}"
            os.makedirs(target.parent, exist_ok=True)
            _link(path, target)
            counts[split] += 1
    return counts


def _link(path: pathlib.Path, target: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        os.link(path.resolve(), target)
        return
    shutil.copyfile(path, target)
