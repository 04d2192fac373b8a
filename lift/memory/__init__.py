"""The gated memory and its place in a model."""
