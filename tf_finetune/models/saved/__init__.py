"""SavedModels and TF-Hub modules as trainable Keras layers."""
