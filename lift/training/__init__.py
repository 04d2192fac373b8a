"""Fit a memory, that is, train an adapter, to a document."""
