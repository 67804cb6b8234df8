"""A BERT-like encoder in NumPy and float64, from the paper: what the layers are held against.

It reads the weights by Hugging Face's names and works on one text at a time: it knows no padding.
"""

import math

import numpy as np

_erf = np.vectorize(math.erf, otypes=[np.float64])
ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
}


def encode(weights, token_ids, *, num_layers, num_heads, activation="gelu", epsilon=1e-12):
    """The last block's output for one text, float64 [tokens, width].

    Args:
      weights: {name: array}, names of a BERT encoder without prefix.
      token_ids: list of ints.
    """
    weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}

    def dense(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = weights["embeddings.word_embeddings.weight"][token_ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(token_ids)]
    if "embeddings.token_type_embeddings.weight" in weights:
        x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    if "embeddings_project.weight" in weights:
        x = dense(x, "embeddings_project")
    for number in range(num_layers):
        layer = f"encoder.layer.{number}"
        query, key, value = (
            np.split(dense(x, f"{layer}.attention.self.{name}"), num_heads, axis=-1)
            for name in ("query", "key", "value")
        )
        heads = [_attend(*head) for head in zip(query, key, value, strict=True)]
        mixed = dense(np.concatenate(heads, axis=-1), f"{layer}.attention.output.dense")
        x = norm(x + mixed, f"{layer}.attention.output.LayerNorm")
        inner = ACTIVATIONS[activation](dense(x, f"{layer}.intermediate.dense"))
        x = norm(x + dense(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x


def _attend(query, key, value):
    scores = query @ key.T / math.sqrt(query.shape[-1])
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True) @ value
