"""Measure what a memory recalls of its document, and how much it changes the model on other text."""
