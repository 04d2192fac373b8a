"""A document as the user gave it: its text, its segments, its spans in tokens."""
