"""Small Hugging Face folders with random weights, written with the safetensors library."""

import json
import re

import numpy as np
import safetensors.numpy

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
PIECES = [*SPECIAL, *"abcdefghilmnorstuy!.", "##s", "##ing", "good", "bad", "film", "the", "was"]
TEXTS = ["the film was good!", "", "Bad", "a good film. a bad film. the films", "ééé xyz"]
HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 16, 2, 4, 24, 20
CONFIG = {
    "model_type": "bert",
    "vocab_size": len(PIECES) + 3,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "hidden_act": "gelu",
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
_DISTILBERT = (
    (
        r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)",
        r"transformer.layer.\1.attention.\2",
    ),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense", r"transformer.layer.\1.attention.out_lin"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm", r"transformer.layer.\1.sa_layer_norm"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense", r"transformer.layer.\1.ffn.lin1"),
    (r"encoder\.layer\.(\d+)\.output\.dense", r"transformer.layer.\1.ffn.lin2"),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm", r"transformer.layer.\1.output_layer_norm"),
    (r"attention\.query", "attention.q_lin"),
    (r"attention\.key", "attention.k_lin"),
    (r"attention\.value", "attention.v_lin"),
)


def make_weights(*, embedding_size=HIDDEN, segments=2, positions=POSITIONS, seed=0):
    """{name: float32} of a BERT encoder of `CONFIG`'s sizes, all of them random."""
    draw = np.random.default_rng(seed)
    width = embedding_size
    weights = {
        "embeddings.word_embeddings.weight": draw.normal(size=(CONFIG["vocab_size"], width)),
        "embeddings.position_embeddings.weight": draw.normal(size=(positions, width)),
        "embeddings.LayerNorm.weight": draw.normal(1, 0.3, width),
        "embeddings.LayerNorm.bias": draw.normal(0, 0.3, width),
    }
    if segments:
        weights["embeddings.token_type_embeddings.weight"] = draw.normal(size=(segments, width))

    def dense(name, inputs, outputs):
        weights[f"{name}.weight"] = draw.normal(0, 0.4, (outputs, inputs))
        weights[f"{name}.bias"] = draw.normal(0, 0.3, outputs)

    def norm(name):
        weights[f"{name}.weight"] = draw.normal(1, 0.3, HIDDEN)
        weights[f"{name}.bias"] = draw.normal(0, 0.3, HIDDEN)

    if width != HIDDEN:
        dense("embeddings_project", width, HIDDEN)
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            dense(f"{layer}.attention.self.{part}", HIDDEN, HIDDEN)
        dense(f"{layer}.attention.output.dense", HIDDEN, HIDDEN)
        norm(f"{layer}.attention.output.LayerNorm")
        dense(f"{layer}.intermediate.dense", HIDDEN, INNER)
        dense(f"{layer}.output.dense", INNER, HIDDEN)
        norm(f"{layer}.output.LayerNorm")
    return {name: value.astype(np.float32) for name, value in weights.items()}


def rename_to_distilbert(weights):
    """The same weights under DistilBERT's names."""
    renamed = {}
    for name, value in weights.items():
        for pattern, replacement in _DISTILBERT:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def write(folder, weights, *, config=CONFIG, pieces=PIECES, **files):
    """Writes config.json, model.safetensors, vocab.txt and other JSON files; returns hf:DIR."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if weights is not None:
        contiguous = {name: np.ascontiguousarray(value) for name, value in weights.items()}
        safetensors.numpy.save_file(contiguous, folder / "model.safetensors")
    if pieces is not None:
        (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return f"hf:{folder}"
