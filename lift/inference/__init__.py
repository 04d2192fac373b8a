"""Prompts, greedy decoding, retrieval, and how much fits on the device."""
