"""Fitting a memory to a document."""
