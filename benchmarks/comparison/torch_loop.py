"""Fine-tuning as torchvision's reference scripts do it; a contender of `benchmarks.compare`.

To PyTorch's favour: channels_last, frozen parts in evaluation mode, and no gradient below the
first layer that trains. Weights are random and its own.

Reference: pytorch.org, "Transfer Learning for Computer Vision Tutorial"; torchvision's
references/classification/train.py.
"""

import argparse
import contextlib
import json
import os
import pathlib
import time

from benchmarks.comparison import backbones, images, plain_keras

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
START = time.perf_counter()


def main() -> None:
    """Trains, measures on the test split and writes what it found."""
    options = plain_keras.parse()
    import torch

    torch.manual_seed(0)
    seconds = {"import": time.perf_counter() - START}
    start = time.perf_counter()
    loaders = make_loaders(options)
    num_classes = len(loaders[images.TRAIN].dataset.classes)
    base, model = make_model(options, num_classes=num_classes)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=options.learning_rate)
    seconds["model and data"] = time.perf_counter() - start
    start = time.perf_counter()
    for epoch in range(options.epochs):
        train_epoch(options, base, model, loaders[images.TRAIN], optimizer)
        accuracy = measure(options, model, loaders[images.VALIDATION])
        print(f"epoch {epoch + 1}: validation accuracy {accuracy:.4f}", flush=True)
    seconds["train"] = time.perf_counter() - start
    accuracy = measure(options, model, loaders[images.TEST])
    facts = {"accuracy": accuracy, "parts": {key: round(secs, 2) for key, secs in seconds.items()}}
    pathlib.Path(options.facts).write_text(json.dumps(facts))


def make_loaders(options: argparse.Namespace) -> dict:
    """{split: DataLoader}."""
    import torch
    from torchvision import datasets, transforms

    steps = transforms.Compose(
        [
            transforms.Resize((options.size, options.size)),
            transforms.ToTensor(),
            transforms.Normalize(_MEAN, _DEVIATION),
        ]
    )
    return {
        split: torch.utils.data.DataLoader(
            datasets.ImageFolder(os.path.join(options.data, split), steps),
            batch_size=options.batch_size,
            shuffle=split == images.TRAIN,
            num_workers=os.cpu_count() or 1,
            persistent_workers=True,
        )
        for split in images.SPLITS
    }


def make_model(options: argparse.Namespace, *, num_classes: int) -> tuple:
    """(what is trained of the backbone, the whole model)."""
    import torch
    from torchvision import models

    network = backbones.NETWORKS[options.backbone]
    model = getattr(models, network.torch_name)(weights=None)
    model.requires_grad_(options.what == "unfrozen")
    trained = [model] if options.what == "unfrozen" else []
    if options.what == "partial":
        name, first = network.torch_last
        block = getattr(model, name)
        trained = [block] if first is None else list(block[first:])
        for part in trained:
            part.requires_grad_(True)
    if hasattr(model, "fc"):
        model.fc = torch.nn.Linear(model.fc.in_features, num_classes)
    else:
        model.classifier = torch.nn.Linear(model.last_channel, num_classes)
    return trained, model.to(memory_format=torch.channels_last)


def train_epoch(options: argparse.Namespace, trained: list, model, loader, optimizer) -> None:
    """One pass over the training images."""
    import torch

    model.eval()
    if options.batch_norm == "train":
        for part in trained:
            part.train()
    for pixels, labels in loader:
        optimizer.zero_grad()
        with _arithmetic(options):
            logits = model(pixels.contiguous(memory_format=torch.channels_last))
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()


def measure(options: argparse.Namespace, model, loader) -> float:
    """Accuracy."""
    import torch

    model.eval()
    right = count = 0
    with torch.inference_mode(), _arithmetic(options):
        for pixels, labels in loader:
            logits = model(pixels.contiguous(memory_format=torch.channels_last))
            right += int((logits.argmax(1) == labels).sum())
            count += len(labels)
    return right / count


def _arithmetic(options: argparse.Namespace) -> contextlib.AbstractContextManager:
    import torch

    if options.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


if __name__ == "__main__":
    main()
