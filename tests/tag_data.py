"""Sentences with a tag for each word, and what tells the tags."""

import json
import pathlib
import random

# Words of `hugging_face_folders.PIECES`; "goods" and "filming" are two pieces each.
NAMES = {"PER": (("a", "m"), "t"), "LOC": (("r", "i"), "o")}
FILLERS = ("the", "was", "good", "film", "goods", "filming", "bad")


def make_sentences(count: int = 60, *, shuffled: bool = False) -> list[tuple[list[str], list[str]]]:
    """(words, tags): one or two names in a row, among fillers; `shuffled` tags are noise."""
    generator = random.Random(0)
    sentences = []
    for number in range(count):
        kind = ("PER", "LOC")[number % 2]
        first, last = NAMES[kind]
        name = [generator.choice(first), last][: 1 + number // 2 % 2]
        before = generator.choices(FILLERS, k=generator.randrange(1, 4))
        behind = generator.choices(FILLERS, k=generator.randrange(4))
        tags = [f"B-{kind}"] + [f"I-{kind}"] * (len(name) - 1)
        words = [*before, *name, *behind]
        tags = ["O"] * len(before) + tags + ["O"] * len(behind)
        if shuffled:
            tags = [generator.choice(("O", "B-PER", "B-LOC")) for _ in words]
        sentences.append((words, tags))
    return sentences


def write_csv(path: pathlib.Path, sentences) -> pathlib.Path:
    """Writes text,tags."""
    rows = [f"{' '.join(words)},{' '.join(tags)}" for words, tags in sentences]
    path.write_text("text,tags\n" + "\n".join(rows) + "\n")
    return path


def write_jsonl(path: pathlib.Path, sentences) -> pathlib.Path:
    """Writes an object with two lists on each line."""
    rows = [json.dumps({"tokens": words, "tags": tags}) for words, tags in sentences]
    path.write_text("\n".join(rows) + "\n")
    return path
