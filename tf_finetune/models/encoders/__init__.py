"""Text encoders: Hugging Face folders and KerasHub presets."""
