"""Folders in an object store, worked on through a local copy.

One idea: a store has no rename, no lock and no flush, and all that makes a run crash-safe is built
on these. So a run reads and writes a local copy, as always, and the copy is brought down before and
sent up after each whole write, in an order in which what is in the store serves at any moment.
"""
