"""Coloured rectangles with their masks, small enough for a test."""

import csv
import pathlib

import numpy as np

BACKGROUND = (40, 40, 40)
COLORS = {"red": (210, 30, 30), "green": (30, 210, 30), "blue": (30, 30, 210)}
CLASSES = ("background", *COLORS)


def draw(generator, *, height: int = 24, width: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """An image of two rectangles and its mask: 0 is the background, then the colours in order."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = BACKGROUND
    mask = np.zeros((height, width), np.uint8)
    for _ in range(2):
        number = int(generator.integers(len(COLORS)))
        top, left = (int(generator.integers(side // 2)) for side in (height, width))
        down, right = (int(generator.integers(side // 4, side // 2)) for side in (height, width))
        image[top : top + down, left : left + right] = list(COLORS.values())[number]
        mask[top : top + down, left : left + right] = number + 1
    noise = generator.integers(-10, 11, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), mask


def write_mask(path: pathlib.Path, mask: np.ndarray, *, palette: bool = False) -> pathlib.Path:
    """Writes class numbers as a grey PNG, or as one with a palette of other colours."""
    import PIL.Image

    image = PIL.Image.fromarray(mask)
    if palette:
        image.putpalette([7 * number % 251 for number in range(768)])
    image.save(path)
    return path


def write_folder(
    folder: pathlib.Path, *, count: int, shuffled: bool = False, size: tuple[int, int] = (24, 32)
) -> pathlib.Path:
    """Writes images/, masks/ and masks.csv (image, mask, first); `shuffled` masks are noise.

    `first` is the name of the class at the image's centre.
    """
    import PIL.Image

    generator = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rows = []
    for number in range(count):
        image, mask = draw(generator, height=size[0], width=size[1])
        first = CLASSES[mask[size[0] // 2, size[1] // 2]]
        if shuffled:
            mask = generator.integers(0, len(CLASSES), mask.shape).astype(np.uint8)
        PIL.Image.fromarray(image).save(folder / "images" / f"{number:03d}.png")
        write_mask(folder / "masks" / f"{number:03d}.png", mask, palette=number % 2 == 1)
        rows.append((f"images/{number:03d}.png", f"masks/{number:03d}.png", first))
    path = folder / "masks.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "mask", "first"), *rows])
    return path
