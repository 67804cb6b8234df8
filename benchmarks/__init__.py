"""Measurements: `python benchmarks/NAME.py`, `python -m benchmarks.compare`."""
