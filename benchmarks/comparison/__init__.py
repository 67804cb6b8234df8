"""What `benchmarks.compare` runs and measures, a contender per module."""
