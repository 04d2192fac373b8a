"""Shifted sparse attention, its segments, and the hook that puts it into a transformers model."""
