"""Where a model comes from when it is no local file: addresses, downloads, archives."""
