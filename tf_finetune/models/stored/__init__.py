"""Stored models read as data: configuration, graph, shapes, layer table. No Keras here."""
