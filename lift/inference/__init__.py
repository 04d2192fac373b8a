"""Prompts and greedy decoding, with passages looked up or without."""
