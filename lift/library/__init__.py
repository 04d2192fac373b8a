"""Memories on disk, and their attachment to a base model."""
