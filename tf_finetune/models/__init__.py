"""Where a backbone comes from."""
