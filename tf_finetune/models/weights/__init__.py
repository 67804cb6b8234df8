"""Stored arrays find their layers, by name and shape or in order."""
