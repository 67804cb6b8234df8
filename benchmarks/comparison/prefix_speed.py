"""One pass of every image through the frozen network: Keras's predict and our compiled prefix.

Run by `benchmarks.compare --prefix_only`. Images come from files, as in an epoch of the one and in
the feature pass of the other, or are there as pixels, which leaves the network alone.
"""

import argparse
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.comparison import backbones, images

KERAS, FLOAT32, AUTO = "keras", "float32", "auto"
FILES, MEMORY = "files", "memory"
_Loop = Callable[[], None]


def main() -> None:
    """Measures and writes what it found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", choices=backbones.NETWORKS, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--facts", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--repeat", type=int, required=True)
    options = parser.parse_args()
    keras_loops = make_keras_loops(options)
    own_loops, facts = make_own_loops(options)
    seconds = measure({**keras_loops, **own_loops}, repeat=options.repeat)
    count = facts["images"]
    rates = {name: [count / value for value in values] for name, values in seconds.items()}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        f"{where}/{name}": round(medians[f"{where}/{name}"] / medians[f"{where}/{KERAS}"], 3)
        for where in (FILES, MEMORY)
        for name in (FLOAT32, AUTO)
    }
    facts |= {"images_per_second": rates, "ratios": ratios}
    pathlib.Path(options.facts).write_text(json.dumps(facts))


def make_keras_loops(options: argparse.Namespace) -> dict[str, _Loop]:
    """predict of the frozen network with its preprocessing and pooling."""
    import keras

    dataset = keras.utils.image_dataset_from_directory(
        os.path.join(options.data, images.TRAIN),
        labels=None,
        image_size=(options.size, options.size),
        batch_size=options.batch_size,
        shuffle=False,
        verbose=False,
    )
    base = keras.saving.load_model(options.model, compile=False)
    base.trainable = False
    inputs = keras.Input((options.size, options.size, 3))
    module = getattr(keras.applications, backbones.NETWORKS[options.backbone].keras_module)
    features = base(module.preprocess_input(inputs), training=False)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(features))
    kept = dataset.cache()
    return {
        f"{FILES}/{KERAS}": lambda: _ignore(model.predict(dataset, verbose=0)),
        f"{MEMORY}/{KERAS}": lambda: _ignore(model.predict(kept, verbose=0)),
    }


def make_own_loops(options: argparse.Namespace) -> tuple[dict[str, _Loop], dict[str, Any]]:
    """(the compiled prefix in float32 and in what auto chooses, what auto chose)."""
    from tf_finetune import freezing, heads, input_checks, specs
    from tf_finetune.data import loading, pipeline
    from tf_finetune.feature_cache import choosing, prefix
    from tf_finetune.models import loading as model_loading
    from tf_finetune.models import splitting

    network = backbones.NETWORKS[options.backbone]
    spec = specs.RunSpec(
        model=specs.ModelSpec(model=options.model, pixel_range=network.pixel_range),
        data=specs.DataSpec(data=os.path.join(options.data, images.TRAIN), split=(1.0, 0.0, 0.0)),
    )
    splits = loading.load_data(spec.data)
    backbone = model_loading.load_backbone(spec.model)
    pre = input_checks.settle_inputs(spec, backbone, splits)
    head_specs = (specs.HeadSpec(),)
    model = heads.attach_heads(backbone, heads=head_specs, infos=splits.heads)
    freezing.apply_plan(freezing.plan_freeze("all", backbone.table), backbone.model)
    split = splitting.split_model(model, freezing.is_fixed, opened=[backbone.model])
    files = pipeline.make_dataset(splits.train, pre, batch_size=options.batch_size)
    kept = files.cache()
    ((batch, _),) = files.take(1)
    # As of ten epochs: whether the cache is worth it is not the question here.
    choice = choosing.choose(
        split,
        specs.TrainSpec(feature_cache="memory"),
        num_saved=9 * len(splits.train),
        may_round=True,
        read_batch=lambda: batch,
        find_tried=lambda: None,
    )
    compiled = {
        FLOAT32: prefix.compile_prefix(split, precision=FLOAT32),
        AUTO: choice.compiled or prefix.compile_prefix(split, precision=choice.precision),
    }
    loops = {
        f"{where}/{name}": lambda data=data, call=call: _run_prefix(call, data)
        for where, data in ((FILES, files), (MEMORY, kept))
        for name, call in compiled.items()
    }
    facts = {"images": len(splits.train), "auto": choice.precision, "reason": choice.reason}
    return loops, facts


def measure(loops: dict[str, _Loop], *, repeat: int) -> dict[str, list[float]]:
    """{name: seconds of each round}, by turns after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    names = list(loops)
    for number in range(repeat + 1):
        # Each begins some rounds, so that none has always the same neighbour.
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            loops[name]()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _run_prefix(call: Callable[[Any], Any], batches: Iterable[Any]) -> None:
    for inputs, _ in batches:
        for value in call(inputs).values():
            value.numpy()


def _ignore(value: object) -> None:
    del value


if __name__ == "__main__":
    main()
