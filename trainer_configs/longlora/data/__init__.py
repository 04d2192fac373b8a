"""Pretraining rows of an exact token length."""
