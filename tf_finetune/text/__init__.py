"""Tokenizers as graph code: strings in, token ids out, from core TensorFlow operations only."""
