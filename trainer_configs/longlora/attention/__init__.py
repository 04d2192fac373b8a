"""Shifted sparse attention: the specification, the fast paths, and the hook into a transformers model."""
