"""A tf.data.Dataset as arrays, read once from its beginning to its end.

One idea: a data set that shuffles gives another order each time, and images of one pass do not fit
the labels of another. So all is taken in a single pass and kept; only images that are too many for
that, or of different sizes, are read again, after it was seen that they come in the same order.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tf_finetune import findings
from tf_finetune.data import (
    array_images,
    array_inputs,
    array_labels,
    examples,
    image_stores,
    memory,
    memory_source,
)

_MAX_BYTES_KEPT = 2**30
_MAX_UNCOUNTED = 10_000_000
_BATCH = 256
# Of a data set that shuffles, not one of so many is in its place by chance.
_SAME_ORDER = 1000
_DIGEST_BYTES = 16


def collect(
    dataset: Any, *, flag: str
) -> tuple[dict[str, array_inputs.Values], tuple[str, ...], str]:
    """Reads a data set.

    Args:
      dataset: finite tf.data.Dataset of (inputs, labels) or of dicts, in batches or not. Inputs and
        labels are tensors or dicts of tensors, as `memory_source.collect` takes arrays; images may
        have different sizes where they are not in batches.
      flag: name of the argument, for messages.

    Returns:
      ({name: array, or a stream of images}; names of the inputs, () of a dict; a hash of what the
      stream gives).

    Raises:
      findings.RefusedError: the data set has no end, no example or elements of another form; or
        its images are many, and come in another order each time.
    """
    cardinality = int(dataset.cardinality())
    if cardinality == tf.data.INFINITE_CARDINALITY:
        raise _refusal(
            "the data set has no end (repeat). Hand over one epoch; --epochs says how many.", flag
        )
    form = _find_form(dataset.element_spec, flag=flag)
    reader = _Reader(dataset, form, flag=flag)
    # What does not end by itself, as a generator, has a cardinality that nobody knows.
    reader.read(limit=None if cardinality >= 0 else _MAX_UNCOUNTED)
    values = reader.finish()
    return values, form.inputs, reader.digest


@dataclasses.dataclass(frozen=True)
class _Form:
    """What an element is.

    Attributes:
      specs: {name: tf.TensorSpec}, in the order of the element's leaves.
      inputs: names of the inputs; () of a dict.
      image: name of the images that are pixels, or "".
      is_batched: whether each element holds several examples.
    """

    specs: dict[str, tf.TensorSpec]
    inputs: tuple[str, ...]
    image: str
    is_batched: bool

    @property
    def is_uniform(self) -> bool:
        """Whether all examples have one shape."""
        return all(spec.shape[self.is_batched :].is_fully_defined() for spec in self.specs.values())


def _find_form(element: Any, *, flag: str) -> _Form:
    pair = memory_source.split_pair(element, flag=flag)
    inputs: dict[str, Any] = {}
    named = pair if isinstance(pair, dict) else {}
    if not isinstance(pair, dict):
        inputs = pair[0] if isinstance(pair[0], dict) else {memory_source.FEATURES: pair[0]}
        named = memory_source.join_names(inputs, pair[1], flag=flag)
    for name, spec in named.items():
        if not isinstance(spec, tf.TensorSpec) or spec.shape.rank is None:
            shown = findings.one_line(name)
            raise _refusal(
                f"'{shown}' is {findings.one_line(str(spec))}. Expected dense tensors of a known "
                "rank.",
                flag,
            )
    is_batched = _is_batched(named, inputs, flag=flag)
    if not isinstance(pair, dict) and not isinstance(pair[0], dict):
        # Named by what it is, which its rank tells.
        spec = pair[0]
        rank = spec.shape.rank + (not is_batched)
        name = memory_source.name_input(spec.dtype.as_numpy_dtype, rank)
        named = memory_source.join_names({name: spec}, pair[1], flag=flag)
        inputs = {name: spec}
    images = [
        name
        for name, spec in named.items()
        if spec.shape.rank + (not is_batched) >= 3 and spec.dtype != tf.string
    ]
    return _Form(named, tuple(inputs), images[0] if images else "", is_batched)


def _is_batched(
    named: dict[str, tf.TensorSpec], inputs: dict[str, tf.TensorSpec], *, flag: str
) -> bool:
    """Whether the first axis of every tensor counts examples."""
    shapes = [spec.shape for spec in named.values()]
    if any(shape.rank == 0 for shape in shapes):
        return False
    sizes = {shape[0] for shape in shapes}
    if sizes == {None}:
        return True
    if len(sizes) > 1:  # as an image and a one-hot label
        return False
    # drop_remainder leaves a number there, and one example may have as many of everything.
    if sizes == {1} or not _may_be_one(named, inputs):
        return True
    if any(shape.rank == 3 for shape in shapes):  # Nobody has a batch of images four pixels wide.
        return False
    shown = ", ".join(
        f"'{findings.one_line(name)}' {list(spec.shape)}" for name, spec in named.items()
    )
    raise _refusal(
        f"each element holds {shown}, and nothing tells whether that is one example or a batch of "
        f"{sizes.pop()}. Single examples: batch(n) the data set. A batch: batch(n) without "
        "drop_remainder, or unbatch().",
        flag,
    )


def _may_be_one(named: dict[str, tf.TensorSpec], inputs: dict[str, tf.TensorSpec]) -> bool:
    """Whether tensors, none of them a scalar, can be one example: an image, vectors and labels."""
    fed = inputs or named
    if all(spec.dtype == tf.string for spec in fed.values()):  # A text is a scalar.
        return False
    images = {name: spec.shape for name, spec in named.items() if spec.shape.rank > 1}
    if len(images) > 1 or any(name not in fed or fed[name].dtype == tf.string for name in images):
        return False
    return all(
        shape.rank == 2 or (shape.rank == 3 and (shape[2] or 1) <= array_images.MAX_CHANNELS)
        for shape in images.values()
    )


class _Reader:
    """The pass over a data set."""

    def __init__(self, dataset: tf.data.Dataset, form: _Form, *, flag: str):
        self._dataset, self._form, self._flag = dataset, form, flag
        self._kept: dict[str, list[np.ndarray]] = {name: [] for name in form.specs}
        self._range = array_images.PixelRange()
        self._digests: list[bytes] = []
        self._num_bytes = self._num_rows = 0
        self._max_bytes = min(_MAX_BYTES_KEPT, memory.find_available_bytes() // 4)
        # Images of different sizes have no place in one array.
        self._is_stream = False
        self.digest = ""
        if form.image:
            spec = form.specs[form.image]
            self._is_stream = not form.is_batched and not spec.shape.is_fully_defined()
            with _naming(flag, form.image):
                if np.dtype(spec.dtype.as_numpy_dtype).kind not in "uif":
                    received = spec.dtype.name
                    raise array_labels.BadArrayError(f"expected pixels. Received {received}.")
                self._check_shape(tuple(spec.shape)[form.is_batched :])

    def _check_shape(self, shape: tuple[int | None, ...]) -> None:
        dtype = self._form.specs[self._form.image].dtype
        array_images.check_shape(shape, f"{dtype.name} {list(shape)} each")

    def read(self, *, limit: int | None) -> None:
        """Reads every element."""
        for batch in self._iterate():
            first = next(iter(batch.values()))
            if any(len(array) != len(first) for array in batch.values()):
                sizes = ", ".join(f"'{name}' {len(array)}" for name, array in batch.items())
                raise _refusal(f"a batch has different numbers of examples: {sizes}.", self._flag)
            self._add(batch)
            self._num_rows += len(first)
            if limit is not None and self._num_rows > limit:
                raise _refusal(
                    f"the data set does not say how many elements it has, and has more than "
                    f"{limit:,}. If it ends, tell so with apply(tf.data.experimental."
                    "assert_cardinality(n)); if not, take(n) ends it.",
                    self._flag,
                )

    def _iterate(self) -> Iterator[dict[str, np.ndarray]]:
        dataset, names = self._dataset, list(self._form.specs)
        single = not self._form.is_batched
        if single and self._form.is_uniform:
            dataset, single = dataset.batch(_BATCH), False
        for element in dataset.as_numpy_iterator():
            leaves = _flatten(element, self._dataset.element_spec)
            yield {
                name: np.asarray(leaf)[np.newaxis] if single else leaf
                for name, leaf in zip(names, leaves, strict=True)
            }

    def _add(self, batch: dict[str, np.ndarray]) -> None:
        image = self._form.image
        for name, array in batch.items():
            if name == image:
                self._add_images(array)
            else:
                self._kept[name].append(array)

    def _add_images(self, images: np.ndarray) -> None:
        with _naming(self._flag, self._form.image):
            # Its form may leave open how many channels there are.
            self._check_shape(images.shape[1:])
        if images.dtype not in (np.uint8, np.uint16):
            self._range.add(images, first=self._num_rows)
        finite = np.nan_to_num(images) if images.dtype.kind == "f" else images
        for pixels in array_images.to_pixels(finite):
            self._digests.append(_hash(pixels))
        if self._is_stream:
            return
        self._kept[self._form.image].append(images)
        self._num_bytes += images.nbytes
        if self._num_bytes > self._max_bytes:
            self._is_stream = True
            self._kept[self._form.image] = []

    def finish(self) -> dict[str, array_inputs.Values]:
        """{name: values}."""
        if not self._num_rows:
            raise _refusal("the data set holds no example.", self._flag)
        values: dict[str, array_inputs.Values] = {}
        for name in self._form.specs:
            shapes = {part.shape[1:] for part in self._kept[name]}
            if name == self._form.image and (self._is_stream or len(shapes) > 1):
                values[name] = self._make_stream()
            else:
                values[name] = _join(self._kept[name])
        return values

    def _make_stream(self) -> image_stores.StreamImages:
        form, dtype = self._form, self._form.specs[self._form.image].dtype
        if dtype not in (tf.uint8, tf.uint16):
            with _naming(self._flag, form.image):
                self._range.check(np.dtype(dtype.as_numpy_dtype))
                if self._range.bad:
                    shown = findings.list_values(self._range.bad)
                    raise array_labels.BadArrayError(
                        f"pixels that are no finite number, examples {shown}."
                    )
        self.digest = hashlib.blake2b(b"".join(self._digests)).hexdigest()
        stream = image_stores.StreamImages(self._make_images, self._num_rows)
        first = stream.make_dataset().take(_SAME_ORDER).as_numpy_iterator()
        again = [_hash(pixels) for pixels in first]
        if again != self._digests[:_SAME_ORDER]:
            raise _refusal(
                "the images are too many to be kept in memory, or of different sizes, and the data "
                "set gives them in another order each time. Leave shuffle out (training shuffles), "
                "or give it reshuffle_each_iteration=False.",
                self._flag,
            )
        return stream

    def _make_images(self) -> tf.data.Dataset:
        place = list(self._form.specs).index(self._form.image)
        form = self._dataset.element_spec

        def pick(*element: Any) -> tf.Tensor:
            return _flatten(element if len(element) > 1 else element[0], form)[place]

        images = self._dataset.map(pick)
        if self._form.is_batched:
            images = images.unbatch()
        options = tf.data.Options()
        options.deterministic = True
        return images.map(_to_pixels).with_options(options)


def _flatten(element: Any, like: Any) -> list[Any]:
    """The leaves of an element in the order in which `like`, its specification, has them."""
    if isinstance(like, dict):
        return [element[name] for name in like]
    if isinstance(like, tuple | list):
        return [
            leaf for part, form in zip(element, like, strict=True) for leaf in _flatten(part, form)
        ]
    return [element]


def _to_pixels(image: tf.Tensor) -> tf.Tensor:
    if image.shape.rank == 2:
        image = image[..., tf.newaxis]
    if image.dtype in (tf.uint8, tf.uint16):
        return image
    return tf.cast(tf.round(image) if image.dtype.is_floating else image, tf.uint8)


def _hash(pixels: np.ndarray) -> bytes:
    content = np.ascontiguousarray(pixels)
    return hashlib.blake2b(content.view(np.uint8).data, digest_size=_DIGEST_BYTES).digest()


def _join(parts: list[np.ndarray]) -> np.ndarray:
    """Batches as one array; vectors of different lengths are lists of names."""
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    return examples.object_array([row.tolist() for part in parts for row in part])


@contextlib.contextmanager
def _naming(flag: str, name: str) -> Iterator[None]:
    """Turns what is wrong with an array into a refusal that names it."""
    try:
        yield
    except array_labels.BadArrayError as error:
        raise array_labels.refuse(error, flag=flag, name=name) from error


def _refusal(message: str, flag: str) -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(f"{flag}: {message}", flag=f"--{flag}"))
