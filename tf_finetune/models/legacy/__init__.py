"""What Keras 1 and 2 stored, translated to the meaning of Keras 3."""
