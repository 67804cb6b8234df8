"""The numbers of a head that gives a class to each position, counted batch by batch.

One idea: a matrix of counts says all but the cross-entropy, which is a sum. So neither logits nor
labels of a split are ever held together, whatever its size. What the names mean:

- `mean_iou`: mean of the classes' intersection over union: pixels that are of the class and
  predicted as it, over those that are either. Over the classes that a label or a prediction of the
  split has; one that is predicted and nowhere true counts with 0.
- `pixel_accuracy`: part of the labelled pixels that are right.
- `token_accuracy`: part of the labelled words that are right.
- `f1_macro`: mean of the tags' F1 over those that have a word in the split, `O` among them.
- `f1_micro`: F1 of all words together, where only tags other than `O` count as found or missed: of
  mostly untagged text, the accuracy says little.
- `entity_f1`: where all tags are `O`, `B-KIND` or `I-KIND`: F1 of whole names, right when kind,
  beginning and end are (`entity_tags`).
- `log_loss`: cross-entropy in nats, mean of the labelled pixels or words, unweighted, not smoothed.

Pixels and words without a class count nowhere.

Reference: Everingham et al. 2015, "The Pascal Visual Object Classes Challenge: A Retrospective",
section 3.3 (intersection over union per class), https://doi.org/10.1007/s11263-014-0733-5
"""

import numpy as np

from tf_finetune import entity_tags, head_kinds, head_metrics

_NO_TAG = "no word has another tag than O, and none was predicted"


class PositionCounter:
    """Counts of one head over a split.

    Args:
      head: its kind is one of positions.
    """

    def __init__(self, head: head_kinds.HeadInfo):
        self._head = head
        num_classes = len(head.classes)
        self._matrix = np.zeros((num_classes, num_classes), np.int64)
        self._loss = 0.0
        self.num_examples = 0
        self._num_labelled = 0
        self.num_bad = 0
        self._finds_entities = "entity_f1" in head_metrics.list_metrics(head)
        # Names that are right, true and predicted.
        self._entities = np.zeros(3, np.int64)

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Counts a batch.

        Args:
          logits: float32 [batch, ..., classes].
          labels: int [batch, ...], -1 where there is none; of words those of padding may be more.

        Raises:
          ValueError: the shapes do not fit each other or the head.
        """
        num_classes = len(self._head.classes)
        if self._head.kind == "token_classification":
            labels = labels[:, : logits.shape[1]]
        expected = (*labels.shape, num_classes)
        if logits.shape != expected:
            raise ValueError(
                f"Logits of head '{self._head.name}': expected shape {expected}. "
                f"Received {logits.shape}."
            )
        labelled = labels >= 0
        self.num_examples += len(labels)
        self._num_labelled += int(labelled.reshape(len(labels), -1).any(axis=1).sum())
        is_finite = np.isfinite(logits).all(axis=-1)
        self.num_bad += int((~is_finite.reshape(len(labels), -1).all(axis=1)).sum())
        if self.num_bad:
            return
        true, chosen = labels[labelled].astype(np.int64), logits[labelled]
        cells = np.bincount(true * num_classes + chosen.argmax(axis=-1), minlength=num_classes**2)
        self._matrix += cells.reshape(num_classes, num_classes)
        self._loss += _sum_cross_entropy(chosen, true)
        if self._finds_entities:
            self._count_entities(logits.argmax(axis=-1), labels)

    def _count_entities(self, predicted: np.ndarray, labels: np.ndarray) -> None:
        names = self._head.classes
        for own_labels, own_predicted in zip(labels, predicted, strict=True):
            known = own_labels >= 0
            true = entity_tags.find_entities([names[number] for number in own_labels[known]])
            found = entity_tags.find_entities([names[number] for number in own_predicted[known]])
            self._entities += (len(true & found), len(true), len(found))

    def make_report(self) -> head_metrics.HeadReport:
        """What was counted.

        Returns:
          The report; without a label every metric is undefined.
        """
        matrix, head = self._matrix, self._head
        total = int(matrix.sum())
        names = head_metrics.list_metrics(head)
        rows = _make_class_rows(matrix, head.classes, with_iou=head.kind == "segmentation")
        values: dict[str, float] = {}
        undefined = dict.fromkeys(names, f"no {self._noun} has a label")
        if total:
            values = {"log_loss": self._loss / total, **self._measure(rows)}
            undefined = {name: _NO_TAG for name in names if name not in values}
        shown = len(head.classes) <= head_metrics.MAX_MATRIX_CLASSES
        return head_metrics.HeadReport(
            kind=head.kind,
            classes=head.classes,
            thresholds=(),
            num_examples=self._num_labelled,
            num_missing=self.num_examples - self._num_labelled,
            num_correct=None,
            loss=values.get("log_loss", 0.0),
            metrics={name: values[name] for name in names if name in values},
            undefined=undefined,
            interval=None,  # Pixels of an image are not independent of each other.
            per_class=rows if total else (),
            confusion=matrix if total and shown else None,
            confused_pairs=_find_confused(matrix, head.classes),
        )

    @property
    def _noun(self) -> str:
        return head_kinds.HEAD_KINDS[self._head.kind].positions.removesuffix("s")

    def _measure(self, rows: tuple[head_metrics.ClassReport, ...]) -> dict[str, float]:
        accuracy = float(np.trace(self._matrix)) / float(self._matrix.sum())
        if self._head.kind == "segmentation":
            overlaps = [row.iou for row in rows if row.iou is not None]
            return {"mean_iou": sum(overlaps) / len(overlaps), "pixel_accuracy": accuracy}
        scores = [row.f1 for row in rows if row.f1 is not None]
        values = {"token_accuracy": accuracy, "f1_macro": sum(scores) / len(scores)}
        tagged = np.array([name != entity_tags.OUTSIDE for name in self._head.classes])
        sums = (np.diag(self._matrix), self._matrix.sum(axis=1), self._matrix.sum(axis=0))
        counts = {
            "f1_micro": [int(part[tagged].sum()) for part in sums],
            "entity_f1": [int(count) for count in self._entities],
        }
        for name, (hits, *either) in counts.items():
            if sum(either):
                values[name] = 2 * hits / sum(either)
        return values


def _sum_cross_entropy(logits: np.ndarray, true: np.ndarray) -> float:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normalizers = np.log(np.exp(shifted).sum(axis=-1, dtype=np.float64))
    own = np.take_along_axis(shifted, true[:, np.newaxis], axis=-1)[:, 0]
    return float((normalizers - own).sum(dtype=np.float64))


def _make_class_rows(
    matrix: np.ndarray, classes: tuple[str, ...], *, with_iou: bool
) -> tuple[head_metrics.ClassReport, ...]:
    rows = []
    hits, support, claimed = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    for name, *counts in zip(classes, hits, support, claimed, strict=True):
        right, present, predicted = (int(count) for count in counts)
        union = present + predicted - right
        rows.append(
            head_metrics.ClassReport(
                name,
                precision=(right / predicted if predicted else 0.0) if present else None,
                recall=right / present if present else None,
                f1=2 * right / (present + predicted) if present else None,
                support=present,
                num_predicted=predicted,
                iou=right / union if union and with_iou else None,
            )
        )
    return tuple(rows)


def _find_confused(
    matrix: np.ndarray, classes: tuple[str, ...]
) -> tuple[head_metrics.ConfusedPair, ...]:
    wrong = matrix * (1 - np.eye(len(classes), dtype=np.int64))
    cells = np.argsort(-wrong, axis=None, kind="stable")[: head_metrics.NUM_CONFUSED_PAIRS]
    return tuple(
        head_metrics.ConfusedPair(
            classes[cell // len(classes)], classes[cell % len(classes)], int(wrong.flat[cell])
        )
        for cell in cells
        if wrong.flat[cell]
    )
