"""Epochs in which rare classes come as often as frequent ones.

One idea: a class is an endless deck that is shuffled anew each time it is used up, and one round
draws a card of each class. An epoch is a stretch of that sequence, so it follows from (seed, epoch)
alone, no example is drawn twice before all of its class were, and what one epoch leaves out of a
large class the next ones draw.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tf_finetune import head_kinds, specs

MISSING = -1
# Generators cost microseconds to make, so small decks are shuffled several times at once.
_MIN_CARDS = 1024
_CLASS_ORDER, _CLASS_DECKS, _REST = range(3)


def find_head(
    heads: Sequence[specs.HeadSpec], infos: Sequence[head_kinds.HeadInfo]
) -> head_kinds.HeadInfo:
    """The head whose classes are drawn evenly.

    Args:
      heads: one spec per head; none: one with every value at its default.
      infos: the heads.

    Returns:
      The first head of which an example has one class, else the first multilabel one.

    Raises:
      SpecError: no head has classes, or that head has class_weight=balanced.
    """
    able = [info for info in infos if head_kinds.HEAD_KINDS[info.kind].names_examples]
    if not able:
        raise specs.SpecError(
            "--resample=balanced draws classes evenly, and no head has classes. Leave it out."
        )
    exclusive = [info for info in able if head_kinds.HEAD_KINDS[info.kind].exclusive]
    chosen = (exclusive or able)[0]
    if any(head.name == chosen.name and head.class_weight == "balanced" for head in heads):
        raise specs.SpecError(
            f"--resample=balanced and class_weight=balanced of --head=name={chosen.name} both make "
            "up for rare classes. Leave one of them out."
        )
    return chosen


def find_strata(head: head_kinds.HeadInfo, labels: Mapping[str, np.ndarray]) -> np.ndarray:
    """What is drawn evenly: the class of each example.

    Args:
      head: of `find_head`.
      labels: {head name: encoded labels of training}, see `head_kinds.encode_labels`.

    Returns:
      int64 [n]: the class; of a multilabel example the rarest that it has (then the first), or the
      number of classes if it has none; MISSING without a label.
    """
    values = labels[head.name]
    labelled = head_kinds.find_labelled(values)
    if head_kinds.HEAD_KINDS[head.kind].exclusive:
        known = np.where(labelled, values, MISSING)
        return known.astype(np.int64).reshape(len(values))
    present = np.where(labelled, values, 0.0) > 0
    ranked = np.where(present, present.sum(axis=0), len(values) + 1)
    strata = np.where(present.any(axis=1), ranked.argmin(axis=1), len(head.classes))
    return np.where(labelled.any(axis=1), strata, MISSING).astype(np.int64)


def draw_epoch(strata: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch.

    Args:
      strata: int64 [n], of `find_strata`.
      seed: 0 or more.
      epoch: 0 or more.

    Returns:
      int64 [n], rows. Any stretch of as many as there are classes has each about once; those
      without a label come once in an epoch, at random places.
    """
    rest = np.flatnonzero(strata == MISSING)
    decks = _group(strata)[len(rest) > 0 :]  # MISSING is the first, being the smallest
    num_drawn = len(strata) - len(rest)
    start, stop = epoch * num_drawn, (epoch + 1) * num_drawn
    drawn = np.empty(num_drawn, np.int64)
    if num_drawn:
        turns = np.arange(start, stop) // len(decks)
        classes = _draw(len(decks), start, stop, key=(seed, _CLASS_ORDER, 0))
        for places in _group(classes):
            number, first = int(classes[places[0]]), int(turns[places[0]])
            rows, last = decks[number], int(turns[places[-1]]) + 1
            cards = _draw(len(rows), first, last, key=(seed, _CLASS_DECKS, number))
            drawn[places] = rows[cards[turns[places] - first]]
    generator = np.random.default_rng((seed, _REST, epoch))
    is_rest = np.zeros(len(strata), bool)
    is_rest[generator.permutation(len(strata))[: len(rest)]] = True
    order = np.empty(len(strata), np.int64)
    order[is_rest], order[~is_rest] = generator.permutation(rest), drawn
    return order


def count_repeats(rows: np.ndarray) -> np.ndarray:
    """How often each number came before.

    Args:
      rows: int64 [n], of `draw_epoch`.

    Returns:
      int64 [n], 0 where a number comes for the first time.
    """
    repeats = np.empty(len(rows), np.int64)
    for places in _group(rows):
        repeats[places] = np.arange(len(places))
    return repeats


def _group(numbers: np.ndarray) -> list[np.ndarray]:
    """The places of each number, smallest number first, each in ascending order."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)


def _draw(num_cards: int, start: int, stop: int, *, key: tuple[int, int, int]) -> np.ndarray:
    """Cards `start` to `stop` of a deck that is shuffled again and again."""
    num_decks = -(-_MIN_CARDS // num_cards)
    size = num_decks * num_cards
    blocks = range(start // size, (stop - 1) // size + 1)
    decks = np.tile(np.arange(num_cards), (num_decks, 1))
    cards = [np.random.default_rng((*key, b)).permuted(decks, axis=1).ravel() for b in blocks]
    offset = blocks[0] * size
    return np.concatenate(cards)[start - offset : stop - offset]
